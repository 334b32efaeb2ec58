/** What the CPU core offers to TypeScript. */
export { materialize } from "./flags";
export { flushTlb, translate } from "./mmu";
export { resetCode, codeWritten } from "./code";
export { resume, run, start } from "./run";
export { afterStateWrite } from "./segment";
export { completeCpuid } from "./cpuid";
export { completeMsrRead, completeMsrWrite } from "./msr";
export { completePort } from "./port";
export { fpuInit } from "./x87-environment";
