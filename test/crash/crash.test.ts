/** The lab server is killed again and again, at whatever moment; `npm run bench -- crash` does it hundreds of times. */
import { spawnSync } from "node:child_process";
import { expect, it } from "vitest";
import { CrashRounds } from "./rounds.ts";

const ROUNDS = Number(process.env.DOMLAB_CRASH_ROUNDS ?? 8);
const LIMIT_MS = 25_000;
/** A day has its own seed, so that the rounds of many days differ and each can be repeated. */
const seed = Number(process.env.DOMLAB_CRASH_SEED ?? Math.floor(Date.now() / 86_400_000));
const hasQemu = ["qemu-img", "qemu-io"].every((name) => spawnSync(name, ["--version"]).status === 0);

it.skipIf(!hasQemu)(
  "a lab that is killed loses nothing that it has answered, and has nothing by halves",
  async () => {
    const result = await new CrashRounds({ seed, rounds: ROUNDS, limitMs: LIMIT_MS }).run();
    expect(result.rounds).toBeGreaterThan(0);
    expect(result.answered).toBeGreaterThan(0);
  },
  60_000,
);
