/** A pseudoterminal of the host that other programs open: one end is ours, the other has a path. */
import { closeSync, constants, openSync } from "node:fs";
import type { ReadStream } from "node:tty";
import { BadInput } from "./failure.ts";

export interface Pty {
  /** "/dev/pts/7" */
  readonly path: string;
  /** Our end: what is written appears at the path, what programs write there can be read. */
  readonly stream: ReadStream;
  close(): void;
}

/** What node-pty offers beyond its type declarations; on Windows it has no such thing. */
interface PtyModule {
  open?(options: { encoding: null }): {
    readonly master: ReadStream;
    readonly slave: ReadStream;
    readonly ptsName: string;
  };
}

/** @throws BadInput where the host has none */
export async function openPty(): Promise<Pty> {
  const { open } = (await import("node-pty").catch(() => ({}))) as PtyModule;
  if (process.platform === "win32" || open === undefined) {
    const remedy = process.platform === "win32" ? "use domlab console without it" : "npm rebuild node-pty";
    throw new BadInput("bad-option", "--pty needs pseudoterminals, which are not available here", remedy);
  }
  const { master, slave, ptsName } = open({ encoding: null });
  // Nothing is to be echoed or edited by this host's terminal driver: the guest's does that.
  slave.setRawMode(true);
  // We hold the other end so that the terminal survives programs that leave, but must not read what is meant for them:
  // node-pty's stream would.
  const held = openSync(ptsName, constants.O_RDWR | constants.O_NOCTTY);
  slave.destroy();
  master.on("error", () => master.destroy());
  return {
    path: ptsName,
    stream: master,
    close() {
      master.destroy();
      closeSync(held);
    },
  };
}
