/** What netback's XenStore side and whoever serves the rings tell each other. Everything here is plain data. */
import type { DeviceIdentity, DeviceResult } from "../xenbus/backend-device.ts";
import type { FrameAcceptance } from "./receive-ring.ts";

/** Which interface; fixed for its life. */
export interface VifIdentity extends DeviceIdentity {
  /** Names the interface, and its regions, across restarts of the backend: "vif/<frontend>/<handle>". */
  readonly key: string;
  readonly handle: number;
}

/** What an interface is to be, from the toolstack's nodes. */
export interface VifSpecification extends VifIdentity {
  /** Lower case, "00:16:3e:xx:xx:xx"; checked. */
  readonly mac: string;
  readonly bridge: string;
  readonly ips: readonly string[];
  readonly mtu: number | undefined;
  /** xl's rate in XenStore's form, "<bytes>,<microseconds>", unchecked. */
  readonly rate: string | undefined;
  /** The JSON of the node domlab-vif, as the toolstack wrote it; undefined when there is none. */
  readonly settings: unknown;
}

/** What an opened interface is like. */
export interface VifFacts {
  /** Pages can be exchanged with this guest: feature-rx-flip. */
  readonly flip: boolean;
  /** Queues that it is offered, below those that the backend offers to all. */
  readonly queues?: number;
}

/** A queue's grants and the frontend's ports; one port for both rings unless the channels are split. */
export interface NetQueueGrants {
  readonly transmitRef: number;
  readonly receiveRef: number;
  readonly transmitPort: number;
  readonly receivePort: number;
}

/** A frontend's checked transport parameters: numbers in range, but the grants and ports may still be anything. */
export interface NetChannel extends VifIdentity {
  readonly queues: readonly NetQueueGrants[];
  readonly accepts: FrameAcceptance;
  /** feature-rx-notify: the frontend tells when it has given receive buffers. */
  readonly tells: boolean;
  /** How the guest gets frames: copied into its buffers, or by exchange of pages. */
  readonly receive: "copy" | "flip";
  readonly multicastControl: boolean;
  /**
   * An earlier life of the backend may have attached already: adopt the bound ports, mapped rings and journals that are
   * there, and begin anew where nothing is.
   */
  readonly resume: boolean;
}

export type VifResult<T> = DeviceResult<T>;

/** Who has switches and serves rings for a netback. Calls about one interface never overlap. */
export interface VifService {
  /** Makes the interface's port on its switch. Called again after close(), not before. */
  open(vif: VifSpecification): Promise<VifResult<VifFacts>>;
  /** Maps the rings, binds the ports and serves from now on. After a failure nothing is left attached. */
  attach(channel: NetChannel): Promise<VifResult<void>>;
  /** The attached frontend wants only the multicast addresses of its list from now on, or all. */
  setMulticastControl(vif: VifIdentity, enabled: boolean): void;
  /** Unmaps everything and closes the ports: also what an earlier life left, and also when nothing is attached. */
  detach(vif: VifIdentity): Promise<void>;
  /** Takes the port off its switch. */
  close(vif: VifIdentity): Promise<void>;
}
