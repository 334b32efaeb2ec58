/** The rows of the control table that are about networks (control-api.ts). */
import { z } from "zod";
import { networkCalls } from "../../engine/domain/network-calls.ts";

const nothing = z.strictObject({});
/** A switch or an interface. */
const target = z.string().max(64);
const text = z.string().max(8192);
/** Name of the guest that is meant; without it the first one. */
const machine = z.string().min(1).max(255).optional();

const vif = z.object({
  /** "vif1.0" */
  name: z.string(),
  frontendId: z.int(),
  handle: z.int(),
  mac: z.string(),
  bridge: z.string(),
  ips: z.array(z.string()),
  backendId: z.int(),
  /** Name of the backend's domain. */
  backend: z.string(),
  /** The backend's xenbus state, number and word; 0 when it has none. */
  state: z.int(),
  stateName: z.string(),
});
export type LabVif = z.infer<typeof vif>;

export const networkApi = {
  /** An interface in xl's syntax. */
  networkAttach: {
    parameters: z.strictObject({ vif: text, machine }),
    result: z.object({ name: z.string(), mac: z.string() }),
  },
  /** An interface by its number in the guest, its name or its address. */
  networkDetach: { parameters: z.strictObject({ vif: target, force: z.boolean(), machine }), result: nothing },
  networkList: { parameters: nothing, result: z.array(vif) },
  networkLink: { parameters: z.strictObject({ vif: target, up: z.boolean(), machine }), result: nothing },
  switchCreate: {
    parameters: z.strictObject({
      name: target,
      /** As main/network-option.ts reads it, and the folder that its paths belong to. */
      uplink: text,
      cwd: text,
      /** Text of the options of that name. */
      mtu: z.string().max(16).optional(),
      rate: z.string().max(64).optional(),
      isolated: z.boolean(),
      vlans: z.boolean(),
    }),
    result: nothing,
  },
  switchDelete: { parameters: z.strictObject({ name: target }), result: nothing },
  switchShow: { parameters: nothing, result: networkCalls.showSwitches.result },
  firewall: {
    parameters: z.strictObject({ target, command: text.optional() }),
    result: networkCalls.firewall.result,
  },
  account: {
    parameters: networkCalls.classes.argument,
    result: networkCalls.classes.result,
  },
  impair: { parameters: z.strictObject({ target, text: z.string().max(512) }), result: nothing },
  /** A forward as main/network-option.ts reads it. */
  forward: { parameters: z.strictObject({ name: target, forward: text, remove: z.boolean() }), result: nothing },
  networkLog: { parameters: networkCalls.log.argument, result: networkCalls.log.result },
  captureStart: {
    parameters: networkCalls.captureStart.argument.omit({ on: true, vif: true }).extend({ target }),
    result: networkCalls.captureStart.result,
  },
  captureCount: { parameters: networkCalls.captureCount.argument, result: networkCalls.captureCount.result },
  captureStop: { parameters: networkCalls.captureStop.argument, result: networkCalls.captureStop.result },
} as const;
