/** What a guest image offers to whoever starts a guest from it. */

import type { Session } from "./debian-shell.ts";

/** A root disk that guests have a private copy of or an overlay on; it must not be written to. */
export interface RootImage {
  readonly path: string;
  readonly format: "raw";
  /** Bytes that the guest sees. An overlay may have more: the guest's file system grows into it. */
  readonly virtualSize: number;
}

/** An image ready to be built into a domain. */
export interface GuestImage {
  readonly name: string;
  /** Path of the kernel in the cache. */
  readonly kernel: string;
  readonly kernelRelease: string;
  /** The uncompressed initramfs. */
  readonly initramfs: Uint8Array;
  /** A static busybox, for use in an initramfs of the user's. */
  readonly busybox: Uint8Array;
  readonly commandLine: string;
  /** What the guest prints on its console when it waits for the first command. */
  readonly prompt: string;
  /** Part of a line that the guest prints before that; everything up to it is a log. */
  readonly banner: string;
  /** The root file system, which the guest expects as xvda; absent when the initramfs is all there is. */
  readonly root?: RootImage;
  /** The archive to put behind the initramfs for one start, if the session asks for anything. */
  sessionArchive(session: Session): Uint8Array | undefined;
}
