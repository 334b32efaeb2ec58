/**
 * The syntax of xl's configuration files (xl.cfg(5), "SYNTAX"), without what the keys mean: `key = value` or `key +=
 * value`, ended by a line break or ";". A value is a text in single or double quotes, a number, or a list of values in
 * brackets, which may run over several lines and end with a comma. "#" begins a comment.
 */
import { StoreError } from "../store/errors.ts";

/**
 * A value with the line where it begins, from 1. Texts and numbers are not told apart: xl reads either as the key
 * wants.
 */
export type XlValue =
  | { readonly kind: "text"; readonly text: string; readonly line: number }
  | { readonly kind: "list"; readonly items: readonly XlValue[]; readonly line: number };

export interface XlSetting {
  readonly key: string;
  readonly value: XlValue;
  readonly line: number;
  /** `+=`: the value is put behind that of the same key. */
  readonly adds: boolean;
}

export interface XlSyntax {
  readonly settings: readonly XlSetting[];
  /** Comments without "#", in order. */
  readonly comments: readonly { readonly text: string; readonly line: number }[];
}

const LONGEST_TEXT = 2 ** 20;
const DEEPEST = 16;
const KEY = /[A-Za-z_][A-Za-z0-9_]*/y;
const NUMBER = /[0-9][0-9a-fA-FxX]*/y;
const BLANKS = /[ \t\r]+/y;
const COMMENT = /#[^\n]*/y;
const ESCAPES: Readonly<Record<string, string>> = {
  '"': '"',
  "'": "'",
  "\\": "\\",
  a: "\x07",
  b: "\b",
  f: "\f",
  n: "\n",
  r: "\r",
  t: "\t",
  v: "\v",
};

/** One line about a place in a file. */
export function xlError(file: string, line: number, what: string, remedy: string, cause?: unknown): StoreError {
  return new StoreError("bad-config", `${file}, line ${line}: ${what}`, remedy, cause);
}

class Reader {
  readonly #file: string;
  readonly #text: string;
  readonly comments: { text: string; line: number }[] = [];
  #at = 0;
  #line = 1;
  #depth = 0;

  constructor(file: string, text: string) {
    this.#file = file;
    this.#text = text;
  }

  settings(): XlSetting[] {
    const settings: XlSetting[] = [];
    for (;;) {
      this.#skip(true);
      if (this.#takes(";")) continue;
      if (this.#at >= this.#text.length) return settings;
      settings.push(this.#setting());
      this.#skip(false);
      const next = this.#text[this.#at];
      if (next !== undefined && next !== "\n" && next !== ";") {
        throw this.#error(`${this.#here()} stands behind a value`, "begin a new line, or write ; before it");
      }
    }
  }

  #error(what: string, remedy: string, line = this.#line): StoreError {
    return xlError(this.#file, line, what, remedy);
  }

  #here(): string {
    const next = this.#text.codePointAt(this.#at);
    if (next === undefined) return "the end of the file";
    return next === 10 ? "the end of the line" : JSON.stringify(String.fromCodePoint(next));
  }

  #match(pattern: RegExp): string | undefined {
    pattern.lastIndex = this.#at;
    const [found] = pattern.exec(this.#text) ?? [];
    if (found !== undefined) this.#at += found.length;
    return found;
  }

  #takes(character: string): boolean {
    if (this.#text[this.#at] !== character) return false;
    this.#at++;
    return true;
  }

  /** Passes blanks and comments, and line breaks where they mean nothing. */
  #skip(lines: boolean): void {
    for (;;) {
      const comment = this.#match(COMMENT);
      if (comment !== undefined) this.comments.push({ text: comment.slice(1), line: this.#line });
      else if (lines && this.#takes("\n")) this.#line++;
      else if (this.#match(BLANKS) === undefined) return;
    }
  }

  #setting(): XlSetting {
    const line = this.#line;
    const key = this.#match(KEY);
    if (key === undefined) throw this.#error(`${this.#here()} stands where a key belongs`, "write key = value");
    this.#skip(false);
    const adds = this.#takes("+");
    if (!this.#takes("=")) throw this.#error(`${this.#here()} stands where = belongs`, `write ${key} = value`);
    this.#skip(false);
    return { key, value: this.#value(), line, adds };
  }

  #value(): XlValue {
    const line = this.#line;
    const quote = this.#text[this.#at];
    if (quote === "[") return this.#list();
    if (quote === '"' || quote === "'") return { kind: "text", text: this.#quoted(quote), line };
    const number = this.#match(NUMBER);
    if (number !== undefined) return { kind: "text", text: number, line };
    throw this.#error(`${this.#here()} is no value`, "write a number, a text in quotes, or a list in brackets");
  }

  #list(): XlValue {
    const line = this.#line;
    if (++this.#depth > DEEPEST) throw this.#error("the lists are nested too deep", "check the brackets");
    const items: XlValue[] = [];
    this.#takes("[");
    this.#skip(true);
    while (!this.#takes("]")) {
      items.push(this.#value());
      this.#skip(true);
      if (this.#takes(",")) this.#skip(true);
      else if (this.#text[this.#at] !== "]") {
        const remedy = `close the list that begins in line ${line}, or write a comma between its values`;
        throw this.#error(`${this.#here()} stands where , or ] belongs`, remedy);
      }
    }
    this.#depth--;
    return { kind: "list", items, line };
  }

  #quoted(quote: string): string {
    let text = "";
    this.#at++;
    for (;;) {
      const character = this.#text[this.#at];
      if (character === undefined || character === "\n") {
        throw this.#error("a text has no end on its line", `close it with ${quote}, or write \\n for a line break`);
      }
      this.#at++;
      if (character === quote) return text;
      text += character === "\\" ? this.#escape() : character;
    }
  }

  /** What follows a backslash: a letter, two hexadecimal digits behind x, or up to three octal digits. */
  #escape(): string {
    const character = this.#text[this.#at] ?? "";
    if (Object.hasOwn(ESCAPES, character)) {
      this.#at++;
      return ESCAPES[character]!;
    }
    const hex = this.#match(/x[0-9a-fA-F]{2}/y);
    if (hex !== undefined) return String.fromCharCode(Number.parseInt(hex.slice(1), 16));
    const octal = this.#match(/[0-3]?[0-7]{1,2}/y);
    if (octal !== undefined) return String.fromCharCode(Number.parseInt(octal, 8));
    throw this.#error(`\\ before ${this.#here()} means nothing`, "write \\\\ for a backslash");
  }
}

/**
 * Takes a file apart.
 * @param file how messages call it
 * @throws StoreError "bad-config" with the line
 */
export function parseXlSyntax(text: string, file: string): XlSyntax {
  if (text.length > LONGEST_TEXT) {
    throw new StoreError("bad-config", `${file} is longer than any configuration`, "check that it is the file meant");
  }
  const reader = new Reader(file, text.replace(/^\ufeff/, ""));
  const settings = reader.settings();
  return { settings, comments: reader.comments };
}

/** A text in quotes as xl reads it. */
export function quoteXl(text: string): string {
  const escaped = text.replace(/["\\]/g, "\\$&").replace(/\n/g, "\\n").replace(/\t/g, "\\t");
  const hex = (character: string) => `\\x${character.charCodeAt(0).toString(16).padStart(2, "0")}`;
  // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is being replaced
  return `"${escaped.replace(/[\u0000-\u001f\u007f]/g, hex)}"`;
}
