/** The ways a guest ends, seen from its host: a reason, and after a crash the registers. */
import { describe, expect, it } from "vitest";
import { Hypercall } from "../../engine/abi/hypercalls.ts";
import { SchedOp, ShutdownReason } from "../../engine/abi/sched-op.ts";
import { VcpuOp } from "../../engine/abi/vcpu-op.ts";
import { endlessLoop, tinyKernel } from "../cli/tiny-kernel.ts";
import { ARGUMENTS, Program32, Program64, runTiny, UNMAPPED } from "./tiny-guest.ts";

async function expectCrash(kernel: Uint8Array, cause: RegExp): Promise<void> {
  const { exit } = await runTiny(kernel);
  expect(exit.reason).toBe("crash");
  if (exit.reason !== "crash") return;
  expect(exit.cause).toMatch(cause);
  expect(exit.registers).toHaveProperty("rip");
}

describe("a guest that ends itself", () => {
  it.each([
    ["poweroff", ShutdownReason.poweroff],
    ["reboot", ShutdownReason.reboot],
  ])("by %s", async (reason, code) => {
    expect((await runTiny(new Program64().finish(code).kernel())).exit).toEqual({ reason });
  });

  it("by telling of its crash", () => expectCrash(new Program64().finish(ShutdownReason.crash).kernel(), /reported/));
  it("by telling of its watchdog", () =>
    expectCrash(new Program64().finish(ShutdownReason.watchdog).kernel(), /watchdog/));
  it("for an unknown reason", () => expectCrash(new Program32().finish(99).kernel(), /99/));

  it("by letting its watchdog run out, in a loop and asleep", async () => {
    const wind = () => new Program64().put(ARGUMENTS + 4, 1).call(Hypercall.sched_op, [SchedOp.watchdog, ARGUMENTS]);
    await expectCrash(
      wind()
        .emit(...endlessLoop)
        .kernel(),
      /watchdog/,
    );
    await expectCrash(wind().call(Hypercall.sched_op, [SchedOp.block]).kernel(), /watchdog/);
  });

  it("by taking its only vCPU down", async () => {
    const program = new Program64().call(Hypercall.vcpu_op, [VcpuOp.down, 0]).emit(...endlessLoop);
    expect((await runTiny(program.kernel())).exit).toEqual({ reason: "poweroff" });
  });

  it("goes on after a suspend that nobody asked for", async () => {
    const program = new Program64().put(ARGUMENTS, ShutdownReason.suspend);
    program.call(Hypercall.sched_op, [SchedOp.shutdown, ARGUMENTS]);
    expect(await runTiny(program.finish().kernel())).toMatchObject({ results: [1], exit: { reason: "poweroff" } });
  });

  it("by a halt with interrupts off", async () => {
    expect((await runTiny(new Program64().emit(0xf4).kernel())).exit).toEqual({ reason: "poweroff" });
  });
});

describe("a guest without a way on", () => {
  const jump = (address: number): number[] => [0xb8, ...[0, 8, 16, 24].map((s) => (address >>> s) & 0xff), 0xff, 0xe0];

  it.each<[string, Uint8Array]>([
    ["jumps to an unmapped page", new Program64().emit(...jump(UNMAPPED)).kernel()],
    ["jumps to a frame that is not there", new Program64().emit(...jump(0x3000_0000)).kernel()],
    ["jumps to a frame that is not there, without paging", tinyKernel(jump(0xe000_0000))],
    ["jumps to the last byte of the address space", tinyKernel(jump(0xffff_ffff))],
    ["executes ud2 without an IDT", new Program64().emit(0x0f, 0x0b).kernel()],
    [
      "loads CR3 with an address where nothing is",
      new Program64().emit(0xb8, 0, 0, 0, 0xe0, 0x0f, 0x22, 0xd8).kernel(),
    ],
    ["pushes onto an unmapped stack", new Program64().emit(0x31, 0xe4, 0x50, 0x0f, 0x0b).kernel()],
    ["takes an interrupt without an IDT", new Program32().emit(0xcd, 0x80).kernel()],
  ])("%s", async (_name, kernel) => expectCrash(kernel, /triple fault/));
});
