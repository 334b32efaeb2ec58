/**
 * A machine from xl's configuration file. What this program cannot do is refused when the machine would be another one
 * without it (no kernel, a firmware to boot), and passed over with a note when it would not (graphics, pinning).
 */
import { resolve } from "node:path";
import { InputError } from "../../../engine/errors/input-error.ts";
import { firstIssue, issueText } from "../store/errors.ts";
import { suggestName } from "../store/names.ts";
import { suggestion } from "../store/nearest.ts";
import { type DiskConfig, type EndPolicy, enteredConfig, MACHINE_NAME, type MachineConfig } from "../store/schema.ts";
import { parseDiskConfig, parseVifConfig } from "./devices.ts";
import { bootOf } from "./export.ts";
import { IGNORED_KEYS, isReadKey, READ_KEYS, type ReadKey } from "./keys.ts";
import { applied, type BootSettings, type MachineRest, parseRest, sameBoot } from "./rest.ts";
import { parseXlSyntax, type XlSetting, type XlSyntax, type XlValue, xlError } from "./syntax.ts";

export interface ImportedMachine {
  readonly config: MachineConfig;
  /** What was passed over or understood in another way, one line each. */
  readonly notes: readonly string[];
}

export interface ImportOptions {
  /** How messages call the file. */
  readonly file: string;
  /** Folder that relative paths belong to. */
  readonly cwd: string;
}

/** xl's actions → ours, and what differs. */
const ACTIONS: Readonly<Record<string, readonly [EndPolicy, string?]>> = {
  destroy: ["destroy"],
  restart: ["restart"],
  preserve: ["preserve"],
  "rename-restart": ["restart", "the machine that ended is not kept under another name"],
  "coredump-destroy": ["destroy", "registers and console are kept after a crash, the memory is not"],
  "coredump-restart": ["restart", "registers and console are kept after a crash, the memory is not"],
  "soft-reset": ["restart", "a soft reset is a restart"],
};
const ACTION_KEYS = { on_poweroff: "onPoweroff", on_reboot: "onReboot", on_crash: "onCrash" } as const;
/** Our keys and those of a file, for errors about the whole. */
const XL_NAMES: Readonly<Record<string, ReadKey>> = {
  name: "name",
  memoryMiB: "memory",
  cpuCap: "cap",
  kernel: "kernel",
  initrd: "ramdisk",
  commandLine: "cmdline",
  extraArguments: "extra",
  disks: "disk",
  vifs: "vif",
};

/** Whether a value asks for nothing: switched off, empty. */
function asksForNothing(value: XlValue): boolean {
  return value.kind === "list" ? value.items.length === 0 : ["", "0", "none"].includes(value.text);
}

class Import {
  readonly #notes: { readonly line: number; readonly text: string }[] = [];
  readonly #options: ImportOptions;
  readonly #comments: XlSyntax["comments"];
  readonly #settings = new Map<ReadKey, XlSetting>();

  constructor({ settings, comments }: XlSyntax, options: ImportOptions) {
    this.#options = options;
    this.#comments = comments;
    for (const setting of settings) this.#take(setting);
  }

  #error(line: number, what: string, remedy: string, cause?: unknown) {
    return xlError(this.#options.file, line, what, remedy, cause);
  }

  #note(line: number, text: string): void {
    this.#notes.push({ line, text });
  }

  /** In the order of the file. */
  notes(): string[] {
    return this.#notes.sort((left, right) => left.line - right.line).map(({ line, text }) => `line ${line}: ${text}`);
  }

  #take(setting: XlSetting): void {
    const { key, value, line } = setting;
    const why = IGNORED_KEYS.get(key);
    if (why !== undefined) {
      if (!asksForNothing(value)) this.#note(line, `${key} is passed over: ${why}`);
      return;
    }
    if (!isReadKey(key)) {
      const known = [...READ_KEYS, ...IGNORED_KEYS.keys()];
      const remedy = suggestion(key, known);
      throw this.#error(
        line,
        `there is no key ${key}`,
        remedy.startsWith("use ") ? "see xl.cfg(5), or remove it" : remedy,
      );
    }
    const before = this.#settings.get(key);
    if (setting.adds && before !== undefined) this.#settings.set(key, this.#joined(before, setting));
    else {
      if (before !== undefined) this.#note(line, `${key} is set again: what line ${before.line} says does not count`);
      this.#settings.set(key, setting);
    }
  }

  /** `+=`: lists are put together, texts too. */
  #joined(before: XlSetting, more: XlSetting): XlSetting {
    const [left, right] = [before.value, more.value];
    if (left.kind === "list" && right.kind === "list") {
      return { ...before, value: { ...left, items: [...left.items, ...right.items] } };
    }
    if (left.kind === "text" && right.kind === "text")
      return { ...before, value: { ...left, text: left.text + right.text } };
    throw this.#error(more.line, `${more.key} was no ${right.kind} before`, `use ${more.key} = to set it anew`);
  }

  #line(key: ReadKey): number {
    return this.#settings.get(key)?.line ?? 1;
  }

  #text(key: ReadKey): string | undefined {
    const setting = this.#settings.get(key);
    if (setting === undefined) return undefined;
    if (setting.value.kind === "text") return setting.value.text;
    throw this.#error(setting.line, `${key} is a list`, `write ${key} = "…"`);
  }

  #number(key: ReadKey): number | undefined {
    const text = this.#text(key);
    if (text === undefined) return undefined;
    const octal = /^0[0-7]+$/.test(text);
    const number = octal
      ? Number.parseInt(text, 8)
      : /^(\d{1,9}|0x[0-9a-f]{1,7})$/i.test(text)
        ? Number(text)
        : Number.NaN;
    if (Number.isInteger(number) && !(/^0\d/.test(text) && !octal)) return number;
    throw this.#error(this.#line(key), `${key} = ${text} is no number`, `write for example ${key} = 1`);
  }

  #list(key: ReadKey): { text: string; line: number }[] {
    const setting = this.#settings.get(key);
    if (setting === undefined) return [];
    if (setting.value.kind === "text") throw this.#error(setting.line, `${key} is no list`, `write ${key} = [ "…" ]`);
    return setting.value.items.map((item) => {
      if (item.kind === "text") return item;
      throw this.#error(item.line, `a list stands where one of ${key} belongs`, "write a text in quotes");
    });
  }

  /** Reads each text of a list; what is wrong with one is told with its line. */
  #devices<T>(key: ReadKey, read: (text: string) => T): { device: T; line: number }[] {
    return this.#list(key).map(({ text, line }) => {
      try {
        return { device: read(text), line };
      } catch (error) {
        if (!(error instanceof InputError)) throw error;
        throw this.#error(line, error.message.slice(0, -`; ${error.remedy}`.length), error.remedy, error);
      }
    });
  }

  /** What our own comment says; of several the last. */
  rest(): MachineRest | undefined {
    let rest: MachineRest | undefined;
    for (const { text, line } of this.#comments) {
      const found = parseRest(text);
      if (found === "broken") this.#note(line, "the comment of domlab cannot be read and is passed over");
      else rest = found ?? rest;
    }
    return rest;
  }

  name(): string {
    const name = this.#text("name");
    if (name === undefined) throw this.#error(1, "the machine has no name", 'write name = "…"');
    if (MACHINE_NAME.test(name)) return name;
    const other = suggestName(name, { machines: [] });
    this.#note(this.#line("name"), `the machine is called ${other}: ${JSON.stringify(name)} is no name here`);
    return other;
  }

  checkType(): void {
    const type = this.#text("type") ?? (this.#text("builder") === "hvm" ? "hvm" : undefined);
    if (type === undefined || type === "pvh") return;
    const line = this.#settings.has("type") ? this.#line("type") : this.#line("builder");
    if (type !== "pv" && type !== "hvm") throw this.#error(line, `there is no type ${type}`, 'write type = "pvh"');
    this.#note(line, `the machine is of type pvh instead of ${type}: its kernel must be able to start so`);
  }

  #bootSettings(): BootSettings {
    const keys = ["kernel", "ramdisk", "cmdline", "root", "extra"] as const;
    return Object.fromEntries(
      keys.map((key) => [key, this.#text(key)] as const).filter(([, text]) => text !== undefined),
    );
  }

  boot(rest: MachineRest | undefined): Record<string, unknown> {
    const settings = this.#bootSettings();
    if (rest?.boot !== undefined && sameBoot(settings, rest.boot.of)) return rest.boot.is;
    const bootloader = this.#text("bootloader") ?? "";
    if (settings.kernel === undefined) {
      const what = bootloader === "" ? "the machine has no kernel" : `the boot loader ${bootloader} is not run`;
      const remedy = 'copy kernel and initrd from its disk and write kernel = "…" and ramdisk = "…"';
      throw this.#error(this.#line(bootloader === "" ? "kernel" : "bootloader"), what, remedy);
    }
    if (bootloader !== "")
      this.#note(this.#line("bootloader"), "bootloader is passed over: the kernel is started directly");
    if (settings.cmdline !== undefined && (settings.root ?? settings.extra) !== undefined) {
      this.#note(this.#line("cmdline"), "root and extra do not count beside cmdline");
    }
    const path = (text: string) => resolve(this.#options.cwd, text);
    return bootOf({
      ...settings,
      kernel: path(settings.kernel),
      ...(settings.ramdisk !== undefined && { ramdisk: path(settings.ramdisk) }),
    });
  }

  size(): Record<string, unknown> {
    const [memory, most] = [this.#number("memory"), this.#number("maxmem")];
    if (memory === undefined && most === undefined)
      this.#note(1, "memory is not set: the machine gets what is usual here");
    else if (memory !== undefined && most !== undefined && most !== memory) {
      this.#note(this.#line("maxmem"), "maxmem is passed over: memory is not ballooned");
    }
    for (const key of ["vcpus", "maxvcpus"] as const) {
      if ((this.#number(key) ?? 1) !== 1)
        this.#note(this.#line(key), `${key} is passed over: a machine has one virtual CPU`);
    }
    const cap = this.#number("cap") ?? 0;
    if (cap > 100) this.#note(this.#line("cap"), `cap is passed over: one virtual CPU takes no more than 100 percent`);
    const memoryMiB = memory ?? most;
    return {
      ...(memoryMiB !== undefined && { memoryMiB }),
      ...(cap > 0 && cap <= 100 && { cpuCap: cap }),
    };
  }

  policies(): Record<string, EndPolicy> {
    const policies: Record<string, EndPolicy> = {};
    for (const key of ["on_poweroff", "on_reboot", "on_crash"] as const) {
      const word = this.#text(key);
      if (word === undefined) continue;
      const action = Object.hasOwn(ACTIONS, word) ? ACTIONS[word] : undefined;
      if (action === undefined) {
        throw this.#error(this.#line(key), `${key} = ${word} is not known`, suggestion(word, Object.keys(ACTIONS)));
      }
      const [policy, difference] = action;
      if (difference !== undefined)
        this.#note(this.#line(key), `${key} is ${policy} instead of ${word}: ${difference}`);
      policies[ACTION_KEYS[key]] = policy;
    }
    return policies;
  }

  disks(rest: MachineRest | undefined): unknown[] {
    const read = this.#devices("disk", (text) => parseDiskConfig(text, this.#options.cwd));
    const disks = read.map(({ device }): unknown => applied(device, rest?.disks[(device as DiskConfig).vdev] ?? {}));
    for (const { at, disk } of rest?.moreDisks ?? []) disks.splice(at, 0, disk);
    return disks;
  }

  vifs(rest: MachineRest | undefined): unknown[] {
    const read = this.#devices("vif", parseVifConfig);
    return read.map(({ device }, index) => {
      const more = rest?.vifs.find(({ at }) => at === index);
      const same = more?.bridge === device.bridge && more.mac === (device.mac ?? null);
      return same ? applied(device, more.is) : device;
    });
  }

  /** Line of what a schema complains about. */
  lineOf(path: readonly PropertyKey[]): number {
    const [key, index] = path;
    const name = XL_NAMES[String(key)];
    const setting = name === undefined ? undefined : this.#settings.get(name);
    if (setting?.value.kind === "list" && typeof index === "number") {
      return setting.value.items[index]?.line ?? setting.line;
    }
    return setting?.line ?? 1;
  }
}

/**
 * Reads a machine from xl's configuration file, or from one that `exportXlConfig` wrote.
 * @throws StoreError "bad-config" with the line
 */
export function importXlConfig(text: string, options: ImportOptions): ImportedMachine {
  const source = new Import(parseXlSyntax(text, options.file), options);
  const rest = source.rest();
  source.checkType();
  const raw = {
    ...rest?.keys,
    name: source.name(),
    ...source.boot(rest),
    ...source.size(),
    ...source.policies(),
    disks: source.disks(rest),
    vifs: source.vifs(rest),
  };
  const checked = enteredConfig.safeParse(raw);
  if (checked.success) return { config: checked.data, notes: source.notes() };
  const { path, remedy } = firstIssue(checked.error);
  throw xlError(options.file, source.lineOf(path), issueText(checked.error), remedy, checked.error);
}
