/**
 * The instruction table's row format.
 *
 *   prefix | opcode | mnemonic | operands | handler | attributes
 *
 * - prefix: `*` any; empty, `66`, `F3`, `F2` a mandatory prefix (empty: none of the three).
 * - opcode: bytes in hex, then optionally `/n` (ModRM.reg), `/n r` or `/n m` (register or memory form only),
 *   `/m` or `/r` (the same without a group); a last byte may be `50+r` (register in the opcode), `70+cc` (condition),
 *   `C0+i` (x87 stack register) or a fixed ModRM byte after an escape (`D9 E8`, `0F 01 C1`).
 * - operands, Intel order: see the operand codes below. - attributes: words, or `key=value`.
 */
export interface Row {
  readonly prefix: "*" | "" | "66" | "F3" | "F2";
  /** 0 = one byte, 1 = 0F, 2 = 0F 38, 3 = 0F 3A. */
  readonly map: 0 | 1 | 2 | 3;
  /** First opcode byte of the row within its map. */
  readonly opcode: number;
  /** How many consecutive opcodes the row covers (8 for `+r`, 16 for `+cc`). */
  readonly span: number;
  /** Group member: ModRM.reg, or undefined. */
  readonly reg?: number;
  /** "r" or "m": the row is only the register or only the memory form. */
  readonly form?: "r" | "m";
  /** A fixed ModRM byte range (x87, 0F 01, 0F AE): first value and count. */
  readonly modrm?: { readonly first: number; readonly count: number };
  readonly mnemonic: string;
  readonly operands: readonly string[];
  readonly handler: string;
  readonly attributes: ReadonlyMap<string, string>;
}

const PREFIXES: ReadonlySet<string> = new Set(["*", "", "66", "F3", "F2"]);

function isPrefix(text: string): text is Row["prefix"] {
  return PREFIXES.has(text);
}

interface OpcodePart {
  map: Row["map"];
  opcode: number;
  span: number;
  reg?: number;
  form?: "r" | "m";
  modrm?: { first: number; count: number };
}

/** Opcodes whose second (or third) byte in the table may be a whole ModRM byte. */
function takesModrmByte(map: number, opcode: number): boolean {
  return (map === 0 && opcode >= 0xd8 && opcode <= 0xdf) || (map === 1 && (opcode === 0x01 || opcode === 0xae));
}

function parseOpcode(text: string): OpcodePart {
  const words = text.split(/\s+/);
  let map: Row["map"] = 0;
  let at = 0;
  if (words[0] === "0F") {
    map = words[1] === "38" ? 2 : words[1] === "3A" ? 3 : 1;
    at = map === 1 ? 1 : 2;
  }
  const first = words[at++];
  const match = first && /^([0-9A-F]{2})(\+r|\+cc)?$/.exec(first);
  if (!match) throw new Error(`instruction table: bad opcode "${text}"`);
  const part: OpcodePart = {
    map,
    opcode: Number.parseInt(match[1] ?? "", 16),
    span: match[2] === "+r" ? 8 : match[2] === "+cc" ? 16 : 1,
  };
  for (const word of words.slice(at)) {
    const fixed = /^([0-9A-F]{2})(\+i)?(?:-([0-9A-F]{2}))?$/.exec(word);
    if (/^\/[0-7]$/.test(word)) part.reg = Number(word[1]);
    else if (/^\/?r$/.test(word)) part.form = "r";
    else if (/^\/?m$/.test(word)) part.form = "m";
    else if (fixed && takesModrmByte(map, part.opcode)) {
      const low = Number.parseInt(fixed[1] ?? "", 16);
      const count = fixed[3] ? Number.parseInt(fixed[3], 16) - low + 1 : fixed[2] ? 8 : 1;
      part.modrm = { first: low, count };
    } else throw new Error(`instruction table: bad opcode "${text}"`);
  }
  return part;
}

/** Parses one table file's text. @throws Error naming the row when a row is malformed (a bug in the table). */
export function parseRows(text: string): Row[] {
  const rows: Row[] = [];
  for (const line of text.split("\n")) {
    if (line.trim() === "" || line.startsWith("#")) continue;
    const cells = line.split("|").map((cell) => cell.trim());
    const [prefix, opcode, mnemonic, operands, handler, attributes] = cells;
    if (prefix === undefined || !isPrefix(prefix) || !opcode || !mnemonic || operands === undefined || !handler) {
      throw new Error(`instruction table: bad row "${line}"`);
    }
    const words = (attributes ?? "").split(/\s+/).filter((word) => word !== "");
    rows.push({
      prefix,
      ...parseOpcode(opcode),
      mnemonic,
      operands: operands === "" ? [] : operands.split(",").map((operand) => operand.trim()),
      handler,
      attributes: new Map(
        words.map((word): [string, string] => {
          const [key, value] = word.split("=");
          return [key ?? "", value ?? ""];
        }),
      ),
    });
  }
  return rows;
}

/** Operand codes that are encoded in a ModRM byte (as reg or rm). */
const MODRM_OPERAND = /^(E|G|M|R|V|W|U|P|Q|N|S|C|D)[a-z]*$/;
const NOT_MODRM: ReadonlySet<string> = new Set(["CL", "DX"]);

/** Whether the row's encoding has a ModRM byte. */
export function hasModrm(row: Row): boolean {
  if (row.reg !== undefined || row.form !== undefined || row.modrm !== undefined) return true;
  return row.operands.some((operand) => MODRM_OPERAND.test(operand) && !NOT_MODRM.has(operand));
}
