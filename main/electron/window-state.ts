/** Where the window was when it was closed. */
import { readFileSync, renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";

const coordinate = z.int().min(-100_000).max(100_000);
const windowState = z.object({
  x: coordinate,
  y: coordinate,
  width: z.int().min(1).max(100_000),
  height: z.int().min(1).max(100_000),
  maximized: z.boolean(),
});
export type WindowState = z.infer<typeof windowState>;

/** In device-independent pixels. */
export interface Area {
  readonly x: number;
  readonly y: number;
  readonly width: number;
  readonly height: number;
}

/** So much of the window must be on a screen, so that it can be grasped. */
const VISIBLE = 80;

const fileIn = (folder: string): string => join(folder, "window.json");

function isVisible(state: WindowState, { x, y, width, height }: Area): boolean {
  const across = Math.min(state.x + state.width, x + width) - Math.max(state.x, x);
  // Its upper edge is what it is moved by.
  return across >= VISIBLE && state.y >= y && state.y + VISIBLE <= y + height;
}

/** @param screens work areas; a window that was on a screen which is gone begins in the usual place */
export function readWindowState(folder: string, screens: readonly Area[]): WindowState | undefined {
  try {
    const { data } = windowState.safeParse(JSON.parse(readFileSync(fileIn(folder), "utf8")));
    return data !== undefined && screens.some((screen) => isVisible(data, screen)) ? data : undefined;
  } catch {
    return undefined;
  }
}

/** A state that cannot be kept is no loss. */
export function writeWindowState(folder: string, state: WindowState): void {
  const file = fileIn(folder);
  try {
    writeFileSync(`${file}.new`, `${JSON.stringify(state)}\n`, { mode: 0o600 });
    renameSync(`${file}.new`, file);
  } catch {
    // A full disk, for example.
  }
}
