/** The run loop around the interpreter: budget, interrupts, single steps, and what follows a fault. */
import { decodeStep, enter, linearRip, resetCode } from "./code";
import { DELIVER_EXTERNAL, deliver, deliverSingleStep, handleFault, takeDelivered } from "./exception";
import { currentRip, jumpTo as setRip } from "./flow";
import { registerHandlers } from "./generated/handlers";
import { exec } from "./generated/interpreter";
import {
  CUR,
  EFLAGS,
  EXC_PENDING,
  EXC_RESTART,
  EXC_VECTOR,
  EXIT,
  EXIT_BUDGET,
  EXIT_NONE,
  FLAG_IF,
  FLAG_TF,
  ICOUNT,
  IRQ_BYTE,
  IRQ_INJECT,
  IRQ_VECTOR,
  KICK,
  LEFT,
  R_COUNT,
  R_LENGTH,
  REMAINING,
  RIP,
  SHADOW,
  SLICE,
} from "./layout";
import { flushTlb } from "./mmu";

/** Instructions between two looks at the interrupt line. */
const SLICE_LIMIT: i32 = 4096;

/** What a resumed repetition takes from the budget, without counting as instructions. */
const RESTART_COST: i32 = 0x8000;

/** Prepares the core: to be called once, before anything else. */
export function start(): void {
  registerHandlers();
  resetCode();
  flushTlb(false);
}

/** Moves what exec() has used of its slice to the counts. */
function account(): void {
  const used = <i32>load<u32>(SLICE) - load<i32>(LEFT);
  store<u32>(SLICE, 0);
  store<i32>(LEFT, 0);
  store<u64>(ICOUNT, load<u64>(ICOUNT) + <u64>(<i64>used));
  store<i32>(REMAINING, load<i32>(REMAINING) - used);
}

/** Delivers a waiting external interrupt if the guest takes interrupts now. */
function takeInterrupt(): void {
  if ((load<u32>(EFLAGS) & FLAG_IF) == 0) return;
  const injected = load<u32>(IRQ_INJECT);
  if (injected != 0) {
    deliver(injected - 1, false, 0, DELIVER_EXTERNAL, load<u64>(RIP));
    store<u32>(IRQ_INJECT, 0);
    return;
  }
  const line = load<u32>(IRQ_BYTE);
  if (line == 0 || atomic.load<u8>(line) == 0) return;
  deliver(load<u32>(IRQ_VECTOR), false, 0, DELIVER_EXTERNAL, load<u64>(RIP));
}

/** Executes exactly one instruction. */
function step(): void {
  store<u32>(SLICE, 0);
  store<i32>(LEFT, 0);
  const record = decodeStep();
  exec(record);
  account();
}

function loop(): u32 {
  while (true) {
    const shadow = load<u32>(SHADOW) != 0;
    if (!shadow) takeInterrupt();
    if (load<i32>(REMAINING) <= 0) return EXIT_BUDGET;
    if (atomic.load<u32>(KICK) != 0) {
      store<u32>(KICK, 0);
      return EXIT_BUDGET;
    }
    const trap = (load<u32>(EFLAGS) & FLAG_TF) != 0;
    if (shadow || trap || load<i32>(REMAINING) == 1) {
      store<u32>(SHADOW, 0);
      takeDelivered();
      step();
      // A load of SS postpones the trap by one instruction.
      if (trap && !takeDelivered() && load<u32>(SHADOW) == 0) deliverSingleStep();
    } else {
      const slice = min<i32>(load<i32>(REMAINING), SLICE_LIMIT);
      const record = enter(linearRip());
      store<u32>(SLICE, slice);
      store<i32>(LEFT, slice);
      exec(record);
      account();
    }
    const exit = load<u32>(EXIT);
    if (exit != EXIT_NONE) {
      store<u32>(EXIT, EXIT_NONE);
      return exit;
    }
  }
}

/** Runs about `budget` instructions (exactly one for 1). @returns EXIT_*. A thrown fault continues in resume(). */
export function run(budget: i32): u32 {
  store<i32>(REMAINING, budget);
  if (load<u32>(EXC_PENDING) != 0) {
    store<u32>(EXC_PENDING, 0);
    return resume();
  }
  return loop();
}

/** Delivers the fault that was thrown and goes on running. */
export function resume(): u32 {
  const record = load<u32>(CUR);
  if (record != 0) {
    const fused: i32 = load<u8>(record, R_LENGTH) >> 7;
    store<i32>(LEFT, load<i32>(LEFT) - <i32>load<u16>(record, R_COUNT) + 1 + fused);
  }
  if (load<u32>(SLICE) != 0 || load<i32>(LEFT) != 0) account();
  if (load<u32>(EXC_VECTOR) == EXC_RESTART) {
    setRip(currentRip(record));
    store<i32>(REMAINING, load<i32>(REMAINING) - RESTART_COST);
    return loop();
  }
  handleFault();
  const exit = load<u32>(EXIT);
  if (exit != EXIT_NONE) {
    store<u32>(EXIT, EXIT_NONE);
    return exit;
  }
  return loop();
}
