/** `domlab create`: options into a configuration. */
import { resolve } from "node:path";
import { BadInput } from "../failure.ts";
import { parseSize } from "../image-commands.ts";
import { firstIssue, issueText } from "../lab/store/errors.ts";
import { enteredConfig, type MachineConfig, type MachineConfigInput } from "../lab/store/machine-config.ts";
import { parseNetwork } from "../network-option.ts";
import { readUserText } from "../user-text.ts";
import { checkMachineName } from "./context.ts";

/** What commander hands over: text as the user typed it. */
export interface RawCreateOptions {
  readonly file?: string;
  readonly image?: string;
  readonly kernel?: string;
  readonly initrd?: string;
  readonly cmdline?: string;
  readonly append?: string;
  readonly memory?: string;
  readonly disk?: readonly string[];
  readonly newDisk?: readonly string[];
  readonly rootSize?: string;
  readonly vif?: readonly string[];
  /** False: --no-network. */
  readonly network?: readonly string[] | false;
  readonly forward?: readonly string[];
  readonly autostart?: boolean;
  readonly group?: string;
  readonly note?: string;
  readonly start?: boolean;
  readonly console?: boolean;
  readonly json?: boolean;
}

export interface NewDiskWish {
  readonly vdev: string;
  /** Bytes; without it those of the image that it is made from. */
  readonly size?: number;
  readonly format: "qcow2" | "raw";
  /** Image of the library: the disk begins as an overlay over it, or with `copy` as a copy. */
  readonly from?: string;
  readonly copy?: boolean;
}

/** A switch that the machine is to be on. */
export interface WantedSwitch {
  readonly name: string;
  /** The uplink as the user wrote it. */
  readonly uplink: string;
}

export interface CreateWish {
  readonly config: MachineConfigInput;
  readonly newDisks: readonly NewDiskWish[];
  readonly rootSize: number | undefined;
  readonly switches: readonly WantedSwitch[];
  /** What was passed over in a file of xl's, one line each. */
  readonly notes: readonly string[];
}

const fail = (what: string, remedy: string) => new BadInput("bad-option", what, remedy);

/** MiB of "512", "512M" or "2G"; how much a machine may have is the configuration's rule. @throws BadInput */
export function parseMemory(text: string): number {
  const plain = /^\d{1,9}$/.test(text.trim());
  const mib = plain ? Number(text) : parseSize(text, "memory size") / 2 ** 20;
  if (Number.isSafeInteger(mib) && mib >= 1) return mib;
  throw fail(`--memory ${text} is no whole number of MiB`, "say for example --memory 512M");
}

/** "vdev=xvdb,size=10G", "vdev=xvda,from=base,copy=on" @throws BadInput */
export function parseNewDisk(text: string): NewDiskWish {
  const values = new Map<string, string>();
  const remedy =
    "write vdev=xvdb,size=10G (and format=raw if it is not to be qcow2), or vdev=xvdb,from=IMAGE[,copy=on]";
  const bad = (what: string) => fail(`new disk "${text}": ${what}`, remedy);
  for (const word of text.split(",").map((part) => part.trim())) {
    const [, key = "", value = ""] = /^(vdev|size|format|from|copy)=(.*)$/.exec(word) ?? [];
    if (key === "")
      throw bad(word === "" ? "an empty part" : `"${word}" is none of vdev=, size=, format=, from=, copy=`);
    if (values.has(key)) throw bad(`${key} is given twice`);
    if (value === "") throw bad(`${key} is empty`);
    values.set(key, value);
  }
  const [vdev, size, format = "qcow2", from, copy] = ["vdev", "size", "format", "from", "copy"].map((key) =>
    values.get(key),
  );
  if (vdev === undefined) throw bad("vdev is missing");
  if (size === undefined && from === undefined) throw bad("size is missing");
  if (format !== "qcow2" && format !== "raw") throw bad(`format=${format} is not known`);
  if (copy !== undefined && copy !== "on" && copy !== "off") throw bad(`copy=${copy} is neither on nor off`);
  if (copy !== undefined && from === undefined) throw bad("copy= without from=");
  return {
    vdev,
    format,
    ...(size !== undefined && { size: parseSize(size) }),
    ...(from !== undefined && { from }),
    ...(copy === "on" && { copy: true }),
  };
}

function notEmpty(option: string, value: string | undefined): string | undefined {
  if (value === "") throw fail(`--${option} is empty`, "name one or leave the option out");
  return value;
}

/** Whether a file is one of ours; xl's are no JSON. */
const isJson = (file: string, text: string): boolean => /\.json$/i.test(file) || text.trimStart().startsWith("{");

/** A configuration from a file: ours as JSON, or xl's. @throws StoreError, BadInput with the line */
async function readFileConfig(file: string, cwd: string): Promise<{ config: MachineConfig; notes: readonly string[] }> {
  const text = await readUserText(cwd, file);
  if (isJson(file, text)) {
    const { parseMachineConfig } = await import("../lab/store/config-file.ts");
    return { config: parseMachineConfig(text, file), notes: [] };
  }
  const { importXlConfig } = await import("../lab/xl-config/import.ts");
  return importXlConfig(text, { file, cwd });
}

/** What is started: an image, files of the user's own, or both. */
function bootParts(raw: RawCreateOptions, cwd: string): Partial<MachineConfigInput> {
  const kernel = notEmpty("kernel", raw.kernel);
  const initrd = notEmpty("initrd", raw.initrd);
  const image = notEmpty("image", raw.image);
  if (image !== undefined && image !== "none" && kernel !== undefined && initrd !== undefined) {
    throw fail("--image and --kernel with --initrd exclude each other", "leave one out");
  }
  const needsNone = image === "none" || (image === undefined && kernel !== undefined && initrd !== undefined);
  return {
    ...(image !== undefined && { image }),
    ...(needsNone && { image: null }),
    ...(kernel !== undefined && { kernel: resolve(cwd, kernel) }),
    ...(initrd !== undefined && { initrd: resolve(cwd, initrd) }),
    ...(raw.cmdline !== undefined && { commandLine: raw.cmdline }),
    ...(raw.append !== undefined && { extraArguments: raw.append }),
  };
}

/** Interfaces and forwards in the options; without any word one interface on the default switch. */
async function networkParts(raw: RawCreateOptions, cwd: string, fromFile: MachineConfig | undefined) {
  const [{ parseVif }, { parseForward }] = await Promise.all([
    import("../vif-option.ts"),
    import("../network-option.ts"),
  ]);
  const texts = raw.vif ?? [];
  if (raw.network === false) {
    const other = texts.length > 0 ? "--vif" : raw.forward !== undefined ? "--forward" : undefined;
    if (other !== undefined) throw fail(`--no-network and ${other} contradict each other`, "leave one out");
  }
  if (raw.network === false) return { vifs: [], forwards: [], switches: [] };
  const uplinks = raw.network ?? [];
  const switches = uplinks.map((text) => {
    const { name } = parseNetwork(text, cwd);
    return { name, uplink: /^[^=,]*=/.test(text) ? text.slice(text.indexOf("=") + 1) : text };
  });
  const named = texts.map(parseVif);
  const wanted = named.length > 0 ? named : switches.map(({ name }) => parseVif(`bridge=${name}`));
  const usual = fromFile === undefined && wanted.length === 0 ? [parseVif("")] : [];
  return {
    vifs: [...(fromFile?.vifs ?? []), ...wanted, ...usual],
    forwards: [...(fromFile?.forwards ?? []), ...(raw.forward ?? []).map(parseForward)],
    switches,
  };
}

/**
 * What `create` is to make.
 * @param name as the user wrote it; the file's counts when there is none
 * @param placement where disks are served that do not say it
 * @throws BadInput, StoreError, DiskError: one line with cause and remedy
 */
export async function parseCreateOptions(
  name: string | undefined,
  raw: RawCreateOptions,
  cwd: string,
  placement: "driver-domain" | "hypervisor" = "driver-domain",
): Promise<CreateWish> {
  if (name === undefined && raw.file === undefined) {
    throw fail("the machine has no name", "write domlab create <name>, or name a file with -f");
  }
  if (name !== undefined) checkMachineName(name);
  const boot = bootParts(raw, cwd);
  const newDisks = (raw.newDisk ?? []).map(parseNewDisk);
  const rootSize = raw.rootSize === undefined ? undefined : parseSize(raw.rootSize);
  const memory = raw.memory === undefined ? {} : { memoryMiB: parseMemory(raw.memory) };
  const file = raw.file === undefined ? undefined : await readFileConfig(raw.file, cwd);
  const { switches, ...network } = await networkParts(raw, cwd, file?.config);
  const texts = raw.disk ?? [];
  const disks: MachineConfig["disks"] = [];
  if (texts.length > 0) {
    const { parseAddedDisk } = await import("../lab/xl-config/devices.ts");
    disks.push(...texts.map((text) => parseAddedDisk(text, cwd, placement)));
  }
  const config: MachineConfigInput = {
    ...file?.config,
    name: name ?? file?.config.name ?? "",
    ...boot,
    ...memory,
    ...network,
    disks: [...(file?.config.disks ?? []), ...disks],
    ...(raw.autostart && { autostart: true }),
    ...(raw.group !== undefined && { group: raw.group }),
    ...(raw.note !== undefined && { notes: raw.note }),
  };
  const checked = enteredConfig.safeParse(config);
  if (!checked.success) throw fail(issueText(checked.error), firstIssue(checked.error).remedy);
  return { config, newDisks, rootSize, switches, notes: file?.notes ?? [] };
}
