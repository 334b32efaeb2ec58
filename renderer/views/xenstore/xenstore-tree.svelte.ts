/** XenStore as this window has loaded it, kept up to date by a watch. */
import { SvelteMap, SvelteSet } from "svelte/reactivity";
import type { XenstoreNode } from "../../../main/lab/xenstore-api.ts";
import { call, client, LabError } from "../../lib/rpc/client.ts";
import { lab } from "../../lib/state/lab.svelte.ts";
import { notices } from "../../lib/state/notices.svelte.ts";
import { ancestorsOf, childPath, isBelow, nameOf, parentPath, rowsOf, touchedBy } from "./tree-rows.ts";

/** Changes are gathered for so long before lists are loaded again. */
const GATHER_MS = 200;
/** Lists that a search loads at most: beyond that it is no search any more. */
const MOST_LISTS = 4000;

/** Its children are the domains, by number. */
const DOMAINS = "/local/domain";

const emptyRoot: XenstoreNode = { name: "/", value: "", encoding: "text", permissions: [], hasChildren: true };

class XenstoreTree {
  readonly lists = new SvelteMap<string, readonly XenstoreNode[]>();
  readonly open = new SvelteSet<string>(["/"]);
  /** Names of domains by number, machines' and those of drivers. */
  readonly names = new SvelteMap<string, string>();
  root = $state.raw<XenstoreNode>(emptyRoot);
  filter = $state("");
  /** Whether everything is being loaded for a search. */
  searching = $state(false);
  readonly rows = $derived(rowsOf(this.root, this.lists, this.open, this.filter.trim()));
  private readonly waiting = new Set<string>();
  private timer: number | undefined;
  /** Counts what start() has begun, so that late answers of an earlier one are told. */
  private life = 0;

  /** Loads what is open and follows it. @returns how to stop */
  start(): () => void {
    const life = ++this.life;
    let watch: number | undefined;
    const stopEvents = client.onEvent((event) => {
      if (event.kind === "xenstore" && event.watch === watch) this.changed(event.path);
    });
    const begin = async () => {
      try {
        const set = (await call("xenstoreWatch", { path: "/" })).watch;
        if (life !== this.life) {
          await call("xenstoreUnwatch", { watch: set });
          return;
        }
        watch = set;
        const { value, encoding, permissions } = await call("xenstoreRead", { path: "/" });
        this.root = { ...emptyRoot, value, encoding, permissions };
        this.dropClosed();
        for (const path of [...this.open].sort()) await this.load(path);
      } catch (error) {
        if (life === this.life && lab.up && lab.connection === "open") notices.error(error);
      }
    };
    void begin();
    return () => {
      this.life++;
      stopEvents();
      window.clearTimeout(this.timer);
      this.timer = undefined;
      this.waiting.clear();
      // A connection that is gone has taken its watches with it.
      if (watch !== undefined) void call("xenstoreUnwatch", { watch }).catch(() => undefined);
    };
  }

  private changed(path: string): void {
    // What has to do with domains that come and go has names of its own: "@introduceDomain".
    for (const each of touchedBy(path.startsWith("/") ? path : "/", this.lists)) this.waiting.add(each);
    if (this.waiting.size > 0) this.timer ??= window.setTimeout(() => void this.flush(this.life), GATHER_MS);
  }

  private async flush(life: number): Promise<void> {
    const paths = [...this.waiting].sort();
    this.waiting.clear();
    try {
      for (const path of paths) {
        if (life !== this.life) return;
        if (this.lists.has(path)) await this.load(path);
      }
    } catch (error) {
      if (life === this.life && lab.up && lab.connection === "open") notices.error(error);
    }
    if (life !== this.life) return;
    this.timer = undefined;
    if (this.waiting.size > 0) this.timer = window.setTimeout(() => void this.flush(life), GATHER_MS);
  }

  /** Loads the children of a node; one that is gone is forgotten. @throws LabError for other reasons */
  private async load(path: string): Promise<void> {
    try {
      const { children } = await call("xenstoreList", { path });
      this.lists.set(path, children);
      const present = new Set(children.map(({ name }) => childPath(path, name)));
      for (const each of this.lists.keys()) {
        if (each !== "/" && parentPath(each) === path && !present.has(each)) this.forget(each);
      }
      if (path === DOMAINS) await this.nameDomains(children.map(({ name }) => name));
    } catch (error) {
      if (!(error instanceof LabError) || !error.message.includes("ENOENT")) throw error;
      this.forget(path);
    }
  }

  private async nameDomains(numbers: readonly string[]): Promise<void> {
    for (const number of [...this.names.keys()].filter((each) => !numbers.includes(each))) this.names.delete(number);
    for (const number of numbers.filter((each) => !this.names.has(each))) {
      // A domain that is just being made has no name yet; machines' names are known otherwise as well.
      const found = await call("xenstoreRead", { path: `${DOMAINS}/${number}/name` }).catch(() => undefined);
      if (found?.encoding === "text") this.names.set(number, found.value);
    }
  }

  private forget(path: string): void {
    for (const each of [...this.lists.keys()].filter((one) => isBelow(one, path))) this.lists.delete(each);
    for (const each of [...this.open].filter((one) => isBelow(one, path))) this.open.delete(each);
  }

  /** A node as it was loaded last. */
  node(path: string): XenstoreNode | undefined {
    if (path === "/") return this.root;
    return this.lists.get(parentPath(path))?.find(({ name }) => name === nameOf(path));
  }

  async expand(path: string): Promise<void> {
    this.open.add(path);
    if (!this.lists.has(path)) await this.load(path);
  }

  collapse(path: string): void {
    this.open.delete(path);
    // What nobody sees need not be followed.
    for (const each of [...this.lists.keys()].filter((one) => isBelow(one, path))) this.lists.delete(each);
    for (const each of [...this.open].filter((one) => isBelow(one, path))) this.open.delete(each);
  }

  /** Opens everything on the way to a node. */
  async reveal(path: string): Promise<void> {
    for (const each of ancestorsOf(path)) await this.expand(each);
  }

  /** Forgets what only a search has loaded. */
  dropClosed(): void {
    for (const path of [...this.lists.keys()].filter((each) => !this.open.has(each))) this.lists.delete(path);
  }

  /** Loads all that is there, for a search. */
  async loadAll(): Promise<void> {
    if (this.searching) return;
    this.searching = true;
    const { life } = this;
    try {
      const paths = ["/"];
      for (let path = paths.shift(); path !== undefined; path = paths.shift()) {
        if (life !== this.life || this.filter.trim() === "") break;
        if (!this.lists.has(path)) await this.load(path);
        const parent = path;
        const inner = (this.lists.get(path) ?? []).filter(({ hasChildren }) => hasChildren);
        paths.push(...inner.map(({ name }) => childPath(parent, name)));
        if (this.lists.size > MOST_LISTS) {
          notices.info(`The search stopped after ${MOST_LISTS} branches.`);
          return;
        }
      }
      if (this.filter.trim() === "") this.dropClosed();
    } finally {
      this.searching = false;
    }
  }
}

export const tree = new XenstoreTree();
