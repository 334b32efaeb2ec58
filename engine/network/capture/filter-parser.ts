/** The grammar of capture filters (see filter.ts): from tokens straight to tests of a frame. */
import { type Cidr, parseCidr, parseIpv6, parseMac } from "../address.ts";
import { suggest } from "../policy/words.ts";
import { NetworkError } from "../types.ts";
import {
  type Ends,
  ETHER_TYPES,
  GROUPS,
  hasEtherType,
  hasMac,
  hasPort,
  hasProtocol,
  hasVlan,
  inNetwork4,
  inNetwork6,
  PROTOCOL_NUMBERS,
  PROTOCOLS,
  SERVICES,
} from "./filter-tests.ts";
import {
  combine,
  compare,
  constant,
  type FrameTest,
  type FrameValue,
  frameLength,
  HEADER_AT,
  headerBytes,
  isComparison,
  NAMED_NUMBERS,
  OPERATORS,
} from "./filter-value.ts";
import { FilterError, own, splitFilter, type Token } from "./filter-words.ts";

/** Deepest nesting of parentheses and negations. */
const DEEPEST = 64;
const TYPES = ["host", "net", "port", "portrange", "proto"] as const;
type ValueType = (typeof TYPES)[number];
const DIRECTIONS: Readonly<Record<string, Ends>> = { src: "source", dst: "destination" };
const KNOWN = [
  ...Object.keys(PROTOCOLS),
  ...TYPES,
  ...Object.keys(DIRECTIONS),
  ...["vlan", "broadcast", "multicast", "less", "greater", "len", "and", "or", "not"],
];
const EXAMPLES = "write e.g. tcp port 80, host 10.0.0.5, or not arp";

/** What stands before a value. */
interface Qualifiers {
  readonly protocol: string | undefined;
  readonly ends: Ends;
  readonly type: ValueType;
}

/** Compiles a filter that is not empty. @throws FilterError */
export function parseFilter(text: string): FrameTest {
  return new FilterParser(text).parse();
}

class FilterParser {
  private readonly text: string;
  private readonly tokens: Token[];
  private at = 0;
  private depth = 0;
  /** The qualifiers of the last value, which one that stands alone repeats. */
  private last: Qualifiers | undefined;

  constructor(text: string) {
    this.text = text;
    this.tokens = splitFilter(text);
  }

  parse(): FrameTest {
    const test = this.either();
    const rest = this.token();
    if (rest.text === ")") throw this.error(rest, 'there is no "(" for this ")"', "remove it");
    if (rest.kind !== "end") {
      const remedy = 'put "and" or "or" before it';
      const known = KNOWN.includes(rest.text) ? remedy : suggest(rest.text, KNOWN, remedy);
      throw this.error(rest, `"${rest.text}" is unexpected`, known);
    }
    return test;
  }

  private token(ahead = 0): Token {
    const token = this.tokens[Math.min(this.at + ahead, this.tokens.length - 1)];
    if (token === undefined) throw new RangeError("filter: no tokens");
    return token;
  }

  private accept(text: string): boolean {
    const token = this.token();
    if (token.text !== text || (token.kind !== "word" && token.kind !== "sign")) return false;
    this.at++;
    return true;
  }

  private error(token: Token, what: string, remedy: string): FilterError {
    return new FilterError(what, remedy, this.text, token.offset, token.span);
  }

  private expect(sign: string): void {
    const token = this.token();
    if (!this.accept(sign)) {
      throw this.error(
        token,
        token.kind === "end" ? `"${sign}" is missing at the end` : `"${sign}" is missing`,
        "add it",
      );
    }
  }

  private nested<T>(parse: () => T): T {
    if (++this.depth > DEEPEST)
      throw this.error(this.token(), "nested too deeply", `at most ${DEEPEST} levels are read`);
    const result = parse();
    this.depth--;
    return result;
  }

  /** A chain of tests; `and` and `or` from left to right. */
  private either(): FrameTest {
    let left = this.negation();
    for (;;) {
      const first = left;
      if (this.accept("and")) {
        const second = this.negation();
        left = (frame, headers) => first(frame, headers) && second(frame, headers);
      } else if (this.accept("or")) {
        const second = this.negation();
        left = (frame, headers) => first(frame, headers) || second(frame, headers);
      } else return left;
    }
  }

  private negation(): FrameTest {
    if (!this.accept("not")) return this.primary();
    const test = this.nested(() => this.negation());
    return (frame, headers) => !test(frame, headers);
  }

  private primary(): FrameTest {
    const token = this.token();
    const relation = this.relation();
    if (relation !== undefined) return relation;
    if (this.accept("(")) {
      const test = this.nested(() => this.either());
      this.expect(")");
      return test;
    }
    if (token.kind === "word") return this.words();
    if (token.kind === "end") throw this.error(token, "something is missing at the end", EXAMPLES);
    if (token.kind === "sign") throw this.error(token, `"${token.text}" is unexpected`, EXAMPLES);
    if (token.kind === "number" && this.last === undefined) {
      throw this.error(token, `"${token.text}" alone is no test`, `write port ${token.text} or greater ${token.text}`);
    }
    if (token.kind === "range" && this.last?.type !== "portrange") {
      throw this.error(token, `"${token.text}" alone is no test`, `write portrange ${token.text}`);
    }
    return this.value(
      this.last ?? { protocol: token.kind === "mac" ? "ether" : undefined, ends: "either", type: "host" },
    );
  }

  /** Two arithmetic expressions and a comparison; undefined, with nothing read, when that is not what stands here. */
  private relation(): FrameTest | undefined {
    const start = this.at;
    const token = this.token();
    const arithmetic =
      token.kind === "number" ||
      token.text === "(" ||
      token.text === "len" ||
      this.token(1).text === "[" ||
      Object.hasOwn(NAMED_NUMBERS, token.text);
    if (!arithmetic) return undefined;
    // A parenthesis may open either kind of expression, and a number repeat "port": only what follows tells.
    const isOpen = token.text === "(" || (token.kind === "number" && !isArithmetic(this.token(1)));
    const depth = this.depth;
    try {
      const left = this.sum(0);
      const sign = this.token();
      if (!isComparison(sign.text)) throw this.error(sign, "a comparison is missing", "write e.g. != 0 behind it");
      this.at++;
      return compare(sign.text, left, this.sum(0));
    } catch (error) {
      if (!isOpen || !(error instanceof FilterError)) throw error;
      this.at = start;
      this.depth = depth;
      return undefined;
    }
  }

  private sum(level: number): FrameValue {
    const operators = OPERATORS[level];
    if (operators === undefined) return this.operand();
    let left = this.sum(level + 1);
    for (;;) {
      const { kind, text } = this.token();
      const apply = kind === "sign" && Object.hasOwn(operators, text) ? operators[text] : undefined;
      if (apply === undefined) return left;
      this.at++;
      left = combine(apply, left, this.sum(level + 1));
    }
  }

  private operand(): FrameValue {
    const token = this.token();
    this.at++;
    if (token.kind === "number") {
      if (token.value > 0xffff_ffff) throw this.error(token, `${token.text} is too large`, "numbers have 32 bits");
      return constant(token.value);
    }
    if (token.text === "(") {
      const value = this.nested(() => this.sum(0));
      this.expect(")");
      return value;
    }
    if (token.text === "len") return frameLength;
    const named = own(NAMED_NUMBERS, token.text);
    if (named !== undefined) return constant(named);
    const start = own(HEADER_AT, token.text);
    if (start !== undefined) return this.bytes(start);
    this.at--;
    const remedy = suggest(
      token.text,
      [...Object.keys(NAMED_NUMBERS), ...Object.keys(HEADER_AT)],
      "write e.g. tcp[13]",
    );
    throw this.error(
      token,
      token.kind === "end" ? "a number is missing at the end" : `"${token.text}" is no number`,
      remedy,
    );
  }

  /** What stands in brackets behind a protocol: offset, and after a colon how many bytes. */
  private bytes(start: FrameValue): FrameValue {
    this.expect("[");
    const offset = this.nested(() => this.sum(0));
    let size = 1;
    if (this.accept(":")) {
      const token = this.token();
      if (token.kind !== "number" || ![1, 2, 4].includes(token.value)) {
        throw this.error(token, "a field has 1, 2 or 4 bytes", "write one of these behind the colon");
      }
      this.at++;
      size = token.value;
    }
    this.expect("]");
    return headerBytes(start, offset, size);
  }

  /** A test that begins with a word. */
  private words(): FrameTest {
    const token = this.token();
    if (this.accept("vlan"))
      return hasVlan(this.token().kind === "number" ? this.number("a VLAN id", 4095) : undefined);
    if (this.accept("less")) return compare("<=", frameLength, constant(this.number("a length", 0xffff_ffff)));
    if (this.accept("greater")) return compare(">=", frameLength, constant(this.number("a length", 0xffff_ffff)));
    let protocol: string | undefined;
    if (Object.hasOwn(PROTOCOLS, token.text)) {
      protocol = token.text;
      this.at++;
    }
    const group = own(GROUPS, `${protocol ?? "ether"} ${this.token().text}`);
    if (group !== undefined) {
      this.at++;
      return group;
    }
    const ends = this.ends();
    const type = TYPES.find((name) => this.accept(name));
    const alone = protocol === undefined ? undefined : own(PROTOCOLS, protocol);
    const next = this.token();
    if (ends === undefined && type === undefined) {
      // "ip 10.0.0.1" and the like are not in the language; a value needs one of the words before it.
      if (alone !== undefined) return alone;
      throw this.error(next, `"${next.text}" is unknown in a filter`, suggest(next.text, KNOWN, EXAMPLES));
    }
    const defaultType = next.kind === "range" ? "portrange" : "host";
    return this.value({ protocol, ends: ends ?? "either", type: type ?? defaultType });
  }

  /** src, dst, "src or dst", "src and dst", or the like. */
  private ends(): Ends | undefined {
    const first = own(DIRECTIONS, this.token().text);
    if (first === undefined) return undefined;
    this.at++;
    const link = this.token().text;
    const second = own(DIRECTIONS, this.token(1).text);
    if ((link !== "or" && link !== "and") || second === undefined || second === first) return first;
    this.at += 2;
    return link === "or" ? "either" : "both";
  }

  private number(what: string, most: number): number {
    const token = this.token();
    if (token.kind !== "number" || token.value > most) {
      throw this.error(token, `${what} is missing here`, `write a number up to ${most}`);
    }
    this.at++;
    return token.value;
  }

  private value(qualifiers: Qualifiers): FrameTest {
    this.last = qualifiers;
    const token = this.token();
    if (token.kind === "end") throw this.error(token, `${qualifiers.type} needs a value`, EXAMPLES);
    switch (qualifiers.type) {
      case "host":
      case "net":
        return this.address(qualifiers, token);
      case "port":
      case "portrange":
        return this.ports(qualifiers, token);
      case "proto":
        return this.protocol(qualifiers, token);
    }
  }

  private address({ protocol, ends, type }: Qualifiers, token: Token): FrameTest {
    if (protocol === "ether") return hasMac(this.parsed(token, "mac", "a MAC address", parseMac), ends);
    if (token.kind === "mac") throw this.error(token, "a MAC address needs ether", `write ether ${type} ${token.text}`);
    const isIp = protocol !== "arp" && protocol !== "rarp" && protocol !== "ip";
    if (token.kind === "net6" && !isIp) throw this.error(token, `${protocol} has no IPv6 addresses`, "write ip6");
    const network = type === "net" ? this.network(token) : this.host(token);
    const test =
      network.version === 6
        ? inNetwork6(network, ends)
        : inNetwork4(network, ends, protocol === "arp" || protocol === "rarp" ? protocol : protocol && "ip");
    if (network.version === 4 && protocol === "ip6") {
      throw this.error(token, "ip6 has no IPv4 addresses", `write ip ${type} ${token.text}`);
    }
    const carrier = protocol === undefined ? undefined : own(PROTOCOLS, protocol);
    if (carrier === undefined) return test;
    return (frame, headers) => carrier(frame, headers) && test(frame, headers);
  }

  private host(token: Token): Cidr {
    if (token.kind === "net6")
      return { version: 6, address: this.parsed(token, "net6", "an address", parseIpv6), bits: 128 };
    if (token.kind === "word") {
      throw this.error(token, `names like "${token.text}" are not looked up`, "write the host's address");
    }
    const cidr = this.parsed(token, "net4", "an address like 10.0.0.5", parseCidr);
    if (cidr.bits !== (cidr.version === 4 ? 32 : 128))
      throw this.error(token, "this is a network", `write net ${token.text}`);
    return cidr;
  }

  /** 10.0.0.0/8, "10.0.0.0 mask 255.0.0.0", or as many numbers as there are bytes in the prefix: 10, 192.168. */
  private network(token: Token): Cidr {
    if (token.kind === "net6") return this.parsed(token, "net6", "a network", parseCidr);
    const [prefix = "", bits] = token.text.split("/");
    const parts = prefix.split(".").length;
    const whole = parts <= 4 ? `${prefix}${".0".repeat(4 - parts)}/${bits ?? parts * 8}` : token.text;
    const kind = token.kind === "number" ? "number" : "net4";
    const cidr = this.parsed(token, kind, "a network like 10.0.0.0/8", () => parseCidr(whole));
    if (!this.accept("mask") || cidr.version === 6) return cidr;
    const mask = this.parsed(this.token(), "net4", "a mask like 255.0.0.0", parseCidr);
    return mask.version === 4 ? { ...cidr, mask: mask.address } : cidr;
  }

  private ports({ protocol, ends, type }: Qualifiers, token: Token): FrameTest {
    if (protocol !== undefined && !["tcp", "udp", "ip", "ip6"].includes(protocol)) {
      throw this.error(token, `${protocol} has no ports`, `write tcp ${type} or udp ${type}`);
    }
    this.at++;
    let [from, to] = [Number.NaN, Number.NaN];
    if (token.kind === "number") from = to = token.value;
    else if (token.kind === "word") from = to = own(SERVICES, token.text) ?? Number.NaN;
    else if (token.kind === "range" && type === "portrange") [from = NaN, to = NaN] = token.text.split("-").map(Number);
    if (!(from <= 65_535 && to <= 65_535)) {
      const remedy = token.kind === "range" ? `write portrange ${token.text}` : "write a number up to 65535";
      const known = token.kind === "word" ? suggest(token.text, Object.keys(SERVICES), remedy) : remedy;
      throw this.error(token, `"${token.text}" is no port`, known);
    }
    const test = hasPort(Math.min(from, to), Math.max(from, to), ends);
    const carrier = protocol === undefined ? undefined : own(PROTOCOLS, protocol);
    return carrier === undefined ? test : (frame, headers) => carrier(frame, headers) && test(frame, headers);
  }

  private protocol({ protocol }: Qualifiers, token: Token): FrameTest {
    if (protocol !== undefined && !["ether", "ip", "ip6"].includes(protocol)) {
      throw this.error(token, `${protocol} has no protocol field`, "write ip proto, ip6 proto or ether proto");
    }
    const names = protocol === "ether" ? ETHER_TYPES : PROTOCOL_NUMBERS;
    const most = protocol === "ether" ? 0xffff : 0xff;
    const named = token.kind === "word" ? own(names, token.text) : undefined;
    const number = named ?? (token.kind === "number" ? token.value : Number.NaN);
    if (!(number <= most)) {
      const remedy = suggest(token.text, Object.keys(names), `write a number up to ${most}`);
      throw this.error(token, `"${token.text}" is no protocol`, remedy);
    }
    this.at++;
    if (protocol === "ether") return hasEtherType(number);
    return hasProtocol(number, protocol === "ip" ? 4 : protocol === "ip6" ? 6 : undefined);
  }

  /** Reads one token of a kind with a parser that throws NetworkErrors. */
  private parsed<T>(token: Token, kind: Token["kind"], what: string, parse: (text: string) => T): T {
    if (token.kind !== kind) throw this.error(token, `"${token.text}" is not ${what}`, `write ${what} here`);
    try {
      const value = parse(kind === "mac" ? macText(token.text) : token.text);
      this.at++;
      return value;
    } catch (error) {
      if (error instanceof NetworkError) throw this.error(token, `"${token.text}" is not ${what}`, error.remedy);
      throw error;
    }
  }
}

function isArithmetic({ kind, text }: Token): boolean {
  return kind === "sign" && (isComparison(text) || OPERATORS.some((operators) => Object.hasOwn(operators, text)));
}

/** Dashes and missing zeros are allowed in filters: 0-16-3e-1-2-3. */
function macText(text: string): string {
  return text
    .split(/[:-]/)
    .map((byte) => byte.padStart(2, "0"))
    .join(":");
}
