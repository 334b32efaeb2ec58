/** What a guest is besides its memory and its devices: CPU and hypervisor state, as one JSON document with a schema. */
import { z } from "zod";
import type { SavedDomain } from "../hypervisor/domain.ts";
import { checkSavedDomain } from "../hypervisor/saved-domain.ts";
import { type FramePlan, MAX_RAM_MIB } from "../memory/frame-plan.ts";
import { cpuStateSchema, hex64 } from "./cpu-state.ts";

const u8 = z.int().min(0).max(0xff);
const u32 = z.int().min(0).max(0xffffffff);
/** Domain time, ns. */
const time = z.number().min(0).max(Number.MAX_SAFE_INTEGER);
/** Of a timer that is set, which a guest may put anywhere. */
const deadline = z.number();
const MANY = 4096;

const vcpuSchema = z.strictObject({
  timers: z.strictObject({ singleshot: deadline.optional(), periodic: deadline.optional(), period: z.number().min(0) }),
  runstate: z.strictObject({
    state: z.enum(["running", "runnable", "blocked", "offline"]),
    entered: time,
    spent: z.strictObject({ running: time, runnable: time, blocked: time, offline: time }),
  }),
  apic: z.strictObject({
    stored: z.array(z.tuple([u8, hex64])).max(256),
    pageOnly: z.array(z.tuple([u8, u32])).max(256),
    requested: z.array(u8).max(256),
    serving: u8.optional(),
  }),
  upcallVector: u8,
  infoRegistered: z.boolean(),
  infoOffset: u32,
  runstateArea: z.strictObject({ address: hex64, narrow: z.boolean() }),
  timeArea: hex64,
  timeVersion: u32,
});

const portSchema = z.strictObject({
  port: z.int().min(1).max(4095),
  vcpu: u8,
  kind: z.literal([0, 1, 2, 3, 4, 5, 6]),
  domain: z.int().min(0).max(0x7fff),
  number: z.int().min(0).max(4095),
  toolstack: z.boolean(),
});

const domainSchema = z.strictObject({
  clock: time,
  wallclockNs: hex64,
  wallclockVersion: u32,
  narrow: z.boolean(),
  params: z.array(hex64).max(256),
  watchdogs: z.array(deadline.nullable()).max(16),
  grantFrames: z.int().min(1).max(64),
  specialFrames: z.array(z.tuple([u32, u32])).max(MANY),
  ports: z.array(portSchema).max(MANY),
  virqs: z.array(z.tuple([u32, u32])).max(MANY),
  physmap: z.array(z.strictObject({ frame: u32, count: u32, offset: u32, readOnly: z.boolean() })).max(1 << 20),
  vcpus: z.array(vcpuSchema).max(32),
}) satisfies z.ZodType<SavedDomain>;

/** What a vCPU sleeps for: HLT, SCHEDOP_block, SCHEDOP_poll (deadline in domain time, none: for ever). */
export const waitSchema = z.discriminatedUnion("kind", [
  z.strictObject({ kind: z.literal("halt") }),
  z.strictObject({ kind: z.literal("block") }),
  z.strictObject({
    kind: z.literal("poll"),
    ports: z.array(z.int().min(0).max(4095)).max(128),
    deadline: deadline.optional(),
  }),
]);

export const guestStateSchema = z.strictObject({
  memoryMiB: z.int().min(1).max(MAX_RAM_MIB),
  /** The domain's number then. */
  domid: z.int().min(1).max(0x7fef),
  /** Wall clock of the host when the guest was stopped, ms since the epoch. */
  stoppedAt: z.number().min(0),
  cpu: cpuStateSchema,
  wait: waitSchema.optional(),
  domain: domainSchema,
});

/** The document as JSON, and as it is used. */
export type GuestStateJson = z.input<typeof guestStateSchema>;
export type GuestState = z.output<typeof guestStateSchema>;

/** A document that cannot be a guest's: the reason. */
export class GuestStateError extends Error {
  constructor(reason: string) {
    super(reason);
    this.name = "GuestStateError";
  }
}

export function encodeGuestState(state: GuestState): GuestStateJson {
  return z.encode(guestStateSchema, state);
}

/**
 * Reads a document that may come from anywhere.
 * @param plan of the memory that it belongs to
 * @throws GuestStateError
 */
export function decodeGuestState(json: unknown, plan: FramePlan): GuestState {
  const parsed = guestStateSchema.safeParse(json);
  if (!parsed.success) {
    const [issue] = parsed.error.issues;
    throw new GuestStateError(`${issue?.path.join(".") ?? "it"}: ${issue?.message ?? "not as it should be"}`);
  }
  const problem = checkSavedDomain(parsed.data.domain, plan);
  if (problem !== undefined) throw new GuestStateError(problem);
  return parsed.data;
}
