/** The root disk of a disposable run: an overlay on the image's root file system that is gone with the run. */
import { rmSync } from "node:fs";
import path from "node:path";
import { createQcow2 } from "../engine/disk/image-tools/create.ts";
import type { VbdConfig } from "../engine/domain/vbd-toolstack.ts";
import { BadInput } from "./failure.ts";
import type { GuestImage } from "./images/catalogue.ts";
import type { RunOptions } from "./run-options.ts";
import type { StateFolder } from "./state-folder.ts";

/** Number of xvda, where images with a root disk expect it. */
const XVDA = 202 << 8;

export interface PrivateRoot {
  readonly disk: VbdConfig;
  remove(): void;
}

/**
 * Makes the root disk of a run, if the image boots from one and the user brings no initrd that replaces that.
 * @throws BadInput when a disk of the user's has its place; DiskError when there is no space
 */
export async function privateRoot(
  options: Pick<RunOptions, "disks" | "initrd">,
  image: GuestImage | undefined,
  folder: Pick<StateFolder, "path">,
): Promise<PrivateRoot | undefined> {
  const root = image?.root;
  if (image === undefined || root === undefined || options.initrd !== undefined) return undefined;
  if (options.disks.some(({ vdev }) => vdev === XVDA)) {
    const what = `xvda is the root disk of the image ${image.name}`;
    throw new BadInput("bad-option", what, "give yours another place, such as vdev=xvdb");
  }
  const overlay = path.join(folder.path, "root.qcow2");
  const remove = () => rmSync(overlay, { force: true });
  // A run that was killed has left its own.
  remove();
  await createQcow2(overlay, { backing: root });
  return {
    disk: {
      vdev: XVDA,
      store: { kind: "qcow2", path: overlay, readOnly: false, backing: [{ path: root.path, format: root.format }] },
      readOnly: false,
      deviceType: "disk",
      target: overlay,
      placement: "driver-domain",
      persistent: false,
    },
    remove,
  };
}
