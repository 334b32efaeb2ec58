/** How checks of the host are shown. */
import type { HostCheck } from "../../../main/lab/view-api.ts";

/** What is wrong first, and of that what blocks everything; otherwise as the lab lists them. */
export function orderedChecks(checks: readonly HostCheck[]): HostCheck[] {
  const rank = ({ ok, severity }: HostCheck) => (ok ? 2 : severity === "blocks" ? 0 : 1);
  return [...checks].sort((a, b) => rank(a) - rank(b));
}

export function wordOf({ ok, severity }: HostCheck): { tone: "ok" | "warn" | "bad"; word: string } {
  if (ok) return { tone: "ok", word: "works" };
  return severity === "blocks" ? { tone: "bad", word: "blocks" } : { tone: "warn", word: "lacks" };
}
