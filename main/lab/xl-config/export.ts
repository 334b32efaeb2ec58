/** A machine as a file for `xl create`. */
import { type DeepReadonly, type MachineConfig, machineConfig } from "../store/schema.ts";
import { formatXlDisk, formatXlVif, parseDiskConfig, parseVifConfig, readBack } from "./devices.ts";
import { type BootSettings, difference, formatRest, type MachineRest } from "./rest.ts";
import { quoteXl } from "./syntax.ts";

/** Files of the image that the machine starts from, so that a Xen host can start it too. */
export interface XlBootFiles {
  readonly kernel: string;
  readonly ramdisk?: string;
  readonly commandLine: string;
}

/** Keys of a configuration that xl has, apart from what is started and the devices. */
const XL_KEYS: ReadonlySet<string> = new Set([
  ...["name", "memoryMiB", "vcpus", "cpuCap", "onPoweroff", "onReboot", "onCrash", "disks", "vifs"],
  ...["image", "kernel", "initrd", "commandLine", "extraArguments"],
]);

/** How reading a file's boot settings without our comment comes out. */
export function bootOf({ kernel, ramdisk, cmdline, root, extra }: BootSettings): Record<string, unknown> {
  const words = [...(root === undefined ? [] : [`root=${root}`]), ...(extra === undefined ? [] : [extra])];
  return {
    image: null,
    ...(kernel !== undefined && { kernel }),
    ...(ramdisk !== undefined && { initrd: ramdisk }),
    // xl ignores root and extra beside cmdline.
    ...(cmdline !== undefined && { commandLine: cmdline }),
    extraArguments: cmdline === undefined ? words.join(" ") : "",
  };
}

function bootSettings(config: MachineConfig, files: XlBootFiles | undefined): BootSettings {
  const ownImage = config.image === null ? undefined : files;
  const kernel = config.kernel ?? ownImage?.kernel;
  const ramdisk = config.initrd ?? ownImage?.ramdisk;
  const line = config.commandLine ?? ownImage?.commandLine;
  const extra = config.extraArguments;
  const text = line === undefined || extra === "" ? line : `${line} ${extra}`;
  return {
    ...(kernel !== undefined && { kernel }),
    ...(ramdisk !== undefined && { ramdisk }),
    ...(text !== undefined && { cmdline: text }),
    ...(text === undefined && extra !== "" && { extra }),
  };
}

function partsOf(config: MachineConfig) {
  const { image, kernel, initrd, commandLine, extraArguments } = config;
  return difference({ image, kernel, initrd, commandLine, extraArguments }, {});
}

interface DeviceText {
  readonly lines: readonly string[];
  readonly notes: readonly string[];
}

function exportDisks(config: MachineConfig, rest: MachineRest): DeviceText {
  const lines: string[] = [];
  const notes: string[] = [];
  for (const [at, disk] of config.disks.entries()) {
    const text = formatXlDisk(disk);
    const back = text === undefined ? undefined : readBack(() => parseDiskConfig(text, "/"));
    if (text === undefined || back === undefined) {
      rest.moreDisks.push({ at, disk });
      notes.push(`xl has no words for the disk ${disk.vdev} (${disk.source})`);
      continue;
    }
    lines.push(quoteXl(text));
    const more = difference(disk, back);
    if (Object.keys(more).length > 0) rest.disks[back.vdev] = more;
    if (disk.offset !== undefined || disk.length !== undefined) notes.push(`xl serves the whole image of ${disk.vdev}`);
  }
  return { lines, notes };
}

function exportVifs(config: MachineConfig, rest: MachineRest): DeviceText {
  const lines = config.vifs.map((vif, at) => {
    const text = formatXlVif(vif);
    const back = readBack(() => parseVifConfig(text)) ?? parseVifConfig("");
    const is = difference(vif, back);
    if (Object.keys(is).length > 0) rest.vifs.push({ at, mac: back.mac ?? null, bridge: back.bridge, is });
    return quoteXl(readBack(() => parseVifConfig(text)) === undefined ? "" : text);
  });
  return { lines, notes: [] };
}

function listText(key: string, lines: readonly string[]): string[] {
  return lines.length === 0 ? [] : [`${key} = [`, ...lines.map((line) => `  ${line},`), "]"];
}

/**
 * Writes a machine in xl's syntax, for a guest of type pvh. `importXlConfig` makes the same machine of it: what xl has
 * no words for stands in a comment.
 * @param files of the image, when the machine starts from one and they are there; without them xl finds no kernel
 */
export function exportXlConfig(machine: DeepReadonly<MachineConfig>, files?: XlBootFiles): string {
  const config = machineConfig.parse(machine);
  const rest: MachineRest = { version: 1, keys: {}, disks: {}, moreDisks: [], vifs: [] };
  const usual = machineConfig.parse({ name: config.name });
  rest.keys = Object.fromEntries(Object.entries(difference(config, usual)).filter(([key]) => !XL_KEYS.has(key)));
  const boot = bootSettings(config, files);
  const is = partsOf(config);
  if (JSON.stringify(is) !== JSON.stringify(bootOf(boot))) rest.boot = { of: boot, is };
  const disks = exportDisks(config, rest);
  const vifs = exportVifs(config, rest);
  const notes = [
    ...(boot.kernel === undefined ? [`xl needs a kernel; the machine starts from the image ${config.image}`] : []),
    ...disks.notes,
  ];
  const lines = [
    ...notes.map((note) => `# ${note.replace(/\s+/g, " ")}`),
    `name = ${quoteXl(config.name)}`,
    `type = "pvh"`,
    ...Object.entries(boot).map(([key, value]) => `${key} = ${quoteXl(value ?? "")}`),
    `memory = ${config.memoryMiB}`,
    `vcpus = ${config.vcpus}`,
    ...(config.cpuCap === undefined ? [] : [`cap = ${config.cpuCap}`]),
    ...listText("disk", disks.lines),
    ...listText("vif", vifs.lines),
    `on_poweroff = "${config.onPoweroff}"`,
    `on_reboot = "${config.onReboot}"`,
    `on_crash = "${config.onCrash}"`,
    `#${formatRest(rest)}`,
  ];
  return `${lines.join("\n")}\n`;
}
