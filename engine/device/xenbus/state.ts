/**
 * The states of a split device's two halves (xen/include/public/io/xenbus.h) and what each half does when it sees the
 * other's: blkif.h's two-column start-up and shut-down diagram as two tables.
 *
 * The tables are about levels, not edges: a half looks at both states as they are now and takes one step. So it does not
 * matter how many changes a peer made in between, and a peer that toggles fast only makes the same step come up again.
 */

/** enum xenbus_state. */
export const XenbusState = {
  Unknown: 0,
  Initialising: 1,
  /** Finished early initialisation; waits for the peer's or the hotplug's information. */
  InitWait: 2,
  /** Waits for the peer to connect. */
  Initialised: 3,
  Connected: 4,
  /** The device is going away because of an error or a hot-unplug. */
  Closing: 5,
  Closed: 6,
  Reconfiguring: 7,
  Reconfigured: 8,
} as const;

export type XenbusState = (typeof XenbusState)[keyof typeof XenbusState];
export type XenbusStateName = keyof typeof XenbusState;

const NAMES = Object.keys(XenbusState) as XenbusStateName[];
const VALUES = Object.values(XenbusState);

export function xenbusStateName(state: XenbusState): XenbusStateName {
  return NAMES[state] ?? "Unknown";
}

/** A `state` node's value; a missing node, and anything but one digit from 0 to 8, is Unknown. */
export function parseXenbusState(text: string | undefined): XenbusState {
  if (text === undefined || !/^[0-8]$/.test(text)) return XenbusState.Unknown;
  return VALUES[Number(text)] ?? XenbusState.Unknown;
}

/**
 * What a backend does next.
 *
 * - publish: open the device, write features and transport parameters, go to InitWait
 * - connect: read the frontend's transport parameters, map its rings, go to Connected
 * - closing: stop serving, go to Closing
 * - closed: stop serving, go to Closed
 * - reopen: the frontend starts over; with the device still online, publish again
 * - reconnect: the frontend has started over already, and did not wait for us; with the device still online, connect
 * - finished: the device is closed; when it is offline too, forget it
 * - illegal: the frontend is in a state that this protocol has no use for; report it and go to Closing
 */
export type BackendStep =
  | "wait"
  | "publish"
  | "connect"
  | "closing"
  | "closed"
  | "reopen"
  | "reconnect"
  | "finished"
  | "illegal";

/**
 * What a frontend does next.
 *
 * - negotiate: read the backend's features, allocate rings, publish them, go to Initialised
 * - connect: read the device's properties, go to Connected
 * - refresh: connected, and the backend has written its state again: the properties may have changed (a resize)
 * - close: give up the rings, go to Closed
 * - restart: the old connection is over and the backend is still there: go to Initialising
 * - illegal: as for the backend
 */
export type FrontendStep = "wait" | "negotiate" | "connect" | "refresh" | "close" | "restart" | "illegal";

type Row<Step> = readonly [Step, Step, Step, Step, Step, Step, Step, Step, Step];

/** Columns: the frontend's state, Unknown…Reconfigured. Unknown means that its directory is gone or holds nonsense. */
// biome-ignore format: a table
const BACKEND: Readonly<Record<XenbusStateName, Row<BackendStep>>> = {
  //               Unknown     Initialising  InitWait   Initialised  Connected  Closing    Closed      Reconfiguring / -ed
  Unknown:       ["finished",  "finished",   "finished", "finished", "finished", "finished", "finished", "finished", "finished"],
  Initialising:  ["closed",    "publish",    "publish",  "publish",  "publish",  "publish",  "publish",  "illegal",  "illegal"],
  InitWait:      ["closed",    "wait",       "illegal",  "connect",  "connect",  "closing",  "closed",   "illegal",  "illegal"],
  Initialised:   ["closed",    "wait",       "illegal",  "connect",  "connect",  "closing",  "closed",   "illegal",  "illegal"],
  // A frontend that starts over without closing (another kernel booted in the domain) loses its old connection.
  Connected:     ["closed",    "closed",     "illegal",  "wait",     "wait",     "closing",  "closed",   "illegal",  "illegal"],
  // A frontend that never connected has nothing to give back: nobody waits for it.
  Closing:       ["closed",    "closed",     "closed",   "wait",     "wait",     "wait",     "closed",   "closed",   "closed"],
  // A driver that is bound again at once may have read what we were before it closed, and gone on by that. Linux's backends connect too.
  Closed:        ["finished",  "reopen",     "finished", "reconnect", "reconnect", "finished", "finished", "finished", "finished"],
  Reconfiguring: ["closed",    "illegal",    "illegal",  "illegal",  "illegal",  "closing",  "closed",   "illegal",  "illegal"],
  Reconfigured:  ["closed",    "illegal",    "illegal",  "illegal",  "illegal",  "closing",  "closed",   "illegal",  "illegal"],
};

/** Columns: the backend's state. */
// biome-ignore format: a table
const FRONTEND: Readonly<Record<XenbusStateName, Row<FrontendStep>>> = {
  //               Unknown  Initialising  InitWait     Initialised  Connected    Closing  Closed     Reconfiguring / -ed
  Unknown:       ["close",  "close",      "close",     "close",     "close",     "close", "close",   "close",   "close"],
  // Closed is what the backend shows before it notices that we start over.
  Initialising:  ["wait",   "wait",       "negotiate", "negotiate", "negotiate", "close", "wait",    "illegal", "illegal"],
  InitWait:      ["close",  "illegal",    "illegal",   "illegal",   "illegal",   "close", "close",   "illegal", "illegal"],
  Initialised:   ["close",  "wait",       "wait",      "wait",      "connect",   "close", "close",   "illegal", "illegal"],
  // A backend that went back to its beginning has forgotten our rings.
  Connected:     ["close",  "close",      "close",     "close",     "refresh",   "close", "close",   "wait",    "wait"],
  Closing:       ["close",  "close",      "close",     "close",     "close",     "close", "close",   "close",   "close"],
  Closed:        ["wait",   "wait",       "restart",   "wait",      "wait",      "wait",  "restart", "wait",    "wait"],
  Reconfiguring: ["close",  "illegal",    "illegal",   "illegal",   "illegal",   "close", "close",   "illegal", "illegal"],
  Reconfigured:  ["close",  "illegal",    "illegal",   "illegal",   "illegal",   "close", "close",   "illegal", "illegal"],
};

/** The step of a backend in state `own` that sees its frontend in state `peer`. */
export function backendStep(own: XenbusState, peer: XenbusState): BackendStep {
  return BACKEND[xenbusStateName(own)][peer];
}

/**
 * Whether a frontend has closed and begun anew between two looks at it: from Closing none goes back to what it had, nor from
 * Connected to Initialised.
 */
export function startedOver(before: XenbusState, now: XenbusState): boolean {
  if (now === XenbusState.Initialised) return before === XenbusState.Closing || before === XenbusState.Connected;
  return now === XenbusState.Connected && before === XenbusState.Closing;
}

/** The step of a frontend in state `own` that sees its backend in state `peer`. */
export function frontendStep(own: XenbusState, peer: XenbusState): FrontendStep {
  return FRONTEND[xenbusStateName(own)][peer];
}
