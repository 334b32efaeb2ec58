/**
 * Tap devices of Linux: /dev/net/tun with the ioctls of linux/if_tun.h, and those of linux/sockios.h for what makes a
 * device useful (up, MTU, member of a bridge).
 */
import { closeSync, constants as files, openSync, readlinkSync } from "node:fs";
import { constants } from "node:os";
import { basename } from "node:path";
import koffi from "koffi";
import { oneLine } from "../../errors/input-error.ts";
import { HEADER_BYTES } from "./tap-header.ts";
import { UplinkError } from "./types.ts";

const { EACCES, EAGAIN, EBUSY, EEXIST, EINTR, EINVAL, ENODEV, ENXIO, EOPNOTSUPP, EPERM } = constants.errno;
const { O_RDWR, O_NONBLOCK } = files;
const O_CLOEXEC = 0o2000000;

/** linux/if_tun.h, as on every architecture with the generic ioctl numbers. */
const TUNSETIFF = 0x400454ca;
const TUNSETOFFLOAD = 0x400454d0;
const TUNSETVNETHDRSZ = 0x400454d8;
const IFF_TAP = 0x0002;
const IFF_NO_PI = 0x1000;
const IFF_VNET_HDR = 0x4000;
const TUN_F_CSUM = 1;
const TUN_F_TSO4 = 2;
const TUN_F_TSO6 = 4;
const TUN_F_TSO_ECN = 8;

/** linux/sockios.h. */
const SIOCGIFFLAGS = 0x8913;
const SIOCSIFFLAGS = 0x8914;
const SIOCSIFMTU = 0x8922;
const SIOCGIFINDEX = 0x8933;
const SIOCBRADDIF = 0x89a2;
const IFF_UP = 1;
const AF_INET = 2;
const SOCK_DGRAM = 2;

/** struct ifreq: a name of 16 bytes, then a union of 24. */
const IFREQ_BYTES = 40;
const NAME_BYTES = 16;

export interface TapOptions {
  /** The device's name, up to 15 bytes; a %d in it becomes a number. It may exist already. */
  readonly name?: string;
  /** The bridge that it becomes a member of. */
  readonly bridge?: string;
  /** MTU of the device; the kernel's default without. */
  readonly mtu?: number;
}

/** An open tap device. Frames have a virtio-net header of HEADER_BYTES before them. */
export interface TapDevice {
  readonly name: string;
  readonly descriptor: number;
  /** Reads one frame. @returns its length with header, 0 when there is none at the moment, or a negated errno */
  read(into: Uint8Array): number;
  /** Writes one frame, the first `length` bytes. @returns what was written, or a negated errno */
  write(bytes: Uint8Array, length: number): number;
  close(): void;
}

type Ioctl = (descriptor: number, request: number, argument: Uint8Array | number) => number;

/** The system calls, with negated errnos. */
function systemCalls() {
  const libc = koffi.load(null);
  const ioctl = libc.func("ioctl", "int", ["int", "unsigned long", "..."]);
  const socket = libc.func("socket", "int", ["int", "int", "int"]);
  const read = libc.func("read", "intptr_t", ["int", "void *", "size_t"]);
  const write = libc.func("write", "intptr_t", ["int", "void *", "size_t"]);
  const checked = (call: () => unknown): number => {
    for (;;) {
      const result = Number(call());
      if (result >= 0) return result;
      const errno = koffi.errno();
      if (errno !== EINTR) return -errno;
    }
  };
  return {
    ioctl: ((descriptor, request, argument) =>
      checked(() =>
        typeof argument === "number"
          ? ioctl(descriptor, request, "unsigned long", argument)
          : ioctl(descriptor, request, "void *", argument),
      )) satisfies Ioctl,
    socket: () => checked(() => socket(AF_INET, SOCK_DGRAM | O_CLOEXEC, 0)),
    read: (descriptor: number, into: Uint8Array) => checked(() => read(descriptor, into, into.length)),
    write: (descriptor: number, bytes: Uint8Array, length: number) => checked(() => write(descriptor, bytes, length)),
  };
}

function request(name: string): { bytes: Uint8Array; view: DataView } {
  const bytes = new Uint8Array(IFREQ_BYTES);
  bytes.set(new TextEncoder().encode(name).subarray(0, NAME_BYTES - 1));
  return { bytes, view: new DataView(bytes.buffer) };
}

function nameIn(bytes: Uint8Array): string {
  const name = bytes.subarray(0, NAME_BYTES);
  const end = name.indexOf(0);
  return new TextDecoder().decode(end < 0 ? name : name.subarray(0, end));
}

/** The kernel's rules for names of interfaces. */
function isName(name: string): boolean {
  return /^[!-~]{1,15}$/.test(name) && !/[/:]/.test(name) && name !== "." && name !== "..";
}

function errnoName(errno: number): string {
  return Object.entries(constants.errno).find(([, number]) => number === errno)?.[0] ?? `errno ${errno}`;
}

function noRoot(what: string, name: string, cause?: unknown): UplinkError {
  const user = process.env.USER ?? "USER";
  const remedy = `run as root, or have root make it once (ip tuntap add dev ${name} mode tap user ${user}), or use the uplink user`;
  return new UplinkError(`tap ${name}: ${what} needs root`, remedy, cause);
}

function openClone(name: string): number {
  try {
    return openSync("/dev/net/tun", O_RDWR | O_NONBLOCK);
  } catch (error) {
    const code = error instanceof Error && "code" in error ? String(error.code) : "";
    if (code === "EACCES" || code === "EPERM") throw noRoot("opening /dev/net/tun", name, error);
    const remedy = "load the module (modprobe tun), or use the uplink user";
    throw new UplinkError(`tap ${name}: /dev/net/tun cannot be opened (${code})`, remedy, error);
  }
}

/** Makes the descriptor that of a device. @returns the device's name */
function attach(ioctl: Ioctl, descriptor: number, name: string): string {
  const { bytes, view } = request(name);
  view.setUint16(NAME_BYTES, IFF_TAP | IFF_NO_PI | IFF_VNET_HDR, true);
  const status = ioctl(descriptor, TUNSETIFF, bytes);
  if (status === -EPERM || status === -EACCES) throw noRoot("making it", name);
  if (status === -EBUSY) throw new UplinkError(`tap ${name}: another program uses it`, "choose another name");
  if (status === -EINVAL || status === -EEXIST) {
    throw new UplinkError(`tap ${name}: an interface of another kind has this name`, "choose another name");
  }
  if (status < 0) throw new UplinkError(`tap ${name}: cannot be made (${errnoName(-status)})`, "choose another name");
  const size = new Uint8Array(new Int32Array([HEADER_BYTES]).buffer);
  ioctl(descriptor, TUNSETVNETHDRSZ, size);
  // Without offloads it works too, only slower: the kernel then finishes frames before it sends them.
  ioctl(descriptor, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN);
  return nameIn(bytes);
}

function setMtu(ioctl: Ioctl, control: number, name: string, mtu: number): void {
  const { bytes, view } = request(name);
  view.setInt32(NAME_BYTES, mtu, true);
  const status = ioctl(control, SIOCSIFMTU, bytes);
  if (status === -EPERM) throw noRoot("setting its MTU", name);
  if (status < 0) throw new UplinkError(`tap ${name}: the kernel refuses the MTU ${mtu}`, "choose one up to 65521");
}

function bringUp(ioctl: Ioctl, control: number, name: string): void {
  const { bytes, view } = request(name);
  const status = ioctl(control, SIOCGIFFLAGS, bytes);
  const flags = view.getUint16(NAME_BYTES, true);
  // A device that root has made and brought up needs nothing more.
  if (status === 0 && (flags & IFF_UP) !== 0) return;
  view.setUint16(NAME_BYTES, flags | IFF_UP, true);
  const changed = ioctl(control, SIOCSIFFLAGS, bytes);
  if (changed === -EPERM) throw noRoot("bringing it up", name);
  if (changed < 0)
    throw new UplinkError(`tap ${name}: cannot be brought up (${errnoName(-changed)})`, "check the host");
}

function isMember(name: string, bridge: string): boolean {
  try {
    return basename(readlinkSync(`/sys/class/net/${name}/master`)) === bridge;
  } catch {
    return false;
  }
}

function joinBridge(ioctl: Ioctl, control: number, name: string, bridge: string): void {
  if (isMember(name, bridge)) return;
  const index = request(name);
  if (ioctl(control, SIOCGIFINDEX, index.bytes) < 0) {
    throw new UplinkError(`tap ${name}: it has vanished`, "check the host");
  }
  const { bytes, view } = request(bridge);
  view.setInt32(NAME_BYTES, index.view.getInt32(NAME_BYTES, true), true);
  const status = ioctl(control, SIOCBRADDIF, bytes);
  switch (status) {
    case 0:
      return;
    case -EPERM:
      throw noRoot(`joining the bridge ${bridge}`, name);
    case -ENODEV:
    case -ENXIO:
      throw new UplinkError(
        `tap ${name}: there is no bridge ${bridge}`,
        `make it: ip link add ${bridge} type bridge; ip link set ${bridge} up`,
      );
    case -EOPNOTSUPP:
    case -EINVAL:
      throw new UplinkError(
        `tap ${name}: ${bridge} is no bridge`,
        "name a bridge (ip link show type bridge lists them)",
      );
    case -EBUSY:
      throw new UplinkError(`tap ${name}: it is in another bridge`, `take it out: ip link set ${name} nomaster`);
    default:
      throw new UplinkError(`tap ${name}: cannot join ${bridge} (${errnoName(-status)})`, "check the host");
  }
}

/**
 * Opens a tap device, makes it if there is none of that name, and brings it up. A device that was made here vanishes
 * when it is closed.
 * @throws UplinkError
 */
export function openTap(options: TapOptions): TapDevice {
  const { name = "domlab%d", bridge, mtu } = options;
  if (process.platform !== "linux") {
    throw new UplinkError("tap devices are Linux's only", "use the uplink user");
  }
  for (const given of [name, ...(bridge === undefined ? [] : [bridge])]) {
    if (!isName(given)) {
      throw new UplinkError(
        `"${oneLine(given)}" is no name of an interface`,
        "use 1 to 15 characters without blanks, / and :",
      );
    }
  }
  const calls = systemCalls();
  const descriptor = openClone(name);
  let control = -1;
  try {
    const actual = attach(calls.ioctl, descriptor, name);
    control = calls.socket();
    if (control < 0) throw new UplinkError(`tap ${actual}: no socket (${errnoName(-control)})`, "check the host");
    if (mtu !== undefined) setMtu(calls.ioctl, control, actual, mtu);
    if (bridge !== undefined) joinBridge(calls.ioctl, control, actual, bridge);
    bringUp(calls.ioctl, control, actual);
    return {
      name: actual,
      descriptor,
      read(into) {
        const count = calls.read(descriptor, into);
        return count === -EAGAIN ? 0 : count;
      },
      write: (bytes, length) => calls.write(descriptor, bytes, length),
      close: () => closeSync(descriptor),
    };
  } catch (error) {
    closeSync(descriptor);
    throw error;
  } finally {
    if (control >= 0) closeSync(control);
  }
}
