/** What all machines of a lab share. */
import type { LabStore } from "../store/store.ts";
import type { BootImages } from "./boot-image.ts";
import type { ImageTools } from "./image-tools.ts";
import type { LayerKeeper } from "./layer-keeper.ts";
import type { ImageLibrary } from "./library.ts";
import type { Machine } from "./machine.ts";
import type { MachineHost } from "./machine-host.ts";
import type { Operations } from "./operations.ts";

export interface MachineContext {
  readonly store: LabStore;
  readonly host: MachineHost;
  readonly images: ImageTools;
  readonly boot: BootImages;
  readonly layers: LayerKeeper;
  readonly library: ImageLibrary;
  readonly operations: Operations;
  readonly log: (line: string) => void;
  /** A machine's state or record has changed. */
  readonly changed: (id: string) => void;
  /** A guest of the machine runs: what is set for its devices is put in force. Never rejects. */
  readonly started: (machine: Machine, domid: number) => Promise<void>;
  /** The lab is ending: nothing is started any more. */
  readonly isQuitting: () => boolean;
}
