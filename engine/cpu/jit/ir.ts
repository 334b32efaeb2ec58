/**
 * What an operation of the interpreter does, in the form that the compiler of hot code works from. The build translates the
 * text of each case (generate/cases.ts) into it, so both have one source.
 *
 * Types are WebAssembly's; every conversion of the text is a node of its own. An expression over fields of the record is a
 * constant for the compiler.
 */

/** Types of memory accesses: signedness matters for loads below 32 bits. */
export type Access = "u8" | "i8" | "u16" | "i16" | "u32" | "u64";
export type Wasm = "i32" | "i64";
/** Bytes of an access to the guest's memory. */
export type Size = 1 | 2 | 4 | 8;

export type Expression =
  /** Constant; an i64 is kept as decimal text. */
  | ["i32", number]
  | ["i64", string]
  /** A field of the record at `ip` (byte offset): widened as its access says. */
  | ["field", Access, number]
  /** Address of the record itself. */
  | ["ip"]
  /** Address of the TLB in use. */
  | ["tlb"]
  | ["get", string]
  /** Memory at (i32 address, constant offset); u8…u32 give an i32, u64 an i64. */
  | ["load", Access, Expression, number]
  /** Name of a WebAssembly instruction (without operand bytes) with its operands; atomic ones are "atomic.<name>.<access>". */
  | ["op", string, ...Expression[]]
  | ["if", Wasm, Expression, Expression, Expression]
  /** A function of the core. */
  | ["call", string, ...Expression[]];

export type Statement =
  | ["let", string, Wasm, Expression]
  | ["set", string, Expression]
  | ["store", Access, Expression, number, Expression]
  /** Declares the bytes (1, 2, 4 or 8; zero-extended to i64) at a linear address of the guest. */
  | ["read", string, Size, Expression]
  /** Writes the low bytes of a value (i64) to a linear address of the guest. */
  | ["write", Size, Expression, Expression]
  /** Condition (i32), then, else. */
  | ["if", Expression, Statement[], Statement[]]
  /** Body, then again while the condition (i32) holds. */
  | ["do", Statement[], Expression]
  /** A call for its effect. */
  | ["call", string, ...Expression[]]
  /** Takes the direct jump that the record names. */
  | ["take"]
  /** Goes on at a linear address. */
  | ["jump", Expression]
  /** The operation faults: the interpreter says how. */
  | ["fault"]
  /** The operation is done. */
  | ["done"];

/** Parameters and result of the core's functions that operations call. */
export type Signature = readonly [parameters: readonly Wasm[], result: Wasm | null];

/** The file that the build writes for the compiler. */
export interface OperationTable {
  /** Name of each operation; a sequence has the name of its first element. */
  readonly names: readonly string[];
  /** By name: what the operation does. Those without are known to the compiler by name. */
  readonly bodies: Readonly<Record<string, Statement[]>>;
  /** Names of the handler functions by number, and where the core keeps their table indexes. */
  readonly handlers: readonly string[];
  /** Handlers made from templates. */
  readonly templates: Readonly<Record<string, Statement[]>>;
  readonly signatures: Readonly<Record<string, Signature>>;
}
