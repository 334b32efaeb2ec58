import fc from "fast-check";
import { type MachineConfig, machineConfig } from "../../../main/lab/store/schema.ts";

const maybe = <T>(arbitrary: fc.Arbitrary<T>) => fc.option(arbitrary, { nil: undefined });
/** Without the keys that are undefined: exactOptional takes no such value. */
const record = (shape: Record<string, fc.Arbitrary<unknown>>) =>
  fc.record(shape).map((value) => Object.fromEntries(Object.entries(value).filter(([, each]) => each !== undefined)));

const line = (maxLength: number) =>
  fc.oneof(
    fc.string({ unit: "binary", maxLength }).map((text) => text.replace(/[\0\r\n]/g, " ")),
    fc.constantFrom(
      "root=/dev/xvda ro",
      'a="b c"',
      "it's",
      "\\",
      "\\x41",
      "# no comment",
      "a;b",
      "[",
      "quiet  splash",
      "",
    ),
  );
const path = fc.oneof(
  fc.constantFrom(
    "/images/a.qcow2",
    "/a,format=raw",
    "/a b/c'd\"e",
    "/x,y=1",
    "/nbd:x",
    "/vdev=xvdb,raw",
    "/qcow2,qcow2",
  ),
  fc.string({ unit: "binary", minLength: 1, maxLength: 30 }).map((text) => `/${text.replaceAll("\0", "_")}`),
);
const sector = fc.integer({ min: 1, max: 1000 }).map((count) => count * 512);
const nbd = fc.constantFrom("nbd://host/data", "nbd+unix:///x?socket=/run/nbd", "nbd:host:10809");

const disk = (vdev: string) =>
  fc
    .record({
      kind: fc.constantFrom("image", "image", "part", "cdrom", "nbd", "guest"),
      path,
      nbd,
      sector,
      format: fc.constantFrom("raw", "qcow2", "probe"),
      flag: fc.boolean(),
      other: fc.boolean(),
    })
    .map(({ kind, flag, other, ...each }) => ({
      vdev,
      source: kind === "nbd" ? each.nbd : each.path,
      format: kind === "nbd" || kind === "part" ? "raw" : each.format,
      access: kind === "cdrom" || flag ? "ro" : "rw",
      deviceType: kind === "cdrom" ? "cdrom" : "disk",
      placement: kind !== "guest" && other ? "hypervisor" : "driver-domain",
      persistent: other,
      discard: flag,
      ...(kind === "guest" && { backend: other ? "storage" : "a guest, odd=1" }),
      ...(kind === "part" && { offset: each.sector, length: each.sector }),
    }));
const disks = fc
  .uniqueArray(fc.constantFrom("xvda", "xvdb", "sda1", "hdc", "51760", "d5p1", "xvdaa"), { maxLength: 4 })
  .chain((names) => fc.tuple(...names.map(disk)));

const vif = (handle: number) =>
  record({
    mac: maybe(
      fc.integer({ min: 0, max: 255 }).map((last) => `00:16:3E:0${handle}:00:${last.toString(16).padStart(2, "0")}`),
    ),
    bridge: fc.constantFrom("lab0", "lan", "odd, name", ""),
    ips: fc.constantFrom([], ["10.0.0.1"], ["10.0.0.0/24", "fd00::1"], ["no address, at all"]),
    rate: maybe(
      fc.record({ bytes: fc.integer({ min: 1, max: 2 ** 40 }), intervalUs: fc.integer({ min: 1, max: 5e6 }) }),
    ),
    mtu: maybe(fc.integer({ min: 68, max: 9000 })),
    queues: maybe(fc.integer({ min: 1, max: 8 })),
    spoofing: fc.boolean(),
    vlan: maybe(fc.constantFrom(5, [5], [5, 6])),
    notify: maybe(fc.constant({ frames: 8, us: 50 })),
    backend: maybe(fc.constantFrom("net", "a b")),
    handle: maybe(fc.constant(handle)),
  });
const vifs = fc
  .integer({ min: 0, max: 3 })
  .chain((count) => fc.tuple(...Array.from({ length: count }, (_, at) => vif(at))));

const policy = fc.constantFrom("destroy", "restart", "preserve");
const boot = fc.oneof(
  record({ image: fc.constantFrom("debian", "debian-shell"), initrd: maybe(path), kernel: maybe(path) }),
  record({ image: fc.constant(null), kernel: path, initrd: maybe(path) }),
);

/** Any machine that the schema allows. */
export const anyMachine: fc.Arbitrary<MachineConfig> = fc
  .tuple(
    boot,
    record({
      name: fc.constantFrom("web", "A.b_c-1", "0"),
      commandLine: maybe(line(40)),
      extraArguments: line(20),
      memoryMiB: fc.integer({ min: 64, max: 3584 }),
      disks,
      vifs,
      forwards: fc.constantFrom([], [{ protocol: "tcp", hostPort: 8080, guestPort: 80 }]),
      onPoweroff: policy,
      onReboot: policy,
      onCrash: policy,
      autostart: fc.boolean(),
      startPriority: fc.integer({ min: -5, max: 5 }),
      startDelaySeconds: fc.constantFrom(0, 1.5),
      suspendOnQuit: maybe(fc.boolean()),
      shutdownTimeoutSeconds: fc.constantFrom(60, 5),
      group: line(20),
      notes: fc.string({ unit: "binary", maxLength: 60 }),
      protected: fc.boolean(),
      cpuCap: maybe(fc.integer({ min: 1, max: 100 })),
    }),
  )
  .map(([files, others]) => machineConfig.parse({ ...others, ...files }));
