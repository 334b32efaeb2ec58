import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, describe, expect, test } from "vitest";
import { Headers } from "../../../engine/network/headers.ts";
import { SocketUplink } from "../../../engine/network/uplink/socket.ts";
import { eventually, testContext } from "./context.ts";

const QEMU = "qemu-system-x86_64";
const help = spawnSync(QEMU, ["-netdev", "help"]);
const possible = help.status === 0 && `${help.stdout}${help.stderr}`.includes("stream");

// What needs QEMU; skipped where it is not installed, or too old for -netdev stream.
describe.skipIf(!possible)("QEMU's -netdev stream (needs QEMU 7.2)", () => {
  let child: ChildProcess | undefined;
  const folder = mkdtempSync(join(tmpdir(), "domlab-qemu-"));
  afterEach(async () => {
    const running = child;
    if (running?.exitCode === null) {
      const ended = new Promise((resolve) => running.once("exit", resolve));
      running.kill("SIGKILL");
      await ended;
    }
    rmSync(folder, { recursive: true });
  });

  test("speaks with a socket uplink: QEMU announces its interface", async () => {
    const path = join(folder, "q");
    const context = testContext();
    const uplink = new SocketUplink(context, { path, mode: "listen" });
    await uplink.start();
    const backend = `stream,id=n,server=off,addr.type=unix,addr.path=${path}`;
    const nic = "virtio-net-pci,netdev=n,mac=52:54:00:12:34:56,romfile=";
    const words = ["-machine", "pc,accel=tcg", "-m", "32", "-display", "none", "-nodefaults", "-monitor", "stdio"];
    child = spawn(QEMU, [...words, "-netdev", backend, "-device", nic], { stdio: ["pipe", "ignore", "inherit"] });
    await eventually(() => uplink.counters.connected).toBe(1);
    child.stdin?.write("announce_self\n");
    await eventually(() => context.frames.length).toBeGreaterThan(0);
    const headers = new Headers();
    expect(headers.parse(context.frames[0]!)).toBeUndefined();
    expect(headers.isBroadcast).toBe(true);
    expect([headers.sourceHigh, headers.sourceLow]).toEqual([0x5254, 0x0012_3456]);
    await uplink.close();
  });
});
