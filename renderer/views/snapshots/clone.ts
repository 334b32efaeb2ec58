/** What a clone of a snapshot is called, and where it can be plugged in. */
import type { MachineDetails } from "../../../main/lab/machine-api.ts";

/** Most characters of a machine's name. */
const MOST_MACHINE_NAME = 64;

/** "web-clean-install": a machine's name takes letters, digits, dots, hyphens and underscores only. */
export function cloneName(machine: string, snapshot: string): string {
  const safe = snapshot
    .toLowerCase()
    .replace(/[^a-z0-9._-]+/g, "-")
    .replace(/^[-._]+|[-._]+$/g, "");
  // Room for a number behind it.
  return `${machine}-${safe || "clone"}`.slice(0, MOST_MACHINE_NAME - 4).replace(/[-._]+$/, "");
}

/** A name for a new switch: "clones", or with a number behind it. */
export function freeSwitch(switches: readonly string[]): string {
  let name = "clones";
  for (let number = 2; switches.includes(name); number++) name = `clones${number}`;
  return name;
}

/** The switches that a machine's interfaces are on, each once. */
export function switchesOf(config: MachineDetails["config"]): string[] {
  const vifs = Array.isArray(config.vifs) ? config.vifs : [];
  const bridges = vifs.flatMap((vif) =>
    typeof vif === "object" && vif !== null && !Array.isArray(vif) && typeof vif.bridge === "string"
      ? [vif.bridge]
      : [],
  );
  return [...new Set(bridges)];
}
