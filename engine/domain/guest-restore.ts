/** Bringing a guest back from a snapshot file: what the file says, and the order in which its parts come to life. */
import { z } from "zod";
import { vbdDirectories } from "../device/block/vbd-nodes.ts";
import { vifDirectories } from "../device/net/vif-nodes.ts";
import { XenbusState } from "../device/xenbus/state.ts";
import { planFrames } from "../memory/frame-plan.ts";
import { damaged } from "../snapshot/errors.ts";
import { openSnapshot, type SnapshotFile } from "../snapshot/file-reader.ts";
import { decodeGuestState, type GuestState, GuestStateError } from "../snapshot/guest-state.ts";
import type { Xenstored } from "../xenstore/daemon.ts";
import { type SavedRing, savedRingSchema } from "../xenstore/relay.ts";
import { frontendNodes } from "../xenstore/save.ts";
import { type SavedStore, savedStoreSchema } from "../xenstore/saved-state.ts";
import type { GuestProcess } from "./guest.ts";
import { VbdError } from "./vbd-error.ts";
import type { AttachedVbd } from "./vbd-toolstack.ts";
import type { AttachedVif } from "./vif-toolstack.ts";
import type { Pause } from "./worker-protocol.ts";

const MIB = 1 << 20;
/** How long backends may take to connect to the rings of a restored guest. */
const CONNECT_WAIT_MS = 15_000;
/** How long after its restore a guest looks at the clock. */
const SUSPEND_DELAY_MS = 500;

const headerSchema = z.object({ guest: z.unknown(), ring: savedRingSchema, store: savedStoreSchema });

/** A snapshot file whose header has been read and believed; its memory has not been read yet. */
export interface OpenGuest {
  readonly file: SnapshotFile;
  readonly memoryMiB: number;
  /** Number that the guest had. */
  readonly domid: number;
  readonly state: GuestState;
  readonly ring: SavedRing;
  readonly store: SavedStore;
}

/** @throws SnapshotError one line with cause and remedy */
export async function openGuest(path: string): Promise<OpenGuest> {
  const file = await openSnapshot(path);
  try {
    const header = headerSchema.safeParse(file.header);
    if (!header.success) throw damaged(path, "what it says of the guest is malformed");
    const { guest, ring, store } = header.data;
    const state = stateOf(path, guest, file.ramBytes);
    return { file, memoryMiB: state.memoryMiB, domid: state.domid, state, ring, store };
  } catch (error) {
    await file.close();
    throw error;
  }
}

function stateOf(path: string, guest: unknown, ramBytes: number) {
  try {
    const state = decodeGuestState(guest, planFrames(ramBytes));
    if (state.memoryMiB * MIB !== ramBytes) throw new GuestStateError("its memory has two sizes");
    return state;
  } catch (error) {
    if (error instanceof GuestStateError || error instanceof RangeError) throw damaged(path, error.message);
    throw error;
  }
}

/** A device with its two directories, and the type and number that stand in them. */
interface RestoredDevice {
  readonly type: string;
  readonly number: number;
  readonly name: string;
  readonly frontend: string;
  readonly backend: string;
}

export function restoredDevices(vbds: readonly AttachedVbd[], vifs: readonly AttachedVif[]): RestoredDevice[] {
  return [
    ...vbds.map((vbd) => ({ type: "vbd", number: vbd.vdev, name: `disk ${vbd.vdev}`, ...vbdDirectories(vbd) })),
    ...vifs.map((vif) => ({ type: "vif", number: vif.handle, name: vif.name, ...vifDirectories(vif) })),
  ];
}

/**
 * Gives the frontends of a restored guest their nodes back, and waits for those backends that they were connected to.
 * @throws VbdError for one that does not connect
 */
export async function reconnectDevices(
  { toolstack }: Xenstored,
  id: number,
  saved: SavedStore,
  devices: readonly RestoredDevice[],
): Promise<void> {
  const connected = String(XenbusState.Connected);
  const waiting: Promise<void>[] = [];
  for (const device of devices) {
    const nodes = frontendNodes(saved, id, device);
    // The state last: it is what the backend waits for.
    const state = nodes.find((node) => node.path === `${device.frontend}/state`);
    toolstack.writeNodes(nodes.filter((node) => node !== state));
    if (state === undefined) continue;
    toolstack.writeNodes([state]);
    if (String(state.value) === connected) waiting.push(awaitBackend(toolstack, device));
  }
  await Promise.all(waiting);
}

async function awaitBackend(toolstack: Xenstored["toolstack"], { name, backend }: RestoredDevice): Promise<void> {
  const connected = String(XenbusState.Connected);
  const path = `${backend}/state`;
  // There is none any more when the guest has ended.
  await toolstack.waitFor(path, (state) => state === connected || state === undefined, CONNECT_WAIT_MS);
  if (toolstack.read(path) === connected) return;
  const error = toolstack.read(`${backend.replace("/backend/", "/error/backend/")}/error`);
  throw new VbdError(
    `the backend of ${name} does not take up the restored guest${error === undefined ? "" : ` (${error})`}`,
    "see the hypervisor's log of the machine",
  );
}

/** How a guest learns of the time that has passed: by a suspend of its own if it knows how to, or at once. */
export function timeAfterRestore({ toolstack }: Xenstored, id: number): Pause {
  const feature = toolstack.read(`/local/domain/${id}/control/feature-suspend`);
  return feature === "1" ? "restore-suspend" : "restore-jump";
}

/** Has a restored guest suspend itself when its user has got his answer: it takes the guest a moment. */
export function suspendSoon({ toolstack }: Xenstored, guest: Pick<GuestProcess, "id" | "exited">): void {
  // As a toolstack of Xen asks for it.
  const node = `/local/domain/${guest.id}/control/shutdown`;
  const timer = setTimeout(() => {
    // What somebody else has asked for since comes first.
    if (!toolstack.read(node)) toolstack.write(node, "suspend");
  }, SUSPEND_DELAY_MS);
  void guest.exited.then(() => clearTimeout(timer));
}
