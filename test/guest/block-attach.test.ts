/** Disks that several guests share, that come and go while a guest runs, and that fail. */
import { spawnSync } from "node:child_process";
import { createHash, randomBytes } from "node:crypto";
import { mkdirSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { imageDisk, xvd } from "../disk-config.ts";
import { DiskLab, type ShellGuest } from "./shell-guest.ts";

const MIB = 1 << 20;
const lab = new DiskLab();
const content = randomBytes(4 * MIB);
const checksum = createHash("md5").update(content).digest("hex");
let shared = "";
let guest: ShellGuest;
let other: ShellGuest;

beforeAll(async () => {
  shared = lab.image("shared.img", content);
  const disks = [imageDisk(shared, { readOnly: true })];
  guest = await (await lab.start({ name: "one", disks })).ready();
  // The other comes of a snapshot, which takes less time than a boot.
  const file = lab.path("booted");
  await lab.host.snapshot([{ id: guest.handle.id, file, disks: [] }]);
  other = await guest.restore(lab.host, file, { name: "two", disks });
});
afterAll(() => lab.end());

/** Waits in the guest until a node is there, or is not. */
const appears = (name: string) =>
  `i=0; until [ -b /dev/${name} ]; do i=$((i+1)); [ $i -lt 100 ]; usleep 100000; done\n`;
const vanishes = (name: string) =>
  `i=0; while [ -b /dev/${name} ]; do i=$((i+1)); [ $i -lt 100 ]; usleep 100000; done\n`;

/** The message of what must fail: one line with a cause and a remedy. */
async function refusal(promise: Promise<unknown>): Promise<string> {
  const { message } = await promise.then(
    () => {
      throw new Error("it was not refused");
    },
    (error: Error) => error,
  );
  expect(message).toMatch(/^[^\n]+; [^\n]+$/);
  return message;
}

/** Everything below a node of XenStore, one line each. */
function tree(path: string): string[] {
  const { toolstack } = lab.host.xenstore;
  const below = (toolstack.directory(path) ?? []).flatMap((child) => tree(`${path}/${child}`));
  return [`${path} = ${toolstack.read(path)}`, ...below];
}

describe("two guests and one read-only image", () => {
  it("read the same at the same time", async () => {
    const sums = await Promise.all([guest.output("md5sum </dev/xvda"), other.output("md5sum </dev/xvda")]);
    expect(sums).toEqual([`${checksum}  -\n`, `${checksum}  -\n`]);
  });

  it("cannot write", async () => {
    const { status, output } = await guest.run("cat /sys/block/xvda/ro; dd if=/dev/zero of=/dev/xvda bs=4k count=1");
    expect(status).not.toBe(0);
    expect(output).toMatch(/^1\ndd: .*(not permitted|[Rr]ead-only)/);
    expect(await guest.output("md5sum </dev/xvda")).toContain(checksum);
  });

  it("exclude a third that would write", async () => {
    const writable = imageDisk(shared, { vdev: xvd(1) });
    expect(await refusal(lab.host.attachDisk(guest.handle.id, writable))).toContain(`${shared} is in use`);
    expect(await refusal(lab.start({ name: "three", disks: [imageDisk(shared)] }))).toContain(`${shared} is in use`);
    expect(lab.host.vbds.list().length).toBe(2);
  });
});

describe("a running guest", () => {
  it("gets a disk and gives it back", async () => {
    const image = lab.image("hot.img", 8 * MIB);
    const id = guest.handle.id;
    for (const placement of ["driver-domain", "hypervisor"] as const) {
      await lab.host.attachDisk(id, imageDisk(image, { vdev: xvd(1), placement }));
      const size = await guest.output(`
        ${appears("xvdb")}
        mke2fs -F /dev/xvdb >/dev/null 2>&1; mount -t ext4 /dev/xvdb /mnt; echo ${placement} >/mnt/file; umount /mnt
        blockdev --getsize64 /dev/xvdb`);
      expect(size).toBe(`${8 * MIB}\n`);
      await lab.host.detachDisk(id, xvd(1));
      await guest.output(vanishes("xvdb"));
      expect(lab.host.xenstore.toolstack.read(`/local/domain/${id}/device/vbd/${xvd(1)}`)).toBeUndefined();
    }
    // The image is free, and the other guest finds what was written last.
    await lab.host.attachDisk(other.handle.id, imageDisk(image, { vdev: xvd(1) }));
    expect(await other.output(`${appears("xvdb")} mount -t ext4 /dev/xvdb /mnt; cat /mnt/file; umount /mnt`)).toBe(
      "hypervisor\n",
    );
    await lab.host.detachDisk(other.handle.id, xvd(1));
  });

  it("does not notice a disk that cannot be attached", async () => {
    const id = guest.handle.id;
    const before = tree("/local/domain");
    const attach = (file: string, vdev = xvd(1)) => refusal(lab.host.attachDisk(id, imageDisk(file, { vdev })));
    expect(await attach(lab.path("missing.img"))).toContain("missing.img");
    expect(await attach(lab.folder)).toContain(lab.folder);
    expect(await attach(lab.image("empty.img", 0))).toContain("empty.img");
    expect(await attach(lab.image("fine.img", MIB), xvd(0))).toContain("xvda");
    expect(await refusal(lab.host.detachDisk(id, xvd(7)))).toContain("xvdh");
    expect(await refusal(lab.host.attachDisk(4711, imageDisk(shared, { readOnly: true })))).toContain("4711");
    expect(tree("/local/domain")).toEqual(before);
    expect(await guest.output("ls /sys/block | grep xvd")).toBe("xvda\n");
  });
});

describe("a disk that fails", () => {
  it("gives I/O errors where its image was cut off, and serves the rest", async () => {
    const image = lab.image("cut.img", randomBytes(2 * MIB));
    const id = guest.handle.id;
    await lab.host.attachDisk(id, imageDisk(image, { vdev: xvd(2) }));
    await guest.output(`${appears("xvdc")} dd if=/dev/xvdc of=/tmp/before bs=64k iflag=direct 2>/dev/null`);
    truncateSync(image, MIB);
    const block = (at: number) => `dd if=/dev/xvdc bs=4k skip=${at} count=1 iflag=direct 2>/dev/null`;
    await guest.output(`${block(10)} >/tmp/block
      dd if=/tmp/before bs=4k skip=10 count=1 2>/dev/null | cmp - /tmp/block`);
    const read = await guest.run(`dd if=/dev/xvdc bs=4k skip=300 count=1 iflag=direct of=/dev/null`);
    expect(read.status).not.toBe(0);
    expect(read.output).toContain("Input/output error");
    const write = await guest.run(`dd if=/dev/zero of=/dev/xvdc bs=4k seek=300 count=1 oflag=direct`);
    expect(write.output).toContain("Input/output error");
    expect(await guest.output("echo alive; md5sum </dev/xvda")).toBe(`alive\n${checksum}  -\n`);
    expect(lab.lines.filter((line) => line.includes("cut.img")).join("\n")).toContain("cut short");
    await lab.host.detachDisk(id, xvd(2));
  });

  const mounts = process.platform === "linux" && process.getuid?.() === 0;
  it.runIf(mounts)(
    "gives I/O errors when the host's disk is full, and goes on when there is room again",
    async (test) => {
      const folder = lab.path("small");
      mkdirSync(folder);
      if (spawnSync("mount", ["-t", "tmpfs", "-o", "size=2m", "tmpfs", folder]).status !== 0) return test.skip();
      try {
        writeFileSync(`${folder}/ballast`, Buffer.alloc(MIB));
        writeFileSync(`${folder}/disk.img`, "");
        truncateSync(`${folder}/disk.img`, 2 * MIB - 4096);
        const id = guest.handle.id;
        await lab.host.attachDisk(id, imageDisk(`${folder}/disk.img`, { vdev: xvd(3) }));
        // Blocks of 64 KiB with the block's number, until one fails; then all that were acknowledged are compared.
        const fill = (from: number) => `
        n=${from}
        while [ $n -lt 31 ]; do
          yes $n | head -c 65536 >/tmp/block
          dd if=/tmp/block of=/dev/xvdd bs=64k seek=$n count=1 oflag=direct 2>/tmp/said || break
          n=$((n+1))
        done
        i=0
        while [ $i -lt $n ]; do
          yes $i | head -c 65536 >/tmp/block
          dd if=/dev/xvdd bs=64k skip=$i count=1 iflag=direct 2>/dev/null | cmp - /tmp/block || exit 1
          i=$((i+1))
        done
        echo $n; cat /tmp/said`;
        const full = await guest.output(`${appears("xvdd")} ${fill(0)}`);
        const written = Number(full.split("\n")[0]);
        expect(written).toBeGreaterThan(8);
        expect(written).toBeLessThan(20);
        expect(full).toMatch(/No space left|Input\/output error/);
        rmSync(`${folder}/ballast`);
        expect(await guest.output(fill(written))).toMatch(/^31\n/);
        await lab.host.detachDisk(id, xvd(3));
      } finally {
        await lab.host.detachDisk(guest.handle.id, xvd(3), true).catch(() => {});
        spawnSync("umount", [folder]);
      }
    },
  );
});

describe("detaching a disk that is in use", () => {
  it("is refused while the guest does not answer, and done when it does", async () => {
    const id = guest.handle.id;
    const image = lab.image("stuck.img", MIB);
    await lab.host.attachDisk(id, imageDisk(image, { vdev: xvd(5) }));
    await guest.output(appears("xvdf"));
    process.kill(guest.handle.pid, "SIGSTOP");
    const message = await refusal(lab.host.detachDisk(id, xvd(5)));
    expect(message).toBe("the guest does not give up xvdf; unmount it in the guest, or add --force");
    // It is still this guest's.
    const taken = imageDisk(image, { vdev: xvd(5) });
    expect(await refusal(lab.host.attachDisk(other.handle.id, taken))).toContain("in use");
    process.kill(guest.handle.pid, "SIGCONT");
    await lab.host.detachDisk(id, xvd(5));
    await guest.output(vanishes("xvdf"));
  });

  it("leaves a guest that runs on without it", async () => {
    const id = guest.handle.id;
    const image = lab.image("busy.img", 8 * MIB);
    await lab.host.attachDisk(id, imageDisk(image, { vdev: xvd(4) }));
    await guest.output(`${appears("xvde")} mke2fs -F /dev/xvde >/dev/null 2>&1; mount -t ext4 /dev/xvde /mnt
      echo kept >/mnt/file; sync`);
    await lab.host.detachDisk(id, xvd(4), true);
    const { status } = await guest.run("dd if=/dev/zero of=/mnt/more bs=64k count=1 conv=fsync");
    expect(status).not.toBe(0);
    await guest.run("umount -l /mnt");
    expect(await guest.output("echo alive; md5sum </dev/xvda")).toBe(`alive\n${checksum}  -\n`);
    // What was synced is in the image.
    await lab.host.attachDisk(other.handle.id, imageDisk(image, { vdev: xvd(4) }));
    expect(await other.output(`${appears("xvde")} mount -t ext4 /dev/xvde /mnt; cat /mnt/file; umount /mnt`)).toBe(
      "kept\n",
    );
  });
});
