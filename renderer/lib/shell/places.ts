/** Where a click on a view's name leads: to where it was left, if that is there still. */
import { lab } from "../state/lab.svelte.ts";
import { router, type View } from "../state/router.svelte.ts";

/** What follows the view in the address. */
export function restToReturnTo(view: View): readonly string[] {
  const rest = router.restOf(view);
  const [machine] = rest;
  const isGone = view === "snapshots" && machine !== undefined && lab.loaded && lab.machine(machine) === undefined;
  return isGone ? [] : rest;
}
