/** The decoder's opcode tree: opcode → (mode, prefix, mod, reg, rm splits) → row. */
import { hasModrm, type Row } from "../table/rows.ts";

export const SPLIT = { prefix: 0, reg: 1, mod: 2, rm: 3, mode64: 4 } as const;
const PREFIX_ORDER = ["", "66", "F3", "F2"] as const;

export interface Tree {
  /** map * 256 + opcode → 0 invalid, row + 1, or 0x8000 | offset of a split node in `nodes`. */
  readonly roots: number[];
  /** Split kind followed by its children, coded like roots. */
  readonly nodes: number[];
  /** map * 256 + opcode → 1 where a ModRM byte follows. */
  readonly modrm: number[];
}

interface Entry {
  readonly row: Row;
  readonly index: number;
}

/** Builds the tree. @throws Error when two rows claim the same encoding. */
export function buildTree(rows: readonly Row[]): Tree {
  const tree: Tree = { roots: [], nodes: [], modrm: [] };
  for (let slot = 0; slot < 1024; slot++) {
    const map = slot >> 8;
    const opcode = slot & 255;
    const entries = rows
      .map((row, index) => ({ row, index }))
      .filter(({ row }) => row.map === map && opcode >= row.opcode && opcode < row.opcode + row.span);
    tree.modrm.push(entries.some(({ row }) => hasModrm(row)) ? 1 : 0);
    tree.roots.push(build(tree, entries, new Set()));
  }
  if (tree.nodes.length > 0x7fff) throw new Error("instruction table: the opcode tree is too large");
  return tree;
}

function split(tree: Tree, kind: number, parts: Entry[][], done: ReadonlySet<number>): number {
  const at = tree.nodes.length;
  tree.nodes.push(kind, ...parts.map(() => 0));
  const inner = new Set([...done, kind]);
  parts.forEach((part, child) => {
    tree.nodes[at + 1 + child] = build(tree, part, inner);
  });
  return 0x8000 | at;
}

/** The ModRM form a row is limited to, by its opcode column or by an operand that is only memory or only a register. */
function formOf(row: Row): "r" | "m" | undefined {
  if (row.form !== undefined) return row.form;
  if (row.modrm !== undefined) return "r";
  if (row.operands.some((operand) => /^M[a-z]*$/.test(operand))) return "m";
  // Moves to and from control and debug registers ignore the mod field.
  if (row.operands.includes("Cy") || row.operands.includes("Dy")) return undefined;
  return row.operands.some((operand) => /^[UNR][a-z]+$/.test(operand)) ? "r" : undefined;
}

const regOf = (row: Row): number | undefined => row.reg ?? (row.modrm ? (row.modrm.first >> 3) & 7 : undefined);

function build(tree: Tree, entries: Entry[], done: ReadonlySet<number>): number {
  if (entries.length === 0) return 0;
  const some = (test: (row: Row) => boolean): boolean => entries.some(({ row }) => test(row));
  const keep = (test: (row: Row) => boolean): Entry[] => entries.filter(({ row }) => test(row));
  if (!done.has(SPLIT.mode64) && some((row) => row.attributes.has("no64") || row.attributes.has("only64"))) {
    return split(
      tree,
      SPLIT.mode64,
      [keep((row) => !row.attributes.has("only64")), keep((row) => !row.attributes.has("no64"))],
      done,
    );
  }
  if (!done.has(SPLIT.prefix) && some((row) => row.prefix !== "*")) {
    const parts = PREFIX_ORDER.map((prefix) => {
      const exact = keep((row) => row.prefix === prefix);
      return exact.length > 0
        ? [...exact, ...keep((row) => row.prefix === "*" && !overlaps(row, exact))]
        : keep((row) => row.prefix === "*");
    });
    return split(tree, SPLIT.prefix, parts, done);
  }
  if (!done.has(SPLIT.mod) && some((row) => formOf(row) !== undefined)) {
    return split(tree, SPLIT.mod, [keep((row) => formOf(row) !== "r"), keep((row) => formOf(row) !== "m")], done);
  }
  if (!done.has(SPLIT.reg) && some((row) => regOf(row) !== undefined)) {
    const parts = Array.from({ length: 8 }, (_, reg) => {
      // A row without a group member is the fallback for members that have no row of their own.
      const own = keep((row) => regOf(row) !== undefined && coversReg(row, reg));
      return own.length > 0 ? own : keep((row) => regOf(row) === undefined);
    });
    return split(tree, SPLIT.reg, parts, done);
  }
  if (!done.has(SPLIT.rm) && some((row) => row.modrm !== undefined)) {
    const parts = Array.from({ length: 8 }, (_, rm) => {
      const fixed = keep((row) => row.modrm !== undefined && coversRm(row, rm));
      return fixed.length > 0 ? fixed : keep((row) => row.modrm === undefined);
    });
    return split(tree, SPLIT.rm, parts, done);
  }
  const [only] = entries;
  if (entries.length > 1 || only === undefined) {
    throw new Error(
      `instruction table: same encoding: ${entries.map(({ row }) => `${row.mnemonic} ${row.operands}`).join(", ")}`,
    );
  }
  return only.index + 1;
}

/** An any-prefix row gives way to an exact-prefix row of the same group member. */
function overlaps(row: Row, exact: readonly Entry[]): boolean {
  return exact.some((other) => regOf(other.row) === regOf(row) || regOf(other.row) === undefined);
}

function coversReg(row: Row, reg: number): boolean {
  if (row.modrm) {
    const last = row.modrm.first + row.modrm.count - 1;
    return reg >= ((row.modrm.first >> 3) & 7) && reg <= ((last >> 3) & 7);
  }
  return row.reg === undefined || row.reg === reg;
}

function coversRm(row: Row, rm: number): boolean {
  if (!row.modrm) return false;
  return row.modrm.count >= 8 || (rm >= (row.modrm.first & 7) && rm < (row.modrm.first & 7) + row.modrm.count);
}
