/** Every message type of the protocol and what answers it (docs/misc/xenstore.txt). Types not here are ENOSYS. */
import type { ErrnoName } from "../abi/errors.ts";
import { XS_FEATURES, XS_PAYLOAD_MAX, XsType } from "../abi/xs-wire.ts";
import type { Connection } from "./connection.ts";
import { control } from "./control.ts";
import type { Xenstored } from "./daemon.ts";
import * as operations from "./operations.ts";
import { homeOf, parsePath } from "./path.ts";
import { formatPermission, parseDomain, parsePermissions, renumber } from "./permissions.ts";
import { decodeText, encodeStrings, encodeText, type Message, strings } from "./protocol.ts";
import { DEFAULT_QUOTAS, isQuotaName } from "./quota.ts";

/** Payload of a successful reply, or the name of an error. */
export type Reply = Uint8Array | ErrnoName;

/** A request and where it came from. */
export interface Request {
  readonly daemon: Xenstored;
  readonly connection: Connection;
  readonly message: Message;
  /** The payload as NUL-terminated strings; empty if it is something else. */
  readonly texts: readonly string[];
}

interface Entry {
  readonly answer: (request: Request) => Reply;
  /** Only for domain 0. */
  readonly privileged?: boolean;
}

const OK = encodeStrings(["OK"]);

function done(error: ErrnoName | undefined): Reply {
  return error ?? OK;
}

/** The one string of the payload, or undefined. */
function only({ texts }: Request): string | undefined {
  return texts.length === 1 ? texts[0] : undefined;
}

function write(request: Request): Reply {
  const { payload } = request.message;
  const end = payload.indexOf(0);
  if (end < 0) return "EINVAL";
  const path = decodeText(payload.subarray(0, end));
  return request.connection.perform(request.message, path, (scope, at) =>
    done(operations.write(scope, at, payload.slice(end + 1))),
  );
}

function directory(request: Request): Reply {
  return request.connection.perform(request.message, only(request), (scope, path) => {
    const found = operations.directory(scope, path);
    if (typeof found === "string") return found;
    const names = encodeStrings(found.names);
    return names.length > XS_PAYLOAD_MAX ? "E2BIG" : names;
  });
}

/** Whole names from the offset on, as many as fit; an empty one more says that the list ends here. */
function directoryPart(request: Request): Reply {
  const [path, start, ...more] = request.texts;
  if (start === undefined || !/^[0-9]{1,9}$/.test(start) || more.length > 0) return "EINVAL";
  return request.connection.perform(request.message, path, (scope, at) => {
    const found = operations.directory(scope, at);
    if (typeof found === "string") return found;
    const generation = `${found.generation}\0`;
    const list = found.names.map((name) => `${name}\0`).join("");
    const rest = list.slice(Number(start));
    if (generation.length + rest.length < XS_PAYLOAD_MAX) return encodeText(`${generation}${rest}\0`);
    const part = rest.slice(0, XS_PAYLOAD_MAX - generation.length);
    return encodeText(generation + part.slice(0, part.lastIndexOf("\0") + 1));
  });
}

function setPermissions(request: Request): Reply {
  const [path, ...entries] = request.texts;
  const named = parsePermissions(entries);
  if (named === undefined) return "EINVAL";
  const { aliases } = request.connection.record;
  const permissions = renumber(named, (domain) => aliases.meant(domain));
  const perform = (scope: operations.Scope, at: readonly string[]) =>
    done(operations.setPermissions(scope, at, permissions));
  return request.connection.perform(request.message, path, perform, true);
}

function getPermissions(request: Request): Reply {
  const answer = (scope: operations.Scope, path: readonly string[]): Reply => {
    const node = operations.read(scope, path);
    if (typeof node === "string") return node;
    const { aliases } = request.connection.record;
    return encodeStrings(renumber(node.permissions, (domain) => aliases.shown(domain)).map(formatPermission));
  };
  return request.connection.perform(request.message, only(request), answer, true);
}

/** Runs an action for the domain that the first of `count` strings names. */
function withDomain(count: number, action: (request: Request, domain: number) => Reply): (request: Request) => Reply {
  return (request) => {
    const domain = parseDomain(request.texts[0]);
    return domain === undefined || request.texts.length !== count ? "EINVAL" : action(request, domain);
  };
}

function introduce(request: Request): Reply {
  const [first, frame, port, ...more] = request.texts;
  const domain = parseDomain(first);
  if (domain === undefined || domain === 0 || more.length > 1) return "EINVAL";
  if (!/^-?[0-9]{1,19}$/.test(frame ?? "") || !/^[0-9]{1,10}$/.test(port ?? "")) return "EINVAL";
  request.daemon.introduceDomain(domain);
  return OK;
}

function getFeature(request: Request): Reply {
  const { daemon, connection, texts } = request;
  if (texts.length === 0 || (texts.length === 1 && texts[0] === "")) {
    const features = connection.actor.privileged ? XS_FEATURES : daemon.domain(connection.domain).features;
    return encodeStrings([String(features)]);
  }
  if (!connection.actor.privileged) return "EACCES";
  const domain = parseDomain(only(request));
  if (domain === undefined) return "EINVAL";
  return encodeStrings([String(daemon.find(domain)?.features ?? XS_FEATURES)]);
}

const setFeature = withDomain(2, ({ daemon, texts }, domain) => {
  const value = /^[0-9]{1,10}$/.test(texts[1] ?? "") ? Number(texts[1]) : -1;
  if (value < 0 || value > XS_FEATURES) return "EINVAL";
  if (domain === 0 || daemon.isIntroduced(domain)) return "EBUSY";
  daemon.domain(domain).features = value;
  return OK;
});

function getQuota({ daemon, texts }: Request): Reply {
  if (texts.length === 0 || (texts.length === 1 && texts[0] === "")) {
    return encodeStrings([Object.keys(DEFAULT_QUOTAS).join(" ")]);
  }
  const name = texts.at(-1);
  if (!isQuotaName(name) || texts.length > 2) return "EINVAL";
  if (texts.length === 1) return encodeStrings([String(daemon.quotas[name])]);
  const domain = parseDomain(texts[0]);
  if (domain === undefined) return "EINVAL";
  const quotas = daemon.find(domain)?.quotas;
  return quotas === undefined ? "ENOENT" : encodeStrings([String(quotas[name])]);
}

function setQuota({ daemon, texts }: Request): Reply {
  const [name, value] = texts.slice(-2);
  if (!isQuotaName(name) || !/^[0-9]{1,9}$/.test(value ?? "") || texts.length > 3) return "EINVAL";
  if (texts.length === 2) {
    daemon.quotas[name] = Number(value);
    return OK;
  }
  const domain = parseDomain(texts[0]);
  if (domain === undefined) return "EINVAL";
  const record = daemon.find(domain);
  if (record === undefined) return "ENOENT";
  record.quotas[name] = Number(value);
  return OK;
}

const setTarget = withDomain(2, ({ daemon, texts }, domain) => {
  const target = parseDomain(texts[1]);
  if (target === undefined) return "EINVAL";
  if (!daemon.isIntroduced(domain) || !daemon.isIntroduced(target)) return "ENOENT";
  daemon.domain(domain).target = target;
  return OK;
});

function watch({ connection, daemon, texts }: Request): Reply {
  const [path, token, depth, ...more] = texts;
  if (path === undefined || token === undefined || more.length > 0) return "EINVAL";
  if (depth === undefined) return done(connection.addWatch(path, token, undefined));
  if (!daemon.mayUseDepth(connection) || !/^[0-9]{1,4}$/.test(depth)) return "EINVAL";
  return done(connection.addWatch(path, token, Number(depth)));
}

function transactionEnd(request: Request): Reply {
  const answer = only(request);
  if (answer !== "T" && answer !== "F") return "EINVAL";
  return done(request.connection.endTransaction(request.message.transactionId, answer === "T"));
}

const ENTRIES = new Map<number, Entry>([
  [XsType.CONTROL, { answer: ({ daemon, texts }) => control(daemon, texts), privileged: true }],
  [XsType.DIRECTORY, { answer: directory }],
  [
    XsType.READ,
    {
      answer: (request) =>
        request.connection.perform(request.message, only(request), (scope, path) => {
          const node = operations.read(scope, path);
          return typeof node === "string" ? node : node.value;
        }),
    },
  ],
  [XsType.GET_PERMS, { answer: getPermissions }],
  [XsType.WATCH, { answer: watch }],
  [
    XsType.UNWATCH,
    {
      answer: ({ connection, texts: [path, token] }) =>
        path === undefined || token === undefined ? "EINVAL" : done(connection.removeWatch(path, token)),
    },
  ],
  [XsType.TRANSACTION_START, { answer: ({ connection, message }) => connection.startTransaction(message) }],
  [XsType.TRANSACTION_END, { answer: transactionEnd }],
  [XsType.INTRODUCE, { answer: introduce, privileged: true }],
  [
    XsType.RELEASE,
    {
      answer: withDomain(1, ({ daemon }, domain) => {
        if (domain === 0) return "EINVAL";
        return daemon.releaseDomain(domain) ? OK : "ENOENT";
      }),
      privileged: true,
    },
  ],
  [XsType.GET_DOMAIN_PATH, { answer: withDomain(1, (_, domain) => encodeStrings([homeOf(domain)])) }],
  [XsType.WRITE, { answer: write }],
  [
    XsType.MKDIR,
    {
      answer: (request) =>
        request.connection.perform(request.message, only(request), (scope, path) =>
          done(operations.makeDirectory(scope, path)),
        ),
    },
  ],
  [
    XsType.RM,
    {
      answer: (request) =>
        request.connection.perform(request.message, only(request), (scope, path) =>
          done(operations.remove(scope, path)),
        ),
    },
  ],
  [XsType.SET_PERMS, { answer: setPermissions }],
  [
    XsType.IS_DOMAIN_INTRODUCED,
    {
      answer: withDomain(1, ({ daemon, connection }, domain) =>
        encodeStrings([daemon.isIntroduced(connection.record.aliases.meant(domain)) ? "T" : "F"]),
      ),
    },
  ],
  [
    XsType.RESUME,
    {
      answer: withDomain(1, ({ daemon }, domain) => (daemon.resumeDomain(domain) ? OK : "ENOENT")),
      privileged: true,
    },
  ],
  [XsType.SET_TARGET, { answer: setTarget, privileged: true }],
  [
    XsType.RESET_WATCHES,
    {
      answer: ({ connection }) => {
        connection.reset();
        return OK;
      },
    },
  ],
  [XsType.DIRECTORY_PART, { answer: directoryPart }],
  [XsType.GET_FEATURE, { answer: getFeature }],
  [XsType.SET_FEATURE, { answer: setFeature, privileged: true }],
  [XsType.GET_QUOTA, { answer: getQuota, privileged: true }],
  [XsType.SET_QUOTA, { answer: setQuota, privileged: true }],
]);

/** Performs a request. */
export function answer(daemon: Xenstored, connection: Connection, message: Message): Reply {
  const entry = ENTRIES.get(message.type);
  if (entry === undefined) return "ENOSYS";
  if (entry.privileged && !connection.actor.privileged) return "EACCES";
  const reply = entry.answer({ daemon, connection, message, texts: strings(message.payload) ?? [] });
  return typeof reply !== "string" && reply.length > XS_PAYLOAD_MAX ? "E2BIG" : reply;
}

/** Components of a path as requests name nodes; special nodes only where they may be named. */
export function requestPath(path: string, longest: number, special: boolean): readonly string[] | undefined {
  if (special && (path === "@introduceDomain" || path === "@releaseDomain")) return [path];
  return parsePath(path, longest);
}
