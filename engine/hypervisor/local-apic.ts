/**
 * The local APIC of a vCPU (SDM volume 3, chapter 11), as far as a guest under Xen uses it: in x2APIC mode through MSRs,
 * and with the same registers memory-mapped, because 32-bit kernels know no x2APIC.
 *
 * Linux sets up its Xen timer only on a processor with a local APIC, and sends itself inter-processor interrupts through
 * it (irq_work). Timer and local interrupt pins exist as registers and never fire: their work is done by event channels.
 */

const MSR_X2APIC = 0x800;
const MSR_X2APIC_END = 0x8ff;
/** Register numbers: MSR number minus 0x800. */
const ID = 0x02;
const VERSION = 0x03;
const TASK_PRIORITY = 0x08;
const PROCESSOR_PRIORITY = 0x0a;
const EOI = 0x0b;
const LOGICAL_DESTINATION = 0x0d;
const DESTINATION_FORMAT = 0x0e;
const SPURIOUS = 0x0f;
const IN_SERVICE = 0x10;
const TRIGGER_MODE = 0x18;
const REQUESTED = 0x20;
const ERROR_STATUS = 0x28;
const LVT_CMCI = 0x2f;
const COMMAND = 0x30;
const COMMAND_HIGH = 0x31;
const LVT_TIMER = 0x32;
const LVT_ERROR = 0x37;
const INITIAL_COUNT = 0x38;
const CURRENT_COUNT = 0x39;
const DIVIDE = 0x3e;
const SELF_IPI = 0x3f;

/** Version 0x14 with entries 0…5 in the local vector table. */
const VERSION_VALUE = 0x50014n;
const LVT_MASKED = 0x10000n;
const FIRST_VALID_VECTOR = 16;
/** Fields of the command register. */
const DELIVERY_FIXED = 0n;
const SHORTHAND_SELF = 1n;
const SHORTHAND_ALL = 2n;
const BROADCAST = 0xffffffffn;

/** A LocalApic as data: register numbers with their values, and vectors. */
export interface SavedApic {
  readonly stored: readonly (readonly [register: number, value: bigint])[];
  readonly pageOnly: readonly (readonly [register: number, value: number])[];
  readonly requested: readonly number[];
  readonly serving?: number | undefined;
}

export class LocalApic {
  private readonly id: number;
  private readonly inject: (vector: number) => void;
  /** Registers that merely keep what was written. */
  private readonly stored = new Map<number, bigint>();
  /** Registers that only the memory-mapped form can write: in x2APIC mode the logical destination is fixed. */
  private readonly pageOnly = new Map([
    [LOGICAL_DESTINATION, 0],
    [DESTINATION_FORMAT, 0xffffffff],
  ]);
  private readonly requested = new Uint8Array(256);
  private serving: number | undefined;

  /** `inject` hands the CPU one external interrupt. */
  constructor(id: number, inject: (vector: number) => void) {
    this.id = id;
    this.inject = inject;
    this.stored.set(SPURIOUS, 0xffn);
    for (let register = LVT_TIMER; register <= LVT_ERROR; register++) this.stored.set(register, LVT_MASKED);
    for (const register of [TASK_PRIORITY, ERROR_STATUS, COMMAND, INITIAL_COUNT, DIVIDE, LVT_CMCI]) {
      this.stored.set(register, 0n);
    }
  }

  save(): SavedApic {
    const requested = [...this.requested.keys()].filter((vector) => this.requested[vector] === 1);
    return { stored: [...this.stored], pageOnly: [...this.pageOnly], requested, serving: this.serving };
  }

  /** Takes the registers that this device has from saved ones; a vector that was being served goes on being served. */
  restore(saved: SavedApic): void {
    for (const [register, value] of saved.stored) if (this.stored.has(register)) this.stored.set(register, value);
    for (const [register, value] of saved.pageOnly) if (this.pageOnly.has(register)) this.pageOnly.set(register, value);
    this.requested.fill(0);
    for (const vector of saved.requested) this.requested[vector] = 1;
    this.serving = saved.serving;
  }

  /** True for the MSRs that this device answers. */
  static covers(msr: number): boolean {
    return msr >= MSR_X2APIC && msr <= MSR_X2APIC_END;
  }

  /** An interrupt was handed to the CPU and its end has not been signalled: a HLT must not sleep. */
  get busy(): boolean {
    return this.serving !== undefined;
  }

  /** Value of a register, or undefined: #GP. */
  read(msr: number): bigint | undefined {
    const register = msr - MSR_X2APIC;
    if (register >= IN_SERVICE && register < TRIGGER_MODE) return this.servingBits(register - IN_SERVICE);
    if (register >= TRIGGER_MODE && register < REQUESTED) return 0n;
    if (register >= REQUESTED && register < ERROR_STATUS) return this.requestedBits(register - REQUESTED);
    switch (register) {
      case ID:
        return BigInt(this.id);
      case VERSION:
        return VERSION_VALUE;
      case PROCESSOR_PRIORITY:
        return this.stored.get(TASK_PRIORITY);
      case LOGICAL_DESTINATION:
        return BigInt(((this.id >> 4) << 16) | (1 << (this.id & 15)));
      case CURRENT_COUNT:
        return 0n;
      default:
        return this.stored.get(register);
    }
  }

  /** False: #GP. */
  write(msr: number, value: bigint): boolean {
    const register = msr - MSR_X2APIC;
    switch (register) {
      case EOI:
        if (value !== 0n) return false;
        this.serving = undefined;
        this.deliver();
        return true;
      case SELF_IPI:
        return this.request(value);
      case COMMAND:
        this.stored.set(COMMAND, value);
        return this.command(value);
      default:
        if (!this.stored.has(register) || value > 0xffffffffn) return false;
        this.stored.set(register, value);
        return true;
    }
  }

  /** Interrupt command register: a fixed interrupt for this vCPU; there is no other to reach. */
  private command(value: bigint): boolean {
    const delivery = (value >> 8n) & 7n;
    const shorthand = (value >> 18n) & 3n;
    const destination = value >> 32n;
    const named = shorthand === 0n && (destination === BigInt(this.id) || destination === BROADCAST);
    const reached = named || shorthand === SHORTHAND_SELF || shorthand === SHORTHAND_ALL;
    return delivery === DELIVERY_FIXED && reached ? this.request(value & 0xffn) : true;
  }

  private request(vector: bigint): boolean {
    if (vector > 0xffn) return false;
    if (vector >= FIRST_VALID_VECTOR) {
      this.requested[Number(vector)] = 1;
      this.deliver();
    }
    return true;
  }

  /** Hands over the highest requested vector, one at a time: the next follows at the end-of-interrupt. */
  private deliver(): void {
    if (this.serving !== undefined) return;
    const vector = this.requested.lastIndexOf(1);
    if (vector < 0) return;
    this.requested[vector] = 0;
    this.serving = vector;
    this.inject(vector);
  }

  /** A 32-bit read of the register page: register n lies at offset n * 16. Other accesses are undefined; they give 0. */
  readPage(offset: number, size: number): number {
    if (size !== 4 || offset % 16 !== 0) return 0;
    const register = offset >> 4;
    const kept = this.pageOnly.get(register);
    if (kept !== undefined) return kept;
    if (register === COMMAND_HIGH) return Number((this.stored.get(COMMAND) ?? 0n) >> 32n);
    const value = this.read(MSR_X2APIC + register) ?? 0n;
    return Number(register === ID ? value << 24n : value & 0xffffffffn);
  }

  /** A 32-bit write to the register page; the upper half of the command register has a place of its own. */
  writePage(offset: number, size: number, value: number): void {
    if (size !== 4 || offset % 16 !== 0) return;
    const register = offset >> 4;
    if (this.pageOnly.has(register)) this.pageOnly.set(register, value >>> 0);
    const low = BigInt(value >>> 0);
    const command = this.stored.get(COMMAND) ?? 0n;
    if (register === COMMAND_HIGH) this.stored.set(COMMAND, (command & 0xffffffffn) | ((low >> 24n) << 32n));
    else if (register === COMMAND) this.write(MSR_X2APIC + COMMAND, (command & ~0xffffffffn) | low);
    else this.write(MSR_X2APIC + register, register === EOI ? 0n : low);
  }

  private servingBits(group: number): bigint {
    return this.serving !== undefined && this.serving >> 5 === group ? 1n << BigInt(this.serving & 31) : 0n;
  }

  private requestedBits(group: number): bigint {
    let bits = 0n;
    for (let bit = 0; bit < 32; bit++) if (this.requested[group * 32 + bit] === 1) bits |= 1n << BigInt(bit);
    return bits;
  }
}
