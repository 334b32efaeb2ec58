import { statSync } from "node:fs";
import { setTimeout as delay } from "node:timers/promises";
import { afterEach, beforeEach, expect, it } from "vitest";
import { chainSpec } from "../../engine/disk/chain.ts";
import { createQcow2 } from "../../engine/disk/image-tools/create.ts";
import type { StoreSpec } from "../../engine/disk/spec.ts";
import { hostOutput } from "./host-tools.ts";
import { DiskLab, fileDisk, type ShellGuest, xvd } from "./shell-guest.ts";

/** How long a guest is away, seconds. */
const AWAY_S = 6;

let lab: DiskLab;

beforeEach(() => {
  lab = new DiskLab();
});

afterEach(() => lab.end());

async function suspended(guest: ShellGuest, file: string): Promise<void> {
  await lab.host.snapshot([{ id: guest.handle.id, file, disks: [] }], { stop: true });
}

it("goes on in a new domain where it was saved, with memory, processes and time", async () => {
  const guest = await (await lab.start()).ready();
  await guest.output("echo kept >/tmp/word; (sleep 1000; echo never) & echo $! >/tmp/pid; dmesg -c >/dev/null");
  const before = Number(await guest.output("cut -d. -f1 /proc/uptime"));
  const takenAt = Date.now();
  const file = lab.path("memory");
  const [taken] = await lab.host.snapshot([{ id: guest.handle.id, file, disks: [] }]);
  expect(taken?.touchedBytes).toBeGreaterThan(20e6);
  expect(statSync(file).size).toBe(taken?.fileBytes);
  // It has noticed nothing, and changes.
  await guest.output("echo changed >/tmp/word");
  await guest.handle.kill();
  await delay(AWAY_S * 1000);

  const restored = await guest.restore(lab.host, file);
  expect(await restored.output("cat /tmp/word; kill -0 $(cat /tmp/pid) && echo alive")).toBe("kept\nalive\n");
  // Time of day goes by while it is away; its own time does not.
  const awake = await restored.output(`n=0
    until dmesg | grep -q 'Restarting tasks'; do sleep 0.1; n=$((n + 1)); [ $n -lt 100 ]; done
    echo $(dmesg | sed -n 's/^\\[ *\\([0-9]*\\)\\..*Restarting tasks.*/\\1/p') $(date +%s)`);
  const [own, wall] = awake.split(" ").map(Number);
  expect(Math.abs((wall ?? 0) - Date.now() / 1000)).toBeLessThan(AWAY_S / 2);
  expect(own).toBeGreaterThanOrEqual(before);
  expect((Date.now() - takenAt) / 1000 - ((own ?? 0) - before)).toBeGreaterThan(AWAY_S / 2);
  expect(await restored.output("dmesg | grep -iE 'stall|lockup|bug|call trace' | cat")).toBe("");
}, 90_000);

/** Writes numbered blocks without end, and notes how far it is. */
const WRITER = `cat >/tmp/writer <<'E'
n=0
while :; do
  n=$((n + 1))
  for device in /dev/xvda /dev/xvdb; do
    yes "block $n of $device" | head -c 4096 | dd of=$device bs=4096 count=1 seek=$n oflag=direct conv=notrunc 2>/dev/null
  done
  echo $n >/tmp/written
done
E
sh /tmp/writer & echo $! >/tmp/pid`;

/** Reads back what it says it has written. */
const CHECK = `kill $(cat /tmp/pid)
n=1; last=$(cat /tmp/written); bad=
while [ $n -le $last ]; do
  for device in /dev/xvda /dev/xvdb; do
    dd if=$device bs=4096 count=1 skip=$n iflag=direct 2>/dev/null | head -n 1 | grep -qx "block $n of $device" || bad="$bad $n$device"
  done
  n=$((n + 1))
done
echo "$last $bad"`;

it("goes on with its disks in the middle of writing, wherever their backends run", async () => {
  const disks = [
    fileDisk(lab.image("a.img", 64 << 20)),
    fileDisk(lab.image("b.img", 64 << 20), { vdev: xvd(1), placement: "hypervisor" }),
  ];
  let guest = await (await lab.start({ disks })).ready();
  await guest.output(WRITER);
  let written = 0;
  for (const file of ["one", "two"]) {
    await guest.output("sleep 1");
    const before = Number(await guest.output("cat /tmp/written"));
    expect(before).toBeGreaterThan(written);
    written = before;
    await suspended(guest, lab.path(file));
    guest = await guest.restore(lab.host, lab.path(file), { disks });
  }
  await guest.output("sleep 1");
  const [, last, bad] = /^(\d+) (.*)/.exec(await guest.output(CHECK)) ?? [];
  expect(Number(last)).toBeGreaterThan(written);
  expect(bad).toBe("");
}, 120_000);

const address = (n: number) => `10.1.0.${n}`;

it("two guests go on talking TCP after both were saved at one moment, and one of them has another number", async () => {
  await lab.host.network.createSwitch({ name: "lab0" });
  const boot = async (n: number) => {
    const vifs = [{ bridge: "lab0", mac: `00:16:3e:00:00:0${n}` }];
    const guest = await lab.start({ name: `guest${n}`, memoryMiB: 192, vifs, parameters: "ip=off" });
    await guest.ready();
    await guest.output(`ip addr add ${address(n)}/24 dev eth0; ip link set eth0 up`);
    return guest;
  };
  const [server, client] = await Promise.all([boot(1), boot(2)]);
  await server.output("(sleep 100 | nc -l -p 5000 >/tmp/got) & sleep 0.5");
  await client.output(`(n=0; while [ $n -lt 150 ]; do n=$((n + 1)); echo line $n; sleep 0.05; done; echo end) |
    nc ${address(1)} 5000 >/dev/null & sleep 1`);
  const before = Number(await server.output("wc -l </tmp/got"));
  expect(before).toBeGreaterThan(0);
  const file = (guest: ShellGuest) => lab.path(`memory-${guest.handle.id}`);
  await lab.host.snapshot(
    [server, client].map((guest) => ({ id: guest.handle.id, file: file(guest), disks: [] })),
    { stop: true },
  );
  const restore = (guest: ShellGuest, n: number, id: number) =>
    guest.restore(lab.host, file(guest), {
      id,
      name: `guest${n}`,
      vifs: [{ bridge: "lab0", mac: `00:16:3e:00:00:0${n}` }],
    });
  // The numbers are not those that the guests know.
  const again = await restore(server, 1, 20);
  await restore(client, 2, server.handle.id);
  await again.output("n=0; until grep -q end /tmp/got; do sleep 0.1; n=$((n + 1)); [ $n -lt 300 ]; done");
  const lines = (await again.output("cat /tmp/got")).trimEnd().split("\n");
  expect(lines).toEqual([...Array.from({ length: 150 }, (_, n) => `line ${n + 1}`), "end"]);
  expect(lines.length).toBeGreaterThan(before + 20);
}, 120_000);

it("is taken back to a moment in its life, disk and memory alike", async () => {
  const base = lab.image("base.img", 64 << 20);
  const overlay = async (name: string): Promise<StoreSpec> => {
    await createQcow2(lab.path(name), { size: 64 << 20, backing: { path: base, format: "raw" } });
    return chainSpec(lab.path(name), { readOnly: false });
  };
  const disks = [fileDisk(base), fileDisk(lab.image("b.img", 64 << 20), { vdev: xvd(1) })];
  const guest = await (await lab.start({ disks })).ready();
  await guest.output(
    `echo before | dd of=/dev/xvda bs=4096 seek=4000 conv=sync oflag=direct 2>/dev/null\n${WRITER}\nsleep 1`,
  );
  const file = lab.path("memory");
  const { id } = guest.handle;
  await lab.host.snapshot([{ id, file, disks: [{ vdev: xvd(0), store: await overlay("first.qcow2") }] }]);
  await guest.output(
    "echo after | dd of=/dev/xvda bs=4096 seek=4000 conv=sync oflag=direct 2>/dev/null; sleep 1; sync",
  );
  expect(await guest.output("dd if=/dev/xvda bs=4096 skip=4000 count=1 2>/dev/null | head -n 1")).toBe("after\n");
  await guest.handle.kill();

  // The second disk is written on without a snapshot: its blocks are what they are, and the writer writes them again.
  const store = await overlay("second.qcow2");
  const again = await guest.restore(lab.host, file, { disks: [fileDisk(base, { store }), ...disks.slice(1)] });
  await again.output("sleep 1");
  expect(await again.output("dd if=/dev/xvda bs=4096 skip=4000 count=1 2>/dev/null | head -n 1")).toBe("before\n");
  const [, last, bad] = /^(\d+) (.*)/.exec(await again.output(CHECK)) ?? [];
  expect(Number(last)).toBeGreaterThan(0);
  expect(bad).toBe("");
  expect(hostOutput("qemu-img", ["check", lab.path("first.qcow2")]).toString()).toContain("No errors");
}, 120_000);
