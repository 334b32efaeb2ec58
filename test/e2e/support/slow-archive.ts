/** Package tools that stand in for Debian's: an archive whose packages come half and then no further. */
import { chmodSync, mkdirSync, writeFileSync } from "node:fs";
import path from "node:path";

const KERNEL = "linux-image-6.1.0-1-cloud-amd64";
const SIZE = 1024 * 1024;

const tools: Readonly<Record<string, string>> = {
  "apt-cache": `echo '  Depends: ${KERNEL}'`,
  "apt-get": `case "$*" in
  *--print-uris*)
    for name in ${KERNEL} busybox-static; do echo "'http://127.0.0.1/$name' \${name}_1_amd64.deb ${SIZE} none"; done;;
  *) head -c ${SIZE} /dev/zero >${KERNEL}_1_amd64.deb; exec sleep 600;;
esac`,
};

/**
 * Puts the tools into `folder`.
 * @returns variables of the environment with which a lab uses them, and has no image yet
 */
export function slowArchive(folder: string): NodeJS.ProcessEnv {
  const bin = path.join(folder, "bin");
  mkdirSync(bin, { recursive: true });
  for (const [name, script] of Object.entries(tools)) {
    const file = path.join(bin, name);
    writeFileSync(file, `#!/bin/sh\n${script}\n`);
    chmodSync(file, 0o755);
  }
  return { PATH: `${bin}${path.delimiter}${process.env.PATH ?? ""}`, DOMLAB_CACHE: path.join(folder, "cache") };
}
