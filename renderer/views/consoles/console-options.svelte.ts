/** What holds for all consoles of this window. */
import { preferences } from "../../lib/state/preferences.svelte.ts";

const SMALLEST = 8;
const LARGEST = 32;
const USUAL = 14;

export const consoleOptions = $state({
  /** Puts the output into the page's text for screen readers; slower, so only when asked for. */
  screenReader: false,
});

export function changeFontSize(by: number): void {
  preferences.fontSize = Math.min(LARGEST, Math.max(SMALLEST, preferences.fontSize + by));
}

export function usualFontSize(): void {
  preferences.fontSize = USUAL;
}
