/** NBD addresses as users write them: URIs (NetworkBlockDevice/nbd, doc/uri.md) and QEMU's older "nbd:host:port". */
import { DiskError } from "../errors.ts";
import type { NbdSpec, TlsSpec } from "../spec.ts";
import { DEFAULT_PORT } from "./protocol.ts";

/** What an address says about the server and its export. */
export type NbdTarget = Pick<NbdSpec, "address" | "export" | "tls" | "deadlineSeconds">;

const EXAMPLE = "write nbd://host:port/export, nbds://host/export or nbd+unix:///export?socket=/path";
const PARAMETERS = ["socket", "tls-ca", "tls-certificate", "tls-key", "tls-hostname", "tls-verify-peer", "deadline"];

function bad(text: string, why: string): DiskError {
  return new DiskError("bad-nbd-address", `${text} ${why}`, EXAMPLE);
}

/** Whether a disk's target is an NBD address. */
export function isNbdAddress(text: string): boolean {
  return /^(nbds?(\+unix)?:\/\/|nbd:)/.test(text);
}

function port(text: string, digits: string): number {
  const value = /^\d{1,5}$/.test(digits) ? Number(digits) : 0;
  if (value < 1 || value > 65_535) throw bad(text, `names the port ${digits || "(none)"}, which is none`);
  return value;
}

/** nbd:host:port[:exportname=name] and nbd:unix:/path[:exportname=name]. */
function parseOld(text: string): NbdTarget {
  const [, place = "", name = ""] = /^nbd:(.*?)(?::exportname=(.*))?$/.exec(text) ?? [];
  if (place.startsWith("unix:") && place.length > 5) return { address: { socket: place.slice(5) }, export: name };
  const parts = /^(\[[^\]]+\]|[^:]+):([^:]*)$/.exec(place);
  if (!parts) throw bad(text, "is no NBD address");
  return { address: { host: parts[1]!.replace(/^\[|\]$/g, ""), port: port(text, parts[2]!) }, export: name };
}

function tlsOf(query: URLSearchParams): TlsSpec {
  const value = (name: string) => query.get(name) || undefined;
  const [ca, certificate, key, serverName] = [
    value("tls-ca"),
    value("tls-certificate"),
    value("tls-key"),
    value("tls-hostname"),
  ];
  return {
    ...(ca !== undefined && { ca }),
    ...(certificate !== undefined && { certificate }),
    ...(key !== undefined && { key }),
    ...(serverName !== undefined && { serverName }),
    ...(query.get("tls-verify-peer") === "0" && { verify: false }),
  };
}

/**
 * Reads an NBD address. Besides the standard's parameters: tls-ca, tls-certificate, tls-key (PEM files) and deadline
 * (seconds that a request waits for a server that is gone).
 * @throws DiskError "bad-nbd-address"
 */
export function parseNbdAddress(text: string): NbdTarget {
  if (!text.includes("://")) return parseOld(text);
  const parts = /^nbd(s?)(\+unix)?:\/\/(\[[^\]]*\]|[^/?#:]*)(?::([^/?#]*))?(?:\/([^?#]*))?(?:\?([^#]*))?$/.exec(text);
  if (!parts) throw bad(text, "is no NBD address");
  const [, secure, unix, authority = "", digits, path = "", queryText = ""] = parts;
  const query = new URLSearchParams(queryText.replaceAll("+", "%2B"));
  const unknown = [...query.keys()].find((name) => !PARAMETERS.includes(name));
  if (unknown !== undefined) throw bad(text, `has the parameter ${unknown}, which is none of ${PARAMETERS.join(", ")}`);
  const deadline = query.get("deadline");
  if (deadline !== null && !(Number(deadline) > 0 && Number(deadline) <= 86_400)) {
    throw bad(text, `has the deadline ${deadline}, which is no number of seconds up to 86400`);
  }
  const socket = query.get("socket");
  if (unix && !socket) throw bad(text, "names no socket");
  if (!unix && authority === "") throw bad(text, "names no host");
  const address = unix
    ? { socket: socket! }
    : {
        host: authority.replace(/^\[|\]$/g, ""),
        port: digits === undefined ? DEFAULT_PORT : port(text, digits),
      };
  let name: string;
  try {
    name = decodeURIComponent(path);
  } catch {
    throw bad(text, "has an export name with a broken % in it");
  }
  return {
    address,
    export: name,
    ...(secure && { tls: tlsOf(query) }),
    ...(deadline !== null && { deadlineSeconds: Number(deadline) }),
  };
}
