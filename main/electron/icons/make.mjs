/**
 * Makes the icons of packages from icon.svg, which is the renderer's icon as well: `node main/electron/icons/make.mjs`. Needs
 * rsvg-convert (librsvg2-bin) or convert (imagemagick).
 */
import { spawnSync } from "node:child_process";
import path from "node:path";

const here = import.meta.dirname;
const source = path.join(here, "icon.svg");

/** Side lengths that Linux desktops look for; macOS and Windows get theirs from the largest. */
const SIZES = [16, 32, 48, 64, 128, 256, 512];

/** Commands that draw the icon, the best first. */
const drawers = (size, file) => [
  ["rsvg-convert", ["-w", String(size), "-h", String(size), "-o", file, source]],
  [
    "convert",
    ["-background", "none", "-density", "1152", source, "-resize", `${size}x${size}`, "-strip", `PNG32:${file}`],
  ],
];

for (const size of SIZES) {
  const file = path.join(here, `${size}x${size}.png`);
  const made = drawers(size, file).some(
    ([command, args]) => spawnSync(command, args, { stdio: "inherit" }).status === 0,
  );
  if (!made) {
    process.stderr.write(
      "domlab: neither rsvg-convert nor convert could draw the icon; apt-get install librsvg2-bin\n",
    );
    process.exit(1);
  }
}
