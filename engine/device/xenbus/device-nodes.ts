/**
 * The nodes that the toolstack writes for every split device, as libxl does. All functions are pure; the caller writes the
 * list in one transaction, in its order, and removes both directories to take the device away.
 */

/** Which device of which kind, and who serves it to whom. */
export interface DevicePlace {
  readonly type: "vbd" | "vif";
  readonly frontendId: number;
  readonly backendId: number;
  /** The device's number in the guest. */
  readonly number: number;
}

/** A node to write, and its permissions in perm-as-string form (docs/misc/xenstore.txt). */
export interface StoreNode {
  readonly path: string;
  readonly value: string;
  readonly permissions: readonly string[];
}

/** A key of a device's directory, and who can read it; left out: both ends. */
export type DeviceKey = readonly [key: string, value: string, readers?: KeyReaders];
export type KeyReaders = "both" | "backend";

/** Both directories of a device, absolute. */
export interface DeviceDirectories {
  readonly frontend: string;
  readonly backend: string;
}

export function deviceDirectories({ type, frontendId, backendId, number }: DevicePlace): DeviceDirectories {
  return {
    frontend: `/local/domain/${frontendId}/device/${type}/${number}`,
    backend: `/local/domain/${backendId}/backend/${type}/${frontendId}/${number}`,
  };
}

/** A key that is there if it has a value. */
export function optionalKey(key: string, value: string | undefined, readers: KeyReaders = "both"): DeviceKey[] {
  return value === undefined ? [] : [[key, value, readers]];
}

/** The nodes of a new device, parents first; `backendKeys` and `frontendKeys` are those of its kind. */
export function deviceNodes(
  place: DevicePlace,
  backendKeys: readonly DeviceKey[],
  frontendKeys: readonly DeviceKey[],
): StoreNode[] {
  const { frontend, backend } = deviceDirectories(place);
  const { frontendId, backendId } = place;
  const frontendPermissions = [`n${frontendId}`, `r${backendId}`];
  const backendPermissions = [`n${backendId}`, `r${frontendId}`];
  const front: DeviceKey[] = [["backend", backend], ["backend-id", String(backendId)], ...frontendKeys, ["state", "1"]];
  const back: DeviceKey[] = [
    ["frontend", frontend],
    ["frontend-id", String(frontendId)],
    ["online", "1"],
    ...backendKeys,
    // The last: a backend that scans while the nodes are being written starts with what is complete.
    ["state", "1"],
  ];
  return [
    { path: frontend, value: "", permissions: frontendPermissions },
    ...front.map(([key, value]) => ({ path: `${frontend}/${key}`, value, permissions: frontendPermissions })),
    { path: backend, value: "", permissions: backendPermissions },
    ...back.map(([key, value, readers]) => ({
      path: `${backend}/${key}`,
      value,
      permissions: readers === "backend" ? [`n${backendId}`] : backendPermissions,
    })),
  ];
}

/**
 * What the toolstack writes to ask for a device's removal (libxl__initiate_device_generic_remove): the backend then closes,
 * and its state reaches 6 when the directories may be removed.
 */
export function deviceDetachNodes(place: DevicePlace): { readonly path: string; readonly value: string }[] {
  const { backend } = deviceDirectories(place);
  return [
    { path: `${backend}/online`, value: "0" },
    { path: `${backend}/state`, value: "5" },
  ];
}
