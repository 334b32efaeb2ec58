/** What follows when a guest ends: on_poweroff, on_reboot and on_crash of xl.cfg(5), with a brake on crash loops. */
import type { DomainExit } from "../../../engine/domain/config.ts";
import type { DeepReadonly, MachineConfig } from "../store/schema.ts";

/** What a user asked of the guest, which goes before the policies. */
export type Wish = "stop" | "reboot" | "destroy" | "suspend" | undefined;

export type Aftermath =
  /** It is off. */
  | { readonly next: "stop"; readonly message?: string }
  | { readonly next: "restart"; readonly message?: string }
  /** It stays as it ended, until destroy or start. */
  | { readonly next: "keep"; readonly message: string };

type Policies = Pick<DeepReadonly<MachineConfig>, "onPoweroff" | "onReboot" | "onCrash">;

/** How a bad end is told. */
function badEnd(exit: DomainExit, crashReport: string): string {
  if (exit.reason === "crash") return `crashed (${exit.cause}); registers and last console lines are in ${crashReport}`;
  return exit.reason === "killed" ? `its process ended unexpectedly (${exit.cause})` : "";
}

function byPolicy(policy: MachineConfig["onCrash"], message: string): Aftermath {
  if (policy === "restart") return { next: "restart", ...(message !== "" && { message }) };
  if (policy === "preserve") return { next: "keep", message: message || "has ended and is kept as it was" };
  return { next: "stop", ...(message !== "" && { message }) };
}

/** @param crashReport where a crash is told in full */
export function aftermathOf(exit: DomainExit, wish: Wish, policies: Policies, crashReport: string): Aftermath {
  if (wish === "destroy" || wish === "suspend") return { next: "stop" };
  const bad = badEnd(exit, crashReport);
  if (bad !== "") return byPolicy(policies.onCrash, bad);
  if (wish === "stop") return { next: "stop" };
  if (wish === "reboot") return { next: "restart" };
  return byPolicy(exit.reason === "reboot" ? policies.onReboot : policies.onPoweroff, "");
}

/** A run that was shorter counts as one of a loop. */
const SHORT_RUN_MS = 10_000;
const FIRST_DELAY_MS = 1000;
const LONGEST_DELAY_MS = 60_000;
/** So many short runs in a row, and it is not started again. */
const MOST_SHORT_RUNS = 8;

/** Waits longer before each restart of a guest that ends soon after its start, and gives up in the end. */
export class RestartBrake {
  private shortRuns = 0;

  /**
   * @param ranMs how long the guest ran
   * @returns milliseconds to wait before it is started again; undefined: not again
   */
  next(ranMs: number): number | undefined {
    if (ranMs >= SHORT_RUN_MS) {
      this.shortRuns = 0;
      return 0;
    }
    this.shortRuns++;
    if (this.shortRuns > MOST_SHORT_RUNS) return undefined;
    // One quick reboot is common: an installer does it.
    if (this.shortRuns === 1) return 0;
    return Math.min(LONGEST_DELAY_MS, FIRST_DELAY_MS * 2 ** (this.shortRuns - 2));
  }

  /** A user started it: the count begins anew. */
  reset(): void {
    this.shortRuns = 0;
  }
}
