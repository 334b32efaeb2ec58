/** A line of policy text as words that know where they stand, so that an error can point at one. */
import { PolicyError } from "./errors.ts";

/** One word: its text without quotes, and its place in the line with them. */
export interface Word {
  readonly text: string;
  readonly offset: number;
  readonly span: number;
}

/** Longest line that is read: more is a mistake, and errors quote it. */
const LINE_MOST = 4096;

/**
 * Splits a line into words at blanks. Quotes ("…" or '…') keep blanks; a backslash keeps the next character outside
 * single quotes; # at the beginning of a word starts a comment. @throws PolicyError for an open quote, a too long line
 */
function splitWords(line: string): Word[] {
  if (line.length > LINE_MOST) {
    throw new PolicyError("line too long", `keep it below ${LINE_MOST} characters`, line.slice(0, 60), 0, 1);
  }
  const words: Word[] = [];
  let at = 0;
  while (at < line.length) {
    if (isBlank(line[at])) {
      at++;
      continue;
    }
    if (line[at] === "#") break;
    const word = readWord(line, at);
    words.push(word);
    at = word.offset + word.span;
  }
  return words;
}

function isBlank(character: string | undefined): boolean {
  return character === " " || character === "\t" || character === "\r" || character === "\n";
}

function readWord(line: string, start: number): Word {
  let text = "";
  let quote = "";
  let quotedAt = start;
  let at = start;
  for (; at < line.length; at++) {
    const character = line[at] ?? "";
    if (quote === "" && isBlank(character)) break;
    if (character === quote) quote = "";
    else if (quote === "" && (character === '"' || character === "'")) {
      quote = character;
      quotedAt = at;
    } else if (character === "\\" && quote !== "'" && at + 1 < line.length) {
      at++;
      text += line[at] ?? "";
    } else text += character;
  }
  if (quote !== "") throw new PolicyError("quote is not closed", `add ${quote} at its end`, line, quotedAt, 1);
  return { text, offset: start, span: at - start };
}

/** A cursor over the words of one line. */
export class WordReader {
  readonly line: string;
  readonly #words: readonly Word[];
  #next = 0;

  /** @throws PolicyError as splitWords */
  constructor(line: string) {
    this.line = line;
    this.#words = splitWords(line);
  }

  /** The next word, which stays the next one; undefined at the end. */
  peek(): Word | undefined {
    return this.#words[this.#next];
  }

  take(): Word | undefined {
    const word = this.#words[this.#next];
    if (word !== undefined) this.#next++;
    return word;
  }

  /** Takes the word that `option` needs. @throws PolicyError when the line ends, or an option stands there instead */
  value(option: Word, what: string, example: string): Word {
    const word = this.peek();
    // Values never begin with "-": what does is the next option.
    if (word === undefined || /^-[-a-zA-Z]/.test(word.text)) {
      throw this.error(option, `${option.text} needs ${what}`, `write for example ${option.text} ${example}`);
    }
    this.#next++;
    return word;
  }

  /** Whether the line is at its end. */
  get done(): boolean {
    return this.#next >= this.#words.length;
  }

  /** An error that points at a word, or behind the line's end. */
  error(word: Word | undefined, what: string, remedy: string): PolicyError {
    const offset = word?.offset ?? this.line.length;
    return new PolicyError(what, remedy, this.line, offset, word?.span ?? 1);
  }
}

/** Edits (insert, delete, replace, swap neighbours) that make one word of the other; words are short. */
function distance(left: string, right: string): number {
  let beforeLast: number[] = [];
  let last = Array.from({ length: right.length + 1 }, (_, n) => n);
  for (let row = 1; row <= left.length; row++) {
    const current = [row];
    for (let column = 1; column <= right.length; column++) {
      const same = left[row - 1] === right[column - 1];
      let cost = Math.min(
        (last[column] ?? 0) + 1,
        (current[column - 1] ?? 0) + 1,
        (last[column - 1] ?? 0) + (same ? 0 : 1),
      );
      if (row > 1 && column > 1 && left[row - 1] === right[column - 2] && left[row - 2] === right[column - 1]) {
        cost = Math.min(cost, (beforeLast[column - 2] ?? 0) + 1);
      }
      current.push(cost);
    }
    beforeLast = last;
    last = current;
  }
  return last[right.length] ?? 0;
}

/** The known word that a mistyped one probably means; undefined when none is near. */
export function nearest(word: string, known: Iterable<string>): string | undefined {
  const typed = word.slice(0, 40).toLowerCase();
  let best: string | undefined;
  let least = Math.max(1, Math.floor(typed.length / 3)) + 1;
  for (const candidate of known) {
    const edits = distance(typed, candidate.toLowerCase());
    if (edits < least) {
      best = candidate;
      least = edits;
    }
  }
  return best;
}

/** "did you mean X?" where one is near, otherwise the remedy given. */
export function suggest(word: string, known: Iterable<string>, otherwise: string): string {
  const candidate = nearest(word, known);
  return candidate === undefined ? otherwise : `did you mean ${candidate}?`;
}
