/**
 * The guest image `debian-shell`: Debian's cloud kernel and a busybox in an initramfs that is written here.
 *
 * What a session adds (a command to run, the terminal's size) comes as files under /domlab in a further archive behind
 * the initramfs, since a kernel command line holds 2047 bytes only.
 */

import { type CpioEntry, writeCpio } from "../../engine/builder/cpio.ts";
import { execMark } from "../../engine/device/console/exec-stream.ts";
import { CONSOLE_SIZE_SCRIPT } from "./console-size.ts";
import { dependenciesOf, loadOrder } from "./kernel-modules.ts";

/** Kernel modules that /init loads. */
const BOOT_MODULES = ["xen_blkfront", "xen_netfront"] as const;
/** Modules that `modprobe` finds: with them a guest can be a driver domain for others. */
const OPTIONAL_MODULES = ["loop", "xen_blkback", "xen_netback", "xen_evtchn", "xen_gntdev", "xen_gntalloc"] as const;
/** Kernel modules that the initramfs carries, as far as they are not built in. */
export const SHELL_MODULES: readonly string[] = [...BOOT_MODULES, ...OPTIONAL_MODULES];

/**
 * The image's kernel command line.
 * - mitigations=off: an interpreted CPU does not execute speculatively, so the work-arounds only cost time.
 * - cryptomgr.notests=1: the crypto self-tests are more than half of the instructions of a boot.
 * - xen_blkfront.max_indirect_segments=128: requests of 512 KiB in place of 128. The backend takes 1 MiB as well, but of two
 *   requests it serves one while the guest makes or completes the other.
 * - loglevel=7: everything but debug messages goes to the console, and so to the domain's log file.
 */
export const SHELL_COMMAND_LINE =
  "console=hvc0 loglevel=7 mitigations=off cryptomgr.notests=1 random.trust_cpu=on random.trust_bootloader=on " +
  "xen_blkfront.max_indirect_segments=128";

/** What the interactive shell prints when it is ready for the first command. */
export const SHELL_PROMPT = "root@domlab:~# ";

/** Text of the line that /init prints before its shell. */
export const SHELL_BANNER = "on Domlab. Leave with";

/** Where programs are looked for. */
const PATH = "/usr/sbin:/usr/bin:/sbin:/bin";
/** What an initramfs that is not ours gets besides the session's files. */
const FOREIGN_INIT = "domlab/init";
const FOREIGN_BUSYBOX = "domlab/busybox";

/**
 * Kernel parameter that makes the session's own program process 1, instead of the /init of an initramfs that is not
 * ours.
 */
export const FOREIGN_INIT_PARAMETER = `rdinit=/${FOREIGN_INIT}`;

/** The places in which the two initramfs differ: ours, and one of the user's to which busybox is added. */
interface Places {
  readonly busybox: string;
  /** Command that puts busybox's commands in place. */
  readonly install: string;
  /** PATH of this script, which relies on busybox's commands. */
  readonly ownPath: string;
  /** PATH of the command to run. */
  readonly path: string;
}

const OURS: Places = {
  busybox: "/bin/busybox",
  // Those of busybox would tell process 1, this script, which has no ear for it. The kernel runs them for the toolstack.
  install: `--install -s
for action in poweroff reboot halt; do
  rm -f /sbin/$action
  printf '#!/bin/sh\\nsync\\numount -a -r 2>/dev/null\\nexec busybox %s -f\\n' $action >/sbin/$action
  chmod 755 /sbin/$action
done`,
  ownPath: PATH,
  path: PATH,
};
const FOREIGN: Places = {
  busybox: `/${FOREIGN_BUSYBOX}`,
  install: `mkdir -p /domlab/bin && /${FOREIGN_BUSYBOX} --install -s /domlab/bin`,
  ownPath: `/domlab/bin:${PATH}`,
  path: `${PATH}:/domlab/bin`,
};

/**
 * Runs as process 1. The marks of the exec mode are described in engine/device/console/exec-stream.ts; the command's
 * output goes through a pipe, so that it does not find a terminal, and its standard error is kept until the end.
 */
const init = ({ busybox, install, ownPath, path }: Places): string => `#!${busybox} sh
${busybox} mkdir -p /proc /sys /dev /run /tmp
${busybox} mount -t proc -o nosuid,nodev,noexec proc /proc
${busybox} ${install}
export PATH=${ownPath} HOME=/root USER=root LOGNAME=root SHELL=/bin/sh TERM=linux
mount -t sysfs -o nosuid,nodev,noexec sysfs /sys
mount -t devtmpfs -o nosuid,mode=0755 devtmpfs /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts -o nosuid,noexec,gid=5,mode=620,ptmxmode=666 devpts /dev/pts
mount -t tmpfs -o nosuid,nodev,mode=0755 run /run
mount -t tmpfs -o nosuid,nodev,mode=1777 tmp /tmp
mount -t tmpfs -o nosuid,nodev,mode=1777 shm /dev/shm
# A kernel of the user's has no use for modules of another one.
if [ -e /lib/domlab/modules ] && [ -d "/lib/modules/$(uname -r)" ]; then
  while read -r module; do
    modprobe "$module"
  done </lib/domlab/modules
fi
# Disks appear a moment after their driver. They need no request scheduler: the host's storage has one.
for disk in /sys/bus/xen/devices/vbd-*; do
  [ -e "$disk" ] || continue
  for wait in 1 2 3 4 5 6 7 8 9 10; do
    [ -e "$disk/block" ] && break
    sleep 0.1
  done
  for queue in "$disk"/block/*/queue; do
    [ -e "$queue/scheduler" ] && echo none >"$queue/scheduler"
  done
done
[ -e /etc/hostname ] && hostname -F /etc/hostname
ip link set lo up
# Network interfaces get their addresses while the guest goes on; so do those that are attached later.
interfaces=0
if [ -x /lib/domlab/interface ] && ! grep -q ' ip=off' /proc/cmdline; then
  for vif in /sys/bus/xen/devices/vif-*; do
    [ -e "$vif" ] || continue
    interfaces=$((interfaces + 1))
    ACTION=boot VIF=$vif /lib/domlab/interface &
  done
  uevent /lib/domlab/interface </dev/null >/dev/null 2>&1 &
fi
cd /root || cd /

console=/dev/hvc0
[ -c $console ] || console=/dev/console

if [ -e /domlab/exec ]; then
  mark=$(printf '\\036domlab:%s:' "$(cat /domlab/token)")
  rm /domlab/token
  # A command finds the network there; without a DHCP server it waits until that is clear.
  wait=0
  while [ $interfaces -gt 0 ] && [ $wait -lt 80 ]; do
    set -- /run/dhcp/*/done
    [ -e "$1" ] && [ $# -ge $interfaces ] && break
    wait=$((wait + 1))
    sleep 0.1
  done
  dmesg -n 1
  stty -F $console raw -echo
  printf '%sbegin\\n' "$mark" >$console
  {
    PATH=${path} sh /domlab/exec </dev/null 2>/run/domlab.stderr
    echo $? >/run/domlab.status
  } | cat >$console
  printf '%sstderr\\n' "$mark" >$console
  cat /run/domlab.stderr >$console
  status=$(cat /run/domlab.status)
  printf '%send %s\\n' "$mark" "\${status:-255}" >$console
  # Setting the line waits until all output has left it.
  stty -F $console raw -echo
else
  dmesg -n 4
  stty -F $console sane
  if [ -e /domlab/terminal ]; then
    read -r TERM rows columns </domlab/terminal
    stty -F $console rows "$rows" columns "$columns"
  else
    stty -F $console rows 24 columns 80
  fi
  [ -e /lib/domlab/console-size ] && [ -c /dev/xen/xenbus ] &&
    sh /lib/domlab/console-size $console </dev/null >/dev/null 2>&1 &
  export PS1='\\u@\\h:\\w\\$ '
  echo "Debian $(uname -r) ${SHELL_BANNER} exit, detach with Ctrl-]." >$console
  setsid -c sh -i <$console >$console 2>&1
  stty -F $console sane
fi
sync
poweroff -f
`;

/**
 * Starts DHCP on an interface, once: called for each that is there at the start (VIF is its device), and by uevent(8)
 * of busybox for those that come and go.
 */
const INTERFACE = `#!/bin/sh
if [ "$ACTION" = boot ]; then
  # Its network device appears when the backend has connected.
  for wait in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
    [ -d "$VIF/net" ] && break
    sleep 0.1
  done
  INTERFACE=$(ls "$VIF/net" 2>/dev/null)
  SUBSYSTEM=net
fi
case "$SUBSYSTEM:$INTERFACE" in
  net:eth*) ;;
  *) exit 0 ;;
esac
if [ "$ACTION" = remove ]; then
  [ -e "/run/dhcp/$INTERFACE/pid" ] && kill "$(cat "/run/dhcp/$INTERFACE/pid")"
  rm -rf "/run/dhcp/$INTERFACE"
  exit 0
fi
mkdir -p /run/dhcp
mkdir "/run/dhcp/$INTERFACE" 2>/dev/null || exit 0
ip link set "$INTERFACE" up
exec udhcpc -f -S -t 3 -T 1 -A 30 -p "/run/dhcp/$INTERFACE/pid" -i "$INTERFACE" </dev/null >/dev/null 2>&1
`;

/** What udhcpc runs with each change of a lease; at the place where Debian's busybox looks for it. */
const DHCP_SCRIPT = `#!/bin/sh
case "$1" in
  deconfig)
    ip link set "$interface" up
    [ -e "/run/dhcp/$interface/address" ] && ip addr del "$(cat "/run/dhcp/$interface/address")" dev "$interface"
    rm -f "/run/dhcp/$interface/address"
    ;;
  bound | renew)
    address="$ip/$mask"
    mkdir -p "/run/dhcp/$interface"
    if [ "$(cat "/run/dhcp/$interface/address" 2>/dev/null)" != "$address" ]; then
      ip addr add "$address" dev "$interface"
      echo "$address" >"/run/dhcp/$interface/address"
    fi
    [ -n "$mtu" ] && ip link set "$interface" mtu "$mtu"
    # The first interface with a router leads to the world.
    [ -n "$router" ] && ip route add default via "\${router%% *}" dev "$interface" 2>/dev/null
    if [ -n "$dns" ]; then
      {
        [ -n "$domain" ] && echo "search $domain"
        for server in $dns; do echo "nameserver $server"; done
      } >/etc/resolv.conf
    fi
    : >"/run/dhcp/$interface/done"
    ;;
  leasefail)
    : >"/run/dhcp/$interface/done"
    ;;
esac
`;

const PASSWD = `root:x:0:0:root:/root:/bin/sh
nobody:x:65534:65534:nobody:/nonexistent:/bin/false
`;

const GROUP = `root:x:0:
tty:x:5:
nogroup:x:65534:
`;

const DIRECTORIES: readonly (readonly [path: string, mode: number])[] = [
  ["bin", 0o755],
  ["sbin", 0o755],
  ["usr", 0o755],
  ["usr/bin", 0o755],
  ["usr/sbin", 0o755],
  ["dev", 0o755],
  ["proc", 0o555],
  ["sys", 0o555],
  ["run", 0o755],
  ["tmp", 0o1777],
  ["root", 0o700],
  ["mnt", 0o755],
  ["etc", 0o755],
  ["etc/udhcpc", 0o755],
  ["lib", 0o755],
  ["lib/domlab", 0o755],
  ["lib/modules", 0o755],
];

/** The pieces of the image that come from packages. */
export interface ShellParts {
  readonly kernelRelease: string;
  readonly busybox: Uint8Array;
  /** Uncompressed modules in the order of loading. */
  readonly modules: readonly { readonly name: string; readonly data: Uint8Array }[];
}

function configuration(): CpioEntry[] {
  const file = (path: string, data: string): CpioEntry => ({ kind: "file", path, data });
  return [
    file("etc/passwd", PASSWD),
    file("etc/group", GROUP),
    file("etc/hostname", "domlab\n"),
    file("etc/hosts", "127.0.0.1 localhost domlab\n::1 localhost\n"),
  ];
}

/** modules.dep as depmod writes it: each module's file, and those to load before it, the nearest first. */
export function moduleDependencies(
  modules: ShellParts["modules"],
  needs: ReadonlyMap<string, readonly string[]>,
): string {
  const file = (name: string): string => `${name.replaceAll("_", "-")}.ko`;
  const lines = modules.map(({ name }) => {
    const before = loadOrder([name], needs).slice(0, -1).reverse();
    return `${file(name)}:${before.map((need) => ` ${file(need)}`).join("")}\n`;
  });
  return lines.join("");
}

/** Writes the initramfs: the same bytes for the same parts. */
export function writeShellInitramfs(parts: ShellParts): Uint8Array {
  const moduleDirectory = `lib/modules/${parts.kernelRelease}`;
  const pathOf = (name: string): string => `${moduleDirectory}/${name.replaceAll("_", "-")}.ko`;
  const needs = new Map(parts.modules.map(({ name, data }) => [name, dependenciesOf(data) ?? []]));
  const directories = DIRECTORIES.map(([path, mode]): CpioEntry => ({ kind: "directory", path, mode }));
  return writeCpio([
    ...directories,
    { kind: "directory", path: moduleDirectory },
    // Before /init mounts devtmpfs, the kernel opens this one for it.
    { kind: "character-device", path: "dev/console", major: 5, minor: 1 },
    { kind: "character-device", path: "dev/null", major: 1, minor: 3, mode: 0o666 },
    { kind: "file", path: "bin/busybox", data: parts.busybox, mode: 0o755 },
    { kind: "symlink", path: "bin/sh", target: "busybox" },
    { kind: "file", path: "init", data: init(OURS), mode: 0o755 },
    ...configuration(),
    { kind: "file", path: "lib/domlab/interface", data: INTERFACE, mode: 0o755 },
    { kind: "file", path: "etc/udhcpc/default.script", data: DHCP_SCRIPT, mode: 0o755 },
    { kind: "file", path: "lib/domlab/console-size", data: CONSOLE_SIZE_SCRIPT },
    {
      kind: "file",
      path: "lib/domlab/modules",
      data: loadOrder(BOOT_MODULES, needs)
        .map((name) => `${name}\n`)
        .join(""),
    },
    { kind: "file", path: `${moduleDirectory}/modules.dep`, data: moduleDependencies(parts.modules, needs) },
    ...parts.modules.map(({ name, data }): CpioEntry => ({ kind: "file", path: pathOf(name), data })),
  ]);
}

/** What one start of the image is for. */
export interface Session {
  /** Run this shell command and power off; `token` marks its output (see ExecStreamParser). */
  readonly exec?: { readonly command: string; readonly token: string };
  /**
   * For an initramfs that is not ours: a static busybox, which goes along with a program that does what our /init does.
   * The kernel runs it when FOREIGN_INIT_PARAMETER is on its command line.
   */
  readonly busybox?: Uint8Array;
  /** The host's terminal, for an interactive start: TERM and the size in characters. */
  readonly terminal?: { readonly type: string; readonly rows: number; readonly columns: number };
}

/** Writes the archive that goes behind the initramfs for one start; undefined if there is nothing to tell. */
export function writeSessionArchive(session: Session): Uint8Array | undefined {
  const entries: CpioEntry[] = [];
  if (session.exec !== undefined) {
    const { command, token } = session.exec;
    if (!/^[0-9A-Za-z]{8,64}$/.test(token)) throw new RangeError(`bad token for ${JSON.stringify(execMark(token))}`);
    entries.push({ kind: "file", path: "domlab/exec", data: `${command}\n`, mode: 0o600 });
    entries.push({ kind: "file", path: "domlab/token", data: token, mode: 0o600 });
  }
  if (session.busybox !== undefined) {
    entries.push({ kind: "file", path: FOREIGN_BUSYBOX, data: session.busybox, mode: 0o755 });
    entries.push({ kind: "file", path: FOREIGN_INIT, data: init(FOREIGN), mode: 0o755 });
  }
  if (session.terminal !== undefined) {
    const { type, rows, columns } = session.terminal;
    // The value comes from the environment and goes into a shell's: keep what terminal names are made of.
    const safe = type.replace(/[^0-9A-Za-z.+_-]/g, "") || "linux";
    entries.push({ kind: "file", path: "domlab/terminal", data: `${safe} ${rows} ${columns}\n` });
  }
  return entries.length === 0 ? undefined : writeCpio([{ kind: "directory", path: "domlab", mode: 0o700 }, ...entries]);
}
