/**
 * What the guest image `debian` is made of: packages, and a script that configures the root file system.
 *
 * A lab's guest is a small server: a login on the Xen console, DHCP on every interface, everything else as Debian has
 * it. What only costs time at a start is left out; doc comments name what and why.
 */

import { createHash } from "node:crypto";

/** Counted up when something changes that the text of the recipe does not show. */
const FORMAT = 1;

/**
 * Bytes of the root disk as the image has it. The file is sparse; a machine may have a larger one, which the guest
 * then grows into.
 */
export const ROOT_SIZE = 8 * 1024 ** 3;

/**
 * Packages besides those that every Debian system has. `usr-is-merged` stands in for usrmerge, which needs all of
 * Perl.
 */
export const PACKAGES: readonly string[] = [
  "usr-is-merged",
  "systemd-sysv",
  "udev",
  "dbus",
  "dhcpcd",
  "kmod",
  "e2fsprogs",
  "iproute2",
  "iputils-ping",
  "netbase",
  "ca-certificates",
  "procps",
  "less",
  "nano",
];

/**
 * The kernel's command line.
 * - ro: systemd checks the file system, then mounts it for writing.
 * - the rest is as for `debian-shell`; see there.
 */
export const DEBIAN_COMMAND_LINE =
  "root=/dev/xvda ro console=hvc0 loglevel=7 mitigations=off cryptomgr.notests=1 random.trust_cpu=on " +
  "random.trust_bootloader=on xen_blkfront.max_indirect_segments=128";

/** What the guest prints on its console when it waits for a user. */
export const LOGIN_PROMPT = " login: ";

/** Generators of systemd for what such a guest does not have; each is a program that every start runs. */
const MASKED_GENERATORS = [
  "bless-boot",
  "cryptsetup",
  "gpt-auto",
  "hibernate-resume",
  "integritysetup",
  "system-update",
  "veritysetup",
];

/**
 * Units that a start can do without: modules for devices that are not there, file systems for debugging (mount them by
 * hand when needed), a login on a screen that there is not, and run levels.
 */
const MASKED_UNITS = [
  "modprobe@dm_mod.service",
  "modprobe@drm.service",
  "modprobe@efi_pstore.service",
  "modprobe@loop.service",
  "systemd-pstore.service",
  "systemd-update-utmp-runlevel.service",
  "getty@tty1.service",
  "dev-hugepages.mount",
  "sys-kernel-debug.mount",
  "sys-kernel-tracing.mount",
];

/** Services that a start need not wait for: their sockets and the bus start them when somebody asks. */
const ON_DEMAND = ["systemd-logind.service", "dbus.service"];

/** Work that waits for nobody: unattended package lists, and checks of LVM volumes. */
const DISABLED_UNITS = ["apt-daily.timer", "apt-daily-upgrade.timer", "e2scrub_all.timer", "e2scrub_reap.service"];

/**
 * Kinds of devices that have nothing for udev to do, of which there are many: each costs an event with all its rules.
 */
const SKIPPED_SUBSYSTEMS = ["tty", "vc", "memory", "workqueue", "clocksource", "clockevents", "bdi", "event_source"];

const SKIP_OPTIONS = SKIPPED_SUBSYSTEMS.map((name) => `--subsystem-nomatch=${name}`).join(" ");

/** Files of the root file system, by path. */
const FILES: Readonly<Record<string, string>> = {
  "etc/hostname": "debian\n",
  "etc/hosts": "127.0.0.1 localhost\n127.0.1.1 debian\n::1 localhost ip6-localhost ip6-loopback\n",
  // The pass number lets systemd check it; growfs lets it fill a disk that has become larger.
  "etc/fstab": "/dev/xvda / ext4 errors=remount-ro,x-systemd.growfs 0 1\n",
  // systemd makes one at the first start, so that no two machines have the same.
  "etc/machine-id": "",
  "etc/locale.conf": "LANG=C.UTF-8\n",
  "etc/default/locale": "LANG=C.UTF-8\n",
  // The kernel's log belongs to the journal and the console's log; a user at work sees warnings only.
  "etc/sysctl.d/10-console.conf": "kernel.printk = 4 4 1 7\n",
  // A host that is busy may give a guest a tenth of a processor: late is better than without a login.
  "etc/systemd/system.conf.d/slow-hosts.conf":
    "[Manager]\nDefaultTimeoutStartSec=10min\nDefaultDeviceTimeoutSec=10min\n",
  // Clones have the same DHCP identity but for their MAC address. An address is taken at once: the lab's server knows
  // who has which.
  "etc/dhcpcd.conf": `hostname
clientid
option domain_name_servers, domain_name, domain_search
option classless_static_routes
option interface_mtu
require dhcp_server_identifier
slaac private
noarp
allowinterfaces eth* en*
`,
  // The host's storage has a scheduler of its own.
  "etc/udev/rules.d/60-xen-disk.rules":
    'ACTION=="add|change", SUBSYSTEM=="block", KERNEL=="xvd*[!0-9]", ATTR{queue/scheduler}="none"\n',
  "etc/systemd/system/systemd-udev-trigger.service.d/devices.conf": `[Service]
ExecStart=
ExecStart=-udevadm trigger --type=subsystems --action=add
ExecStart=-udevadm trigger --type=devices --action=add ${SKIP_OPTIONS}
ExecStart=-udevadm trigger --type=devices --action=add --sysname-match=hvc0
`,
};

/** Debian's own archive: whatever served the host need not serve the guest. */
const guestSources = (suite: string): string =>
  [
    `deb http://deb.debian.org/debian ${suite} main`,
    `deb http://deb.debian.org/debian ${suite}-updates main`,
    `deb http://deb.debian.org/debian-security ${suite}-security main`,
    "",
  ].join("\n");

/** A file's content as a shell's here document; quoted, so that nothing in it is expanded. */
function writeFile(path: string, content: string): string {
  const folder = path.slice(0, path.lastIndexOf("/"));
  const body = content === "" ? "" : content.replace(/\n?$/, "\n");
  return `mkdir -p "$root/${folder}"\ncat >"$root/${path}" <<'END-OF-FILE'\n${body}END-OF-FILE\n`;
}

/**
 * The script that mmdebstrap runs as (its idea of) root when all packages are there; its argument is the root
 * directory.
 *
 * Root has no password: whoever has the console of a virtual machine has the machine. No server that would take the
 * empty password over the network is installed, and OpenSSH refuses it unless told otherwise.
 */
export function setupScript(suite: string): string {
  const mask = (path: string): string => `ln -sf /dev/null "$root/etc/systemd/${path}"\n`;
  const files = { ...FILES, "etc/apt/sources.list": guestSources(suite) };
  return [
    'set -e\nroot=$1\nrm -rf "$root"/boot/*\n',
    'chroot "$root" depmod "$(ls "$root/usr/lib/modules")"\n',
    'chroot "$root" passwd -d root >/dev/null\n',
    'rm -f "$root/var/lib/dbus/machine-id" "$root"/etc/apt/sources.list.d/*\n',
    ...Object.entries(files).map(([path, content]) => writeFile(path, content)),
    'mkdir -p "$root/etc/systemd/system-generators"\n',
    ...MASKED_GENERATORS.map((name) => mask(`system-generators/systemd-${name}-generator`)),
    ...MASKED_UNITS.map((name) => mask(`system/${name}`)),
    'mkdir -p "$root/etc/systemd/system/multi-user.target.wants"\n',
    ...ON_DEMAND.map((name) => mask(`system/multi-user.target.wants/${name}`)),
    `chroot "$root" systemctl disable ${DISABLED_UNITS.join(" ")}\n`,
    // Else the first start takes the system for one that was just updated, and does that work again.
    'touch -r "$root/usr" "$root/etc/.updated" "$root/var/.updated"\n',
  ].join("");
}

/** Names the recipe: images of another one are made anew. */
export function recipeKey(): string {
  const text = JSON.stringify([FORMAT, ROOT_SIZE, PACKAGES, setupScript("suite")]);
  return createHash("sha256").update(text).digest("hex").slice(0, 12);
}
