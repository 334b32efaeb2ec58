/** `domlab xenstore …`: the store of a running lab, as xenstore-ls and its sisters show it. */
import type { Command } from "commander";
import { connectXenstoreSocket, type XenstoreClient, XenstoreError } from "../engine/xenstore/client.ts";
import { BadInput, EXIT_CRASHED, EXIT_OK } from "./failure.ts";

export interface XenstoreCommandOptions {
  /** Socket of the lab with that name, or of the only one. @throws BadInput */
  readonly socketOf: (lab: string | undefined) => string | Promise<string>;
  readonly setStatus: (status: number) => void;
  /** Takes text for standard output. */
  readonly print?: (text: string) => void;
}

interface LabOption {
  readonly lab?: string;
}

/** A value for one line of a terminal: printable ASCII as it is, the rest escaped as in C. */
export function escapeValue(value: Uint8Array): string {
  const named = new Map([
    [9, "\\t"],
    [10, "\\n"],
    [13, "\\r"],
    [34, '\\"'],
    [92, "\\\\"],
  ]);
  return [...value]
    .map((byte) => {
      const name = named.get(byte);
      if (name !== undefined) return name;
      return byte >= 32 && byte < 127 ? String.fromCharCode(byte) : `\\x${byte.toString(16).padStart(2, "0")}`;
    })
    .join("");
}

const short = (path: string): string => (path.length > 100 ? `${path.slice(0, 100)}…` : path);

/** What a refusal means to the user. */
function refusal(error: XenstoreError, path: string): BadInput {
  switch (error.code) {
    case "ENOENT":
      return new BadInput("bad-option", `${path} does not exist in XenStore`, "see domlab xenstore ls");
    case "EINVAL":
      return new BadInput(
        "bad-option",
        `XenStore does not accept ${path === "" ? '""' : short(path)}`,
        "paths hold letters, digits and -_@ between slashes, permissions are like r7",
      );
    case "EACCES":
    case "EPERM":
      return new BadInput("bad-option", `XenStore does not permit this on ${path}`, "choose another path");
    case "E2BIG":
    case "ENOSPC":
      return new BadInput(
        "bad-option",
        `the value for ${short(path)} is too long`,
        "write at most 4096 bytes with the path",
      );
    case "ENOTCONN":
      return new BadInput("bad-option", "the lab ended meanwhile", "start it again");
    default:
      return new BadInput("bad-option", `XenStore answered ${error.code} for ${path}`, "look at domlab xenstore ls");
  }
}

async function telling<T>(path: string, action: () => Promise<T>): Promise<T> {
  try {
    return await action();
  } catch (error) {
    throw error instanceof XenstoreError ? refusal(error, path) : error;
  }
}

async function connect(socket: string): Promise<XenstoreClient> {
  try {
    return await connectXenstoreSocket(socket);
  } catch (error) {
    throw new BadInput(
      "bad-option",
      "no lab is running there",
      "start one with domlab run, or name it with --lab",
      error,
    );
  }
}

async function readOrFail(client: XenstoreClient, path: string): Promise<Uint8Array> {
  const value = await telling(path, () => client.readBytes(path));
  if (value === undefined) throw refusal(new XenstoreError("ENOENT", "READ"), path);
  return value;
}

export interface ListOptions {
  /** Full paths instead of a tree. */
  readonly full?: boolean;
  readonly permissions?: boolean;
}

/** Prints what lies below a path, depth first. */
export async function listTree(
  client: XenstoreClient,
  path: string,
  options: ListOptions,
  print: (text: string) => void,
): Promise<void> {
  const show = async (at: string, names: readonly string[], depth: number): Promise<void> => {
    for (const name of names) {
      const child = at === "/" ? `/${name}` : `${at}/${name}`;
      const value = await client.readBytes(child);
      // Gone since its parent was listed.
      if (value === undefined) continue;
      const permissions = options.permissions ? `   (${(await permissionsOf(client, child)).join(",")})` : "";
      const label = options.full ? child : " ".repeat(depth) + name;
      print(`${label} = "${escapeValue(value)}"${permissions}\n`);
      await show(child, (await client.directory(child)) ?? [], depth + 1);
    }
  };
  await telling(path, async () => {
    const names = await client.directory(path);
    if (names === undefined) throw new XenstoreError("ENOENT", "DIRECTORY");
    await show(path, names, 0);
  });
}

async function permissionsOf(client: XenstoreClient, path: string): Promise<string[]> {
  try {
    return await client.getPermissions(path);
  } catch (error) {
    if (error instanceof XenstoreError && error.code === "ENOENT") return [];
    throw error;
  }
}

/** Removes a path and, with `tidy`, the ancestors that are empty then, as xenstore-rm -t does. */
async function removePath(client: XenstoreClient, path: string, tidy: boolean): Promise<void> {
  await readOrFail(client, path);
  await telling(path, () => client.remove(path));
  let at = path.slice(0, path.lastIndexOf("/"));
  while (tidy && at !== "") {
    const value = await client.readBytes(at);
    const names = await client.directory(at);
    if (value === undefined || value.length > 0 || names === undefined || names.length > 0) return;
    await client.remove(at);
    at = at.slice(0, at.lastIndexOf("/"));
  }
}

async function changeMode(client: XenstoreClient, path: string, list: readonly string[], deep: boolean): Promise<void> {
  await telling(path, () => client.setPermissions(path, list));
  if (!deep) return;
  for (const name of (await telling(path, () => client.directory(path))) ?? []) {
    await changeMode(client, path === "/" ? `/${name}` : `${path}/${name}`, list, deep);
  }
}

/** Prints the path of each change until `count` were seen; the first of each watch comes at once. */
async function watchPaths(
  client: XenstoreClient,
  paths: readonly string[],
  count: number | undefined,
  print: (text: string) => void,
): Promise<void> {
  let left = count ?? Number.POSITIVE_INFINITY;
  let finish: () => void = () => {};
  const finished = new Promise<void>((resolve) => {
    finish = resolve;
  });
  for (const path of paths) {
    await telling(path, () =>
      client.watch(path, (changed) => {
        if (left <= 0) return;
        print(`${changed}\n`);
        left--;
        if (left <= 0) finish();
      }),
    );
  }
  // The end of the lab ends the watching too.
  await Promise.race([finished, client.ended]);
}

function pairs(values: readonly string[]): [string, string][] {
  if (values.length === 0 || values.length % 2 !== 0) {
    throw new BadInput("bad-option", "a path without a value", "give a value after each path");
  }
  const found: [string, string][] = [];
  for (let i = 0; i < values.length; i += 2) found.push([values[i] ?? "", values[i + 1] ?? ""]);
  return found;
}

function parseCount(text: string | undefined): number | undefined {
  if (text === undefined) return undefined;
  if (!/^[1-9][0-9]{0,8}$/.test(text)) {
    throw new BadInput("bad-option", `-n ${text} is no number of events`, "say for example -n 1");
  }
  return Number(text);
}

/** Adds `xenstore` and its commands to the program. */
export function addXenstoreCommand(program: Command, options: XenstoreCommandOptions): void {
  const print = options.print ?? ((text: string) => void process.stdout.write(text));
  const group = program.command("xenstore").description("Read, write and watch the XenStore of a running lab.");
  const within = async (lab: LabOption, action: (client: XenstoreClient) => Promise<void>) => {
    const client = await connect(await options.socketOf(lab.lab));
    try {
      await action(client);
    } finally {
      client.close();
    }
  };
  const add = (usage: string, description: string): Command =>
    group
      .command(usage)
      .description(description)
      .option("--lab <name>", "the lab to look at, if several are running")
      .exitOverride()
      .configureOutput({ outputError: () => {} });

  add("ls [path]", "Show the tree below a path.")
    .option("-f, --full", "full paths instead of a tree")
    .option("-p, --permissions", "permissions behind the values")
    .action((path: string | undefined, raw: LabOption & ListOptions) =>
      within(raw, (client) => listTree(client, path ?? "/", raw, print)),
    );
  add("read <path...>", "Print values.").action((paths: string[], raw: LabOption) =>
    within(raw, async (client) => {
      for (const path of paths) print(`${Buffer.from(await readOrFail(client, path)).toString("utf8")}\n`);
    }),
  );
  add("list <path...>", "Print the names of the children.").action((paths: string[], raw: LabOption) =>
    within(raw, async (client) => {
      for (const path of paths) {
        const names = await telling(path, () => client.directory(path));
        if (names === undefined) throw refusal(new XenstoreError("ENOENT", "DIRECTORY"), path);
        for (const name of names) print(`${name}\n`);
      }
    }),
  );
  add("exists <path...>", "End with status 0 if all paths exist, else 1.").action((paths: string[], raw: LabOption) =>
    within(raw, async (client) => {
      const values = await Promise.all(paths.map((path) => telling(path, () => client.readBytes(path))));
      options.setStatus(values.includes(undefined) ? EXIT_CRASHED : EXIT_OK);
    }),
  );
  add("write <path> <value> [more...]", "Write values, all at once or none.").action(
    (path: string, value: string, more: string[], raw: LabOption) =>
      within(raw, (client) =>
        telling(path, () =>
          client.transaction(async (store) => {
            for (const [at, text] of pairs([path, value, ...more])) await store.write(at, text);
          }),
        ),
      ),
  );
  add("rm <path...>", "Remove nodes with all that is below them.")
    .option("-t, --tidy", "ancestors that are empty then, too")
    .action((paths: string[], raw: LabOption & { tidy?: boolean }) =>
      within(raw, async (client) => {
        for (const path of paths) await removePath(client, path, raw.tidy ?? false);
      }),
    );
  add("watch <path...>", "Print the path of each change.")
    .option("-n, --count <events>", "end after that many events")
    .action((paths: string[], raw: LabOption & { count?: string }) =>
      within(raw, (client) => watchPaths(client, paths, parseCount(raw.count), print)),
    );
  add("chmod <path> <permissions...>", "Set permissions: n, r, w or b and a domid; the first is the owner's.")
    .option("-r, --recursive", "on all that is below, too")
    .action((path: string, list: string[], raw: LabOption & { recursive?: boolean }) =>
      within(raw, (client) => changeMode(client, path, list, raw.recursive ?? false)),
    );
}
