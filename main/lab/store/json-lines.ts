/** JSON (RFC 8259) whose values know their line, for messages about files that people write. */

/** A value with the line of every key and element in it. */
export interface LinedJson {
  readonly value: unknown;
  /** Line, from 1, of what lies at a path; of the nearest that is there when nothing does. */
  lineOf(path: readonly PropertyKey[]): number;
}

/** Text that is no JSON. */
export class JsonSyntaxError extends Error {
  readonly line: number;

  constructor(message: string, line: number) {
    super(message);
    this.name = "JsonSyntaxError";
    this.line = line;
  }
}

const DEEPEST = 64;
const SPACE = /[ \t\r\n]*/y;
const NUMBER = /-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?/y;
const WORD = /true|false|null/y;

interface Lines {
  readonly line: number;
  readonly inner: Map<PropertyKey, Lines>;
}

class Reader {
  readonly #text: string;
  #at = 0;
  #line = 1;
  #depth = 0;

  constructor(text: string) {
    this.#text = text;
  }

  document(): [unknown, Lines] {
    this.#space();
    const result = this.#value();
    this.#space();
    if (this.#at < this.#text.length) throw this.#error(`${this.#here()} stands behind the end`);
    return result;
  }

  #error(message: string, line = this.#line): JsonSyntaxError {
    return new JsonSyntaxError(message, line);
  }

  #here(): string {
    const next = this.#text.codePointAt(this.#at);
    return next === undefined ? "the end of the file" : JSON.stringify(String.fromCodePoint(next));
  }

  #match(pattern: RegExp): string | undefined {
    pattern.lastIndex = this.#at;
    const [found] = pattern.exec(this.#text) ?? [];
    if (found !== undefined) this.#at += found.length;
    return found;
  }

  #space(): void {
    for (const each of this.#match(SPACE) ?? "") if (each === "\n") this.#line++;
  }

  /** Takes the character, with the space around it. */
  #takes(character: string): boolean {
    this.#space();
    if (this.#text[this.#at] !== character) return false;
    this.#at++;
    this.#space();
    return true;
  }

  #value(): [unknown, Lines] {
    const line = this.#line;
    const first = this.#text[this.#at];
    if (first === "{" || first === "[") {
      if (++this.#depth > DEEPEST) throw this.#error(`more than ${DEEPEST} brackets lie in one another`);
      const inner = first === "{" ? this.#object(line) : this.#array(line);
      this.#depth--;
      return inner;
    }
    const lines = { line, inner: new Map() };
    if (first === '"') return [this.#string(), lines];
    const text = this.#match(WORD) ?? this.#match(NUMBER);
    if (text === undefined) throw this.#error(`${this.#here()} is no value`);
    return [JSON.parse(text), lines];
  }

  #string(): string {
    let end = this.#at + 1;
    while (end < this.#text.length && this.#text[end] !== '"') end += this.#text[end] === "\\" ? 2 : 1;
    const text = this.#text.slice(this.#at, end + 1);
    try {
      const value = JSON.parse(text);
      this.#at = end + 1;
      return value;
    } catch {
      throw this.#error("a text has no end on its line, or a character that must be escaped");
    }
  }

  #object(line: number): [unknown, Lines] {
    const entries: [string, unknown][] = [];
    const inner = new Map<PropertyKey, Lines>();
    this.#takes("{");
    if (this.#takes("}")) return [{}, { line, inner }];
    do {
      const at = this.#line;
      if (this.#text[this.#at] !== '"') throw this.#error(`${this.#here()} stands where a key in quotes belongs`);
      const key = this.#string();
      if (inner.has(key)) throw this.#error(`the key ${JSON.stringify(key)} is given twice`, at);
      if (!this.#takes(":")) throw this.#error(`${this.#here()} stands where ":" belongs`);
      const [value, lines] = this.#value();
      inner.set(key, { line: at, inner: lines.inner });
      entries.push([key, value]);
    } while (this.#takes(","));
    if (!this.#takes("}")) throw this.#error(`${this.#here()} stands where "," or "}" belongs`);
    // Not by assignment: a key may be __proto__.
    return [Object.fromEntries(entries), { line, inner }];
  }

  #array(line: number): [unknown, Lines] {
    const items: unknown[] = [];
    const inner = new Map<PropertyKey, Lines>();
    this.#takes("[");
    if (this.#takes("]")) return [items, { line, inner }];
    do {
      const [value, lines] = this.#value();
      inner.set(items.length, lines);
      items.push(value);
    } while (this.#takes(","));
    if (!this.#takes("]")) throw this.#error(`${this.#here()} stands where "," or "]" belongs`);
    return [items, { line, inner }];
  }
}

/**
 * Reads JSON.
 * @throws JsonSyntaxError also for a key that is given twice, of which JSON.parse would drop one
 */
export function parseLinedJson(text: string): LinedJson {
  const [value, root] = new Reader(text.replace(/^\ufeff/, "")).document();
  return {
    value,
    lineOf(path) {
      let at = root;
      for (const key of path) {
        const next = at.inner.get(key);
        if (next === undefined) break;
        at = next;
      }
      return at.line;
    },
  };
}
