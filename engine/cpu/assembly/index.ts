/** What the CPU core offers to TypeScript. */

export { codeWritten, dropCode, resetCode } from "./code";
export { materialize } from "./flags";
export { flushTlb, translate } from "./mmu";
export { completeMsrRead, completeMsrWrite } from "./msr";
export { completePort } from "./port";
export { resume, run, start } from "./run";
export { afterStateWrite } from "./segment";
export { fpuInit } from "./x87-environment";
