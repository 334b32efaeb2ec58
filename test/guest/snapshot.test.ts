/**
 * Guests that are saved and go on: one story of two guests, as boots are what takes time. One has disks wherever backends run,
 * both have an interface.
 */
import { statSync } from "node:fs";
import { setTimeout as delay } from "node:timers/promises";
import { afterAll, beforeAll, expect, it } from "vitest";
import { chainSpec } from "../../engine/disk/chain.ts";
import { createQcow2 } from "../../engine/disk/image-tools/create.ts";
import type { StoreSpec } from "../../engine/disk/spec.ts";
import type { GuestConfig } from "../../engine/domain/host.ts";
import { imageDisk, xvd } from "../disk-config.ts";
import { hostOutput } from "./host-tools.ts";
import { DiskLab, type ShellGuest } from "./shell-guest.ts";

/** How long a guest is away, seconds. */
const AWAY_S = 6;

const lab = new DiskLab();
const address = (n: number) => `10.1.0.${n}`;
const vifs = (n: number) => [{ bridge: "lab0", mac: `00:16:3e:00:00:0${n}` }];
const base = lab.image("a.img", 64 << 20);
const disks = [imageDisk(base), imageDisk(lab.image("b.img", 64 << 20), { vdev: xvd(1), placement: "hypervisor" })];
/** What the guest with the disks has. */
const devices = { disks, vifs: vifs(1) };
let guest: ShellGuest;
let client: ShellGuest;

beforeAll(async () => {
  await lab.host.network.createSwitch({ name: "lab0" });
  const boot = async (n: number, more: Partial<GuestConfig>) => {
    const booted = await lab.start({ name: `guest${n}`, memoryMiB: 192, vifs: vifs(n), parameters: "ip=off", ...more });
    await booted.ready();
    await booted.output(`ip addr add ${address(n)}/24 dev eth0; ip link set eth0 up`);
    return booted;
  };
  [guest, client] = await Promise.all([boot(1, devices), boot(2, {})]);
});
afterAll(() => lab.end());

async function suspended(guest: ShellGuest, file: string): Promise<void> {
  await lab.host.snapshot([{ id: guest.handle.id, file, disks: [] }], { stop: true });
}

it("goes on in a new domain where it was saved, with memory, processes and time", async () => {
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

  const restored = await guest.restore(lab.host, file, devices);
  guest = restored;
  expect(await restored.output("cat /tmp/word; kill -0 $(cat /tmp/pid) && echo alive")).toBe("kept\nalive\n");
  // Time of day goes by while it is away; its own time does not.
  const askedAt = Date.now();
  const awake = await restored.output(`n=0
    until dmesg | grep -q 'Restarting tasks'; do sleep 0.1; n=$((n + 1)); [ $n -lt 100 ]; done
    echo $(dmesg | sed -n 's/^\\[ *\\([0-9]*\\)\\..*Restarting tasks.*/\\1/p') $(date +%s)`);
  const [own, wall] = awake.split(" ").map(Number);
  expect(wall).toBeGreaterThan(askedAt / 1000 - AWAY_S / 2);
  expect(wall).toBeLessThan(Date.now() / 1000 + AWAY_S / 2);
  expect(own).toBeGreaterThanOrEqual(before);
  expect((Date.now() - takenAt) / 1000 - ((own ?? 0) - before)).toBeGreaterThan(AWAY_S / 2);
  expect(await restored.output("dmesg | grep -iE 'stall|lockup|bug|call trace' | cat")).toBe("");
});

/** Writes numbered blocks without end, and notes how far it is. Each time they say another word. */
const writer = (word: string) => `cat >/tmp/writer <<'E'
n=0
while :; do
  n=$((n + 1))
  for device in /dev/xvda /dev/xvdb; do
    yes "${word} $n of $device" | head -c 4096 | dd of=$device bs=4096 count=1 seek=$n oflag=direct conv=notrunc 2>/dev/null
  done
  echo $n >/tmp/next; mv /tmp/next /tmp/written
done
E
sh /tmp/writer & echo $! >/tmp/pid`;

/** Reads back what it says it has written. */
const check = (word: string) => `kill $(cat /tmp/pid)
n=1; last=$(cat /tmp/written); bad=
while [ $n -le $last ]; do
  for device in /dev/xvda /dev/xvdb; do
    dd if=$device bs=4096 count=1 skip=$n iflag=direct 2>/dev/null | head -n 1 | grep -qx "${word} $n of $device" || bad="$bad $n$device"
  done
  n=$((n + 1))
done
echo "$last $bad"`;

it("goes on with its disks in the middle of writing, wherever their backends run", async () => {
  await guest.output(writer("block"));
  let written = 0;
  for (const file of ["one", "two"]) {
    await guest.output("sleep 1");
    const before = Number(await guest.output("cat /tmp/written"));
    expect(before).toBeGreaterThan(written);
    written = before;
    await suspended(guest, lab.path(file));
    guest = await guest.restore(lab.host, lab.path(file), devices);
  }
  await guest.output("sleep 1");
  const [, last, bad] = /^(\d+) (.*)/.exec(await guest.output(check("block"))) ?? [];
  expect(Number(last)).toBeGreaterThan(written);
  expect(bad).toBe("");
});

it("two guests go on talking TCP after both were saved at one moment, and one of them has another number", async () => {
  const server = guest;
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
  // The numbers are not those that the guests know.
  const again = await server.restore(lab.host, file(server), { ...devices, id: 20, name: "guest1" });
  guest = again;
  await client.restore(lab.host, file(client), { vifs: vifs(2), id: server.handle.id, name: "guest2" });
  await again.output("n=0; until grep -q end /tmp/got; do sleep 0.1; n=$((n + 1)); [ $n -lt 300 ]; done");
  const lines = (await again.output("cat /tmp/got")).trimEnd().split("\n");
  expect(lines).toEqual([...Array.from({ length: 150 }, (_, n) => `line ${n + 1}`), "end"]);
  expect(lines.length).toBeGreaterThan(before + 20);
});

it("is taken back to a moment in its life, disk and memory alike", async () => {
  const overlay = async (name: string): Promise<StoreSpec> => {
    await createQcow2(lab.path(name), { size: 64 << 20, backing: { path: base, format: "raw" } });
    return chainSpec(lab.path(name), { readOnly: false });
  };
  const put = (word: string) => `echo ${word} | dd of=/dev/xvda bs=4096 seek=4000 conv=sync oflag=direct 2>/dev/null`;
  await guest.output(`${put("before")}\n${writer("moment")}\nsleep 1`);
  const file = lab.path("memory");
  const { id } = guest.handle;
  await lab.host.snapshot([{ id, file, disks: [{ vdev: xvd(0), store: await overlay("first.qcow2") }] }]);
  await guest.output(`${put("after")}; sleep 1; sync`);
  expect(await guest.output("dd if=/dev/xvda bs=4096 skip=4000 count=1 2>/dev/null | head -n 1")).toBe("after\n");
  await guest.handle.kill();

  // The second disk is written on without a snapshot: its blocks are what they are, and the writer writes them again.
  const store = await overlay("second.qcow2");
  const again = await guest.restore(lab.host, file, {
    ...devices,
    disks: [imageDisk(base, { store }), ...disks.slice(1)],
  });
  await again.output("sleep 1");
  expect(await again.output("dd if=/dev/xvda bs=4096 skip=4000 count=1 2>/dev/null | head -n 1")).toBe("before\n");
  const [, last, bad] = /^(\d+) (.*)/.exec(await again.output(check("moment"))) ?? [];
  expect(Number(last)).toBeGreaterThan(0);
  expect(bad).toBe("");
  expect(hostOutput("qemu-img", ["check", lab.path("first.qcow2")]).toString()).toContain("No errors");
});
