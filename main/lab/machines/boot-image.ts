/** What a machine boots: kernel, initial RAM disk and command line, its own or an image's. */
import type { GuestConfig } from "../../../engine/domain/host.ts";
import { openImage } from "../../images/catalogue.ts";
import { writeSessionArchive } from "../../images/debian-shell.ts";
import type { DeepReadonly, LabData, MachineConfig } from "../store/schema.ts";
import { MachineError } from "./errors.ts";

/** Command line of a kernel that comes without one: its log on the Xen console. */
const PLAIN_COMMAND_LINE = "console=hvc0";

/** The file that machines of an image have their root disks over. */
export interface RootImage {
  readonly path: string;
  readonly format: "raw" | "qcow2";
  readonly virtualSize: number;
}

export interface Boot {
  readonly image: GuestConfig["image"];
  /** What the guest prints when it waits for a user, when that is known. */
  readonly prompt: string | undefined;
}

export interface BootOptions {
  readonly signal?: AbortSignal;
  readonly progress?: (text: string) => void;
  /** The terminal that shows the console. */
  readonly terminal?: { readonly rows: number; readonly columns: number } | undefined;
}

/** Images as machines need them; a test has one without a network. */
export interface BootImages {
  /** @throws ImageError, MachineError: one line with cause and remedy */
  boot(config: DeepReadonly<MachineConfig>, options: BootOptions): Promise<Boot>;
  /** The image's root disk; undefined for one that has none. @throws ImageError */
  rootImage(config: DeepReadonly<MachineConfig>, options: BootOptions): Promise<RootImage | undefined>;
}

/** An image of the catalogue or of the lab's own, in one shape. */
interface OpenedImage {
  readonly kernel: string;
  readonly initrd: GuestConfig["image"]["initrd"];
  readonly commandLine: string;
  readonly prompt: string | undefined;
}

type Archive = Uint8Array<ArrayBuffer>;

/** The kernel argument by which systemd takes the machine's name as the host's; other inits leave it alone. */
const hostArgument = (name: string): string => `systemd.hostname=${name.replace(/[^A-Za-z0-9-]+/g, "-")}`;

export class CatalogueImages implements BootImages {
  private readonly own: () => DeepReadonly<LabData>["images"];
  private readonly debianRoot: ((options: BootOptions) => Promise<RootImage>) | undefined;

  /**
   * @param own images that the lab's user has added
   * @param debianRoot makes the root disk of the image "debian"
   */
  constructor(own: () => DeepReadonly<LabData>["images"], debianRoot?: (options: BootOptions) => Promise<RootImage>) {
    this.own = own;
    this.debianRoot = debianRoot;
  }

  private async open(name: string, { signal, progress, terminal }: BootOptions): Promise<OpenedImage> {
    const own = this.own().find((image) => image.name === name);
    if (own !== undefined) {
      const { kernel, initrd, commandLine } = own;
      return { kernel, initrd: initrd === undefined ? [] : [{ path: initrd }], commandLine, prompt: undefined };
    }
    const image = await openImage(name, { ...(signal && { signal }), ...(progress && { progress }) });
    const archives: GuestConfig["image"]["initrd"] = [{ bytes: image.initramfs as Archive }];
    const session = terminal && writeSessionArchive({ terminal: { type: "xterm-256color", ...terminal } });
    if (session) archives.push({ bytes: session as Archive });
    const { kernel, commandLine, prompt } = image;
    return { kernel, initrd: archives, commandLine, prompt };
  }

  async boot(config: DeepReadonly<MachineConfig>, options: BootOptions): Promise<Boot> {
    const bringsAll = config.image === null || (config.kernel !== undefined && config.initrd !== undefined);
    const image = bringsAll || config.image === null ? undefined : await this.open(config.image, options);
    const kernel = config.kernel ?? image?.kernel;
    if (kernel === undefined) {
      throw new MachineError("failed", `${config.name} has neither a kernel nor an image`, "set one: domlab set image=…");
    }
    const initrd = config.initrd === undefined ? (image?.initrd ?? []) : [{ path: config.initrd }];
    const base = config.commandLine ?? image?.commandLine ?? PLAIN_COMMAND_LINE;
    const words = [base, image === undefined ? "" : hostArgument(config.name), config.extraArguments];
    const commandLine = words.filter((word) => word !== "").join(" ");
    return { image: { kernel: { path: kernel }, initrd, commandLine }, prompt: image?.prompt };
  }

  async rootImage(config: DeepReadonly<MachineConfig>, options: BootOptions): Promise<RootImage | undefined> {
    return config.image === "debian" ? await this.debianRoot?.(options) : undefined;
  }
}
