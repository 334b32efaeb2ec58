/** CONTROL: what an administrator may ask the daemon itself. The answers are text for people. */
import type { ErrnoName } from "../abi/errors.ts";
import type { Xenstored } from "./daemon.ts";
import { parseDomain } from "./permissions.ts";
import { encodeStrings } from "./protocol.ts";
import { isQuotaName } from "./quota.ts";

function quota(daemon: Xenstored, [first, name, value, ...more]: readonly string[]): string | ErrnoName {
  if (first === undefined) {
    return Object.entries(daemon.quotas)
      .map(([key, limit]) => `${key}: ${limit}\n`)
      .join("");
  }
  if (first === "set") {
    if (!isQuotaName(name) || !/^[0-9]{1,9}$/.test(value ?? "") || more.length > 0) return "EINVAL";
    daemon.quotas[name] = Number(value);
    return "OK";
  }
  const domain = parseDomain(first);
  if (domain === undefined || name !== undefined) return "EINVAL";
  const usage = daemon.usage(domain);
  if (usage === undefined) return "ENOENT";
  return Object.entries(usage)
    .map(([key, used]) => `${key}: ${used}\n`)
    .join("");
}

/** Performs a control command. */
export function control(daemon: Xenstored, [command, ...parameters]: readonly string[]): Uint8Array | ErrnoName {
  switch (command) {
    case "help":
      return encodeStrings(["help\ncheck\nquota [set <name> <value>|<domid>]\n"]);
    case "check": {
      const faults = daemon.check();
      return encodeStrings([faults.length === 0 ? "OK" : faults.join("\n")]);
    }
    case "quota": {
      const text = quota(daemon, parameters);
      return /^E[A-Z0-9]+$/.test(text) ? (text as ErrnoName) : encodeStrings([text]);
    }
    default:
      return "EINVAL";
  }
}
