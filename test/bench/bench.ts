/** `npm run bench -- boot|cpu|block|net|snapshot|app [-n rounds] [--memory MiB]` or `-- crash [--rounds n]`: measures and prints one JSON object on standard output. */
import os from "node:os";
import { Command } from "commander";
import { benchApp } from "./app.ts";
import { benchBlock } from "./block.ts";
import { benchBoot } from "./boot.ts";
import { benchCpu } from "./cpu.ts";
import { benchCrash } from "./crash.ts";
import { benchNet } from "./net.ts";
import { benchSnapshot } from "./snapshot.ts";

const bench = new Command("bench").description("Measures Domlab; prints JSON with the raw samples.");

function add(
  name: string,
  text: string,
  rounds: string,
  action: (rounds: number, memory: number) => Promise<object>,
  memory = "512",
) {
  bench
    .command(name)
    .description(text)
    .option("-n <rounds>", "samples of each kind", rounds)
    .option("--memory <MiB>", "guest memory", memory)
    .action(async (options: { n: string; memory: string }) => {
      const result = await action(Number(options.n), Number(options.memory));
      const host = { node: process.version, cpu: os.cpus()[0]?.model, cores: os.cpus().length, load: os.loadavg()[0] };
      process.stdout.write(`${JSON.stringify({ ...result, host }, null, 2)}\n`);
    });
}

add("boot", "seconds from process start to the shell prompt, beside QEMU (TCG, microvm)", "5", benchBoot);
add("cpu", "guest MIPS at boot and on three loads, and memory", "3", benchCpu);
add("block", "block devices: TypeScript frontend, and Linux beside QEMU (virtio-blk)", "3", benchBlock);
add("net", "network: TypeScript frontends on a switch, and Linux beside QEMU (virtio-net)", "3", benchNet);
add("snapshot", "live snapshots of a guest with 100 MB in use, and restores", "5", benchSnapshot, "256");
add("app", "the served interface in Chromium: start, input while a console is flooded, memory", "3", benchApp);

bench
  .command("crash")
  .description("Kills the lab server in the middle of random operations; ends with status 1 at the first loss.")
  .option("--rounds <rounds>", "kills", "300")
  .option("--seed <seed>", "of the random numbers, to repeat a failure", String(Date.now() % 1_000_000))
  .option("--kill-ms <ms>", "most milliseconds from the first operation to the kill; more on a busy host", "300")
  .action(async (options: { rounds: string; seed: string; killMs: string }) => {
    const result = await benchCrash(Number(options.rounds), Number(options.seed), Number(options.killMs));
    process.stdout.write(`${JSON.stringify(result, null, 2)}\n`);
  });

try {
  await bench.parseAsync();
} catch (error) {
  process.stderr.write(`bench: ${error instanceof Error ? error.message : String(error)}\n`);
  process.exitCode = 1;
}
