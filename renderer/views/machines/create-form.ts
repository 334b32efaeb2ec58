/** What the create dialog's fields mean to the lab. */
import { parseBytes } from "../../lib/format.ts";
import type { Parameters } from "../../lib/rpc/client.ts";

export interface Form {
  name: string;
  image: string;
  memory: string | number;
  rootSize: string;
  extraDisk: string;
  bridge: string;
  placement: string;
  group: string;
  start: boolean;
}

/** The call's parameters, or what is wrong in one line. The lab checks everything else. */
export function wishOf(form: Form, hasRootDisk: boolean): Parameters<"machineCreate"> | string {
  const rootSize = form.rootSize.trim() === "" ? undefined : parseBytes(form.rootSize);
  if (form.rootSize.trim() !== "" && rootSize === undefined) {
    return `${form.rootSize} is not a size for the root disk; write 20G, say`;
  }
  const extra = form.extraDisk.trim() === "" ? undefined : parseBytes(form.extraDisk);
  if (form.extraDisk.trim() !== "" && extra === undefined) {
    return `${form.extraDisk} is not a size for the other disk; write 10G, say`;
  }
  return {
    config: {
      name: form.name,
      image: form.image,
      memoryMiB: Number(form.memory),
      group: form.group,
      vifs: form.bridge === "" ? [] : [{ bridge: form.bridge }],
    },
    ...(hasRootDisk && rootSize !== undefined && { rootSize }),
    ...(extra !== undefined && { newDisks: [{ vdev: hasRootDisk ? "xvdb" : "xvda", size: extra }] }),
  };
}
