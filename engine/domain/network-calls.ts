/**
 * What the host asks of the network driver domain: one table of calls, with the shapes of their arguments and results, checked
 * on both sides of the pipe.
 */
import { z } from "zod";
import { forwardSchema, switchSchema } from "./network-config.ts";

/** Begins a line of the host's log that comes from a firewall's: there may be many of them. */
export const PACKET_LOG = "packet: ";

const nothing = z.strictObject({});
/** Name of a switch, and of an interface. */
const name = z.string().max(64);
/** A switch, or an interface on it. */
const target = z.strictObject({ on: name, vif: name.optional() });
const frontendId = z.int().min(0).max(0x7fef);
const counts = z.record(z.string(), z.number());

const forwardState = forwardSchema.extend({
  /** Why the host's port is not open; absent when it is. */
  problem: z.string().optional(),
});

const learned = z.object({
  mac: z.string(),
  vlan: z.number(),
  port: z.string(),
  /** Seconds since it was heard; 0 for one that never ages. */
  age: z.number(),
  fixed: z.boolean(),
});

const portState = z.object({
  name: z.string(),
  up: z.boolean(),
  /** What was counted at this port: frames, bytes, drops by reason. */
  counters: counts,
  impair: z.string(),
});

const switchState = switchSchema.extend({
  ports: z.array(portState),
  addresses: z.array(learned),
  /** What the uplink says of itself, and what it counted. */
  uplinkState: z.record(z.string(), z.json()),
  uplinkCounters: counts,
  /** Why the uplink does not work; absent when it does. */
  uplinkProblem: z.string().optional(),
  forwards: z.array(forwardState),
});
export type SwitchState = z.infer<typeof switchState>;

const classCount = z.object({ name: z.string(), rule: z.string(), packets: z.number(), bytes: z.number() });
export type ClassCount = z.infer<typeof classCount>;

const logLine = z.object({
  /** Counts up from 1; never used twice in one life of the domain. */
  number: z.int(),
  /** Milliseconds since 1970. */
  time: z.number(),
  /** The switch that it is about. */
  on: z.string(),
  text: z.string(),
});
export type LogLine = z.infer<typeof logLine>;

const captureCounts = z.object({ frames: z.number(), dropped: z.number() });
export type CaptureCounts = z.infer<typeof captureCounts>;

export const networkCalls = {
  /** Makes a switch and opens its uplink. */
  createSwitch: { argument: switchSchema, result: nothing },
  /** Closes the uplink. Interfaces must be gone. */
  deleteSwitch: { argument: z.strictObject({ name }), result: nothing },
  showSwitches: { argument: nothing, result: z.array(switchState) },
  /** Applies a command in iptables' terms; without one nothing changes. */
  firewall: {
    argument: target.extend({ command: z.string().max(2048).optional() }),
    result: z.object({
      /** Lines that restore the rules, and a listing with counters. */
      rules: z.array(z.string()),
      listing: z.string(),
    }),
  },
  /** Adds or removes a class that is counted on a switch. */
  classes: {
    argument: z.strictObject({
      name,
      add: z.string().max(2048).optional(),
      remove: z.string().max(64).optional(),
      reset: z.boolean().optional(),
    }),
    result: z.object({
      /** Lines that restore the classes. */
      classes: z.array(z.string()),
      counts: z.array(classCount),
    }),
  },
  /** Impairs what an interface is delivered; an empty text ends that. */
  impair: { argument: z.strictObject({ vif: name, text: z.string().max(512) }), result: nothing },
  /** Takes an interface's link down, or up again. */
  link: { argument: z.strictObject({ vif: name, up: z.boolean() }), result: nothing },
  /** Forgets what was set for an interface. */
  forget: { argument: z.strictObject({ on: name, vif: name }), result: nothing },
  addForward: {
    argument: z.strictObject({
      name,
      forward: forwardSchema,
      /** Address of the interface that is meant when the forward names none. */
      mac: z.string().max(17).optional(),
    }),
    /** With the guest's address filled in. */
    result: forwardSchema,
  },
  removeForward: { argument: z.strictObject({ name, forward: forwardSchema }), result: nothing },
  /**
   * Leaves a guest's rings and pages alone, and takes no steps with its interfaces. What it is sent meanwhile waits for a
   * moment, then it is dropped.
   */
  hold: { argument: z.strictObject({ frontendId }), result: nothing },
  /** Serves a held guest again. `held` false: it was not held, as the domain has been started anew. */
  release: { argument: z.strictObject({ frontendId }), result: z.strictObject({ held: z.boolean() }) },
  /** The guest is about to end: its interfaces may be let go of, and nothing that is in its rings is served any more. */
  abandon: { argument: z.strictObject({ frontendId }), result: nothing },
  /** Lines of the firewall's log after a number. */
  log: { argument: z.strictObject({ after: z.int() }), result: z.array(logLine) },
  captureStart: {
    argument: target.extend({
      file: z.string().max(4096),
      filter: z.string().max(4096),
      snapLength: z.int().min(0),
    }),
    result: z.object({ id: z.int() }),
  },
  /** What was captured so far. A capture that nobody asks about ends by itself. */
  captureCount: { argument: z.strictObject({ id: z.int() }), result: captureCounts },
  captureStop: { argument: z.strictObject({ id: z.int() }), result: captureCounts },
} as const;

export type NetworkMethod = keyof typeof networkCalls;
export type NetworkArgument<Method extends NetworkMethod> = z.infer<(typeof networkCalls)[Method]["argument"]>;
export type NetworkResult<Method extends NetworkMethod> = z.infer<(typeof networkCalls)[Method]["result"]>;

/** What the driver domain implements. */
export type NetworkFunctions = {
  readonly [Method in NetworkMethod]: (
    argument: NetworkArgument<Method>,
  ) => NetworkResult<Method> | Promise<NetworkResult<Method>>;
};
