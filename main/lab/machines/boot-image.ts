/** What a machine boots: kernel, initial RAM disk and command line, its own or an image's. */
import { dirname, sep } from "node:path";
import type { GuestConfig } from "../../../engine/domain/host.ts";
import {
  cachedGuestImage,
  type GuestImage,
  imageNames,
  openImage,
  promptOf,
  type RootImage,
} from "../../images/catalogue.ts";
import { keepDebian, openDebian, prepareDebian } from "../../images/debian.ts";
import { ImageError } from "../../images/errors.ts";
import { nearest } from "../store/nearest.ts";
import type { DeepReadonly, LabData, MachineConfig } from "../store/schema.ts";
import type { XlBootFiles } from "../xl-config/export.ts";
import { MachineError } from "./errors.ts";

/** Command line of a kernel that comes without one: its log on the Xen console. */
const PLAIN_COMMAND_LINE = "console=hvc0";

export interface Boot {
  readonly image: GuestConfig["image"];
  /** What the guest prints when it waits for a user, when that is known. */
  readonly prompt: string | undefined;
}

export interface BootOptions {
  readonly signal?: AbortSignal;
  readonly progress?: (text: string) => void;
  /** Files of the machine's root disk, nearest first. */
  readonly chain?: readonly string[];
  /** The terminal that shows the console. */
  readonly terminal?: { readonly rows: number; readonly columns: number } | undefined;
}

/** Images as machines need them; a test has one without a network. */
export interface BootImages {
  /** Makes sure that the image which the configuration names is there to be had. @throws ImageError "unknown-image" */
  checkImage(config: Pick<DeepReadonly<MachineConfig>, "image">): void;
  /** What a guest of the machine prints when it waits for a user, when that is known. */
  promptOf(config: DeepReadonly<MachineConfig>): string | undefined;
  /** @throws ImageError, MachineError: one line with cause and remedy */
  boot(config: DeepReadonly<MachineConfig>, options: BootOptions): Promise<Boot>;
  /**
   * Files on this host that the machine's image boots from, without its own kernel and the like; undefined for a machine
   * without an image, or whose image has not been fetched. Nothing is fetched.
   * @param chain files of the machine's root disk, nearest first
   */
  bootFiles(
    config: Pick<DeepReadonly<MachineConfig>, "image">,
    chain: readonly string[],
  ): Promise<XlBootFiles | undefined>;
  /** The image's root disk, in the lab's own folder; undefined for one that has none. @throws ImageError */
  rootImage(config: DeepReadonly<MachineConfig>, options: BootOptions): Promise<RootImage | undefined>;
}

/** An image of the catalogue or of the lab's own, in one shape. */
interface OpenedImage {
  readonly kernel: string;
  readonly initrd: GuestConfig["image"]["initrd"];
  readonly commandLine: string;
  readonly prompt: string | undefined;
}

/** Whether a machine boots nothing of the image that it may name. */
const bringsAll = ({ image, kernel, initrd }: DeepReadonly<MachineConfig>): boolean =>
  image === null || (kernel !== undefined && initrd !== undefined);

type Archive = Uint8Array<ArrayBuffer>;

/** The kernel argument by which systemd takes the machine's name as the host's; other inits leave it alone. */
export const hostArgument = (name: string): string => `systemd.hostname=${name.replace(/[^A-Za-z0-9-]+/g, "-")}`;

/** The image whose root disk lies in a folder below the lab's images/. */
async function keptImage(folder: string, chain: readonly string[]): Promise<GuestImage | undefined> {
  const base = chain.find((path) => path.startsWith(folder + sep));
  return base === undefined ? undefined : await openDebian(dirname(base));
}

export class CatalogueImages implements BootImages {
  private readonly own: () => DeepReadonly<LabData>["images"];
  private readonly folder: string;

  /**
   * @param own images that the lab's user has added
   * @param folder the lab's images/: root disks that machines lie over are kept there, with their kernels
   */
  constructor(own: () => DeepReadonly<LabData>["images"], folder: string) {
    this.own = own;
    this.folder = folder;
  }

  checkImage({ image }: Pick<DeepReadonly<MachineConfig>, "image">): void {
    const names = [...new Set([...this.own().map(({ name }) => name), ...imageNames])];
    if (image === null || names.includes(image)) return;
    const near = nearest(image, names);
    const meant = near === undefined ? "" : `did you mean ${near}? `;
    throw new ImageError("unknown-image", `there is no guest image ${image}`, `${meant}there are: ${names.join(", ")}`);
  }

  private async open(name: string, { signal, progress, terminal, chain = [] }: BootOptions): Promise<OpenedImage> {
    const own = this.own().find((image) => image.name === name);
    if (own !== undefined) {
      const { kernel, initrd, commandLine } = own;
      return { kernel, initrd: initrd === undefined ? [] : [{ path: initrd }], commandLine, prompt: undefined };
    }
    // A machine keeps the kernel that its root disk has the modules of, whatever the catalogue has now.
    const kept = await keptImage(this.folder, chain);
    const image = kept ?? (await openImage(name, { ...(signal && { signal }), ...(progress && { progress }) }));
    const archives: GuestConfig["image"]["initrd"] = [{ bytes: image.initramfs as Archive }];
    const session = terminal && image.sessionArchive({ terminal: { type: "xterm-256color", ...terminal } });
    if (session) archives.push({ bytes: session as Archive });
    const { kernel, commandLine, prompt } = image;
    return { kernel, initrd: archives, commandLine, prompt };
  }

  promptOf(config: DeepReadonly<MachineConfig>): string | undefined {
    const { image } = config;
    const isOwn = this.own().some(({ name }) => name === image);
    return image === null || isOwn || bringsAll(config) ? undefined : promptOf(image);
  }

  async boot(config: DeepReadonly<MachineConfig>, options: BootOptions): Promise<Boot> {
    const { image: name } = config;
    const image = name === null || bringsAll(config) ? undefined : await this.open(name, options);
    const kernel = config.kernel ?? image?.kernel;
    if (kernel === undefined) {
      throw new MachineError(
        "failed",
        `${config.name} has neither a kernel nor an image`,
        "set one: domlab set image=…",
      );
    }
    const initrd = config.initrd === undefined ? (image?.initrd ?? []) : [{ path: config.initrd }];
    const base = config.commandLine ?? image?.commandLine ?? PLAIN_COMMAND_LINE;
    const words = [base, image === undefined ? "" : hostArgument(config.name), config.extraArguments];
    const commandLine = words.filter((word) => word !== "").join(" ");
    return { image: { kernel: { path: kernel }, initrd, commandLine }, prompt: image?.prompt };
  }

  async bootFiles({ image: name }: Pick<DeepReadonly<MachineConfig>, "image">, chain: readonly string[]) {
    if (name === null) return undefined;
    const own = this.own().find((image) => image.name === name);
    if (own !== undefined) {
      const { kernel, initrd, commandLine } = own;
      return { kernel, commandLine, ...(initrd !== undefined && { ramdisk: initrd }) };
    }
    const image = (await keptImage(this.folder, chain)) ?? (await cachedGuestImage(name));
    return image && { kernel: image.kernel, commandLine: image.commandLine };
  }

  async rootImage(config: DeepReadonly<MachineConfig>, options: BootOptions): Promise<RootImage | undefined> {
    const { signal, progress } = options;
    if (config.image !== "debian" || this.own().some(({ name }) => name === "debian")) return undefined;
    const image = await prepareDebian({ ...(signal && { signal }), ...(progress && { progress }) });
    return (await keepDebian(image, this.folder, signal)).root;
  }
}
