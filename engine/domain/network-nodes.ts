/**
 * The network's settings in XenStore, below the driver domain's own directory, so that its next process finds all of it when
 * one was killed:
 *
 * - network/switch/<name> = SwitchConfig as JSON, with forward/<n> = ForwardConfig as JSON below it
 * - network/switch/<name> and network/interface/<domain>-<handle>: rule/<n>, class/<n>, impair, down;
 *   of interfaces their switch
 *
 * Long lists are nodes of their own because a node holds 4 KiB.
 */
import type { ToolstackStore } from "../xenstore/toolstack-store.ts";
import {
  type ForwardConfig,
  forwardSchema,
  parseVifName,
  type SwitchConfig,
  switchSchema,
  type TargetSettings,
  targetSettingsSchema,
  vifName,
} from "./network-config.ts";

const ROOT = "network";
const SWITCHES = `${ROOT}/switch`;
const INTERFACES = `${ROOT}/interface`;

/** What a client of XenStore needs to read the settings. */
export interface SettingsReader {
  read(path: string): Promise<string | undefined>;
  directory(path: string): Promise<string[] | undefined>;
}

/** All that a driver domain finds at its start. */
export interface NetworkSettings {
  readonly switches: readonly { readonly config: SwitchConfig; readonly forwards: readonly ForwardConfig[] }[];
  readonly targets: readonly {
    readonly on: string;
    /** Name of an interface; undefined: it is about the switch. */
    readonly vif: string | undefined;
    readonly settings: TargetSettings;
  }[];
}

/** Path of what is set for a switch or an interface, below the domain's home. */
function targetPath(target: string): string {
  const vif = parseVifName(target);
  return vif === undefined ? `${SWITCHES}/${target}` : `${INTERFACES}/${vif.frontendId}-${vif.handle}`;
}

/** Writes what a driver domain is to find. */
export class SettingsWriter {
  private readonly store: ToolstackStore;
  private readonly home: string;

  /** @param domain number of the driver domain */
  constructor(store: ToolstackStore, domain: number) {
    this.store = store;
    this.home = `/local/domain/${domain}`;
  }

  /** Replaces the children of a node. */
  private list(path: string, name: string, values: readonly string[]): void {
    this.store.transaction((control) => {
      control.remove(`${path}/${name}`);
      for (const [n, value] of values.entries()) control.write(`${path}/${name}/${n}`, value);
    });
  }

  /** Writes a switch with its forwards. */
  writeSwitch(config: SwitchConfig, forwards: readonly ForwardConfig[]): void {
    const path = `${this.home}/${targetPath(config.name)}`;
    this.store.write(path, JSON.stringify(config));
    this.list(
      path,
      "forward",
      forwards.map((forward) => JSON.stringify(forward)),
    );
  }

  /** Writes what is set for a switch, or for an interface `on` one. */
  writeTarget(target: string, { rules, classes, impair, down }: TargetSettings, on?: string): void {
    const path = `${this.home}/${targetPath(target)}`;
    if (on !== undefined) this.store.write(`${path}/switch`, on);
    this.list(path, "rule", rules);
    this.list(path, "class", classes);
    this.store.write(`${path}/impair`, impair);
    this.store.write(`${path}/down`, down ? "1" : "0");
  }

  /** Removes a switch or an interface. */
  remove(target: string): void {
    this.store.remove(`${this.home}/${targetPath(target)}`);
  }
}

async function readList(store: SettingsReader, path: string): Promise<string[]> {
  const names = (await store.directory(path)) ?? [];
  const sorted = names.filter((name) => /^\d+$/.test(name)).sort((a, b) => Number(a) - Number(b));
  const values = await Promise.all(sorted.map((name) => store.read(`${path}/${name}`)));
  return values.filter((value) => value !== undefined);
}

async function readTarget(store: SettingsReader, path: string): Promise<TargetSettings> {
  const [rules, classes, impair, down] = await Promise.all([
    readList(store, `${path}/rule`),
    readList(store, `${path}/class`),
    store.read(`${path}/impair`),
    store.read(`${path}/down`),
  ]);
  return targetSettingsSchema.parse({ rules, classes, impair: impair ?? "", down: down === "1" });
}

/**
 * Reads the settings as a client of XenStore whose home they are in.
 * @throws Error for what the toolstack would not have written (a bug)
 */
export async function readSettings(store: SettingsReader): Promise<NetworkSettings> {
  const targets: NetworkSettings["targets"][number][] = [];
  const switches = [];
  for (const name of (await store.directory(SWITCHES)) ?? []) {
    const path = `${SWITCHES}/${name}`;
    const text = await store.read(path);
    if (text === undefined) continue;
    const forwards = await readList(store, `${path}/forward`);
    switches.push({
      config: switchSchema.parse(JSON.parse(text)),
      forwards: forwards.map((each) => forwardSchema.parse(JSON.parse(each))),
    });
    targets.push({ on: name, vif: undefined, settings: await readTarget(store, path) });
  }
  for (const name of (await store.directory(INTERFACES)) ?? []) {
    const match = /^(\d+)-(\d+)$/.exec(name);
    const path = `${INTERFACES}/${name}`;
    const on = await store.read(`${path}/switch`);
    if (match === null || on === undefined) continue;
    const vif = vifName(Number(match[1]), Number(match[2]));
    targets.push({ on, vif, settings: await readTarget(store, path) });
  }
  return { switches, targets };
}
