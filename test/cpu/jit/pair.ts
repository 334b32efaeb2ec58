/** Two machines that run the same code, one interpreting and one compiling, and must not be told apart. */
import { expect } from "vitest";
import { EXIT_BUDGET } from "../../../engine/cpu/assembly/layout.ts";
import type { Exit } from "../../../engine/cpu/vcpu.ts";
import { Machine } from "../privileged/machine.ts";

const image = ({ ram }: Machine): Buffer => Buffer.from(ram.buffer, ram.byteOffset, ram.byteLength);

export class Pair {
  readonly interpreted = new Machine("interpreted");
  readonly compiled = new Machine("compiled");

  /** Does the same to both. */
  each(action: (machine: Machine) => unknown): void {
    action(this.interpreted);
    action(this.compiled);
  }

  /** Runs both for as long: they stop at the same place with the same state and the same memory. */
  run(budget: number): Exit {
    const expected = this.interpreted.cpu.run(budget);
    const exit = this.compiled.cpu.run(budget);
    expect(exit).toEqual(expected);
    this.compare();
    return exit;
  }

  /** Runs both in pieces until an exit other than the budget's, or through `stops` budgets. */
  runAll(budgets: readonly number[], stops: number): Exit {
    let exit: Exit = { reason: EXIT_BUDGET };
    for (let n = 0; n < stops && exit.reason === EXIT_BUDGET; n++) {
      exit = this.run(budgets[n % budgets.length] ?? 1);
    }
    return exit;
  }

  private compare(): void {
    const [expected, actual] = [this.interpreted.cpu.state, this.compiled.cpu.state];
    // One comparison of text is much faster than one of objects, and as a rule all there is to do.
    if (text(actual) !== text(expected)) expect(actual).toEqual(expected);
    expect(Buffer.compare(image(this.compiled), image(this.interpreted))).toBe(0);
  }
}

function text(state: unknown): string {
  return JSON.stringify(state, (_, value: unknown) => {
    if (typeof value === "bigint") return value.toString(16);
    return value instanceof Uint8Array ? Buffer.from(value).toString("hex") : value;
  });
}
