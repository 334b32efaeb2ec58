/** A guest that serves another guest's disk with its own xen-blkback: both are stock Linux, and either may die. */
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { imageDisk, xvd } from "../disk-config.ts";
import { DiskLab, type ShellGuest } from "./shell-guest.ts";

const MIB = 8;
/** Block special file 7:0, in hexadecimal as the hotplug script writes it. */
const LOOP0 = "7:0";

const lab = new DiskLab();
let back: ShellGuest;

/** Fulfilled when `test` is true. @throws Error after 20 s */
async function eventually(what: string, test: () => boolean): Promise<void> {
  for (const end = Date.now() + 20_000; !test(); ) {
    if (Date.now() > end) throw new Error(`in vain: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

function backendDirectory(front: number): string {
  return `/local/domain/${back.handle.id}/backend/vbd/${front}/${xvd(0)}`;
}

/** Starts a guest whose disk is the other guest's loop device, and does what the block hotplug script does there. */
async function startFront(name: string): Promise<ShellGuest> {
  const disk = imageDisk("/dev/loop0", { backend: "back" });
  const front = await lab.start({ name, memoryMiB: 192, disks: [disk] });
  const { toolstack } = lab.host.xenstore;
  toolstack.write(`${backendDirectory(front.handle.id)}/physical-device`, LOOP0);
  toolstack.write(`${backendDirectory(front.handle.id)}/hotplug-status`, "connected");
  await front.ready();
  await front.output(appears("xvda"));
  return front;
}

/** Shell commands that wait for a disk. */
const appears = (name: string) =>
  `n=0; until [ -b /dev/${name} ]; do n=$((n+1)); [ $n -lt 100 ]; usleep 100000; done\n`;

const sum = (output: string) => output.split(" ")[0];

beforeAll(async () => {
  back = await lab.start({ name: "back" });
  await back.ready();
  await back.output(`
    modprobe loop; modprobe xen-blkback
    dd if=/dev/urandom of=/img bs=1M count=${MIB} 2>/dev/null
    losetup /dev/loop0 /img`);
});
afterAll(() => lab.end());

describe("a guest's own block backend", () => {
  let front: ShellGuest;

  it("serves another guest: what one writes the other has", async () => {
    front = await startFront("front");
    const { toolstack } = lab.host.xenstore;
    const node = (key: string) => toolstack.read(`${backendDirectory(front.handle.id)}/${key}`);
    expect([node("state"), node("sectors"), node("mode")]).toEqual(["4", String(MIB * 2048), "w"]);
    const before = sum(await back.output("md5sum </img"));
    expect(sum(await front.output("md5sum </dev/xvda"))).toBe(before);
    const written = await front.output(`
      dd if=/dev/urandom of=/tmp/new bs=1M count=4 2>/dev/null
      dd if=/tmp/new of=/dev/xvda bs=256k seek=4 oflag=direct 2>/dev/null
      dd if=/tmp/new of=/dev/xvda bs=4k seek=1001 conv=fsync 2>/dev/null
      echo 3 >/proc/sys/vm/drop_caches
      md5sum </dev/xvda`);
    expect(sum(written)).not.toBe(before);
    expect(sum(await back.output("md5sum </img"))).toBe(sum(written));
    // And the other way round: nothing stands between reader and file.
    await back.output("dd if=/dev/zero of=/dev/loop0 bs=1M count=1 conv=fsync 2>/dev/null");
    expect(await front.output("dd if=/dev/xvda bs=1M count=1 iflag=direct 2>/dev/null | tr -d '\\000' | wc -c")).toBe(
      "0\n",
    );
  });

  it("lets go of everything when the other guest is killed, and serves the next one", async () => {
    const id = front.handle.id;
    // In the middle of its work.
    const busy = front.run("while true; do dd if=/tmp/new of=/dev/xvda bs=1M oflag=direct 2>/dev/null; done");
    busy.catch(() => {});
    await front.handle.kill();
    await eventually("the toolstack takes the device away", () => lab.host.vbds.list(id).length === 0);
    expect(lab.host.xenstore.toolstack.directory(backendDirectory(id))).toBeUndefined();
    await back.output(`
      n=0; until [ -z "$(ls /sys/bus/xen-backend/devices)" ]; do n=$((n+1)); [ $n -lt 50 ]; usleep 100000; done
      losetup -d /dev/loop0; losetup /dev/loop0 /img`);
    front = await startFront("next");
    expect(sum(await front.output("md5sum </dev/xvda"))).toBe(sum(await back.output("md5sum </img")));
    expect(await back.output("dmesg | grep -E 'BUG|Oops|WARNING' | wc -l")).toBe("0\n");
  });

  it("takes down nobody else when it is killed", async () => {
    await back.handle.kill();
    // What is asked of the disk fails or waits; the guest's kernel lives, and gets disks from elsewhere.
    await front.run("dd if=/dev/xvda of=/tmp/read bs=4k count=1 iflag=direct 2>/dev/null &");
    await lab.host.attachDisk(front.handle.id, imageDisk(lab.image("other.img", 1 << 20), { vdev: xvd(1) }));
    expect(await front.output(`${appears("xvdb")} blockdev --getsize64 /dev/xvdb; wc -c </tmp/read`)).toBe(
      `${1 << 20}\n0\n`,
    );
    await front.handle.kill();
    await eventually("the toolstack takes the devices away", () => lab.host.vbds.list().length === 0);
    expect(lab.host.xenstore.toolstack.directory("/local/domain")).not.toContain(String(back.handle.id));
  });
});
