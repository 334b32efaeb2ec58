/** What of a vCPU's decoded code is compiled, read from its records. */
import { CODE_POOL, FRAMES, POOL_NEXT, R_OFFSET, R_OP, R_PAGE, RECORD } from "../../../engine/cpu/assembly/layout.ts";
import { loadOperations } from "../../../engine/cpu/jit/operations.ts";
import { RecordReader } from "../../../engine/cpu/jit/records.ts";

const { names } = loadOperations();
const COMPILED = names.indexOf("compiled");

export class Blocks {
  readonly reader: RecordReader;

  /** @param memory the vCPU's whole memory */
  constructor(memory: WebAssembly.Memory) {
    this.reader = new RecordReader(memory, names);
  }

  /** Guest-physical addresses of the blocks that have been compiled since decoded code was last forgotten, stale ones too. */
  compiled(): number[] {
    const { view } = this.reader;
    const found: number[] = [];
    const end = view.getUint32(POOL_NEXT, true);
    for (let at = CODE_POOL; at < end; at += RECORD) {
      if (view.getUint16(at + R_OP, true) !== COMPILED) continue;
      found.push(view.getUint32(at + R_PAGE, true) - FRAMES + view.getUint16(at + R_OFFSET, true));
    }
    return found;
  }

  /** The block that starts at a guest-physical address, if it has been decoded (64-bit code). */
  head(physical: number): number | undefined {
    const at = FRAMES + physical;
    return this.reader.find(at & ~0xfff, at & 0xfff);
  }

  /** Whether what runs at a guest-physical address (of 64-bit code) from now on is a compiled block that starts there. */
  isCompiled(physical: number): boolean {
    const head = this.head(physical);
    return head !== undefined && this.reader.view.getUint16(head + R_OP, true) === COMPILED;
  }
}
