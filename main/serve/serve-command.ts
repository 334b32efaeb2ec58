/** `domlab serve` and `domlab app`: the desktop app in a browser, and in its window. */
import { isIP } from "node:net";
import { resolve } from "node:path";
import type { Command } from "commander";
import { BadInput } from "../failure.ts";
import { parseSize } from "../image-commands.ts";
import { type CommandContext, JSON_OPTION } from "../machine-commands/context.ts";
import type { ServeOptions } from "./serve.ts";

/** Largest upload when the user says nothing. */
const MOST_UPLOAD = "64G";

interface Raw {
  readonly port?: string;
  readonly host?: string;
  readonly insecureRemote?: boolean;
  readonly home?: string;
  readonly open: boolean;
  readonly link?: boolean;
  readonly stop?: boolean;
  readonly json?: boolean;
  readonly mostUpload: string;
}

export interface ServeCommandContext extends Pick<CommandContext, "home" | "print" | "tell" | "setStatus"> {
  readonly version: string;
  /** Folder with the sockets of labs. */
  readonly root: () => string;
}

/** @throws BadInput */
export function parsePort(text: string): number {
  const port = /^\d{1,5}$/.test(text) ? Number(text) : Number.NaN;
  if (port <= 65_535) return port;
  throw new BadInput(
    "bad-option",
    `--port ${text} is no port`,
    "say a number from 1 to 65535, or 0 for any that is free",
  );
}

/**
 * Address to bind; undefined for loopback.
 * @throws BadInput for one that others can reach, unless the user insists
 */
export function parseAddress(host: string | undefined, insecureRemote: boolean): string | undefined {
  if (host === undefined || host === "localhost" || host === "127.0.0.1") return undefined;
  if (isIP(host) === 0) {
    throw new BadInput(
      "bad-option",
      `--host ${host} is no address`,
      "say the address of an interface, such as 127.0.0.1",
    );
  }
  if (host === "::1" || insecureRemote) return host;
  const what = `--host ${host} would carry your session unencrypted over the network, and with it a shell of yours`;
  const remedy = "reach it with: ssh -L 7411:127.0.0.1:7411 thishost (or insist with --insecure-remote)";
  throw new BadInput("bad-option", what, remedy);
}

async function serveOptions(context: ServeCommandContext, raw: Raw): Promise<ServeOptions> {
  const address = parseAddress(raw.host, raw.insecureRemote ?? false);
  return {
    home: raw.home ?? (await context.home()),
    root: context.root(),
    version: context.version,
    ...(raw.port !== undefined && { port: parsePort(raw.port) }),
    ...(address !== undefined && { address }),
    mostUploadBytes: parseSize(raw.mostUpload),
    open: raw.open,
    json: raw.json ?? false,
    print: context.print,
    say: context.tell,
  };
}

async function serveCommand(context: ServeCommandContext, raw: Raw): Promise<void> {
  const options = await serveOptions(context, raw);
  // Loaded only now, so that --help and wrong options answer at once.
  const { linkOfRunning, serve, stopRunning } = await import("./serve.ts");
  if (raw.stop) {
    const pid = await stopRunning(options);
    if (raw.json)
      context.print(`${JSON.stringify({ stopped: pid !== undefined, ...(pid !== undefined && { pid }) })}\n`);
    else context.tell(pid === undefined ? "the interface was not being served" : `process ${pid} has ended`);
  } else if (raw.link) {
    const running = await linkOfRunning(options);
    context.print(raw.json ? `${JSON.stringify(running)}\n` : `${running.url}\n`);
  } else context.setStatus(await serve(options));
}

async function appCommand(context: ServeCommandContext, given: readonly string[], raw: Raw): Promise<void> {
  const options = await serveOptions(context, raw);
  const files = given.map((file) => resolve(file));
  const { startElectron } = await import("../electron-start.ts");
  const started = await startElectron({ home: options.home, say: options.say, files });
  if ("status" in started) return context.setStatus(started.status);
  options.say(`${started.unavailable}: the interface is served to your browser instead`);
  if (files.length > 0) options.say("a browser opens no files of the host by itself: import them in the interface");
  const { serve } = await import("./serve.ts");
  context.setStatus(await serve(options));
}

/** The options that both have. */
function withOptions(command: Command): Command {
  return command
    .option("--port <port>", "port to serve on (default: 7411, or the next that is free)")
    .option("--home <folder>", "folder of the lab, in place of DOMLAB_HOME")
    .option("--no-open", "do not open the host's browser")
    .option("--most-upload <size>", "largest file that a browser may upload", MOST_UPLOAD)
    .option(...JSON_OPTION);
}

/** Adds `app` and `serve`. */
export function addServeCommands(program: Command, context: ServeCommandContext): void {
  const before = program.commands.length;
  withOptions(program.command("app [files...]"))
    .description("Open the desktop app: its window, or else the browser. Files are exported machines to open.")
    .action((files: string[], raw: Raw) => appCommand(context, files, raw));
  withOptions(program.command("serve").description("Serve the desktop app to browsers on this host."))
    .option("--host <address>", "address to listen on (default: 127.0.0.1)")
    .option("--insecure-remote", "with --host: let others reach it, unencrypted")
    .option("--link", "print a new link to the app that is being served, and end")
    .option("--stop", "end the app that is being served; its machines go on")
    .addHelpText(
      "after",
      [
        "",
        "Prints a link that gives one browser a session; further ones come from: domlab serve --link. A session lasts thirty",
        "days, also when the server is started again. One app serves a lab: a second one prints a link to the first.",
        "",
        "From another host: ssh -L 7411:127.0.0.1:7411 thishost, and open the link there.",
      ].join("\n"),
    )
    .action((raw: Raw) => serveCommand(context, raw));
  for (const command of program.commands.slice(before)) command.helpGroup("The app:");
}
