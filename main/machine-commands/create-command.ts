/** `domlab create`. */
import { resolve } from "node:path";
import type { Command } from "commander";
import { DEFAULT_SWITCH } from "../../engine/domain/network-config.ts";
import { BadInput } from "../failure.ts";
import { formatUplink, parseUplink } from "../network-option.ts";
import { type CommandContext, JSON_OPTION, type LabClient, longRun, repeatable, tellAll, withLab } from "./context.ts";
import { type CreateWish, parseCreateOptions, type RawCreateOptions, type WantedSwitch } from "./create-options.ts";
import { startWithConsole } from "./start.ts";

const EXAMPLES = [
  "",
  "Without further words a machine boots the image debian-shell, has 512 MiB of memory and an interface on the switch lab0,",
  "which leads to the host's network. Disks and interfaces are described as for domlab run; --new-disk makes an image of the",
  "lab's own, with from= over an image of the library (domlab image import). --image none starts nothing but the given kernel. -f reads a machine from JSON, or a file of xl's.",
  "",
  "Examples:",
  "  domlab create web --start --console",
  "  domlab create db --image debian --memory 1G --root-size 16G --new-disk vdev=xvdb,size=10G",
  "  domlab create router --vif bridge=lab0 --vif bridge=lan --autostart",
  "  domlab create --no-network -f machine.json",
].join("\n");

/**
 * Makes the switches that are wanted and not there.
 * @returns names of those that were made
 * @throws BadInput when one is there and leads elsewhere
 */
async function makeSwitches(lab: LabClient, wanted: readonly WantedSwitch[], cwd: string): Promise<string[]> {
  if (wanted.length === 0) return [];
  const present = await lab.call("switchShow", {});
  const made: string[] = [];
  for (const { name, uplink } of wanted) {
    const found = present.find((each) => each.name === name);
    const asked = formatUplink(parseUplink(uplink, cwd));
    if (found !== undefined) {
      const is = formatUplink(found.uplink);
      if (is === asked) continue;
      const remedy = `leave --network out, or name a switch of your own: --network ${name}2=${asked}`;
      throw new BadInput("bad-option", `the switch ${name} has the uplink ${is}, not ${asked}`, remedy);
    }
    // The default switch is made like this when it is first needed.
    if (name === DEFAULT_SWITCH && asked === "user") continue;
    await lab.call("switchCreate", { name, uplink, cwd, isolated: false, vlans: false });
    made.push(name);
  }
  return made;
}

/** Interfaces on switches that nobody has made yet: the machine would not start. */
async function tellMissingSwitches(context: CommandContext, lab: LabClient, { config }: CreateWish): Promise<void> {
  const bridges = new Set((config.vifs ?? []).filter((vif) => vif.backend === undefined).map((vif) => vif.bridge));
  bridges.delete(DEFAULT_SWITCH);
  if (bridges.size === 0) return;
  const present = (await lab.call("switchShow", {})).map(({ name }) => name);
  for (const bridge of bridges) {
    if (!present.includes(bridge)) context.tell(`there is no switch ${bridge} yet: domlab network create ${bridge}`);
  }
}

async function create(context: CommandContext, name: string | undefined, raw: RawCreateOptions): Promise<void> {
  if (raw.console && !raw.start) {
    throw new BadInput("bad-option", "--console without --start: nothing would be seen", "add --start");
  }
  const cwd = resolve(context.cwd());
  // Once without the lab, so that what is wrong with the options is told before one is started.
  await parseCreateOptions(name, raw, cwd);
  await withLab(context, async (lab) => {
    const { defaultPlacement } = await lab.call("labSettings", {});
    const placement = defaultPlacement === "hypervisor" ? "hypervisor" : "driver-domain";
    const wish = await parseCreateOptions(name, raw, cwd, placement);
    const made = await makeSwitches(lab, wish.switches, cwd);
    const call = (operation: string) =>
      lab.call("machineCreate", {
        // Through its text: values that are absent must not travel.
        config: JSON.parse(JSON.stringify(wish.config)),
        newDisks: [...wish.newDisks],
        ...(wish.rootSize !== undefined && { rootSize: wish.rootSize }),
        operation,
      });
    const created = await longRun(context, lab, call).catch(async (error: unknown) => {
      for (const each of made) await lab.call("switchDelete", { name: each }).catch(() => {});
      throw error;
    });
    tellAll(context, [...wish.notes, ...created.notes]);
    await tellMissingSwitches(context, lab, wish);
    if (raw.json) context.print(`${JSON.stringify({ id: created.id, name: created.name })}\n`);
    else if (raw.start) context.tell(`${created.name} is made`);
    else context.print(`${created.name} is made; start it: domlab start ${created.name}\n`);
    if (raw.start) await startWithConsole(context, lab, created.name, raw.console ?? false);
  });
}

/** Adds `create`. */
export function addCreateCommand(program: Command, context: CommandContext): void {
  program
    .command("create [name]")
    .description("Make a machine that stays until it is deleted.")
    .option("--image <name>", "what it boots: debian-shell (default), debian, or none")
    .option("--kernel <file>", "kernel of your own: a bzImage or an ELF file with a Xen PVH entry")
    .option("--initrd <file>", "initial RAM disk of your own; without it the image's")
    .option("--cmdline <text>", "kernel command line in place of the image's")
    .option("--append <text>", "words behind the kernel command line")
    .option("--memory <size>", "512, 512M or 2G (default: 512M)")
    .option("--disk <disk>", "a disk in xl's syntax, for example data.img,,xvdb (repeatable)", repeatable)
    .option(
      "--new-disk <disk>",
      "a new disk: vdev=xvdb,size=10G[,format=raw], or vdev=xvda,from=IMAGE (repeatable)",
      repeatable,
    )
    .option("--root-size <size>", "size of the root disk, of an image that has one")
    .option("--vif <vif>", "an interface in xl's syntax, for example bridge=lan,rate=10Mb/s (repeatable)", repeatable)
    .option("--network <uplink>", "a switch with this uplink, for example user, and an interface on it", repeatable)
    .option("--no-network", "no interface at all")
    .option("--forward <forward>", "lead a port of the host to it, for example tcp:8080:80", repeatable)
    .option("--autostart", "start it whenever the lab starts")
    .option("--group <name>", "show it together with others of that group")
    .option("--note <text>", "anything you want to remember about it")
    .option("-f, --file <file>", "read it from a JSON file or from xl's configuration file")
    .option("--start", "start it then")
    .option("--console", "with --start: attach this terminal to its console")
    .option(...JSON_OPTION)
    .addHelpText("after", EXAMPLES)
    .action((name: string | undefined, raw: RawCreateOptions) => create(context, name, raw));
}
