/**
 * The initramfs of the guest image `debian`: it loads the disk's driver, mounts the root file system and hands over to
 * systemd. Debian's own initramfs would do it too, but would have to be made in the root and changes with each update.
 *
 * A session's files (see debian-shell.ts) become units under /run, where systemd finds them and no disk is written.
 */

import { type CpioEntry, writeCpio } from "../../engine/builder/cpio.ts";
import { CONSOLE_SIZE_SCRIPT } from "./console-size.ts";
import { moduleDependencies, type ShellParts } from "./debian-shell.ts";
import { dependenciesOf, loadOrder } from "./kernel-modules.ts";

/** Drivers that the root disk needs; ext4 is built into Debian's cloud kernel. */
export const ROOT_MODULES: readonly string[] = ["xen_blkfront"];

/** Tenths of a second that /init waits for the root disk to appear. */
const DISK_WAIT = 100;
/** Seconds that a session's command waits for the network. */
const NETWORK_WAIT = 15;

/** Unit of systemd that runs a session's command, and the script that it starts. */
const EXEC_UNIT = `[Unit]
Description=The command of this session
After=multi-user.target getty.target

[Service]
Type=simple
ExecStart=/bin/sh /run/domlab/run-command
WorkingDirectory=/root
Environment=HOME=/root USER=root LOGNAME=root SHELL=/bin/bash
StandardInput=null
StandardOutput=null
StandardError=null
`;

/** The protocol of the marks is described in engine/device/console/exec-stream.ts. */
const RUN_COMMAND = `# A line that nobody has open forgets how it was set.
exec 3<>/dev/hvc0
mark=$(printf '\\036domlab:%s:' "$(cat /run/domlab/token)")
rm /run/domlab/token
vifs=$(ls -d /sys/bus/xen/devices/vif-* 2>/dev/null | wc -l)
wait=0
until [ "$(ip -4 -o address show scope global | wc -l)" -ge "$vifs" ] || [ $wait -ge ${NETWORK_WAIT * 10} ]; do
  wait=$((wait + 1))
  sleep 0.1
done
dmesg -n 1
stty raw -echo <&3
printf '%sbegin\\n' "$mark" >&3
{
  bash /run/domlab/exec </dev/null 2>/run/domlab/stderr 3>&-
  echo $? >/run/domlab/status
} | cat >&3
printf '%sstderr\\n' "$mark" >&3
cat /run/domlab/stderr >&3
status=$(cat /run/domlab/status)
printf '%send %s\\n' "$mark" "\${status:-255}" >&3
# Setting the line waits until all output has left it.
stty raw -echo <&3
sync
systemctl --force --force poweroff
`;

/** Behind the console's own program: a line that nobody has open forgets its size. */
const CONSOLE_SIZE_UNIT = `[Unit]
Description=Size of the terminal that shows the console
ConditionPathExists=/dev/xen/xenbus
After=serial-getty@hvc0.service

[Service]
Type=simple
ExecStart=/bin/sh /run/domlab/console-size /dev/hvc0
StandardInput=null
StandardOutput=null
StandardError=null
`;

/**
 * What systemd runs on the console in place of its own line: who has the console of a machine whose root has no password is
 * root anyhow, so a shell comes at once. With a password it is asked for.
 */
const CONSOLE_LOGIN_CONF = `[Service]
ExecStart=
ExecStart=-/bin/sh /run/domlab/console-login
`;

const CONSOLE_LOGIN = `speeds=115200,57600,38400,9600
case $(getent shadow root) in
  root::*) exec agetty -o '-p -f -- \\u' --autologin root --keep-baud $speeds - "$TERM" ;;
  *) exec agetty -o '-p -- \\u' --keep-baud $speeds - "$TERM" ;;
esac
`;

const INIT = `#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev /run /root /sbin /usr/bin /usr/sbin
/bin/busybox mount -t proc -o nosuid,nodev,noexec proc /proc
/bin/busybox --install -s
mount -t sysfs -o nosuid,nodev,noexec sysfs /sys
mount -t devtmpfs -o nosuid,mode=0755 devtmpfs /dev
mount -t tmpfs -o nosuid,nodev,mode=0755 run /run

root=/dev/xvda access=ro options= type=auto init=/sbin/init
for word in $(cat /proc/cmdline); do
  case "$word" in
    root=*) root=\${word#root=} ;;
    rootflags=*) options=,\${word#rootflags=} ;;
    rootfstype=*) type=\${word#rootfstype=} ;;
    init=*) init=\${word#init=} ;;
    ro | rw) access=$word ;;
  esac
done

while read -r module; do
  modprobe "$module"
done </lib/domlab/modules

# A disk appears a moment after its driver, or when its backend is there.
find_root() {
  case "$root" in
    LABEL=* | UUID=*) device=$(findfs "$root" 2>/dev/null) ;;
    *) device=$root ;;
  esac
  [ -b "$device" ]
}
wait=0
until find_root || [ $wait -ge ${DISK_WAIT} ]; do
  wait=$((wait + 1))
  sleep 0.1
done

if ! mount -t "$type" -o "$access$options" "$device" /root || ! [ -e /root/etc/os-release ]; then
  console=/dev/hvc0
  [ -c $console ] || console=/dev/console
  {
    echo
    echo "domlab: there is no Debian root file system on $root; this is a shell to look at it (leave it to power off)"
    echo "domlab: block devices: $(ls /sys/class/block | tr '\\n' ' ')"
  } >$console
  umount /root 2>/dev/null
  setsid -c sh -i <$console >$console 2>&1
  sync
  poweroff -f
fi

# Units of this start only. Their folder is read before that of the root file system's packages.
units=/run/systemd/system
if [ -e /domlab/terminal ]; then
  read -r terminal rows columns </domlab/terminal
  mkdir -p "$units/serial-getty@hvc0.service.d"
  printf '[Service]\\nEnvironment=TERM=%s\\nTTYRows=%s\\nTTYColumns=%s\\n' "$terminal" "$rows" "$columns" \\
    >"$units/serial-getty@hvc0.service.d/terminal.conf"
fi
if [ -e /domlab/exec ]; then
  mkdir -p -m 0700 /run/domlab
  cp /domlab/exec /domlab/token /lib/domlab/run-command /run/domlab
  mkdir -p $units/multi-user.target.wants /run/systemd/system.conf.d
  cp /lib/domlab/domlab-exec.service $units
  ln -s ../domlab-exec.service $units/multi-user.target.wants
  # The console is the command's alone.
  ln -s /dev/null "$units/serial-getty@hvc0.service"
  printf '[Manager]\\nShowStatus=no\\n' >/run/systemd/system.conf.d/domlab.conf
else
  mkdir -p -m 0700 /run/domlab
  mkdir -p $units/multi-user.target.wants $units/serial-getty@hvc0.service.d
  cp /lib/domlab/console-login /run/domlab
  cp /lib/domlab/console-login.conf $units/serial-getty@hvc0.service.d
  cp /lib/domlab/console-size /run/domlab
  cp /lib/domlab/domlab-console-size.service $units
  ln -s ../domlab-console-size.service $units/multi-user.target.wants
fi

for folder in proc sys dev run; do
  mount -o move /$folder /root/$folder
done
exec switch_root /root "$init"
`;

/** Writes the initramfs: the same bytes for the same parts. `parts.modules` has at least those of ROOT_MODULES. */
export function writeDebianInitramfs(parts: ShellParts): Uint8Array {
  const modules = `lib/modules/${parts.kernelRelease}`;
  const needs = new Map(parts.modules.map(({ name, data }) => [name, dependenciesOf(data) ?? []]));
  const order = loadOrder(ROOT_MODULES, needs);
  const directories = ["bin", "sbin", "usr", "usr/bin", "usr/sbin", "dev", "lib", "lib/domlab", "lib/modules", modules];
  return writeCpio([
    ...directories.map((path): CpioEntry => ({ kind: "directory", path })),
    // Before /init mounts devtmpfs, the kernel opens this one for it.
    { kind: "character-device", path: "dev/console", major: 5, minor: 1 },
    { kind: "character-device", path: "dev/null", major: 1, minor: 3, mode: 0o666 },
    { kind: "file", path: "bin/busybox", data: parts.busybox, mode: 0o755 },
    { kind: "symlink", path: "bin/sh", target: "busybox" },
    { kind: "file", path: "init", data: INIT, mode: 0o755 },
    { kind: "file", path: "lib/domlab/modules", data: order.map((name) => `${name}\n`).join("") },
    { kind: "file", path: "lib/domlab/domlab-exec.service", data: EXEC_UNIT },
    { kind: "file", path: "lib/domlab/run-command", data: RUN_COMMAND },
    { kind: "file", path: "lib/domlab/domlab-console-size.service", data: CONSOLE_SIZE_UNIT },
    { kind: "file", path: "lib/domlab/console-login", data: CONSOLE_LOGIN },
    { kind: "file", path: "lib/domlab/console-login.conf", data: CONSOLE_LOGIN_CONF },
    { kind: "file", path: "lib/domlab/console-size", data: CONSOLE_SIZE_SCRIPT },
    { kind: "file", path: `${modules}/modules.dep`, data: moduleDependencies(parts.modules, needs) },
    ...parts.modules.map(
      ({ name, data }): CpioEntry => ({ kind: "file", path: `${modules}/${name.replaceAll("_", "-")}.ko`, data }),
    ),
  ]);
}
