/**
 * What blkback's XenStore side and the threads that serve rings tell each other. Everything here is plain data, so that
 * the two may live on different threads.
 */
import type { DeviceIdentity, DeviceResult } from "../xenbus/backend-device.ts";
import type { BlockProtocolName } from "./protocol.ts";

/** Which device; fixed for its life. */
export interface VbdIdentity extends DeviceIdentity {
  /** Names the device, and its in-flight region, across restarts of the backend: "vbd/<frontend>/<vdev>". */
  readonly key: string;
  readonly vdev: number;
}

/** What a device is to serve, from the toolstack's nodes. */
export interface VbdSpecification extends VbdIdentity {
  readonly readOnly: boolean;
  readonly deviceType: string;
  /** `discard-enable`. */
  readonly discard: boolean;
  readonly persistent: boolean;
  readonly params: string;
  /** The JSON of the node domlab-store, as the toolstack wrote it; undefined when there is none. */
  readonly store: unknown;
}

/** What an opened device is like: the keys that the backend publishes. */
export interface VbdFacts {
  /** Bytes. */
  readonly size: number;
  readonly sectorSize: number;
  readonly physicalSectorSize: number;
  readonly readOnly: boolean;
  readonly discard: { readonly granularity: number; readonly alignment: number; readonly secure: boolean } | undefined;
}

export interface BlockRingGrants {
  /** Grant references of the ring's pages, in order; a power of two of them. */
  readonly refs: readonly number[];
  /** The frontend's port. */
  readonly eventChannel: number;
}

/** A frontend's checked transport parameters: numbers in range, but the grants and ports may still be anything. */
export interface BlockChannel extends VbdIdentity {
  readonly protocol: BlockProtocolName;
  readonly rings: readonly BlockRingGrants[];
  /** Both sides want persistent grants. */
  readonly persistent: boolean;
  readonly readOnly: boolean;
  /** Whether the backend offers discard. */
  readonly discard: boolean;
  /**
   * An earlier life of the backend may have attached already: adopt the bound ports, mapped grants and requests in flight
   * that are there, and begin anew where nothing is.
   */
  readonly resume: boolean;
}

export type VbdResult<T> = DeviceResult<T>;

/** Who opens images and serves rings for a blkback. Calls about one device never overlap. */
export interface VbdService {
  /** Opens the device's image. Called again after close(), not before. */
  open(device: VbdSpecification): Promise<VbdResult<VbdFacts>>;
  /** Maps the rings, binds the ports and serves from now on. After a failure nothing is left attached. */
  attach(channel: BlockChannel): Promise<VbdResult<void>>;
  /**
   * Finishes what is in flight, unmaps everything and closes the ports: also what an earlier life of the backend left, and
   * also when nothing is attached.
   */
  detach(device: VbdIdentity): Promise<void>;
  /** Closes the image. */
  close(device: VbdIdentity): Promise<void>;
}
