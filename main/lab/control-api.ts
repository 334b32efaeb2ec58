/**
 * What a running lab can be asked through its control socket. One table: methods with the shapes of their parameters and
 * results, checked on both ends of the socket. A new ability is a new row; servers and clients follow from it.
 */
import { z } from "zod";
import { appRows } from "./app-rows.ts";
import { type LabEvent, machineApi } from "./machine-api.ts";
import { networkApi } from "./network-api.ts";

const domid = z.int().nonnegative();
/** Name of the guest that is meant; without it the first one. */
const machine = z.string().min(1).max(255).optional();

const guest = z.object({
  id: domid,
  name: z.string(),
  /** Process that runs it. */
  pid: z.int(),
  memoryMiB: z.number(),
  /** Names of its disks ("xvda"). */
  disks: z.array(z.string()),
});

const disk = z.object({
  /** Virtual-device number, and its name ("xvda"). */
  vdev: z.int(),
  name: z.string(),
  frontendId: domid,
  backendId: domid,
  /** Name of the backend's domain. */
  backend: z.string(),
  /** The backend's xenbus state, number and word; 0 when it has none. */
  state: z.int(),
  stateName: z.string(),
  mode: z.enum(["r", "w"]),
  /** As the user wrote it. */
  target: z.string(),
});

const statistics = z.object({
  vdev: z.int(),
  name: z.string(),
  frontendId: domid,
  /** engine/device/block/counters.ts */
  counters: z.record(z.string(), z.number()),
});

const nothing = z.strictObject({});

/** What every lab can do that runs guests. */
export const hostApi = {
  list: {
    parameters: nothing,
    result: z.object({ lab: z.string(), pid: z.int(), guests: z.array(guest) }),
  },
  blockAttach: {
    /** A disk in xl's syntax, and the folder that a relative target belongs to. */
    parameters: z.strictObject({ disk: z.string().max(8192), cwd: z.string().max(8192), machine }),
    result: z.object({ vdev: z.int(), name: z.string() }),
  },
  blockDetach: {
    /** A vdev as xl takes it: "xvda" or a number. */
    parameters: z.strictObject({ vdev: z.string().max(64), force: z.boolean(), machine }),
    result: nothing,
  },
  blockList: { parameters: nothing, result: z.array(disk) },
  blockStatistics: { parameters: nothing, result: z.array(statistics) },
  ...networkApi,
} as const;

/** All of it; a lab without persistent machines (domlab run) knows only the rows of hostApi. */
export const controlApi = { ...hostApi, ...machineApi, ...appRows } as const;

export type HostMethod = keyof typeof hostApi;
export type ControlMethod = keyof typeof controlApi;
export type ControlParameters<Method extends ControlMethod> = z.infer<(typeof controlApi)[Method]["parameters"]>;
export type ControlResult<Method extends ControlMethod> = z.infer<(typeof controlApi)[Method]["result"]>;

/** The connection that a call came over. */
export interface ControlSession {
  /** Sends an event. A client that leaves too much unread is disconnected. */
  send(event: LabEvent): void;
  /** Calls `listener` once, when the connection has ended; at once if it has. */
  onEnd(listener: () => void): void;
}

type Functions<Method extends ControlMethod> = {
  readonly [Each in Method]: (
    parameters: ControlParameters<Each>,
    session: ControlSession,
  ) => ControlResult<Each> | Promise<ControlResult<Each>>;
};
/** What a lab of guests implements. */
export type HostFunctions = Functions<HostMethod>;
/** What the lab of persistent machines implements besides. */
export type MachineFunctions = Functions<keyof typeof machineApi>;
/** What it implements for the desktop app. */
export type AppFunctions = Functions<keyof typeof appRows>;
export type ControlFunctions = HostFunctions & Partial<MachineFunctions> & Partial<AppFunctions>;

export function isControlMethod(name: string): name is ControlMethod {
  return Object.hasOwn(controlApi, name);
}

export type LabGuest = z.infer<typeof guest>;
export type LabDisk = z.infer<typeof disk>;
export type LabStatistics = z.infer<typeof statistics>;

/** What travels back: the result, or one line for the user and the exit status that goes with it. */
export const controlAnswer = z.union([
  z.object({ ok: z.literal(true), result: z.unknown() }),
  z.object({ ok: z.literal(false), line: z.string(), status: z.int() }),
]);
export type ControlAnswer = z.infer<typeof controlAnswer>;

/** The one function that a server offers on the wire. */
export interface ControlWire {
  call(method: string, parameters: unknown): Promise<ControlAnswer>;
}

/** The one that a client offers: it takes events. */
export interface EventWire {
  event(event: unknown): void;
}
