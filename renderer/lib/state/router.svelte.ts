/** Where the user is: the fragment of the address, so that reload, back and forward work. */

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

function parse(hash: string): Route {
  const [view = "", ...rest] = hash.replace(/^#\/?/, "").split("/").map(decodeURIComponent);
  if (view === "popout") return { view, rest };
  return isView(view) ? { view, rest } : { view: "machines", rest: [] };
}

class Router {
  route = $state.raw<Route>(parse(location.hash));

  constructor() {
    window.addEventListener("hashchange", () => {
      this.route = parse(location.hash);
    });
  }

  /** The address of a place, for links. */
  href(view: Route["view"], ...rest: readonly string[]): string {
    return `#/${[view, ...rest].map(encodeURIComponent).join("/")}`;
  }

  go(view: Route["view"], ...rest: readonly string[]): void {
    location.hash = this.href(view, ...rest);
  }
}

export const router = new Router();
