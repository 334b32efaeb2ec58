/** What the CPU core offers to TypeScript. */

export {
  rclFlags,
  rclValue,
  rcrFlags,
  rcrValue,
  rolFlags,
  rolValue,
  rorFlags,
  rorValue,
  setCarried,
  setScanFlags,
  shldFlags,
  shldValue,
  shrdFlags,
  shrdValue,
  signedHigh,
} from "./alu";
export {
  afterJump,
  codeWritten,
  disableInterrupts,
  dropCode,
  enableInterrupts,
  farJump,
  jumpMissed,
  jumpStopped,
  resetCode,
} from "./code";
export { bswap32, bswap64, handlerIndexes } from "./compiled";
export { getCarry, getCond, getFlags, materialize, setCarry, setCarryOverflow, setCounted, setResult } from "./flags";
export { flushJumps, flushTlb, lockAddress, translate } from "./mmu";
export { completeMsrRead, completeMsrWrite } from "./msr";
export { addressNarrow } from "./operands";
export { completePort } from "./port";
export { resume, run, start } from "./run";
export { afterStateWrite } from "./segment";
export { fpuInit } from "./x87-environment";
