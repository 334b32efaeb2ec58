/** Programs that are read from a disk into pages where others were executed before: the CPU must not run what it knew. */
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { imageDisk, xvd } from "../disk-config.ts";
import { DiskLab, type ShellGuest } from "./shell-guest.ts";
import { directCaller, letterPage, letterProgram } from "./tiny-program.ts";

const MIB = 1 << 20;
const ROUNDS = 50;
const LETTERS = ["A", "B", "C"];
const DISKS = ["xvda", "xvdb"];

const lab = new DiskLab();
let guest: ShellGuest;

beforeAll(async () => {
  const programs = [
    ...LETTERS.map((letter, i) => ({ name: letter, data: letterProgram(letter, 10 + i) })),
    ...DISKS.map((name) => ({ name, data: directCaller(`/dev/${name}`, LETTERS.length, 3 * ROUNDS) })),
  ];
  const files = programs.map(
    ({ name, data }) => ({ kind: "file", path: `program-${name}`, data, mode: 0o755 }) as const,
  );
  const image = new Uint8Array(4 * MIB);
  for (const [i, letter] of LETTERS.entries()) image.set(letterPage(letter), i * 4096);
  const disks = (["driver-domain", "hypervisor"] as const).map((placement, i) =>
    imageDisk(lab.image(`${placement}.img`, image), { vdev: xvd(i), placement }),
  );
  // Little memory: pages are reused soon. Nor does the kernel clear them first, as that write would be noticed.
  guest = await lab.start({ name: "coherent", memoryMiB: 128, disks, files, parameters: "init_on_alloc=0" });
  await guest.ready();
});
afterAll(() => lab.end());

describe.each(DISKS)("code on %s", (name) => {
  it("is executed as it was read last, into the same page", async () => {
    expect(await guest.output(`/program-${name}`)).toBe("ABC".repeat(ROUNDS));
  });

  it("is executed as the disk has it, in whichever pages it comes to lie", async () => {
    const said = await guest.output(
      `mke2fs -F /dev/${name} >/dev/null 2>&1; mount -t ext4 /dev/${name} /mnt
      for letter in ${LETTERS.join(" ")}; do cp /program-$letter /mnt/$letter; done; sync
      i=0
      while [ $i -lt ${ROUNDS} ]; do
        for letter in ${LETTERS.join(" ")}; do
          echo 3 >/proc/sys/vm/drop_caches
          status=0; said=$(/mnt/$letter) || status=$?
          echo $said $status
        done
        i=$((i+1))
      done
      umount /mnt`,
      120_000,
    );
    expect(said).toBe("A 10\nB 11\nC 12\n".repeat(ROUNDS));
  });
});
