/**
 * Translates the text of operations (a small part of AssemblyScript) into the compiler's form (jit/ir.ts). What the text may
 * use is what stands here; anything else is an error of the build.
 */
import ts from "typescript";
import * as layout from "../assembly/layout.ts";
import type { Access, Expression, Signature, Size, Statement, Wasm } from "../jit/ir.ts";

/** AssemblyScript's integer types; "lit" is a number without one: it takes that of the other operand. */
type Type = "u8" | "i8" | "u16" | "i16" | "u32" | "i32" | "u64" | "i64" | "bool" | "lit";

interface Typed {
  readonly type: Type;
  readonly ir: Expression;
  /** Value of a constant. */
  readonly value?: bigint;
}

const wide = (type: Type): boolean => type === "u64" || type === "i64";
const wasmOf = (type: Type): Wasm => (wide(type) ? "i64" : "i32");
const signed = (type: Type): boolean => type.startsWith("i");
const BITS: Readonly<Record<Type, number>> = {
  u8: 8,
  i8: 8,
  u16: 16,
  i16: 16,
  u32: 32,
  i32: 32,
  u64: 64,
  i64: 64,
  bool: 32,
  lit: 32,
};

/** The core's functions that texts call: parameter types and result. */
export const FUNCTIONS: Readonly<Record<string, readonly [readonly Type[], Type | undefined]>> = {
  missRead: [["u64", "u32", "u32"], "u64"],
  missPop: [["u64", "u32", "u32"], "u64"],
  missWrite: [["u64", "u64", "u32", "u32"], undefined],
  missPush: [["u64", "u64", "u32", "u32"], undefined],
  lockAddress: [["u64", "u32"], "u32"],
  badTarget: [["u32"], undefined],
  addressNarrow: [["u32"], undefined],
  getCond: [["u32"], "bool"],
  getCarry: [[], "u32"],
  setCounted: [["u32", "u64", "u32"], undefined],
  setResult: [["u64", "u32", "u32"], undefined],
  setCarry: [["u32"], undefined],
  setCarryOverflow: [["u32", "u32"], undefined],
  setCarried: [["u64", "u64", "u64", "bool", "u64", "bool"], undefined],
  setScanFlags: [["u64"], undefined],
  signedHigh: [["u64", "u64"], "i64"],
  rolValue: [["u64", "u32", "u32"], "u64"],
  rorValue: [["u64", "u32", "u32"], "u64"],
  rclValue: [["u64", "u32", "u32"], "u64"],
  rcrValue: [["u64", "u32", "u32"], "u64"],
  rolFlags: [["u64", "u64", "u32", "u32"], undefined],
  rorFlags: [["u64", "u64", "u32", "u32"], undefined],
  rclFlags: [["u64", "u64", "u32", "u32"], undefined],
  rcrFlags: [["u64", "u64", "u32", "u32"], undefined],
  shldValue: [["u64", "u64", "u32", "u32"], "u64"],
  shrdValue: [["u64", "u64", "u32", "u32"], "u64"],
  shldFlags: [["u64", "u64", "u64", "u32", "u32"], undefined],
  shrdFlags: [["u64", "u64", "u64", "u32", "u32"], undefined],
  bswap32: [["u32"], "u32"],
  bswap64: [["u64"], "u64"],
};

/** What compiled code leaves to the interpreter: accesses that missed the TLB, and faults. */
const READS: readonly string[] = ["missRead", "missPop"];
const WRITES: readonly string[] = ["missWrite", "missPush"];
const LEAVING: readonly string[] = [...READS, ...WRITES, "badTarget"];

/** Types of the functions that compiled code calls. */
export function signatures(): Record<string, Signature> {
  const called = Object.entries(FUNCTIONS).filter(([name]) => !LEAVING.includes(name));
  return Object.fromEntries(
    called.map(([name, [parameters, result]]) => [
      name,
      [parameters.map(wasmOf), result === undefined ? null : wasmOf(result)] satisfies Signature,
    ]),
  );
}

const CONSTANTS = new Map<string, bigint>(
  Object.entries(layout).flatMap(([name, value]): [string, bigint][] =>
    typeof value === "number" ? [[name, BigInt(value)]] : [],
  ),
);

const ARITHMETIC: Readonly<Record<number, string>> = {
  [ts.SyntaxKind.PlusToken]: "add",
  [ts.SyntaxKind.MinusToken]: "sub",
  [ts.SyntaxKind.AsteriskToken]: "mul",
  [ts.SyntaxKind.AmpersandToken]: "and",
  [ts.SyntaxKind.BarToken]: "or",
  [ts.SyntaxKind.CaretToken]: "xor",
  [ts.SyntaxKind.LessThanLessThanToken]: "shl",
};
const COMPARISONS: Readonly<Record<number, string>> = {
  [ts.SyntaxKind.EqualsEqualsToken]: "eq",
  [ts.SyntaxKind.ExclamationEqualsToken]: "ne",
  [ts.SyntaxKind.LessThanToken]: "lt",
  [ts.SyntaxKind.LessThanEqualsToken]: "le",
  [ts.SyntaxKind.GreaterThanToken]: "gt",
  [ts.SyntaxKind.GreaterThanEqualsToken]: "ge",
};

const TYPES: ReadonlySet<string> = new Set(["u8", "i8", "u16", "i16", "u32", "i32", "u64", "i64", "bool", "usize"]);

function typeNamed(text: string): Type {
  if (!TYPES.has(text)) throw new Error(`operation text: unknown type ${text}`);
  return text === "usize" ? "u32" : (text as Type);
}

function accessOf(type: Type): Access {
  if (type === "i32") return "u32";
  if (type === "i64") return "u64";
  if (type === "bool" || type === "lit") throw new Error(`operation text: no access of type ${type}`);
  return type;
}

/** A constant as a value of a type. */
function constant(value: bigint, type: Type): Typed {
  if (type === "lit") return { type, value, ir: ["i32", Number(BigInt.asIntN(32, value))] };
  if (wide(type)) return { type, value, ir: ["i64", BigInt.asIntN(64, value).toString()] };
  const bits = BITS[type];
  const cut = signed(type) ? BigInt.asIntN(bits, value) : BigInt.asUintN(bits, value);
  return { type, value: cut, ir: ["i32", Number(BigInt.asIntN(32, cut))] };
}

class Translator {
  private readonly variables: Map<string, Type>;
  private readonly text: string;

  constructor(text: string) {
    this.text = text;
    this.variables = new Map();
  }

  private fail(node: ts.Node, what: string): never {
    throw new Error(`operation text: ${what} in "${node.getText()}" of\n${this.text}`);
  }

  // --- expressions ------------------------------------------------------------------------------------------------

  expression(node: ts.Expression): Typed {
    if (ts.isParenthesizedExpression(node)) return this.expression(node.expression);
    if (ts.isNumericLiteral(node)) return constant(BigInt(node.getText()), "lit");
    if (node.kind === ts.SyntaxKind.TrueKeyword) return constant(1n, "bool");
    if (node.kind === ts.SyntaxKind.FalseKeyword) return constant(0n, "bool");
    if (ts.isIdentifier(node)) return this.identifier(node);
    if (ts.isTypeAssertionExpression(node)) {
      return this.cast(this.expression(node.expression), typeNamed(node.type.getText()));
    }
    if (ts.isPrefixUnaryExpression(node)) return this.prefix(node);
    if (ts.isBinaryExpression(node)) return this.binary(node);
    if (ts.isConditionalExpression(node)) return this.conditional(node);
    if (ts.isCallExpression(node)) return this.call(node) ?? this.fail(node, "a value is missing");
    return this.fail(node, "unknown expression");
  }

  private identifier(node: ts.Identifier): Typed {
    const name = node.text;
    if (name === "ip") return { type: "u32", ir: ["ip"] };
    if (name === "tlb") return { type: "u32", ir: ["tlb"] };
    if (name === "PAGE") return constant(BigInt.asUintN(64, ~0xfffn), "u64");
    const type = this.variables.get(name);
    if (type !== undefined) return { type, ir: ["get", name] };
    const value = CONSTANTS.get(name);
    return value === undefined ? this.fail(node, "unknown name") : constant(value, "lit");
  }

  private cast({ type: from, ir, value }: Typed, to: Type): Typed {
    if (value !== undefined) return constant(value, to);
    if (from === "lit") throw new Error("operation text: a literal without value");
    if (wide(from)) {
      if (wide(to)) return { type: to, ir };
      const low: Expression = ["op", "i32.wrap_i64", ir];
      return this.narrow(low, to);
    }
    if (wide(to)) return { type: to, ir: ["op", signed(from) ? "i64.extend_i32_s" : "i64.extend_i32_u", ir] };
    if (BITS[to] >= BITS[from] && !(signed(from) && BITS[to] < 32)) return { type: to, ir };
    return this.narrow(ir, to);
  }

  private narrow(ir: Expression, to: Type): Typed {
    if (to === "u8") return { type: to, ir: ["op", "i32.and", ir, ["i32", 0xff]] };
    if (to === "u16") return { type: to, ir: ["op", "i32.and", ir, ["i32", 0xffff]] };
    if (to === "i8") return { type: to, ir: ["op", "i32.extend8_s", ir] };
    if (to === "i16") return { type: to, ir: ["op", "i32.extend16_s", ir] };
    return { type: to, ir };
  }

  private prefix(node: ts.PrefixUnaryExpression): Typed {
    const operand = this.expression(node.operand);
    const wasm = wasmOf(operand.type);
    if (node.operator === ts.SyntaxKind.ExclamationToken) {
      return { type: "bool", ir: ["op", `${wasm}.eqz`, operand.ir] };
    }
    if (operand.value !== undefined) {
      if (node.operator === ts.SyntaxKind.TildeToken) return constant(~operand.value, operand.type);
      if (node.operator === ts.SyntaxKind.MinusToken) return constant(-operand.value, operand.type);
    }
    if (node.operator === ts.SyntaxKind.TildeToken) {
      const ones: Expression = wasm === "i64" ? ["i64", "-1"] : ["i32", -1];
      return { type: operand.type, ir: ["op", `${wasm}.xor`, operand.ir, ones] };
    }
    return this.fail(node, "unknown operator");
  }

  /** Both operands in one type: a literal takes that of the other. */
  private unify(a: Typed, b: Typed): [Typed, Typed, Type] {
    if (a.type === "lit" && b.type === "lit") return [a, b, "lit"];
    if (a.type === "lit") return [this.cast(a, b.type), b, b.type];
    if (b.type === "lit") return [a, this.cast(b, a.type), a.type];
    if (wide(a.type) !== wide(b.type)) throw new Error(`operation text: ${a.type} with ${b.type} in\n${this.text}`);
    return [a, b, a.type === "bool" ? b.type : a.type];
  }

  private binary(node: ts.BinaryExpression): Typed {
    const kind = node.operatorToken.kind;
    const left = this.expression(node.left);
    const right = this.expression(node.right);
    if (kind === ts.SyntaxKind.AmpersandAmpersandToken || kind === ts.SyntaxKind.BarBarToken) {
      const ir: Expression =
        kind === ts.SyntaxKind.BarBarToken
          ? ["if", "i32", left.ir, ["i32", 1], right.ir]
          : ["if", "i32", left.ir, right.ir, ["i32", 0]];
      return { type: "bool", ir };
    }
    const [a, b, type] = this.unify(left, right);
    const wasm = wasmOf(type);
    const folded = this.fold(kind, a, b, type);
    if (folded !== undefined) return folded;
    if (kind === ts.SyntaxKind.GreaterThanGreaterThanToken) {
      return { type, ir: ["op", `${wasm}.${signed(type) ? "shr_s" : "shr_u"}`, a.ir, b.ir] };
    }
    const arithmetic = ARITHMETIC[kind];
    if (arithmetic !== undefined) return { type, ir: ["op", `${wasm}.${arithmetic}`, a.ir, b.ir] };
    const comparison = COMPARISONS[kind];
    if (comparison === undefined) return this.fail(node, "unknown operator");
    const suffix = comparison === "eq" || comparison === "ne" ? "" : signed(type) ? "_s" : "_u";
    return { type: "bool", ir: ["op", `${wasm}.${comparison}${suffix}`, a.ir, b.ir] };
  }

  /** Constants of the text: layout arithmetic and the like. */
  private fold(kind: ts.SyntaxKind, { value: a }: Typed, { value: b }: Typed, type: Type): Typed | undefined {
    if (a === undefined || b === undefined) return undefined;
    if (kind === ts.SyntaxKind.PlusToken) return constant(a + b, type);
    if (kind === ts.SyntaxKind.MinusToken) return constant(a - b, type);
    if (kind === ts.SyntaxKind.BarToken) return constant(a | b, type);
    if (kind === ts.SyntaxKind.AmpersandToken) return constant(a & b, type);
    if (kind === ts.SyntaxKind.LessThanLessThanToken) return constant(a << b, type);
    return undefined;
  }

  private conditional(node: ts.ConditionalExpression): Typed {
    const condition = this.expression(node.condition);
    const [a, b, type] = this.unify(this.expression(node.whenTrue), this.expression(node.whenFalse));
    return { type: type === "lit" ? "u32" : type, ir: ["if", wasmOf(type), condition.ir, a.ir, b.ir] };
  }

  private offset(node: ts.Expression | undefined): number {
    if (node === undefined) return 0;
    const { value } = this.expression(node);
    return value === undefined ? this.fail(node, "an offset that is not constant") : Number(value);
  }

  private address(node: ts.Expression | undefined): Expression {
    if (node === undefined) throw new Error("operation text: an access without address");
    const { type, ir } = this.expression(node);
    return wide(type) ? this.fail(node, "a 64-bit address") : ir;
  }

  /** Calls; undefined for those without a value, which then stand in `effect`. */
  private call(node: ts.CallExpression): Typed | undefined {
    const name = node.expression.getText();
    const [argument, ...rest] = node.arguments;
    const generic = node.typeArguments?.[0]?.getText();
    if (name === "load" && generic !== undefined) return this.load(typeNamed(generic), argument, rest[0]);
    if (name.startsWith("atomic.") && generic !== undefined) {
      return this.atomic(name.slice(7), typeNamed(generic), argument, rest);
    }
    if (generic !== undefined) return this.builtin(name, typeNamed(generic), node);
    const known = FUNCTIONS[name];
    if (known === undefined) return this.fail(node, "unknown function");
    const ir = this.invocation(name, node);
    return known[1] === undefined ? undefined : { type: known[1], ir };
  }

  private invocation(name: string, node: ts.CallExpression): ["call", string, ...Expression[]] {
    const [parameters] = FUNCTIONS[name] ?? this.fail(node, "unknown function");
    if (parameters.length !== node.arguments.length) this.fail(node, "a wrong number of arguments");
    const values = node.arguments.map((each, n) => {
      const value = this.expression(each);
      const type = parameters[n] ?? "u32";
      if (value.type === "lit") return this.cast(value, type).ir;
      if (wide(value.type) !== wide(type)) return this.fail(each, `no ${type}`);
      return value.ir;
    });
    return ["call", name, ...values];
  }

  private load(type: Type, at: ts.Expression | undefined, offset: ts.Expression | undefined): Typed {
    const address = this.address(at);
    const access = accessOf(type);
    if (address[0] === "ip") return { type, ir: ["field", access, this.offset(offset)] };
    return { type, ir: ["load", access, address, this.offset(offset)] };
  }

  private atomic(name: string, type: Type, at: ts.Expression | undefined, operands: readonly ts.Expression[]): Typed {
    const values = operands.map((each) => this.cast(this.expression(each), type).ir);
    return { type, ir: ["op", `atomic.${name}.${accessOf(type)}`, this.address(at), ...values] };
  }

  private builtin(name: string, type: Type, node: ts.CallExpression): Typed {
    const operands = node.arguments.map((each) => this.cast(this.expression(each), type).ir);
    if (name === "bswap") return { type, ir: ["call", wide(type) ? "bswap64" : "bswap32", ...operands] };
    if (!["clz", "ctz", "popcnt", "rotl", "rotr"].includes(name)) this.fail(node, "unknown function");
    return { type, ir: ["op", `${wasmOf(type)}.${name}`, ...operands] };
  }

  // --- statements -------------------------------------------------------------------------------------------------

  statements(nodes: readonly ts.Statement[]): Statement[] {
    return accesses(
      nodes.flatMap((node) => this.statement(node)),
      this.text,
    );
  }

  private body(node: ts.Statement): Statement[] {
    return this.statements(ts.isBlock(node) ? node.statements : [node]);
  }

  private statement(node: ts.Statement): Statement[] {
    if (ts.isBlock(node)) return this.statements(node.statements);
    if (ts.isEmptyStatement(node) || ts.isContinueStatement(node)) return [];
    if (ts.isVariableStatement(node)) return node.declarationList.declarations.map((each) => this.declaration(each));
    if (ts.isIfStatement(node)) {
      const condition = this.condition(node.expression);
      const otherwise = node.elseStatement === undefined ? [] : this.body(node.elseStatement);
      return [["if", condition, this.body(node.thenStatement), otherwise]];
    }
    if (ts.isDoStatement(node)) return [["do", this.body(node.statement), this.condition(node.expression)]];
    if (ts.isBreakStatement(node)) return [["take"]];
    if (ts.isReturnStatement(node)) return [["done"]];
    if (ts.isExpressionStatement(node)) return [this.effect(node.expression)];
    return this.fail(node, "unknown statement");
  }

  private condition(node: ts.Expression): Expression {
    const { type, ir } = this.expression(node);
    return wide(type) ? ["op", "i64.ne", ir, ["i64", "0"]] : ir;
  }

  private declaration(node: ts.VariableDeclaration): Statement {
    if (node.initializer === undefined || !ts.isIdentifier(node.name)) return this.fail(node, "a bad declaration");
    const value = this.expression(node.initializer);
    const type = node.type === undefined ? value.type : typeNamed(node.type.getText());
    const fitting = value.type === "lit" ? this.cast(value, type) : value;
    if (wide(fitting.type) !== wide(type)) this.fail(node, "another type");
    this.variables.set(node.name.text, type);
    return ["let", node.name.text, wasmOf(type), fitting.ir];
  }

  private effect(node: ts.Expression): Statement {
    if (ts.isBinaryExpression(node) && node.operatorToken.kind === ts.SyntaxKind.EqualsToken) {
      return this.assignment(node);
    }
    if (!ts.isCallExpression(node)) return this.fail(node, "an expression without effect");
    if (node.expression.getText() === "store") return this.store(node);
    const known = FUNCTIONS[node.expression.getText()];
    if (known === undefined || known[1] !== undefined) return this.fail(node, "a value that is not used");
    return this.invocation(node.expression.getText(), node);
  }

  private assignment(node: ts.BinaryExpression): Statement {
    const name = node.left.getText();
    if (name === "ip") {
      const jump = node.right;
      const target =
        ts.isCallExpression(jump) && jump.expression.getText() === "jumpIndirect" ? jump.arguments[1] : undefined;
      return target === undefined ? this.fail(node, "an unknown jump") : ["jump", this.expression(target).ir];
    }
    const type = this.variables.get(name);
    if (type === undefined) return this.fail(node, "unknown name");
    const value = this.expression(node.right);
    return ["set", name, value.type === "lit" ? this.cast(value, type).ir : value.ir];
  }

  private store(node: ts.CallExpression): Statement {
    const type = typeNamed(node.typeArguments?.[0]?.getText() ?? "");
    const [at, value, offset] = node.arguments;
    if (value === undefined) return this.fail(node, "a store without value");
    const typed = this.expression(value);
    const cut = typed.type === "lit" ? this.cast(typed, type) : typed;
    if (wide(cut.type) !== wide(type)) return this.fail(node, "another type");
    return ["store", accessOf(type), this.address(at), this.offset(offset), cut.ir];
  }
}

const sizeOf = (bytes: Expression | undefined, text: string): Size => {
  if (bytes?.[0] === "i32" && (bytes[1] === 1 || bytes[1] === 2 || bytes[1] === 4 || bytes[1] === 8)) return bytes[1];
  throw new Error(`operation text: an access of unknown size in\n${text}`);
};

/** A "let" that looks a linear address up in the TLB. */
const isLookup = (statement: Statement): boolean =>
  statement[0] === "let" && statement[3][0] === "op" && statement[3][2]?.[0] === "tlb";

/** Finds the text of loadMemory and storeMemory (access.ts) again and says what it means. */
function accesses(list: readonly Statement[], text: string): Statement[] {
  const found = list.filter((each) => !isLookup(each)).map((each) => access(each, text));
  const left = JSON.stringify(found);
  const entries = list.filter(isLookup).map((each) => JSON.stringify(["get", each[1]]));
  if (left.includes('"tlb"') || entries.some((entry) => left.includes(entry))) {
    throw new Error(`operation text: an access that is not known in\n${text}`);
  }
  return found;
}

function access(statement: Statement, text: string): Statement {
  if (statement[0] === "let" && statement[3][0] === "if") {
    const miss = statement[3][4];
    if (miss[0] === "call" && READS.includes(miss[1]) && miss[2] !== undefined) {
      return ["read", statement[1], sizeOf(miss[3], text), miss[2]];
    }
  }
  if (statement[0] !== "if") return statement;
  const [, , then, otherwise] = statement;
  const [miss] = otherwise;
  if (miss?.[0] === "call" && WRITES.includes(miss[1]) && miss[2] !== undefined && miss[3] !== undefined) {
    return ["write", sizeOf(miss[4], text), miss[2], miss[3]];
  }
  const [only] = then;
  if (only?.[0] === "call" && only[1] === "badTarget") return ["if", statement[1], [["fault"]], []];
  return statement;
}

/** The statements of an operation. @throws Error when the text uses what is not known here */
export function translate(text: string): Statement[] {
  // Inside a loop, so that `break` and `continue` parse; in a function for `return`.
  const file = ts.createSourceFile("operation.ts", `{${text}}`, ts.ScriptTarget.ES2022, true);
  return new Translator(text).statements(file.statements);
}
