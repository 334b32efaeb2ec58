/** The control functions of a lab that is one host with its guests. */

import { vbdDirectories } from "../../engine/device/block/vbd-nodes.ts";
import { parseVdev, vdevName } from "../../engine/device/block/vdev.ts";
import { parseXenbusState, xenbusStateName } from "../../engine/device/xenbus/state.ts";
import type { Host } from "../../engine/domain/host.ts";
import { parseDisk, vbdConfig } from "../disk-option.ts";
import { BadInput } from "../failure.ts";
import type { HostFunctions, LabDisk, LabGuest } from "./control-api.ts";
import { type NetworkHost, networkControl } from "./network-control.ts";

/** A guest as its owner knows it; the host knows its disks. */
export type KnownGuest = Omit<LabGuest, "disks">;

/** What is needed of the host; a test has a smaller one. */
export type ControlHost = NetworkHost &
  Pick<Host, "attachDisk" | "detachDisk" | "vbdStatistics"> & {
    readonly vbds: Pick<Host["vbds"], "list">;
    readonly xenstore: { readonly toolstack: Pick<Host["xenstore"]["toolstack"], "read"> };
  };

const nameOf = (vdev: number): string => vdevName(vdev) ?? String(vdev);

function listDisks(host: ControlHost): LabDisk[] {
  const { toolstack } = host.xenstore;
  return host.vbds.list().map((device) => {
    const state = parseXenbusState(toolstack.read(`${vbdDirectories(device).backend}/state`));
    return {
      vdev: device.vdev,
      name: nameOf(device.vdev),
      frontendId: device.frontendId,
      backendId: device.backendId,
      backend: toolstack.read(`/local/domain/${device.backendId}/name`) ?? String(device.backendId),
      state,
      stateName: xenbusStateName(state),
      mode: device.readOnly ? "r" : "w",
      target: device.target,
    };
  });
}

/**
 * @param lab name of the lab
 * @param guests its guests at this moment; commands about devices mean the one that is named, or the first
 */
export function hostControl(lab: string, host: ControlHost, guests: () => readonly KnownGuest[]): HostFunctions {
  const theGuest = (name?: string): number => {
    const first = guests().find((guest) => name === undefined || guest.name === name || String(guest.id) === name);
    if (first === undefined && name !== undefined) {
      throw new BadInput("bad-option", `no guest ${name} of ${lab} is running`, "domlab list shows those that run");
    }
    if (first === undefined) throw new BadInput("bad-option", `the guest of ${lab} is not running yet`, "try again");
    return first.id;
  };
  return {
    list: () => ({
      lab,
      pid: process.pid,
      guests: guests().map((guest) => ({
        ...guest,
        disks: host.vbds.list(guest.id).map((device) => nameOf(device.vdev)),
      })),
    }),
    blockAttach: async ({ disk, cwd, machine }) => {
      const option = parseDisk(disk, cwd);
      await host.attachDisk(theGuest(machine), vbdConfig(option));
      return { vdev: option.vdev, name: option.name };
    },
    blockDetach: async ({ vdev, force, machine }) => {
      const number = parseVdev(vdev);
      if (number === undefined) {
        throw new BadInput("bad-option", `"${vdev}" names no disk`, "domlab block-list shows those of the guest");
      }
      await host.detachDisk(theGuest(machine), number, force);
      return {};
    },
    blockList: () => listDisks(host),
    ...networkControl(host, theGuest),
    blockStatistics: () => host.vbdStatistics().map((device) => ({ ...device, name: nameOf(device.vdev) })),
  };
}
