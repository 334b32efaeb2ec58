import { INTEGER_ROWS } from "./integer.ts";
import { MMX_ROWS } from "./mmx.ts";
import { parseRows, type Row } from "./rows.ts";
import { SSE_ROWS } from "./sse.ts";
import { SYSTEM_ROWS } from "./system.ts";
import { X87_ROWS } from "./x87.ts";

/** Every instruction form the CPU knows. */
export const INSTRUCTIONS: readonly Row[] = [INTEGER_ROWS, SYSTEM_ROWS, X87_ROWS, MMX_ROWS, SSE_ROWS].flatMap(
  parseRows,
);
