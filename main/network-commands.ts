/** `domlab network-attach`, `-detach`, `-list` under xl's names, and `domlab network` for switches and what is set for them. */
import type { Command } from "commander";
import type { ControlMethod, ControlParameters, ControlResult } from "./lab/control-api.ts";
import { formatForward, formatUplink } from "./network-option.ts";
import { table } from "./table.ts";

/** The guest that a command is about: of which lab, and which one there. */
export interface GuestWish {
  readonly lab?: string;
  readonly machine?: string;
}

/** The guest of a wish, as the control API takes it. */
export const ofMachine = ({ machine }: GuestWish): { machine?: string } => (machine === undefined ? {} : { machine });

/** Calls a function of the lab that is meant, by its name or through a guest of it. */
export type LabCall = <Method extends ControlMethod>(
  lab: string | GuestWish | undefined,
  method: Method,
  parameters: ControlParameters<Method>,
) => Promise<ControlResult<Method>>;

export interface NetworkCommandOptions {
  readonly call: LabCall;
  /** Interfaces of all guests, or of the one that is meant. */
  readonly vifs: (wish: GuestWish) => Promise<ControlResult<"networkList">>;
  /** Takes text for standard output. */
  readonly print: (text: string) => void;
}

interface Raw extends GuestWish {
  readonly json?: boolean;
  readonly force?: boolean;
}
interface RawCreate extends Raw {
  readonly uplink?: string;
  readonly mtu?: string;
  readonly rate?: string;
  readonly isolated?: boolean;
  readonly vlans?: boolean;
}
interface RawAccount extends Raw {
  readonly add?: string;
  readonly remove?: string;
  readonly reset?: boolean;
}

/** How often a followed log is asked for, ms. */
const FOLLOW_MS = 500;

const LAB = ["--lab <name>", "the lab that is meant, if several are running"] as const;
const MACHINE = ["-m, --machine <machine>", "the guest that is meant, if the lab has several"] as const;
const JSON_OPTION = ["--json", "print JSON"] as const;

type SwitchState = ControlResult<"switchShow">[number];

/** Several words of a shell are one line again: those with blanks get their quotes back. */
export function commandLine(words: readonly string[]): string {
  if (words.length === 1) return words[0]!;
  const quoted = (word: string) => (/[\s"'\\]|^$/.test(word) ? `"${word.replace(/["\\]/g, "\\$&")}"` : word);
  return words.map(quoted).join(" ");
}

function showVifs(vifs: ControlResult<"networkList">): string {
  const rows = vifs.map((vif) => [
    vif.handle,
    vif.backend,
    vif.mac,
    vif.name,
    vif.stateName,
    vif.bridge,
    vif.ips.join(" "),
  ]);
  return table([["Idx", "BE", "MAC", "Name", "State", "Switch", "IP"], ...rows]);
}

function showSwitches(switches: readonly SwitchState[]): string {
  const rows = switches.map((each) => [
    each.name,
    each.mtu,
    formatUplink(each.uplink),
    each.uplinkProblem ?? "",
    each.ports.map((port) => port.name).join(","),
  ]);
  return table([["Name", "MTU", "Uplink", "Problem", "Ports"], ...rows]);
}

function dropsOf(counters: Readonly<Record<string, number>>): string {
  const drops = Object.entries(counters).filter(([name, count]) => name.startsWith("drop:") && count > 0);
  return drops.map(([name, count]) => `${name.slice("drop:".length)}=${count}`).join(" ");
}

/** Everything about one switch; `port`: only about that. */
function showSwitch(each: SwitchState, port?: string): string {
  const count = (counters: Readonly<Record<string, number>>, name: string) => counters[name] ?? 0;
  const ports = each.ports
    .filter(({ name }) => port === undefined || name === port)
    .map(({ name, up, counters, impair }) => [
      name,
      up ? "up" : "down",
      count(counters, "framesIn"),
      count(counters, "bytesIn"),
      count(counters, "framesOut"),
      count(counters, "bytesOut"),
      count(counters, "droppedIn") + count(counters, "droppedOut"),
      dropsOf(counters),
      impair,
    ]);
  const headings = ["Port", "Link", "In", "Bytes", "Out", "Bytes", "Dropped", "Reasons", "Impair"];
  const shown = [table([headings, ...ports])];
  const addresses = each.addresses
    .filter((address) => port === undefined || address.port === port)
    .map(({ mac, vlan, port: at, fixed, age }) => [mac, vlan, at, fixed ? "fixed" : `${Math.round(age)} s`]);
  if (addresses.length > 0) shown.push(table([["Address", "VLAN", "Port", "Age"], ...addresses]));
  if (port === undefined && each.forwards.length > 0) {
    shown.push(table([["Forward", "Problem"], ...each.forwards.map((one) => [formatForward(one), one.problem ?? ""])]));
  }
  return port === undefined ? `${showSwitches([each])}\n${shown.join("\n")}` : shown.join("\n");
}

/** The switch of that name, or of that interface. */
async function find(call: LabCall, lab: string | undefined, name: string) {
  const switches = await call(lab, "switchShow", {});
  const named = switches.find((each) => each.name === name);
  if (named !== undefined) return { state: named };
  const state = switches.find((each) => each.ports.some((port) => port.name === name));
  if (state !== undefined) return { state, port: name };
  const { BadInput } = await import("./failure.ts");
  throw new BadInput(
    "bad-option",
    `there is no switch or interface ${name}`,
    "domlab network list and domlab network-list show those there are",
  );
}

function addInterfaceCommands(program: Command, { call, vifs, print }: NetworkCommandOptions): void {
  program
    .command("network-attach [vif]")
    .description("Give a running guest a network interface, described as for domlab run --vif.")
    .option(...LAB)
    .option(...MACHINE)
    .option(...JSON_OPTION)
    .action(async (vif: string | undefined, raw: Raw) => {
      const made = await call(raw, "networkAttach", { vif: vif ?? "", ...ofMachine(raw) });
      print(raw.json ? `${JSON.stringify(made)}\n` : `${made.name}\n`);
    });
  program
    .command("network-detach <interface>")
    .description("Take an interface away from a running guest: its number, name or MAC address.")
    .option(...LAB)
    .option(...MACHINE)
    .option("--force", "even if the guest does not give it up")
    .action(async (vif: string, raw: Raw) => {
      await call(raw, "networkDetach", { vif, force: raw.force ?? false, ...ofMachine(raw) });
    });
  program
    .command("network-list")
    .description("Show the network interfaces of the running guests.")
    .option(...LAB)
    .option(...MACHINE)
    .option(...JSON_OPTION)
    .action(async (raw: Raw) => {
      const found = await vifs(raw);
      print(raw.json ? `${JSON.stringify(found)}\n` : showVifs(found));
    });
}

function addSwitchCommands(network: Command, { call, print }: NetworkCommandOptions): void {
  network
    .command("list")
    .description("Show the switches of a lab.")
    .option(...LAB)
    .option(...JSON_OPTION)
    .action(async (raw: Raw) => {
      const switches = await call(raw.lab, "switchShow", {});
      print(raw.json ? `${JSON.stringify(switches)}\n` : showSwitches(switches));
    });
  network
    .command("create <switch>")
    .description("Make a switch.")
    .option(...LAB)
    .option("--uplink <uplink>", "user, tap, socket, pcap, passt or none (default: none)")
    .option("--mtu <bytes>", "largest IP packet (default: 1500)")
    .option("--rate <rate>", "what goes to the uplink at most, for example 10Mb/s; interfaces share it fairly")
    .option("--isolated", "interfaces reach the uplink only, not each other")
    .option("--vlans", "ports belong to VLANs (vlan= of an interface)")
    .action(async (name: string, raw: RawCreate) => {
      await call(raw.lab, "switchCreate", {
        name,
        uplink: raw.uplink ?? "none",
        cwd: process.cwd(),
        isolated: raw.isolated ?? false,
        vlans: raw.vlans ?? false,
        ...(raw.mtu !== undefined && { mtu: raw.mtu }),
        ...(raw.rate !== undefined && { rate: raw.rate }),
      });
    });
  network
    .command("delete <switch>")
    .description("Remove a switch without interfaces.")
    .option(...LAB)
    .action(async (name: string, raw: Raw) => {
      await call(raw.lab, "switchDelete", { name });
    });
  network
    .command("show <switch-or-interface>")
    .description("Show ports with their counters, addresses and forwarded ports.")
    .option(...LAB)
    .option(...JSON_OPTION)
    .action(async (name: string, raw: Raw) => {
      const { state, port } = await find(call, raw.lab, name);
      print(raw.json ? `${JSON.stringify(state)}\n` : showSwitch(state, port));
    });
}

function addPolicyCommands(network: Command, { call, print }: NetworkCommandOptions): void {
  network
    .command("firewall <switch-or-interface> [command...]")
    .description("Show rules, or apply a command in iptables' terms: -A FORWARD -p tcp --dport 80 -j ACCEPT")
    .option(...LAB)
    .option(...JSON_OPTION)
    .passThroughOptions()
    .allowUnknownOption()
    .action(async (target: string, words: readonly string[], raw: Raw) => {
      const change = words.length > 0;
      const answer = await call(raw.lab, "firewall", { target, ...(change && { command: commandLine(words) }) });
      if (raw.json) print(`${JSON.stringify(answer.rules)}\n`);
      else if (!change) print(`${answer.listing}\n`);
    });
  network
    .command("impair <interface> <impairments>")
    .description("Impair what an interface gets: delay=50ms,jitter=10ms,loss=1%,duplicate=1%,reorder=5% or none.")
    .option(...LAB)
    .action(async (target: string, text: string, raw: Raw) => {
      await call(raw.lab, "impair", { target, text: text === "none" ? "" : text });
    });
  network
    .command("account <switch>")
    .description("Show what classes of packets have counted, or add and remove them.")
    .option(...LAB)
    .option(...JSON_OPTION)
    .option("--add <class>", "for example 'class web: -p tcp --dport 80'")
    .option("--remove <class>", "the name of a class")
    .option("--reset", "set the counters to 0 after showing them")
    .action(async (name: string, raw: RawAccount) => {
      const { counts } = await call(raw.lab, "account", {
        name,
        reset: raw.reset ?? false,
        ...(raw.add !== undefined && { add: raw.add }),
        ...(raw.remove !== undefined && { remove: raw.remove }),
      });
      if (raw.json) print(`${JSON.stringify(counts)}\n`);
      else if (raw.add === undefined && raw.remove === undefined) {
        const rows = counts.map((each) => [each.name, each.packets, each.bytes, each.rule]);
        print(table([["Class", "Packets", "Bytes", "Rule"], ...rows]));
      }
    });
}

/** Prints the lines that are there, and with `follow` those that come, until the process is ended. */
async function printLog({ call, print }: NetworkCommandOptions, raw: Raw & { readonly follow?: boolean }) {
  let after = 0;
  for (;;) {
    const lines = await call(raw.lab, "networkLog", { after });
    for (const line of lines) {
      print(raw.json ? `${JSON.stringify(line)}\n` : `${new Date(line.time).toISOString()} ${line.text}\n`);
    }
    after = lines.at(-1)?.number ?? after;
    if (lines.length > 0) continue;
    if (!raw.follow) return;
    await new Promise((resolve) => setTimeout(resolve, FOLLOW_MS));
  }
}

function addOtherCommands(network: Command, options: NetworkCommandOptions): void {
  const { call } = options;
  network
    .command("forward <switch> <forward>")
    .description("Lead a port of the host to a guest: tcp:8080:80, or tcp:127.0.0.1:8080:10.0.2.15:80.")
    .option(...LAB)
    .option("--remove", "close it again")
    .action(async (name: string, forward: string, raw: Raw & { readonly remove?: boolean }) => {
      await call(raw.lab, "forward", { name, forward, remove: raw.remove ?? false });
    });
  network
    .command("link <interface> <up|down>")
    .description("Take the link of an interface down, or up again.")
    .option(...LAB)
    .option(...MACHINE)
    .action(async (vif: string, state: string, raw: Raw) => {
      if (state !== "up" && state !== "down") {
        const { BadInput } = await import("./failure.ts");
        throw new BadInput("bad-option", `"${state}" is no state of a link`, "say up or down");
      }
      await call(raw, "networkLink", { vif, up: state === "up", ...ofMachine(raw) });
    });
  network
    .command("log")
    .description("Show what LOG rules and classes have logged.")
    .option(...LAB)
    .option(...JSON_OPTION)
    .option("--follow", "go on with lines that come")
    .action((raw: Raw & { readonly follow?: boolean }) => printLog(options, raw));
}

/** Adds `network-attach`, `network-detach`, `network-list` and the group `network`. */
export function addNetworkCommands(program: Command, options: NetworkCommandOptions): void {
  addInterfaceCommands(program, options);
  const network = program
    .command("network")
    .description("Switches of a running lab: create, show, firewall, impair, forward and more.")
    .enablePositionalOptions();
  addSwitchCommands(network, options);
  addPolicyCommands(network, options);
  addOtherCommands(network, options);
}
