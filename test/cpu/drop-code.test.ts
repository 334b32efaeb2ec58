import { expect, it } from "vitest";
import { CODE_FLAG, EXIT_HALT, FRAMES } from "../../engine/cpu/assembly/layout.ts";
import { CODE, describeModes, HLT, Machine } from "./privileged/machine.ts";

const RAX = 0;
const PAGE = 0x1000;
const moveEax = (value: number): number[] => [0xb8, value, 0, 0, 0];
const RET = 0xc3;
const FUNCTION = CODE + 4 * PAGE;

/** A machine that calls the function at `at`, which loads 1 into EAX. */
function caller(at: number): Machine {
  const machine = new Machine();
  machine.put(at, [...moveEax(1), RET]);
  const relative = at - (CODE + 5);
  machine.kernel([0xe8, ...new Uint8Array(Int32Array.of(relative).buffer), HLT]);
  return machine;
}

/** Calls the function and tells what it loaded. */
function call(machine: Machine): bigint {
  machine.set({ [RAX]: 0n });
  machine.change((state) => {
    state.rip = BigInt(CODE);
  });
  expect(machine.run().reason).toBe(EXIT_HALT);
  return machine.cpu.getRegister(RAX);
}

const flagOf = ({ cpu, ram }: Machine, at: number): number =>
  cpu === undefined ? 0 : (new Uint8Array(ram.buffer)[CODE_FLAG + ((FRAMES + at) >>> 12)] ?? 0);

describeModes("code that somebody else writes over", () => {
  // Within a page; its immediate in the next page; its last instruction there.
  it.each([FUNCTION, FUNCTION - 1, FUNCTION - 3, FUNCTION - 5])(
    "at %d is executed anew after its pages are dropped",
    (at) => {
      const machine = caller(at);
      expect(call(machine)).toBe(1n);
      machine.put(at, moveEax(2));
      for (const page of new Set([at & -PAGE, (at + 5) & -PAGE])) machine.cpu.dropCode(FRAMES + page);
      expect(call(machine)).toBe(2n);
      machine.put(at, moveEax(3));
      machine.cpu.dropCode(FRAMES + ((at + 1) & -PAGE));
      expect(call(machine)).toBe(3n);
    },
  );

  it("is not seen while its page is not dropped, which the page's flag tells", () => {
    const machine = caller(FUNCTION);
    expect(flagOf(machine, FUNCTION)).toBe(0);
    expect(call(machine)).toBe(1n);
    expect(flagOf(machine, FUNCTION)).not.toBe(0);
    machine.put(FUNCTION, moveEax(2));
    machine.cpu.dropCode(FRAMES + FUNCTION + PAGE);
    expect(call(machine)).toBe(1n);
    machine.cpu.dropCode(FRAMES + FUNCTION);
    expect(flagOf(machine, FUNCTION)).toBe(0);
    expect(call(machine)).toBe(2n);
    expect(flagOf(machine, FUNCTION)).not.toBe(0);
  });

  it("goes on in the middle of a function whose page was dropped between two runs", () => {
    const machine = caller(FUNCTION);
    machine.put(FUNCTION, [...moveEax(1), ...moveEax(1), RET]);
    call(machine);
    machine.set({ [RAX]: 0n });
    machine.change((state) => {
      state.rip = BigInt(CODE);
    });
    machine.steps(2);
    expect(machine.cpu.state.rip).toBe(BigInt(FUNCTION + 5));
    machine.put(FUNCTION, [...moveEax(7), ...moveEax(9), RET]);
    machine.cpu.dropCode(FRAMES + FUNCTION);
    machine.run();
    expect(machine.cpu.getRegister(RAX)).toBe(9n);
  });
});
