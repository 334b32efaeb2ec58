/** Which consoles are open in the consoles view. */
import { preferences } from "./preferences.svelte.ts";
import { router } from "./router.svelte.ts";

/** Opens a machine's console (or comes back to it) and goes there. */
export function openConsole(id: string): void {
  if (!preferences.consoles.includes(id)) preferences.consoles.push(id);
  router.go("consoles", id);
}
