/**
 * Disks of stock Linux guests: partitioned, formatted, filled and read again; wherever the backend is. One guest writes all of
 * them and another boot reads them, as boots are what takes time.
 */
import { createHash, randomBytes } from "node:crypto";
import { readFileSync, statSync } from "node:fs";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { chainSpec } from "../../engine/disk/chain.ts";
import { createQcow2 } from "../../engine/disk/image-tools/create.ts";
import type { VbdConfig } from "../../engine/domain/vbd-toolstack.ts";
import { until } from "../cli/domlab.ts";
import { imageDisk, xvd } from "../disk-config.ts";
import { hasProgram, hostOutput, hostProgram, mke2fsFiles } from "./host-tools.ts";
import { DiskLab, type ShellGuest } from "./shell-guest.ts";

const MIB = 1 << 20;

function sha256(bytes: Uint8Array): string {
  return createHash("sha256").update(bytes).digest("hex");
}

const lab = new DiskLab();
// Without e2fsprogs on the host the guest makes ext2 with busybox, which its ext4 driver serves as well.
const tools = mke2fsFiles();
const mkfs = tools ? "/opt/mkfs.ext4 -q -F" : "mke2fs -F";

/** Every way to attach a disk, on vdevs from xvda on. */
const WAYS: readonly Pick<VbdConfig, "placement" | "persistent">[] = [
  { placement: "driver-domain", persistent: false },
  { placement: "driver-domain", persistent: true },
  { placement: "hypervisor", persistent: false },
  { placement: "hypervisor", persistent: true },
];
const WAY_SIZE = 24 * MIB;
const names = WAYS.map((_, i) => `xvd${"abcd"[i]}`);
const images = names.map((name) => lab.image(`${name}.img`, WAY_SIZE));

/** The other disks: where they are in the guest that writes, and in the one that reads. */
const WHOLE = "xvde";
const PLAIN = "xvdf";
const OVERLAY = "xvdg";
const whole = lab.image("whole.img", 40 * MIB);
const SIZE = 64 * MIB;
/** What the guest writes to the overlay, over and over, to three places. */
const COPY = 512 * 1024;
/** Where the base holds something that the guest leaves alone. */
const FROM_BASE = 40 * MIB;
const noise = randomBytes(MIB);
const base = lab.image("base.img", Buffer.concat([Buffer.alloc(FROM_BASE), noise, Buffer.alloc(23 * MIB)]));
const untouched = sha256(readFileSync(base));
const [plain, overlay] = [lab.path("plain.qcow2"), lab.path("overlay.qcow2")];

const others = (): VbdConfig[] => [
  imageDisk(whole, { vdev: xvd(4) }),
  ...[plain, overlay].map((image, i) =>
    imageDisk(image, { vdev: xvd(5 + i), store: chainSpec(image, { readOnly: false }) }),
  ),
];

let guest: ShellGuest;
let kernelLog = "";

beforeAll(async () => {
  await createQcow2(plain, { size: SIZE });
  await createQcow2(overlay, { backing: { path: base, format: "raw" } });
  const ways = WAYS.map((way, i) => imageDisk(images[i] as string, { vdev: xvd(i), ...way }));
  guest = await lab.start({ name: "writer", disks: [...ways, ...others()], files: tools ?? [] });
  await guest.ready();
  kernelLog = await guest.output("dmesg | grep blkfront");
});
afterAll(() => lab.end());

describe("the backend's place and its way with grants", () => {
  it("make no difference to what is on the disk", async () => {
    const results: string[] = [];
    for (const name of names) {
      results.push(
        await guest.output(`
          mke2fs -F /dev/${name} >/dev/null 2>&1
          dd if=/bin/busybox of=/dev/${name} bs=4k seek=2000 oflag=direct conv=notrunc 2>/dev/null
          dd if=/bin/busybox of=/dev/${name} bs=1M seek=12 conv=notrunc,fsync 2>/dev/null
          printf odd | dd of=/dev/${name} bs=512 seek=40001 conv=sync,fsync,notrunc oflag=direct 2>/dev/null
          echo 3 >/proc/sys/vm/drop_caches
          blockdev --getsize64 /dev/${name}; cat /sys/block/${name}/queue/write_cache
          dd if=/dev/${name} bs=4k skip=2000 count=250 iflag=direct 2>/dev/null | sha256sum
          dd if=/dev/${name} bs=1M skip=12 count=3 2>/dev/null | sha256sum`),
      );
    }
    const bytes = images.map((image) => readFileSync(image));
    // All but the superblocks' times and identifiers, which mke2fs makes up.
    const tails = bytes.map((all) => sha256(all.subarray(8 * MIB - MIB)));
    expect(new Set(results).size, results.join("\n")).toBe(1);
    expect(results[0]).toContain("25165824\nwrite back\n");
    expect(new Set(tails).size).toBe(1);
    expect(bytes[0]?.subarray(40001 * 512, 40001 * 512 + 4)).toEqual(Buffer.from("odd\0"));
  });

  it("show in XenStore and in the guest's log", async () => {
    const { toolstack } = lab.host.xenstore;
    const storage = await lab.host.storageDomain();
    const { id } = guest.handle;
    for (const [i, { placement, persistent }] of WAYS.entries()) {
      const backend = placement === "hypervisor" ? 0 : storage.id;
      const front = `/local/domain/${id}/device/vbd/${xvd(i)}`;
      const back = `/local/domain/${backend}/backend/vbd/${id}/${xvd(i)}`;
      const read = (path: string, keys: readonly string[]) => keys.map((key) => toolstack.read(`${path}/${key}`));
      expect(read(front, ["backend", "backend-id", "state"])).toEqual([back, String(backend), "4"]);
      expect(read(back, ["frontend", "state", "dev", "mode", "sectors", "feature-persistent"])).toEqual([
        front,
        "4",
        names[i],
        "w",
        String(WAY_SIZE / 512),
        persistent ? "1" : "0",
      ]);
      expect(kernelLog).toMatch(new RegExp(`${names[i]}: .*persistent grants: ${persistent ? "enabled" : "disabled"}`));
    }
  });

  it("count requests, flushes and grants", () => {
    for (const [i, { persistent }] of WAYS.entries()) {
      const found = lab.host.vbdStatistics(guest.handle.id).find((each) => each.vdev === xvd(i));
      expect(found?.counters).toMatchObject({ errors: 0, refused: 0, replayed: 0 });
      expect(found?.counters.wr_sect).toBeGreaterThan(4000);
      expect(found?.counters.rd_sect).toBeGreaterThan(2000);
      // fsync reached the backend, which answers after fdatasync.
      expect(found?.counters.f_req).toBeGreaterThan(0);
      if (persistent) expect(found?.counters.grants_persistent).toBeGreaterThan(0);
      else expect(found?.counters.grants_persistent).toBe(0);
    }
  });

  it("take discards back to the host's file system", async () => {
    for (const [i, name] of names.entries()) {
      const image = images[i] as string;
      const before = statSync(image).blocks;
      await guest.output(`blkdiscard -o ${12 * MIB} -l ${8 * MIB} /dev/${name}`);
      const zeros = readFileSync(image).subarray(12 * MIB, 20 * MIB);
      expect(zeros.every((byte) => byte === 0)).toBe(true);
      expect(before - statSync(image).blocks).toBeGreaterThan(2000);
      const found = lab.host.vbdStatistics(guest.handle.id).find((each) => each.vdev === xvd(i));
      expect(found?.counters.ds_req).toBeGreaterThan(0);
    }
  });

  it("give a trimmed file system's room back", async () => {
    for (const i of [0, 2]) {
      await guest.output(`
        mke2fs -F /dev/${names[i]} >/dev/null 2>&1
        mount -t ext4 /dev/${names[i]} /mnt
        dd if=/dev/urandom of=/mnt/noise bs=1M count=8 2>/dev/null; sync`);
      const before = statSync(images[i] as string).blocks;
      await guest.output("rm /mnt/noise; sync; fstrim /mnt; umount /mnt");
      expect(before - statSync(images[i] as string).blocks).toBeGreaterThan(14 * 1024);
    }
  });
});

describe("what a guest writes", () => {
  /** What it says of its partitioned disk, and of its qcow2 disks. */
  let wholeSaid = "";
  let sums = "";

  /** A disk as it would be read by another program: qemu-img. */
  function contents(image: string): string {
    hostOutput("qemu-img", ["convert", "-f", "qcow2", "-O", "raw", image, `${image}.raw`]);
    return `${image}.raw`;
  }

  /** A file system on one disk and plain bytes on the other, written for as long as the storage domain is killed. */
  async function writeAndKill(): Promise<string> {
    const said = await guest.output(`
      ${mkfs} /dev/${PLAIN} >/dev/null 2>&1
      mount -t ext4 /dev/${PLAIN} /mnt
      head -c ${COPY} /dev/urandom >/tmp/noise
      copy() { dd if=/tmp/noise of=/dev/${OVERLAY} bs=64k seek=$(($1*${COPY / 65536})) conv=notrunc,fsync 2>/dev/null; }
      files() { for i in 0 1 2 3; do yes $1 $i | head -c 100000 >/mnt/f$i && sync || touch /tmp/bad; done; }
      { n=0; while [ ! -e /tmp/stop ]; do n=$((n+1)); files $n; done; touch /tmp/done.a; } &
      { n=0; while [ ! -e /tmp/stop ]; do n=$((n+1)); copy $((n%3)) || touch /tmp/bad; done; touch /tmp/done.b; } &
      blockdev --getsize64 /dev/${PLAIN}; blockdev --getsize64 /dev/${OVERLAY}`);
    expect(said).toBe(`${SIZE}\n${SIZE}\n`);
    const storage = await lab.host.storageDomain();
    for (const vdev of [xvd(5), xvd(6)]) {
      const taken = await lab.requestTaken(vdev, "wr_req");
      const { pid } = storage;
      taken();
      process.kill(pid, "SIGKILL");
      await until("the storage domain's next process", () => storage.pid !== pid);
    }
    return await guest.output(`
      touch /tmp/stop; while ! [ -e /tmp/done.a -a -e /tmp/done.b ]; do usleep 20000; done
      [ ! -e /tmp/bad ]; for n in 0 1 2; do
        dd if=/tmp/noise of=/dev/${OVERLAY} bs=64k seek=$((n*${COPY / 65536})) conv=notrunc,fsync 2>/dev/null
      done
      cd /mnt; sha256sum f* | tee sums; cd /; umount /mnt; sha256sum </tmp/noise`);
  }

  it("goes onto a disk that it partitions, makes ext4, fills and unmounts", async () => {
    wholeSaid = await guest.output(`
      printf 'o\\nn\\np\\n1\\n\\n+20M\\nn\\np\\n2\\n\\n\\nw\\n' | fdisk /dev/${WHOLE} >/dev/null 2>&1
      [ -b /dev/${WHOLE}1 ] && [ -b /dev/${WHOLE}2 ]
      ${mkfs} /dev/${WHOLE}1 >/dev/null
      mount -t ext4 /dev/${WHOLE}1 /mnt
      cp /bin/busybox /mnt/busybox
      mkdir /mnt/many
      for i in $(seq 1 50); do echo "file $i" >/mnt/many/$i; done
      # Until the file system is full; then room for the checksums.
      dd if=/dev/urandom of=/mnt/noise bs=256k 2>/dev/null && exit 1
      truncate -s 4M /mnt/noise
      cd /mnt; find . -type f | sort | xargs sha256sum >/tmp/sums; cp /tmp/sums sums; cd /
      umount /mnt
      cat /sys/block/${WHOLE}/${WHOLE}1/start
      cat /tmp/sums`);
  });

  it("goes onto qcow2 disks while the storage domain is killed", async () => {
    sums = await writeAndKill();
  });

  describe("is found by another boot", () => {
    let reader: ShellGuest;

    beforeAll(async () => {
      await guest.powerOff();
      reader = await lab.start({ name: "reader", disks: others() });
      await reader.ready();
    });

    it("in its partition, all of it", async () => {
      const read = await reader.output(`
        mount -t ext4 /dev/${WHOLE}1 /mnt
        cd /mnt; sha256sum -c sums | grep -v ': OK$' && exit 1
        cat sums; cd /; umount /mnt`);
      const [start, ...sums] = wholeSaid.split("\n");
      expect(sums.length).toBeGreaterThan(50);
      expect(read).toBe(sums.join("\n"));
      if (!tools || !hasProgram("debugfs")) return;
      const partition = `${whole}?offset=${Number(start) * 512}`;
      const check = hostProgram("fsck.ext4", ["-fn", partition]);
      expect(check.status, check.output).toBe(0);
      expect(hostOutput("dumpe2fs", ["-h", partition]).toString()).toContain("has_journal");
      const filled = sums.find((line) => line.endsWith("/noise"))?.split(" ")[0];
      expect(sha256(hostOutput("debugfs", ["-R", "cat /noise", partition]))).toBe(filled);
    });

    it("on the qcow2 disks, which QEMU reads too", async () => {
      const read = await reader.output(`
        mount -t ext4 /dev/${PLAIN} /mnt; cd /mnt; sha256sum -c sums | grep -v ': OK$' && exit 1
        cat sums; cd /; umount /mnt
        dd if=/dev/${OVERLAY} bs=64k skip=${(2 * COPY) / 65536} count=${COPY / 65536} 2>/dev/null | sha256sum
        dd if=/dev/${OVERLAY} bs=1M skip=${FROM_BASE / MIB} count=1 2>/dev/null | sha256sum`);
      expect(sums.match(/ f\d\n/g)?.length).toBe(4);
      expect(read).toBe(`${sums}${sha256(noise)}  -\n`);
      await reader.powerOff();
      await until("its devices to be gone", () => lab.host.vbds.list().length === 0);
      expect(sha256(readFileSync(base))).toBe(untouched);

      if (!hasProgram("qemu-img")) return;
      for (const image of [plain, overlay]) {
        const check = hostProgram("qemu-img", ["check", "-f", "qcow2", image]);
        expect(check.status, check.output).toBe(0);
      }
      const bytes = readFileSync(contents(overlay));
      const copies = [0, 1, 2].map((n) => `${sha256(bytes.subarray(n * COPY, (n + 1) * COPY))}  -\n`);
      expect(new Set(copies)).toEqual(new Set([sums.slice(sums.lastIndexOf("\n", sums.length - 2) + 1)]));
      expect(bytes.subarray(FROM_BASE, FROM_BASE + noise.length).equals(noise)).toBe(true);
      if (!tools) return;
      const fsck = hostProgram("fsck.ext4", ["-fn", contents(plain)]);
      expect(fsck.status, fsck.output).toBe(0);
    });
  });
});
