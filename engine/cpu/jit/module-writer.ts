/** Writes a WebAssembly module of functions that are exported by number, with branch hints. */
import { Encoder, I32, I64 } from "./encoder.ts";
import type { Signature, Wasm } from "./ir.ts";

const SECTION = { custom: 0, type: 1, import: 2, function: 3, export: 7, code: 10 } as const;
const FUNCREF = 0x70;
const MOST_PAGES = 65_536;

/** A compiled function. */
export interface FunctionCode {
  /** Locals and instructions: the body of an entry in the code section. */
  readonly body: Uint8Array;
  /** Branch hints: offset of the instruction in `body`, and whether it is likely taken. */
  readonly hints: readonly (readonly [offset: number, likely: boolean])[];
}

/** An imported function. */
export interface ImportedFunction {
  readonly module: string;
  readonly name: string;
  readonly signature: Signature;
}

/** What a module is made of; function indexes count imports first. */
export interface ModuleParts {
  readonly imports: readonly ImportedFunction[];
  /** Whether env.table is imported. */
  readonly table: boolean;
  readonly functions: readonly (FunctionCode & { readonly signature: Signature })[];
}

const valueType = (wasm: Wasm): number => (wasm === "i64" ? I64 : I32);
const keyOf = ([parameters, result]: Signature): string => `${parameters.join()}>${result ?? ""}`;

/** Types of a module, each once. Known before the functions are compiled: indirect calls name them. */
export class Types {
  private readonly numbers = new Map<string, number>();
  private readonly list: Signature[] = [];

  number(signature: Signature): number {
    const key = keyOf(signature);
    const known = this.numbers.get(key);
    if (known !== undefined) return known;
    this.numbers.set(key, this.list.length);
    return this.list.push(signature) - 1;
  }

  write(out: Encoder): void {
    const section = new Encoder();
    section.unsigned(this.list.length);
    for (const [parameters, result] of this.list) {
      section.byte(0x60);
      section.unsigned(parameters.length);
      for (const parameter of parameters) section.byte(valueType(parameter));
      section.unsigned(result === null ? 0 : 1);
      if (result !== null) section.byte(valueType(result));
    }
    out.section(SECTION.type, section);
  }
}

/** The binary of a module that imports env.memory; function n of `functions` is exported as "n". */
export function writeModule(types: Types, { imports, table, functions }: ModuleParts): Uint8Array<ArrayBuffer> {
  for (const { signature } of [...imports, ...functions]) types.number(signature);
  const out = new Encoder(16_384);
  out.append(new Uint8Array([0, 0x61, 0x73, 0x6d, 1, 0, 0, 0]));
  types.write(out);
  writeImports(out, types, imports, table);
  const declared = new Encoder();
  declared.unsigned(functions.length);
  for (const { signature } of functions) declared.unsigned(types.number(signature));
  out.section(SECTION.function, declared);
  const exported = new Encoder();
  exported.unsigned(functions.length);
  for (let n = 0; n < functions.length; n++) {
    exported.text(String(n));
    exported.byte(0);
    exported.unsigned(imports.length + n);
  }
  out.section(SECTION.export, exported);
  writeHints(out, functions, imports.length);
  const code = new Encoder(16_384);
  code.unsigned(functions.length);
  for (const { body } of functions) {
    code.unsigned(body.length);
    code.append(body);
  }
  out.section(SECTION.code, code);
  return out.bytes().slice();
}

function writeImports(out: Encoder, types: Types, imports: readonly ImportedFunction[], table: boolean): void {
  const section = new Encoder();
  section.unsigned(imports.length + (table ? 2 : 1));
  section.text("env");
  section.text("memory");
  section.byte(2);
  section.byte(3); // shared, with a maximum
  section.unsigned(1);
  section.unsigned(MOST_PAGES);
  if (table) {
    section.text("env");
    section.text("table");
    section.byte(1);
    section.byte(FUNCREF);
    section.byte(0);
    section.unsigned(1);
  }
  for (const { module, name, signature } of imports) {
    section.text(module);
    section.text(name);
    section.byte(0);
    section.unsigned(types.number(signature));
  }
  out.section(SECTION.import, section);
}

/** The branch hinting proposal: which ways are seldom taken, so that their code stands apart. */
function writeHints(out: Encoder, functions: readonly FunctionCode[], first: number): void {
  const section = new Encoder();
  section.text("metadata.code.branch_hint");
  const hinted = functions.map((each, n) => [first + n, each.hints] as const).filter(([, hints]) => hints.length > 0);
  section.unsigned(hinted.length);
  for (const [index, hints] of hinted) {
    section.unsigned(index);
    section.unsigned(hints.length);
    for (const [offset, likely] of hints.toSorted((a, b) => a[0] - b[0])) {
      section.unsigned(offset);
      section.unsigned(1);
      section.byte(likely ? 1 : 0);
    }
  }
  out.section(SECTION.custom, section);
}
