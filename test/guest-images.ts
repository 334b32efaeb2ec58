/**
 * Puts the guest images into the cache. `npm test` starts this beside its first steps, so that the images are there when the
 * tests that boot them begin: making `debian` takes a minute. Those tests wait for it, or make it where this has failed.
 */
import { setPriority } from "node:os";
import { imageNames, openImage } from "../main/images/catalogue.ts";
import { ImageError } from "../main/images/errors.ts";

/** Behind the tests, some of which measure time, but not so far that they have to wait for the image. */
const NICENESS = 5;

const stop = new AbortController();
for (const signal of ["SIGTERM", "SIGINT", "SIGHUP"] as const) process.once(signal, () => stop.abort());
// The tools that this process starts have it from here.
setPriority(NICENESS);
try {
  for (const name of imageNames) await openImage(name, { signal: stop.signal });
} catch (error) {
  if (!(error instanceof ImageError)) throw error;
  if (error.code !== "cancelled") process.stderr.write(`domlab: no guest images for the tests: ${error.message}\n`);
  process.exitCode = 1;
}
