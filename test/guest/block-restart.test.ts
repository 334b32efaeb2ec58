/**
 * The storage domain's process is killed while a guest writes, and the guest notices nothing; the guest is killed while it
 * writes, and nothing is left of it but what it had written.
 */
import { closeSync, openSync, readFileSync, readSync } from "node:fs";
import { setTimeout as delay } from "node:timers/promises";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { RingRegistry } from "../../engine/domain/driver/ring-registry.ts";
import { GrantMaps } from "../../engine/hypervisor/grant-map.ts";
import type { Mapping } from "../../engine/memory/guest-memory.ts";
import { EMPTY_DIRECTORY, Peers } from "../../engine/memory/peers.ts";
import { until } from "../cli/domlab.ts";
import { imageDisk, xvd } from "../disk-config.ts";
import { mke2fsFiles } from "./host-tools.ts";
import { DiskLab, type ShellGuest } from "./shell-guest.ts";

const MIB = 1 << 20;
/** Bytes of each region that a writer fills over and over. */
const REGION = MIB / 2;
/** Where the journal's head is, in sectors, and its ring of records behind it. */
const HEAD = (6 * MIB) / 512;
const RECORDS = 16;
const KILLS = 6;
/** How often to look for a moment at which requests are under way. */
const MOST_STOPS = 100;

const lab = new DiskLab();
const raw = lab.image("raw.img", 8 * MIB);
const journalled = lab.image("ext4.img", 24 * MIB);
const tools = mke2fsFiles();
const mkfs = tools ? "/opt/mkfs.ext4 -q -F" : "mke2fs -F";
let guest: ShellGuest;

afterAll(() => lab.end());

async function storagePid(): Promise<number> {
  return (await lab.host.storageDomain()).pid;
}

/** Kills the storage domain's process and waits for its successor. */
async function killStorage(): Promise<void> {
  const storage = await lab.host.storageDomain();
  const { pid } = storage;
  process.kill(pid, "SIGKILL");
  await until("the storage domain's next process", () => storage.pid !== pid);
}

function counters(vdev: number) {
  return lab.host.vbdStatistics().find((each) => each.vdev === vdev)?.counters;
}

/** A number at a sector of the image, as the guest wrote it; 0 if none was written yet. */
function numberAt(file: number, sector: number): number {
  const bytes = Buffer.alloc(512);
  readSync(file, bytes, 0, 512, sector * 512);
  return Number.parseInt(bytes.toString("latin1"), 10) || 0;
}

/** Requests of the rings of a disk that have been taken and not been answered yet. */
function underWay(mapping: Mapping, vdev: number): number {
  const registry = new RingRegistry(mapping);
  const rings = registry.list().filter((ring) => ring.vdev === vdev);
  const counts = rings.map(({ slot }) => {
    // As in-flight.ts lays it out: a header of 16 words, then entries that begin with their state.
    const start = registry.inFlight(slot) / 4;
    const [slots = 0, slotSize = 0] = mapping.words.subarray(start + 2, start + 4);
    const states = Array.from({ length: slots }, (_, i) => mapping.words[start + 16 + i * (4 + slotSize / 4)]);
    return states.filter((state) => state !== 0).length;
  });
  return counts.reduce((sum, count) => sum + count, 0);
}

/** Kills the storage domain's process while requests are under way: it is stopped until that is so. */
async function killBusyStorage(vdev: number): Promise<void> {
  const storage = await lab.host.storageDomain();
  const { pid } = storage;
  const mapping = lab.host.table.attach(storage.id);
  if (mapping === undefined) throw new Error("the storage domain has no memory");
  const taken = await lab.requestTaken(vdev, "wr_req");
  for (let i = 0; i < MOST_STOPS; i++) {
    taken();
    process.kill(pid, "SIGSTOP");
    while (!/^State:\tT/m.test(readFileSync(`/proc/${pid}/status`, "utf8"))) await delay(1);
    if (underWay(mapping, vdev) > 0) break;
    process.kill(pid, "SIGCONT");
    await delay(10 * Math.random());
  }
  mapping.release();
  process.kill(pid, "SIGKILL");
  await until("the storage domain's next process", () => storage.pid !== pid);
}

/** What is in the storage domain's tables. */
async function storageTables() {
  const { id } = await lab.host.storageDomain();
  const mapping = lab.host.table.attach(id);
  if (mapping === undefined) throw new Error("the storage domain has no memory");
  const rings = new RingRegistry(mapping).list();
  const maps = new GrantMaps(mapping, id, new Peers(EMPTY_DIRECTORY, id, mapping)).listMaps();
  mapping.release();
  return { rings, maps };
}

/**
 * Shell functions of the guest. pattern N: bytes that depend on the place and on N. direct and flushed fill a region each,
 * pass after pass, one request at a time or as many as fit; each pass is compared. large makes requests that take long enough to
 * be stopped in the middle of. journal writes record N, flushes, and only
 * then says N in the head. All end when /tmp/stop is there, and leave their last number, or a complaint.
 */
const FUNCTIONS = `
pattern() { tr 0123456789 $(printf 0123456789 | sed "s/\\(.\\{$(($1 % 10))\\}\\)\\(.*\\)/\\2\\1/") </tmp/base; }
check() { dd if=/dev/xvda bs=64k skip=$2 count=${REGION / 65536} iflag=direct 2>/dev/null | cmp - $1; }
filler() {
  n=0
  while [ ! -e /tmp/stop ] || [ $n -lt 2 ]; do
    n=$((n+1)); pattern $n >/tmp/src.$1
    dd if=/tmp/src.$1 of=/dev/xvda bs=64k seek=$2 conv=notrunc$4 $3 2>/tmp/dd.$1 || { cat /tmp/dd.$1 >/tmp/bad.$1; break; }
    check /tmp/src.$1 $2 >/tmp/cmp.$1 2>&1 || { echo pass $n >>/tmp/cmp.$1; cp /tmp/cmp.$1 /tmp/bad.$1; break; }
  done
  echo $n >/tmp/done.$1
}
large() { while [ ! -e /tmp/stop ]; do dd if=/dev/zero of=/dev/xvda bs=1M seek=7 count=1 oflag=direct 2>/dev/null; usleep 100000; done; }
put() { printf '%s\\n' $1 | dd of=/dev/xvda bs=512 seek=$2 conv=sync,notrunc,fsync 2>/tmp/dd.j; }
journal() {
  n=0
  while [ ! -e /tmp/stop ] || [ $n -lt 2 ]; do
    n=$((n+1))
    put $n $((${HEAD}+1+n%${RECORDS})) && put $n ${HEAD} || { cat /tmp/dd.j >/tmp/bad.j; break; }
  done
  echo $n >/tmp/done.j
}
`;

describe("the storage domain is killed", () => {
  beforeAll(async () => {
    const disks = [imageDisk(raw), imageDisk(journalled, { vdev: xvd(1), persistent: true })];
    guest = await lab.start({ name: "writer", disks, files: tools ?? [] });
    // The kernel is still unpacking: nobody has connected.
    expect(counters(xvd(0))?.grants_total).toBe(0);
    await killStorage();
    await guest.ready();
  });

  it("before the guest has connected, and it connects", async () => {
    const said = await guest.output(`dmesg | grep -c 'blkfront: xvd'
      dd if=/bin/busybox of=/dev/xvda bs=64k oflag=direct 2>/dev/null
      head -c 1048576 /bin/busybox | md5sum; dd if=/dev/xvda bs=64k count=16 iflag=direct 2>/dev/null | md5sum`);
    const [connected, expected, found] = said.split("\n");
    expect(connected).toBe("2");
    expect(found).toBe(expected);
  });

  it("while nothing is under way, and twice in a row", async () => {
    await killStorage();
    const read = "dd if=/dev/xvda bs=64k count=16 iflag=direct 2>/dev/null | md5sum";
    const before = await guest.output(read);
    await killStorage();
    await killStorage();
    expect(await guest.output(read)).toBe(before);
  });

  it("again and again while the guest writes and flushes: nothing is lost, repeated late or reordered", async () => {
    await guest.output(`
      seq 100000 999999 | head -c ${REGION} >/tmp/base
      cat >/tmp/functions <<'EOT'${FUNCTIONS}EOT
      . /tmp/functions
      filler d 0 oflag=direct &
      filler f ${REGION / 65536} "" ,fsync &
      journal &
      large &`);
    const image = openSync(raw, "r");
    await until("the journal's first record", () => numberAt(image, HEAD) > 0);
    for (let kills = 0; kills < KILLS; kills++) {
      // Every other time in the middle of a request.
      await delay(200 + Math.random() * 500);
      await (kills % 2 === 0 ? killStorage() : killBusyStorage(xvd(0)));
      // What the head says has been written, whatever moment this is.
      const head = numberAt(image, HEAD);
      expect(head).toBeGreaterThan(0);
      expect(numberAt(image, HEAD + 1 + (head % RECORDS))).toBeGreaterThanOrEqual(head);
    }
    const said = await guest.output(`touch /tmp/stop; wait
      while ! [ -e /tmp/done.d -a -e /tmp/done.f -a -e /tmp/done.j ]; do usleep 100000; done
      cat /tmp/bad.* 2>/dev/null || :; cat /tmp/done.d /tmp/done.f /tmp/done.j; dmesg | grep -i 'i/o error' || :`);
    expect(said).toMatch(/^\d+\n\d+\n\d+\n$/);
    const passes = said.trim().split("\n").map(Number);
    for (const pass of passes) expect(pass).toBeGreaterThan(1);
    expect(numberAt(image, HEAD)).toBe(passes[2]);
    closeSync(image);
    const end = counters(xvd(0));
    expect(end).toMatchObject({ errors: 0, refused: 0 });
    expect((await storageTables()).rings.length).toBe(2);
  });
});

describe("the guest is killed while it writes", () => {
  it("leaves no grant, no ring and no process, and an image whose journal recovers", async () => {
    await guest.output(`
      ${mkfs} /dev/xvdb >/dev/null 2>&1
      mount -t ext4 /dev/xvdb /mnt
      { i=0; while :; do i=$((i+1)); yes $i | head -c 60000 >/mnt/f$((i%40)); sync; echo ACKNOWLEDGED $i; done; } &`);
    await until("files to be written", () => guest.text.includes("ACKNOWLEDGED 8\n"));
    const acknowledged = Math.max(
      ...[...guest.text.matchAll(/ACKNOWLEDGED (\d+)\n/g)].map((match) => Number(match[1])),
    );
    const { pid } = guest.handle;
    process.kill(pid, "SIGKILL");
    expect(await guest.handle.exited).toMatchObject({ reason: "killed", requested: false });
    await until("its devices to be gone", () => lab.host.vbds.list().length === 0);
    expect(await storageTables()).toEqual({ rings: [], maps: [] });

    const next = await lab.start({ name: "heir", disks: [imageDisk(journalled), imageDisk(raw, { vdev: xvd(1) })] });
    await next.ready();
    const said = await next.output(`
      mount -t ext4 /dev/xvda /mnt; dmesg | grep -o 'xvda): recovery complete' || :
      i=1; while [ $i -le ${acknowledged} ]; do
        yes $i | head -c 60000 | cmp - /mnt/f$((i%40)) || echo lost $i
        i=$((i+1))
      done
      umount /mnt; ls /sys/block | grep xvd`);
    expect(said).toBe(`${tools ? "xvda): recovery complete\n" : ""}xvda\nxvdb\n`);

    const pids = [next.handle.pid, await storagePid(), pid];
    await lab.host.close();
    for (const each of pids) expect(() => process.kill(each, 0)).toThrow("ESRCH");
  });
});
