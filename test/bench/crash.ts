import { CrashRounds } from "../crash/rounds.ts";

/**
 * Kills the lab server at random moments of random operations, `rounds` times; see test/crash/.
 * @param killMs most milliseconds until it is killed
 */
export async function benchCrash(rounds: number, seed: number, killMs: number): Promise<object> {
  process.stderr.write(`seed ${seed}\n`);
  const progress = (line: string) => void process.stderr.write(`${line}\n`);
  const result = await new CrashRounds({ seed, rounds, killMs, progress }).run();
  return { bench: "crash", ...result };
}
