/** Interfaces of a machine in its configuration and in its running guest, changed together. */
import type { MachineSummary } from "../../../../main/lab/machine-api.ts";
import { call } from "../../../lib/rpc/client.ts";
import { attachText, type VifConfig } from "./vif-wish.ts";

const sameMac = (a: string | undefined, b: string | undefined) => a?.toLowerCase() === b?.toLowerCase();

async function storedVifs(machine: string): Promise<VifConfig[]> {
  const { config } = await call("machineShow", { machine });
  return (config.vifs ?? []) as unknown as VifConfig[];
}

async function storeVifs(machine: string, vifs: readonly VifConfig[]): Promise<string[]> {
  return (await call("machineSet", { machine, settings: [`vifs=${JSON.stringify(vifs)}`] })).notes;
}

/** Gives a machine an interface, its guest too when it runs. @throws LabError; nothing has changed then */
export async function addInterface({ id, name, domid }: MachineSummary, vif: VifConfig): Promise<void> {
  if (domid === undefined) {
    await storeVifs(id, [...(await storedVifs(id)), vif]);
    return;
  }
  const attached = await call("networkAttach", { vif: attachText(vif), machine: name });
  try {
    await storeVifs(id, [...(await storedVifs(id)), { ...vif, mac: attached.mac }]);
  } catch (error) {
    await call("networkDetach", { vif: attached.name, force: true, machine: name }).catch(() => {});
    throw error;
  }
}

/**
 * Takes an interface away, from the guest too when it runs.
 * @param live its name there
 * @throws LabError
 */
export async function removeInterface(
  { id, name }: MachineSummary,
  mac: string | undefined,
  live: string | undefined,
  force: boolean,
): Promise<void> {
  if (live !== undefined) await call("networkDetach", { vif: live, force, machine: name });
  const stored = await storedVifs(id);
  await storeVifs(
    id,
    stored.filter((vif) => !sameMac(vif.mac, mac)),
  );
}

/** Puts other settings in the place of an interface's. @returns notes for the user */
export async function changeInterface(machine: string, mac: string | undefined, vif: VifConfig): Promise<string[]> {
  const stored = await storedVifs(machine);
  return await storeVifs(
    machine,
    stored.map((each) => (sameMac(each.mac, mac) ? vif : each)),
  );
}
