/**
 * A machine's configuration as people write it: a JSON file (`domlab create -f`) and settings one by one (`domlab
 * set`). Every error is one line that says where, what, and what was probably meant.
 */
import { z } from "zod";
import { parseVdev } from "../../../engine/device/block/vdev.ts";
import { firstIssue, pathText, StoreError } from "./errors.ts";
import { JsonSyntaxError, type LinedJson, parseLinedJson } from "./json-lines.ts";
import { suggestion } from "./nearest.ts";
import { type DeepReadonly, enteredConfig, type MachineConfig, machineConfig, machineConfigShape } from "./schema.ts";

const LONGEST_TEXT = 2 ** 20;

/** What others call our keys. */
const OTHER_NAMES: Readonly<Record<string, string>> = {
  ram: "memoryMiB",
  mem: "memoryMiB",
  cpu: "vcpus",
  cpus: "vcpus",
  cores: "vcpus",
  cmdline: "commandLine",
  append: "extraArguments",
  extra: "extraArguments",
  ramdisk: "initrd",
  network: "vifs",
  networks: "vifs",
  nics: "vifs",
  ports: "forwards",
  description: "notes",
  path: "source",
  image: "source",
  device: "vdev",
  target: "vdev",
};

function bad(what: string, remedy: string, cause?: unknown): StoreError {
  return new StoreError("bad-config", what, remedy, cause);
}

/** A schema without what only says that its value may be missing. */
function bare(schema: unknown): unknown {
  let current = schema;
  while (
    current instanceof z.ZodDefault ||
    current instanceof z.ZodPrefault ||
    current instanceof z.ZodOptional ||
    current instanceof z.ZodExactOptional ||
    current instanceof z.ZodNullable
  ) {
    current = current.unwrap();
  }
  return current;
}

/** The schema of what lies at a path; undefined where nothing can. */
function schemaAt(path: readonly PropertyKey[]): unknown {
  let current: unknown = machineConfigShape;
  for (const key of path) {
    const inner = bare(current);
    if (inner instanceof z.ZodArray) current = inner.element;
    else if (inner instanceof z.ZodObject && Object.hasOwn(inner.shape, key)) current = inner.shape[String(key)];
    else return undefined;
  }
  return current;
}

function keysAt(path: readonly PropertyKey[]): string[] {
  const schema = bare(schemaAt(path));
  return schema instanceof z.ZodObject ? Object.keys(schema.shape) : [];
}

function meant(key: string, path: readonly PropertyKey[]): string {
  const known = keysAt(path);
  const other = Object.hasOwn(OTHER_NAMES, key.toLowerCase()) ? OTHER_NAMES[key.toLowerCase()] : undefined;
  return other !== undefined && known.includes(other) ? `did you mean ${other}?` : suggestion(key, known);
}

/** What the first complaint is about. An unknown key goes before all others: it explains what is missing elsewhere. */
function complaint(error: z.ZodError): { path: readonly PropertyKey[]; what: string; remedy: string } {
  const unknown = error.issues.find((issue) => issue.code === "unrecognized_keys");
  if (unknown?.code === "unrecognized_keys") {
    const [key = ""] = unknown.keys;
    const place = unknown.path.length === 0 ? "" : ` in ${pathText(unknown.path)}`;
    return { path: [...unknown.path, key], what: `there is no key ${key}${place}`, remedy: meant(key, unknown.path) };
  }
  const { path, what, remedy } = firstIssue(error);
  return { path, what: path.length === 0 ? what : `${pathText(path)}: ${what}`, remedy };
}

/**
 * A configuration from what somebody entered.
 * @param place what messages begin with, for what is wrong at a path
 * @throws StoreError "bad-config" with the schema's own remedy
 */
export function checkedConfig(raw: unknown, place: (path: readonly PropertyKey[]) => string = () => ""): MachineConfig {
  const result = enteredConfig.safeParse(raw);
  if (result.success) return result.data;
  const { path, what, remedy } = complaint(result.error);
  throw bad(`${place(path)}${what}`, remedy, result.error);
}

/**
 * Reads a machine's configuration.
 * @param name how messages call the file
 * @throws StoreError "bad-config": "web.json, line 4: there is no key memroy; did you mean memoryMiB?"
 */
export function parseMachineConfig(text: string, name: string): MachineConfig {
  if (text.length > LONGEST_TEXT)
    throw bad(`${name} is longer than any configuration`, "check that it is the file meant");
  let json: LinedJson;
  try {
    json = parseLinedJson(text);
  } catch (error) {
    if (!(error instanceof JsonSyntaxError)) throw error;
    throw bad(`${name}, line ${error.line}: ${error.message}`, "correct the JSON there", error);
  }
  return checkedConfig(json.value, (path) => `${name}, line ${json.lineOf(path)}: `);
}

/** The file that `parseMachineConfig` reads, without what is as it would be anyway. */
export function formatMachineConfig(config: DeepReadonly<MachineConfig>): string {
  const usual: Record<string, unknown> = machineConfig.parse({ name: config.name });
  const entries = Object.entries(config).filter(
    ([key, value]) => key === "name" || JSON.stringify(value) !== JSON.stringify(usual[key]),
  );
  return `${JSON.stringify(Object.fromEntries(entries), undefined, 2)}\n`;
}

const YES = ["true", "yes", "on", "1"];
const NO = ["false", "no", "off", "0"];

/** A value as the schema wants it: text as it is, numbers and yes or no by their words, anything else as JSON. */
function parsedValue(key: string, text: string, schema: unknown): unknown {
  const inner = bare(schema);
  if (schema instanceof z.ZodDefault && schema.unwrap() instanceof z.ZodNullable && text === "none") return null;
  if (inner instanceof z.ZodString || inner instanceof z.ZodEnum) return text;
  if (inner instanceof z.ZodBoolean) {
    if (YES.includes(text.toLowerCase())) return true;
    if (NO.includes(text.toLowerCase())) return false;
    throw bad(`${key}=${text} is neither yes nor no`, `say ${key}=on or ${key}=off`);
  }
  if (inner instanceof z.ZodNumber || inner instanceof z.ZodLiteral) {
    const number = /^-?\d{1,15}(\.\d{1,6})?$/.test(text) ? Number(text) : Number.NaN;
    if (Number.isNaN(number)) throw bad(`${key}=${text} is no number`, `say for example ${key}=1`);
    return number;
  }
  try {
    return parseLinedJson(text).value;
  } catch {
    throw bad(`${key} is a list or an object and ${text} is no JSON`, `name one value in it, for example ${key}.0`);
  }
}

/** The index that a word names in a list: a number, or a disk by its vdev. */
function indexOf(word: string, list: readonly unknown[], before: readonly PropertyKey[]): number {
  if (before.length === 1 && before[0] === "disks") {
    const wanted = parseVdev(word);
    const found = list.findIndex(
      (each) => wanted !== undefined && parseVdev((each as { vdev: string }).vdev) === wanted,
    );
    if (found >= 0) return found;
  }
  const index = /^\d{1,4}$/.test(word) ? Number(word) : Number.NaN;
  if (index < list.length) return index;
  const remedy = list.length === 0 ? "there are none" : `they are counted from 0 to ${list.length - 1}`;
  throw bad(`${pathText(before)} has no ${word}`, remedy);
}

/** Changes one value in the draft; an empty text takes it away, so that it is as usual again. */
function assign(draft: Record<string, unknown>, key: string, text: string): void {
  const words = key.split(".");
  const path: PropertyKey[] = [];
  let holder: Record<PropertyKey, unknown> = draft;
  for (const [position, word] of words.entries()) {
    const at: PropertyKey = Array.isArray(holder) ? indexOf(word, holder, path) : word;
    const schema = schemaAt([...path, at]);
    if (schema === undefined) {
      const place = path.length === 0 ? "" : ` in ${pathText(path)}`;
      const known = keysAt(path);
      throw bad(`there is no key ${word}${place}`, known.length === 0 ? "it is a single value" : meant(word, path));
    }
    path.push(at);
    if (position < words.length - 1) {
      const inner = holder[at];
      if (typeof inner !== "object" || inner === null) {
        const remedy = inner === undefined ? "set it first" : "it is a single value";
        throw bad(`there is nothing in ${pathText(path)} to set`, remedy);
      }
      holder = inner as Record<PropertyKey, unknown>;
    } else if (text !== "") holder[at] = parsedValue(key, text, schema);
    else if (Array.isArray(holder)) holder.splice(Number(at), 1);
    else delete holder[at];
  }
}

/**
 * Changes a configuration by settings such as `memoryMiB=1024`, `disks.xvda.access=ro`, `vifs.0.bridge=lab1` or
 * `notes=` (as usual again), all or none.
 * @throws StoreError "bad-config"
 */
export function applySettings(config: DeepReadonly<MachineConfig>, settings: readonly string[]): MachineConfig {
  const draft: Record<string, unknown> = structuredClone(config) as MachineConfig;
  for (const setting of settings) {
    const equals = setting.indexOf("=");
    if (equals <= 0) throw bad(`"${setting}" sets nothing`, "write key=value, for example memoryMiB=1024");
    const key = setting.slice(0, equals).trim();
    if (key === "name") throw bad("name is not set like other keys", "use domlab rename");
    assign(draft, key, setting.slice(equals + 1).trim());
  }
  return checkedConfig(draft);
}
