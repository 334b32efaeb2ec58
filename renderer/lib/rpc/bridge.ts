/** The seam between preload and renderer; both are checked against it. */

/** What preload/preload.cts puts into the window. */
export interface Bridge {
  readonly version: 1;
  connect(listener: (text: string) => void): { send(text: string): void; close(): void };
  /** Path on the host of a file that was dropped or chosen. */
  pathOf(file: File): string;
  readonly platform: string;
}
