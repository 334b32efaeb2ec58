/** Where the user is: the fragment of the address, so that reload, back and forward work. */

import { SvelteMap } from "svelte/reactivity";

export const views = [
  "machines",
  "consoles",
  "images",
  "snapshots",
  "networks",
  "xenstore",
  "logs",
  "settings",
] as const;
export type View = (typeof views)[number];

export interface Route {
  /** "popout": a window with one console and nothing else. */
  readonly view: View | "popout";
  /** What follows: a machine's id and the tab, say. */
  readonly rest: readonly string[];
}

const isView = (text: string): text is View => (views as readonly string[]).includes(text);

/** A part of an address; one that was typed by hand may have signs that mean nothing. */
function decoded(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

function parse(hash: string): Route {
  const [view = "", ...rest] = hash.replace(/^#\/?/, "").split("/").map(decoded);
  if (view === "popout") return { view, rest };
  return isView(view) ? { view, rest } : { view: "machines", rest: [] };
}

/** Views that are come back to where they were left. */
const REMEMBERED: readonly Route["view"][] = ["snapshots", "networks"];

/** Where this tab of the browser keeps them, over reloads. */
const KEY = "domlab.places";

function storedPlaces(): [Route["view"], readonly string[]][] {
  try {
    const stored: unknown = JSON.parse(sessionStorage.getItem(KEY) ?? "{}");
    const places = typeof stored === "object" && stored !== null ? Object.entries(stored) : [];
    return REMEMBERED.flatMap((view) => {
      const rest: unknown = places.find(([name]) => name === view)?.[1];
      return Array.isArray(rest) && rest.every((part) => typeof part === "string") ? [[view, rest]] : [];
    });
  } catch {
    return [];
  }
}

class Router {
  route = $state.raw<Route>(parse(location.hash));
  private readonly left = new SvelteMap<Route["view"], readonly string[]>(storedPlaces());

  constructor() {
    this.remember();
    window.addEventListener("hashchange", () => this.follow());
  }

  private follow(): void {
    this.route = parse(location.hash);
    this.remember();
  }

  private remember(): void {
    const { view, rest } = this.route;
    if (!REMEMBERED.includes(view)) return;
    this.left.set(view, rest);
    try {
      sessionStorage.setItem(KEY, JSON.stringify(Object.fromEntries(this.left)));
    } catch {
      // Without storage they are known until the page is closed.
    }
  }

  /** What follows a view in the address when it is come back to. */
  restOf(view: Route["view"]): readonly string[] {
    return this.left.get(view) ?? [];
  }

  /** The address of a place, for links. */
  href(view: Route["view"], ...rest: readonly string[]): string {
    return `#/${[view, ...rest].map(encodeURIComponent).join("/")}`;
  }

  go(view: Route["view"], ...rest: readonly string[]): void {
    location.hash = this.href(view, ...rest);
  }

  /** The same place with something else chosen in it: "back" leads to where the user came from. */
  refine(view: Route["view"], ...rest: readonly string[]): void {
    history.replaceState(history.state, "", this.href(view, ...rest));
    this.follow();
  }
}

export const router = new Router();
