/**
 * What a lab's network is made of, as the toolstack describes it to the network driver domain: switches with their uplinks,
 * interfaces, and what is set for them. Everything here is plain data, checked where it enters a process.
 */
import { z } from "zod";
import { InputError } from "../errors/input-error.ts";

/** What is wrong with a network, an interface or one of their settings: one line with cause and remedy. */
export class LabNetworkError extends InputError<"bad-network"> {
  constructor(what: string, remedy: string, cause?: unknown) {
    super("bad-network", what, remedy, cause);
  }
}

/** Switch of an interface that names none. It is made when it is first wanted, with a `user` uplink. */
export const DEFAULT_SWITCH = "lab0";
/** Payload of a frame, bytes: smallest that IPv4 demands of a link, and the longest that an IP packet can be. */
export const LEAST_MTU = 68;
export const MOST_MTU = 65_521;
export const DEFAULT_MTU = 1500;
/** Most devices of one kind that a guest can have, so that a handle is a small number. */
export const MOST_VIFS = 64;
/** Queues that an interface may have. */
export const MOST_QUEUES = 8;

const port = z.int().min(1).max(65_535);
const mtu = z.int().min(LEAST_MTU).max(MOST_MTU);
const vlanTag = z.int().min(1).max(4094);
/** So many bytes in each interval of so many microseconds. */
const rate = z.strictObject({ bytes: z.int().min(1), intervalUs: z.int().min(1) });
/** Names go into paths of XenStore, and iptables' -i takes 15 bytes. */
const switchName = z.string().regex(/^[A-Za-z][A-Za-z0-9_-]{0,14}$/);

/** A port of the host that leads to one of a guest. */
export const forwardSchema = z.strictObject({
  protocol: z.enum(["tcp", "udp"]),
  hostAddress: z.string().max(64),
  hostPort: port,
  /** Empty: that of the switch's first interface. */
  guestAddress: z.string().max(64),
  guestPort: port,
});
export type ForwardConfig = z.infer<typeof forwardSchema>;

/** Where a switch leads to. Paths are absolute. */
export const uplinkSchema = z.discriminatedUnion("kind", [
  z.strictObject({ kind: z.literal("none") }),
  z.strictObject({
    kind: z.literal("user"),
    /** IPv4 network of the guests, as CIDR. */
    subnet: z.string().max(64).optional(),
    /** Ports of the host's loopback interface that guests reach at the gateway's address. */
    hostPorts: z.array(port).max(256).optional(),
  }),
  z.strictObject({
    kind: z.literal("tap"),
    /** Name of the host's interface; the host chooses one when there is none. */
    name: z.string().min(1).max(15).optional(),
    /** Bridge of the host that it joins. */
    bridge: z.string().min(1).max(15).optional(),
  }),
  z.strictObject({ kind: z.literal("socket"), path: z.string().max(1024), listen: z.boolean() }),
  z.strictObject({
    kind: z.literal("pcap"),
    /** File that gets the frames which leave the switch; a file whose frames enter it. */
    write: z.string().max(1024).optional(),
    play: z.string().max(1024).optional(),
  }),
  z.strictObject({ kind: z.literal("passt") }),
]);
export type UplinkConfig = z.infer<typeof uplinkSchema>;

export const switchSchema = z.strictObject({
  name: switchName,
  mtu: mtu.default(DEFAULT_MTU),
  /** Interfaces reach the uplink only, not each other. */
  isolated: z.boolean().default(false),
  /** Ports belong to VLANs (vlan= of an interface); otherwise tags pass unseen. */
  vlans: z.boolean().default(false),
  /** What may go to the uplink; interfaces that want more share it fairly. */
  uplinkRate: rate.optional(),
  uplink: uplinkSchema.default({ kind: "none" }),
});
export type SwitchConfig = z.infer<typeof switchSchema>;
/** A switch as a caller describes it. */
export type SwitchWish = z.input<typeof switchSchema>;

/** An interface of a guest. */
export const vifSchema = z.strictObject({
  /** "00:16:3e:…"; one is made up when there is none. */
  mac: z.string().max(17).optional(),
  /** Name of the switch. */
  bridge: z.string().max(15),
  /** Addresses that the guest may use; when there are none, any. */
  ips: z.array(z.string().max(64)).max(64).default([]),
  /** What the guest may send. */
  rate: rate.optional(),
  mtu: mtu.optional(),
  /** Most queues that the guest is offered. */
  queues: z.int().min(1).max(MOST_QUEUES).optional(),
  /** Whether its addresses are held to what is written here. */
  spoofing: z.boolean().default(false),
  /** Tag of its access VLAN, or tags that it carries as a trunk. */
  vlan: z.union([vlanTag, z.array(vlanTag).min(1).max(64)]).optional(),
  /** The guest is told of received frames when so many wait, or the oldest has waited for so many microseconds. */
  notify: z.strictObject({ frames: z.int().min(1).max(4096), us: z.int().min(0).max(1_000_000) }).optional(),
  /** Guest that serves it with a backend driver of its own. */
  backend: z.string().max(255).optional(),
  /** Number of the device, when the user chooses it. */
  handle: z
    .int()
    .min(0)
    .max(MOST_VIFS - 1)
    .optional(),
});
export type VifConfig = z.infer<typeof vifSchema>;
/** An interface as a caller describes it. */
export type VifWish = z.input<typeof vifSchema>;

/** Name of an interface, as in Xen: "vif1.0". */
export function vifName(frontendId: number, handle: number): string {
  return `vif${frontendId}.${handle}`;
}

/** Numbers in an interface's name; undefined for text that is none. */
export function parseVifName(text: string): { readonly frontendId: number; readonly handle: number } | undefined {
  const match = /^vif(\d{1,5})\.(\d{1,5})$/.exec(text);
  return match ? { frontendId: Number(match[1]), handle: Number(match[2]) } : undefined;
}

/** What a user sets for a switch or an interface while it runs; text in the languages of engine/network/policy. */
export const targetSettingsSchema = z.strictObject({
  /** Firewall, as lines that restore it. */
  rules: z.array(z.string().max(2048)).max(4096),
  /** Classes that are counted. */
  classes: z.array(z.string().max(2048)).max(1024),
  /** Impairments of what is delivered; empty for none. */
  impair: z.string().max(512),
  /** An interface's link is down. */
  down: z.boolean(),
});
export type TargetSettings = z.infer<typeof targetSettingsSchema>;
export const NO_SETTINGS: TargetSettings = { rules: [], classes: [], impair: "", down: false };
