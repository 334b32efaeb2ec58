/** A capture filter's text as words that know where they stand, so that an error can point at one. */
import { CaptureError } from "./errors.ts";

/** Longest text that is read. */
export const FILTER_MOST = 4096;

/** A filter that cannot be understood. `message` is one line: what, place, text, remedy. */
export class FilterError extends CaptureError {
  /** The whole filter as it was given. */
  readonly text: string;
  /** Where the trouble begins: 0-based offset in `text`, and its length (at least 1). */
  readonly offset: number;
  readonly span: number;

  constructor(what: string, remedy: string, text: string, offset: number, span: number) {
    super("bad-filter", `${what} (column ${offset + 1} of filter "${text}")`, remedy);
    this.text = text;
    this.offset = offset;
    this.span = Math.max(1, span);
  }

  /** Two lines: the filter, and carets below the trouble. */
  pointer(): string {
    // Anything that would move the cursor is one blank, so that the carets stay below what they mean.
    // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is being removed
    const flat = this.text.replace(/[\u0000-\u001f\u007f-\u009f\u2028\u2029]/g, " ");
    return `${flat}\n${" ".repeat(this.offset)}${"^".repeat(this.span)}`;
  }
}

/**
 * - word: a keyword or a name; lower case
 * - number: decimal or 0x…; `value` has it
 * - net4: 10.0.0.1, 10.1, 10.0.0.0/8: dots or a slash in it
 * - net6: fe80::1, fe80::/10
 * - mac, range (80-90)
 * - sign: operators and brackets; && || ! are the words and, or, not
 * - end: behind the last one
 */
export type TokenKind = "word" | "number" | "net4" | "net6" | "mac" | "range" | "sign" | "end";

export interface Token {
  readonly kind: TokenKind;
  readonly text: string;
  readonly offset: number;
  readonly span: number;
  readonly value: number;
}

const MAC = /^[0-9a-f]{1,2}(?:[:-][0-9a-f]{1,2}){5}(?![0-9a-z:])/i;
const NET6 = /^[0-9a-f]{0,4}:[0-9a-f:.]*:[0-9a-f:.]*(?:\/\d+)?/i;
const NET4 = /^\d+(?:(?:\.\d+)+(?:\/\d+)?|\/\d+)(?![0-9a-z.])/i;
const RANGE = /^\d+-\d+/;
const NUMBER = /^(?:0x[0-9a-f]+|\d+)(?![0-9a-z_])/i;
/** A dash belongs to a word only before a letter: tcp-syn is one word, len-4 three. */
const WORD = /^[a-z_][a-z0-9_]*(?:-[a-z][a-z0-9_]*)*/i;
const SIGN = /^(?:&&|\|\||<<|>>|<=|>=|==|!=|[()[\]:!<>=&|^+\-*/%])/;
const SYNONYMS: Readonly<Record<string, string>> = { "&&": "and", "||": "or", "!": "not" };

/** Outside square brackets, where a colon can only be part of an address and a dash only part of a range. */
const OUTSIDE: readonly (readonly [TokenKind, RegExp])[] = [
  ["mac", MAC],
  ["net6", NET6],
  ["net4", NET4],
  ["range", RANGE],
];
const ANYWHERE: readonly (readonly [TokenKind, RegExp])[] = [
  ["number", NUMBER],
  ["word", WORD],
  ["sign", SIGN],
];

/** Splits a filter into tokens, the last of which is "end". @throws FilterError */
export function splitFilter(text: string): Token[] {
  if (text.length > FILTER_MOST) {
    throw new FilterError("filter is too long", `keep it below ${FILTER_MOST} characters`, text.slice(0, 60), 0, 1);
  }
  const tokens: Token[] = [];
  let depth = 0;
  let at = 0;
  for (;;) {
    while (/\s/.test(text[at] ?? "")) at++;
    if (at === text.length) break;
    const rest = text.slice(at);
    const token = readToken(text, rest, at, depth > 0);
    if (token.text === "[") depth++;
    if (token.text === "]") depth--;
    tokens.push(token);
    at += token.span;
  }
  tokens.push({ kind: "end", text: "", offset: text.length, span: 0, value: 0 });
  return tokens;
}

function readToken(text: string, rest: string, offset: number, inBrackets: boolean): Token {
  for (const [kind, pattern] of inBrackets ? ANYWHERE : [...OUTSIDE, ...ANYWHERE]) {
    const found = pattern.exec(rest)?.[0];
    if (found === undefined) continue;
    const lower = found.toLowerCase();
    const synonym = own(SYNONYMS, lower);
    const value = kind === "number" ? Number(lower) : 0;
    return synonym === undefined
      ? { kind, text: lower, offset, span: found.length, value }
      : { kind: "word", text: synonym, offset, span: found.length, value };
  }
  const odd = /^[0-9a-z_.]+|^./iu.exec(rest)?.[0] ?? "";
  throw new FilterError(`"${odd}" means nothing in a filter`, "write e.g. tcp port 80", text, offset, odd.length);
}

/** What a table has under a name that a user wrote: "constructor" is in none. */
export function own<T>(table: Readonly<Record<string, T>>, name: string): T | undefined {
  return Object.hasOwn(table, name) ? table[name] : undefined;
}
