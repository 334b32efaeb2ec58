/** Disks on NBD servers, whose servers and whose backend are killed while a guest uses them; and one that fails. */
import type { ChildProcess } from "node:child_process";
import { once } from "node:events";
import { readFileSync, rmSync, writeFileSync } from "node:fs";
import { setTimeout as delay } from "node:timers/promises";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { NbdSpec } from "../../engine/disk/spec.ts";
import type { VbdConfig } from "../../engine/domain/vbd-toolstack.ts";
import { until } from "../cli/domlab.ts";
import { imageDisk, xvd } from "../disk-config.ts";
import { freePort, hasProgram, startNbdServer } from "./host-tools.ts";
import { DiskLab, type ShellGuest } from "./shell-guest.ts";

const MIB = 1 << 20;

function nbdDisk(index: number, address: NbdSpec["address"], more: Partial<NbdSpec> = {}): VbdConfig {
  const target =
    "socket" in address ? `nbd+unix:///?socket=${address.socket}` : `nbd://${address.host}:${address.port}`;
  const store: NbdSpec = { kind: "nbd", address, export: "", readOnly: false, ...more };
  return { ...imageDisk(target), store, vdev: xvd(index) };
}

describe.runIf(hasProgram("nbdkit"))("a disk on an NBD server", () => {
  const lab = new DiskLab();
  const socket = lab.path("nbd.sock");
  const slowSocket = lab.path("slow.sock");
  const badSocket = lab.path("bad.sock");
  const trigger = lab.path("fail");
  const image = lab.image("disk.img", 8 * MIB);
  const slowImage = lab.image("slow.img", 8 * MIB);
  const servers = new Set<ChildProcess>();
  let port = 0;
  let guest: ShellGuest;

  async function serve(args: readonly string[], where: Parameters<typeof startNbdServer>[1]): Promise<ChildProcess> {
    const address = "path" in where ? ["-U", where.path] : ["-i", where.host, "-p", String(where.port)];
    const child = await startNbdServer(["-f", ...address, ...args], where);
    servers.add(child);
    return child;
  }

  async function killServer(child: ChildProcess, path?: string): Promise<void> {
    child.kill("SIGKILL");
    await once(child, "exit");
    servers.delete(child);
    if (path !== undefined) rmSync(path, { force: true });
  }

  const serveFile = () => serve(["file", image], { path: socket });
  let file: ChildProcess;

  beforeAll(async () => {
    port = await freePort();
    file = await serveFile();
    await serve(["memory", "8M"], { host: "127.0.0.1", port });
    // Each request is under way for a while, so that whatever is killed is killed in the middle of some.
    await serve(["--filter=delay", "file", slowImage, "delay-write=400ms"], { path: slowSocket });
    const failing = ["--filter=error", "memory", "8M", "error=EIO", "error-pwrite-rate=100%", `error-file=${trigger}`];
    await serve(failing, { path: badSocket });
    const disks = [
      nbdDisk(0, { socket }),
      nbdDisk(1, { host: "127.0.0.1", port }),
      nbdDisk(2, { socket: slowSocket }),
      nbdDisk(3, { socket: badSocket }),
    ];
    guest = await lab.start({ name: "client", disks });
    await guest.ready();
  });
  afterAll(async () => {
    await lab.end();
    for (const child of servers) child.kill("SIGKILL");
  });

  it("holds a file system, over a Unix socket and over TCP", async () => {
    for (const name of ["xvda", "xvdb"]) {
      const said = await guest.output(`
        mke2fs -F /dev/${name} >/dev/null 2>&1; mount -t ext4 /dev/${name} /mnt
        cp /bin/busybox /mnt; umount /mnt; echo 3 >/proc/sys/vm/drop_caches; mount -t ext4 /dev/${name} /mnt
        cmp /bin/busybox /mnt/busybox; umount /mnt; blockdev --getsize64 /dev/${name}`);
      expect(said).toBe(`${8 * MIB}\n`);
    }
  });

  it("goes on where it was when its server is killed and started again", async () => {
    await guest.output(`
      head -c ${MIB} /bin/busybox >/tmp/base
      { for pass in 1 2 3; do
          dd if=/tmp/base of=/dev/xvda bs=64k oflag=direct conv=notrunc 2>/tmp/said || { cat /tmp/said; break; }
          echo PASS $pass
        done; touch /tmp/done; } >/tmp/log 2>&1 &`);
    for (let i = 0; i < 3; i++) {
      await delay(200);
      await killServer(file, socket);
      await delay(200);
      file = await serveFile();
    }
    const log = await guest.output("while [ ! -e /tmp/done ]; do usleep 100000; done; cat /tmp/log");
    expect(log).toBe("PASS 1\nPASS 2\nPASS 3\n");
    await guest.output(`dd if=/dev/xvda bs=64k count=16 iflag=direct 2>/dev/null | cmp - /tmp/base`);
    expect(lab.lines.some((line) => line.includes("nbd.sock"))).toBe(true);
  });

  it("goes on when the storage domain is killed with requests under way: they are executed again", async () => {
    const replayed = () => lab.host.vbdStatistics().find((each) => each.vdev === xvd(2))?.counters.replayed ?? 0;
    const storage = await lab.host.storageDomain();
    await guest.output(`
      { for i in 0 1 2 3; do
          dd if=/tmp/base of=/dev/xvdc bs=64k seek=$((i*16)) conv=notrunc,fsync 2>/tmp/said || cat /tmp/said
          echo PART $i
        done; touch /tmp/slow; } >/tmp/slow.log 2>&1 &`);
    for (let i = 0; i < 3; i++) {
      const { pid } = storage;
      const wait = await lab.requestTaken(xvd(2), "wr_req");
      wait();
      process.kill(pid, "SIGKILL");
      await until("the storage domain's next process", () => storage.pid !== pid);
    }
    const log = await guest.output("while [ ! -e /tmp/slow ]; do usleep 100000; done; cat /tmp/slow.log");
    expect(log).toBe("PART 0\nPART 1\nPART 2\nPART 3\n");
    expect(replayed()).toBeGreaterThan(0);
    const whole = readFileSync(slowImage);
    for (let i = 1; i < 4; i++)
      expect(whole.subarray(i * MIB, (i + 1) * MIB).equals(whole.subarray(0, MIB))).toBe(true);
    expect(whole.subarray(0, 4).toString("latin1")).toBe("\u007fELF");
  });

  it("passes its errors on, and works when they are over", async () => {
    const write = "dd if=/tmp/base of=/dev/xvdd bs=64k count=2 oflag=direct 2>&1";
    await guest.output(write);
    writeFileSync(trigger, "");
    const failed = await guest.run(write);
    expect(failed.status).not.toBe(0);
    expect(failed.output).toContain("Input/output error");
    rmSync(trigger);
    await guest.output(write);
    const counters = lab.host.vbdStatistics().find((each) => each.vdev === xvd(3))?.counters;
    expect(counters?.errors).toBeGreaterThan(0);
    expect(counters?.refused).toBe(0);
  });

  it("fails after its deadline when its server stays away, and the guest lives", async () => {
    await lab.host.attachDisk(guest.handle.id, nbdDisk(4, { socket }, { deadlineSeconds: 1 }));
    await guest.output("i=0; until [ -b /dev/xvde ]; do i=$((i+1)); [ $i -lt 100 ]; usleep 100000; done");
    await killServer(file, socket);
    const failed = await guest.run("dd if=/tmp/base of=/dev/xvde bs=4k count=1 oflag=direct");
    expect(failed.output).toContain("Input/output error");
    expect(await guest.output("echo alive")).toBe("alive\n");
    file = await serveFile();
    await guest.output(
      "i=0; until dd if=/dev/xvde bs=4k count=1 iflag=direct of=/dev/null 2>/dev/null; do i=$((i+1)); [ $i -lt 20 ]; usleep 500000; done",
    );
  });
});
