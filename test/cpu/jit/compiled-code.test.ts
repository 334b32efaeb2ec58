/** What compiled blocks must do as the interpreter does, case by case; random programs are in differential.test.ts. */
import { describe, expect, it } from "vitest";
import { EXIT_BUDGET, EXIT_HALT, FRAMES } from "../../../engine/cpu/assembly/layout.ts";
import { flatProtectedState } from "../../../engine/cpu/state.ts";
import { CODE, DATA, HLT, Machine, mov, NOP, P, RW, STACK, US, USER_AT, USER_STACK } from "../privileged/machine.ts";
import { Pair } from "./pair.ts";
import { again, compiled, RAX, RBX, RCX, RDI, RSI, RSP, restart } from "./rerun.ts";

const PAGE = 0x1000;
const HIGH = 0x7000_0000_0000n;
const FRAME = 0x200000;
const CF = 1;
const ZF = 0x40;

const nops = (count: number): number[] => Array.from({ length: count }, () => NOP);

describe("faults in compiled blocks", () => {
  it("have exact RIP, registers, flags, instruction count and CR2", () => {
    // add rax,rbx; inc rcx; mov [rdi+16],rax; dec rcx; hlt
    const code = [0x48, 0x01, 0xd8, 0x48, 0xff, 0xc1, 0x48, 0x89, 0x47, 16, 0x48, 0xff, 0xc9, HLT];
    const registers = { [RAX]: -1n, [RBX]: 1n, [RCX]: 0xffn, [RDI]: BigInt(DATA) };
    const machine = compiled(code, registers);
    restart(machine, { ...registers, [RDI]: HIGH });
    const before = machine.cpu.instructions;
    const frame = machine.cpu.run(1000) && machine.frame(14);
    expect(frame).toMatchObject({ error: 2, rip: BigInt(CODE + 6), rsp: BigInt(STACK) });
    expect(machine.cpu.state.control.cr2).toBe(HIGH + 16n);
    // the carry of ADD, the rest of INC: neither zero nor negative
    expect(frame.rflags & (CF | ZF | 0x80)).toBe(CF);
    expect([RAX, RCX].map((n) => machine.cpu.getRegister(n))).toEqual([0n, 0x100n]);
    // two instructions and the handler's HLT
    expect(machine.cpu.instructions - before).toBe(3);
  });

  it("come at the access that crosses into a missing page, which CR2 names, and write nothing", () => {
    // mov [rdi],rax; mov [rdi+8],rax; hlt
    const code = [0x48, 0x89, 0x07, 0x48, 0x89, 0x47, 8, HLT];
    const machine = compiled(code, { [RDI]: BigInt(DATA), [RAX]: -1n }, (each) =>
      each.map(HIGH, BigInt(FRAME), P | RW),
    );
    restart(machine, { [RDI]: HIGH + 0xff4n, [RAX]: -1n });
    machine.cpu.run(1000);
    expect(machine.frame(14)).toMatchObject({ error: 2, rip: BigInt(CODE + 3) });
    expect(machine.cpu.state.control.cr2).toBe(HIGH + 0x1000n);
    expect(machine.ram.getUint32(FRAME + 0xffc, true)).toBe(0);
    expect(machine.read64(FRAME + 0xff4)).toBe(0xffff_ffff_ffff_ffffn);
  });

  it("of RET to a bad address are #GP at the RET with RSP unchanged", () => {
    // push rax; inc rbx; ret
    const machine = compiled([0x50, 0x48, 0xff, 0xc3, 0xc3], { [RAX]: BigInt(DATA) }, (each) => each.put(DATA, [HLT]));
    restart(machine, { [RAX]: 0x8000_0000_0000n, [RBX]: 4n });
    machine.cpu.run(1000);
    expect(machine.frame(13)).toMatchObject({ error: 0, rip: BigInt(CODE + 4), rsp: BigInt(STACK - 8) });
    expect(machine.cpu.getRegister(RBX)).toBe(5n);
  });

  it("of a division between compiled instructions come with the flags from before", () => {
    // cmp rax,rbx; div rcx; hlt
    const machine = compiled([0x48, 0x39, 0xd8, 0x48, 0xf7, 0xf1, HLT], { 2: 0n, [RCX]: 1n, [RAX]: 5n, [RBX]: 5n });
    restart(machine, { 2: 0n, [RCX]: 0n, [RAX]: 5n, [RBX]: 6n });
    machine.cpu.run(1000);
    const frame = machine.frame(0);
    expect(frame.rip).toBe(BigInt(CODE + 3));
    expect(frame.rflags & (CF | ZF)).toBe(CF);
  });

  it("of the user's writes come when a page has become read-only, after reads of it in the same block", () => {
    // mov rax,[rdi]; mov [rdi],rax; mov rcx,[rdi+8]; mov [rdi+8],rcx; int 80h
    const code = [0x48, 0x8b, 0x07, 0x48, 0x89, 0x07, 0x48, 0x8b, 0x4f, 8, 0x48, 0x89, 0x4f, 8, 0xcd, 0x80];
    const machine = new Machine("compiled");
    machine.gate(0x80, { dpl: 3 });
    machine.map(HIGH, BigInt(FRAME), P | RW | US);
    for (let n = 0; n < 3; n++) {
      machine.user(code);
      machine.set({ [RDI]: HIGH });
      expect(machine.trap().vector).toBe(0x80);
    }
    machine.map(HIGH, BigInt(FRAME), P | US);
    machine.cpu.flushTlb();
    for (let n = 0; n < 3; n++) {
      machine.user(code);
      machine.set({ [RDI]: HIGH });
      expect(machine.trap()).toMatchObject({ vector: 14, error: 7, rip: BigInt(USER_AT + 3) });
    }
    expect(machine.blocks.isCompiled(USER_AT)).toBe(true);
  });
});

describe("memory accesses of compiled blocks", () => {
  /** Code that is run interpreted and compiled with each of the addresses in RDI, and must leave the same. */
  function alike(code: readonly number[], addresses: readonly bigint[], prepare?: (machine: Machine) => void): void {
    const pair = new Pair();
    pair.each((machine) => {
      machine.map(HIGH, BigInt(FRAME), P | RW);
      machine.map(HIGH + 0x1000n, BigInt(FRAME + 0x5000), P | RW);
      for (let at = 0; at < 0x2000; at += 8) machine.write64(FRAME + at * 3, BigInt(at) * 0x0101_0101_0101_0101n);
      prepare?.(machine);
      machine.kernel([...code, HLT]);
    });
    // Twice: the second time the TLB knows the pages.
    for (const address of [...addresses, ...addresses]) {
      pair.each((machine) => restart(machine, { [RDI]: address, [RAX]: 0x1122_3344_5566_7788n }));
      expect(pair.runAll([1000], 5).reason).toBe(EXIT_HALT);
    }
    expect(pair.compiled.blocks.isCompiled(CODE)).toBe(true);
  }

  const around = [0n, 0x800n, 0xfc0n, 0xff0n, 0xff8n, 0xffdn, 0x1000n, 0x1004n, 0x1ff0n, 0x1ff9n].map(
    (at) => HIGH + at,
  );

  it("may lie in the next page, one of many relative to the same register", () => {
    const reads = Array.from({ length: 8 }, (_, n) => [0x48, 0x03, 0x47, n * 8]).flat();
    const writes = Array.from({ length: 8 }, (_, n) => [0x48, 0x89, 0x47, n * 8]).flat();
    alike([...reads, ...writes], around);
    alike([...writes, ...reads], around);
  });

  it("may have negative displacements, in any order", () => {
    const reads = [8, -16, 0, -64, 40, -8].flatMap((at) => [0x48, 0x03, 0x47, at & 0xff]);
    alike(reads, around);
    // mov [rdi-120],rax; mov rcx,[rdi+127]; mov [rdi-400],rcx
    alike([0x48, 0x89, 0x47, -120 & 0xff, 0x48, 0x8b, 0x4f, 127, 0x48, 0x89, 0x8f, 0x70, 0xfe, 0xff, 0xff], around);
  });

  it("follow their register when it changes by constants", () => {
    // mov [rdi],rax; add rdi,8; mov [rdi],rax; lea rdi,[rdi-24]; add rcx,[rdi]; inc rdi; mov [rdi],al
    const steps = [0x48, 0x89, 0x07, 0x48, 0x83, 0xc7, 8, 0x48, 0x89, 0x07, 0x48, 0x8d, 0x7f, -24 & 0xff];
    alike([...steps, 0x48, 0x03, 0x0f, 0x48, 0xff, 0xc7, 0x88, 0x07], around);
    // the 32-bit form zero-extends: mov ebx,edi; mov rdi,rbx
    alike([0x48, 0x89, 0x07, 0x89, 0xfb, 0x81, 0xe3, 0xff, 0x0f, 0, 0, 0x88, 0x83, 0, 0, 2, 0], around);
  });

  it("push and pop over the end of a page", () => {
    // mov rsp,rdi; push rax ×3; pop rbx ×2; push rsp; pop rcx; pop rdx
    const code = [0x48, 0x89, 0xfc, 0x50, 0x50, 0x50, 0x5b, 0x5b, 0x54, 0x59, 0x5a];
    // A fault on a stack that ends has a stack of its own.
    alike(code, [...around, HIGH + 0x1008n, HIGH + 0x1010n], (machine) => machine.gate(14, { ist: 1 }));
  });

  it("read and write in turns a page that may only be read: the write faults each time", () => {
    const code = [0x48, 0x8b, 0x07, 0x48, 0x89, 0x07, 0x48, 0x03, 0x07, 0x48, 0x89, 0x47, 8];
    const readOnly = (machine: Machine): number => machine.map(HIGH, BigInt(FRAME), P);
    alike(code, [HIGH + 0x1000n, HIGH, HIGH, HIGH + 0xff8n, HIGH + 0x1000n, HIGH], readOnly);
  });

  it("see a translation that the block itself changes by INVLPG", () => {
    const machine = new Machine("compiled");
    const leaf = machine.map(HIGH, BigInt(FRAME), P | RW);
    machine.map(HIGH + 0x1000n, BigInt(leaf & ~0xfff), P | RW);
    machine.write64(FRAME, 1n);
    machine.write64(FRAME + PAGE, 2n);
    // mov rax,[rdi]; mov [rsi],rcx; invlpg [rdi]; mov rbx,[rdi]; hlt
    machine.kernel([0x48, 0x8b, 0x07, 0x48, 0x89, 0x0e, 0x0f, 0x01, 0x3f, 0x48, 0x8b, 0x1f, HLT]);
    for (let n = 0; n < 3; n++) {
      const [now, then] = n % 2 === 0 ? [1n, 2n] : [2n, 1n];
      const frame = BigInt(FRAME) + (n % 2 === 0 ? 0x1000n : 0n);
      again(machine, { [RDI]: HIGH, [RSI]: HIGH + 0x1000n + BigInt(leaf & 0xfff), [RCX]: frame | P | RW });
      expect([machine.cpu.getRegister(RAX), machine.cpu.getRegister(RBX)]).toEqual([now, then]);
    }
    expect(machine.blocks.isCompiled(CODE)).toBe(true);
  });
});

describe("the budget in compiled code", () => {
  // inc eax; jmp -4
  const LOOP = [0xff, 0xc0, 0xeb, -4 & 0xff];

  function looping(code: readonly number[]): Machine {
    const machine = new Machine("compiled");
    machine.kernel(code);
    for (let n = 0; n < 3; n++) expect(machine.cpu.run(1000)).toEqual({ reason: EXIT_BUDGET });
    expect(machine.blocks.isCompiled(CODE)).toBe(true);
    return machine;
  }

  it("is exceeded by less than a block", () => {
    const long = [...nops(40), 0xeb, -42 & 0xff];
    for (const code of [LOOP, long]) {
      const { cpu } = looping(code);
      for (let budget = 2; budget < 300; budget += 7) {
        const before = cpu.instructions;
        cpu.run(budget);
        expect(cpu.instructions - before).toBeGreaterThanOrEqual(budget);
        expect(cpu.instructions - before).toBeLessThan(budget + 64);
      }
    }
  });

  it("of one executes one instruction", () => {
    const { cpu } = looping(LOOP);
    for (let n = 0; n < 9; n++) {
      const [before, count, rip] = [cpu.getRegister(RAX), cpu.instructions, cpu.state.rip];
      cpu.run(1);
      expect(cpu.instructions - count).toBe(1);
      expect(cpu.getRegister(RAX) - before).toBe(rip === BigInt(CODE) ? 1n : 0n);
      expect(cpu.state.rip).toBe(rip === BigInt(CODE) ? BigInt(CODE + 2) : BigInt(CODE));
    }
  });

  it("lets an interrupt into a block that jumps to itself", () => {
    const machine = looping(LOOP);
    machine.change((state) => {
      state.rflags = 0x202;
    });
    machine.cpu.run(10_000);
    machine.cpu.inject(0xf3);
    expect(machine.cpu.run(10_000)).toEqual({ reason: EXIT_HALT });
    expect(machine.frame(0xf3).rip).toBeLessThanOrEqual(BigInt(CODE + 2));
  });

  it("lets an interrupt whose line rises meanwhile in after some thousand instructions", () => {
    const machine = new Machine("compiled");
    // mov [rdi],cl once, then the loop: the line is up when nobody looks
    machine.kernel([0x88, 0x0f, ...LOOP]);
    for (let n = 0; n < 3; n++) {
      machine.cpu.setInterruptLine(FRAMES + DATA, 0xf3);
      machine.ram.setUint8(DATA, 0);
      restart(machine, { [RDI]: BigInt(DATA), [RCX]: 1n, [RAX]: 0n });
      machine.change((state) => {
        state.rflags = 0x202;
      });
      expect(machine.cpu.run(100_000)).toEqual({ reason: EXIT_HALT });
      expect(machine.cpu.getRegister(RAX)).toBeLessThan(10_000n);
    }
    expect(machine.blocks.isCompiled(CODE)).toBe(true);
  });

  it("is not spent on by a kicked CPU", () => {
    const { cpu } = looping(LOOP);
    cpu.kick();
    const before = cpu.instructions;
    expect(cpu.run(1_000_000)).toEqual({ reason: EXIT_BUDGET });
    expect(cpu.instructions - before).toBeLessThan(10_000);
  });
});

describe("what is compiled", () => {
  it("is no 32-bit code", () => {
    const machine = new Machine("compiled");
    // inc eax is a prefix in 64-bit code: 40 48 ff c0 would be one INC RAX
    machine.put(CODE, [0x40, 0x40, 0x75, -4 & 0xff, HLT]);
    for (let n = 0; n < 3; n++) {
      machine.cpu.state = flatProtectedState(CODE);
      machine.set({ [RAX]: -6n & 0xffff_ffffn });
      expect(machine.cpu.run(1000)).toEqual({ reason: EXIT_HALT });
      expect(machine.cpu.getRegister(RAX)).toBe(0n);
    }
    expect(machine.blocks.compiled()).toEqual([]);
  });

  it("is not taken for 32-bit code at the same address", () => {
    const code = [0x40, 0x48, 0xff, 0xc0, HLT];
    const machine = compiled(code, { [RAX]: 5n });
    expect(machine.cpu.getRegister(RAX)).toBe(6n);
    machine.cpu.state = flatProtectedState(CODE);
    machine.set({ [RAX]: 5n });
    machine.cpu.run(1000);
    // inc eax; dec eax; inc eax
    expect(machine.cpu.getRegister(RAX)).toBe(6n);
    expect(machine.cpu.instructions).toBeGreaterThan(0);
  });

  it("survives forgetting everything again and again", () => {
    const machine = compiled([...mov(RAX, 1), 0xeb, 0, 0xff, 0xc0, HLT]);
    for (let n = 0; n < 20; n++) {
      machine.cpu.flushCode();
      expect(machine.blocks.compiled()).toEqual([]);
      for (let run = 0; run < 3; run++) {
        again(machine);
        expect(machine.cpu.getRegister(RAX)).toBe(2n);
      }
      expect(machine.blocks.isCompiled(CODE)).toBe(true);
    }
  });

  it("serves the user and the kernel with the rights of each", () => {
    const machine = new Machine("compiled");
    machine.gate(0x80, { dpl: 3 });
    // mov rax,[rsi]; int 80h, in a page of the user that the kernel runs too; what RSI names is the kernel's
    const code = [0x48, 0x8b, 0x06, 0xcd, 0x80];
    for (let n = 0; n < 3; n++) {
      machine.user(code);
      machine.set({ [RSI]: BigInt(DATA), [RSP]: BigInt(USER_STACK) });
      expect(machine.trap()).toMatchObject({ vector: 14, error: 5, rip: BigInt(USER_AT) });
      machine.change((state) => {
        state.rip = BigInt(USER_AT);
      });
      machine.set({ [RSI]: BigInt(DATA), [RSP]: BigInt(STACK) });
      expect(machine.trap().vector).toBe(0x80);
    }
    expect(machine.blocks.isCompiled(USER_AT)).toBe(true);
  });
});
