import { benchLinux } from "./net/linux.ts";
import { benchSwitch } from "./net/switch.ts";

/**
 * Network devices: a switch with TypeScript frontends, and stock Linux guests beside QEMU; `rounds` samples of each. Nothing
 * leaves the host.
 */
export async function benchNet(rounds: number, memoryMiB: number): Promise<object> {
  const typescript = await benchSwitch(rounds);
  return { bench: "net", typescript, linux: await benchLinux(rounds, memoryMiB) };
}
