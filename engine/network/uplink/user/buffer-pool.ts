/** Bytes of one buffer: a longest segment and a bit more. */
export const POOL_BUFFER = 65_536;
/** Buffers kept for the next one who asks: 8 MiB. */
const MOST_KEPT = 128;

/** Buffers that go round: what a guest sends is copied once a byte, and garbage of 64 KiB a frame would cost as much. */
export class BufferPool {
  private readonly free: Buffer[] = [];

  /** POOL_BUFFER bytes of undefined content. */
  take(): Buffer {
    return this.free.pop() ?? Buffer.allocUnsafeSlow(POOL_BUFFER);
  }

  give(buffer: Buffer): void {
    if (this.free.length < MOST_KEPT) this.free.push(buffer);
  }
}

/** Bytes that all connections together hold; past `most` each gets less room. */
export class BufferBudget {
  held = 0;
  private readonly most: number;

  constructor(most: number) {
    this.most = most;
  }

  /** How much one direction of one connection may hold. */
  get room(): number {
    return this.held < this.most ? FULL_ROOM : SCANT_ROOM;
  }
}

/** Bytes a direction of a connection holds at most, and when memory is short. */
export const FULL_ROOM = 262_144;
export const SCANT_ROOM = 16_384;
