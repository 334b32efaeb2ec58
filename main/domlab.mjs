#!/usr/bin/env node
/** The `domlab` command of a clone: brings the build up to date, then is the program. */
import { PrepareError, prepare } from "./prepare.mjs";

try {
  await prepare();
} catch (error) {
  if (!(error instanceof PrepareError)) throw error;
  process.stderr.write(`domlab: ${error.message}\n`);
  process.exit(2);
}
await import("../dist/main/cli.js");
