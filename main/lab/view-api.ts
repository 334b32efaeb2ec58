/**
 * The rows of the control table by which a user looks around (control-api.ts): the host, logs, the network,
 * configurations.
 */
import { z } from "zod";
import { forwardSchema, switchSchema } from "../../engine/domain/network-config.ts";

const nothing = z.strictObject({});
const bytes = z.int().nonnegative();
const machineName = z.string().min(1).max(128);
const counters = z.record(z.string(), z.number());
const machineRef = z.object({ id: z.string(), name: z.string() });

const hostCheck = z.object({
  /** "disk-space" */
  id: z.string(),
  title: z.string(),
  ok: z.boolean(),
  /** What follows if it is not: nothing works without it, or something does not work. */
  severity: z.enum(["blocks", "limits"]),
  cause: z.string().optional(),
  remedy: z.string().optional(),
});
export type HostCheck = z.infer<typeof hostCheck>;

const port = z.object({
  /** "vif1.0" */
  name: z.string(),
  /** Absent for a guest that is no machine of the lab. */
  machine: machineRef.optional(),
  domid: z.int().optional(),
  mac: z.string().optional(),
  /** Addresses that it is set to have. */
  ips: z.array(z.string()),
  /** MAC addresses that were heard from there. */
  learnt: z.array(z.string()),
  up: z.boolean(),
  /** Tag of its access VLAN, or tags of a trunk. */
  vlan: z.union([z.int(), z.array(z.int())]).optional(),
  counters,
  impair: z.string(),
  /** Rules of its firewall that were set. */
  rules: z.int(),
});

const topologySwitch = switchSchema.extend({
  uplinkProblem: z.string().optional(),
  uplinkCounters: counters,
  ports: z.array(port),
  forwards: z.array(forwardSchema.extend({ problem: z.string().optional() })),
  rules: z.int(),
  impair: z.string(),
});

/** An interface of a machine that does not run. */
const restingInterface = z.object({
  machine: machineRef,
  /** Place among the machine's interfaces. */
  index: z.int(),
  bridge: z.string(),
  mac: z.string().optional(),
  ips: z.array(z.string()),
  vlan: z.union([z.int(), z.array(z.int())]).optional(),
});

const topology = z.object({ switches: z.array(topologySwitch), resting: z.array(restingInterface) });
export type Topology = z.infer<typeof topology>;

/** Bytes of a capture that are kept; it stops growing there. */
export const MOST_CAPTURE_BYTES = 2 ** 30;

const captured = z.object({ frames: z.number(), dropped: z.number() });

export const viewApi = {
  /** What does not work on this host, before it fails. */
  hostChecks: { parameters: nothing, result: z.array(hostCheck) },
  /**
   * A piece of a log, at most `bytes` (256 KiB unless said) from `offset` on: from the end backwards when there is
   * none. An offset behind the end begins anew: the log was put aside meanwhile.
   */
  logRead: {
    parameters: z.strictObject({
      which: z.union([
        z.literal("lab"),
        z.strictObject({ machine: machineName, log: z.enum(["console", "hypervisor", "crash"]) }),
      ]),
      offset: bytes.optional(),
      bytes: z
        .int()
        .min(1)
        .max(1 << 20)
        .optional(),
    }),
    /** The next piece begins at offset + bytes; `end` is how long the log is. */
    result: z.object({ offset: bytes, bytes, text: z.string(), end: bytes }),
  },
  topology: { parameters: nothing, result: topology },
  /**
   * Frames that pass a switch or an interface, kept in a pcapng file until captureClose() or the end of the
   * connection.
   */
  captureOpen: {
    parameters: z.strictObject({
      target: z.string().max(64),
      /** In pcap-filter's language. */
      filter: z.string().max(4096).optional(),
      /** Bytes of each frame that are kept; 0 or absent: all. */
      snapLength: z.int().min(0).max(262_144).optional(),
    }),
    result: z.object({ capture: z.int() }),
  },
  captureRead: {
    parameters: z.strictObject({
      capture: z.int(),
      offset: bytes,
      bytes: z
        .int()
        .min(1)
        .max(1 << 20)
        .optional(),
    }),
    /** `full`: it has reached MOST_CAPTURE_BYTES and takes no more frames. */
    result: captured.extend({ offset: bytes, data: z.base64(), end: bytes, full: z.boolean() }),
  },
  /** Ends it: its file is complete then, and stays to be read until captureClose(). */
  captureEnd: { parameters: z.strictObject({ capture: z.int() }), result: captured },
  /** Ends it and removes the file. */
  captureClose: { parameters: z.strictObject({ capture: z.int() }), result: captured },
  /** What is wrong with a configuration, without making anything; for a machine that is there when one is named. */
  machineCheckConfig: {
    parameters: z.strictObject({ config: z.record(z.string(), z.json()), machine: machineName.optional() }),
    result: z.object({
      ok: z.boolean(),
      /** Where ("disks.0.vdev"; empty: the whole), and a line with cause and remedy. */
      problems: z.array(z.object({ path: z.string(), line: z.string() })),
      /** Settings that differ from the running machine's and count from its next start. */
      restart: z.array(z.string()),
      /** The configuration with its defaults, when nothing is wrong with its form. */
      defaults: z.record(z.string(), z.json()).optional(),
    }),
  },
} as const;
