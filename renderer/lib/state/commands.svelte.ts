/** Everything that can be done from here, for the palette and for keys. A view adds its commands while it is shown. */
import type { Command } from "./command.ts";

export type { Command };

const isMac = /Mac|iP(hone|ad)/.test(navigator.platform);
/** Time between the two keys of a sequence. */
const SEQUENCE_MS = 1200;

class Commands {
  /** Those that are offered, in their order. No state: an effect that is torn down is shown what state was before. */
  private readonly sets = new Set<() => readonly Command[]>();
  private changes = 0;
  /** Told of each change of `sets`. */
  private version = $state(0);
  paletteOpen = $state(false);
  helpOpen = $state(false);

  readonly all = $derived.by(() => {
    void this.version;
    const found = new Map<string, Command>();
    for (const set of this.sets) for (const command of set()) found.set(command.id, command);
    return [...found.values()];
  });

  /** Offers commands until the returned function is called; the list may depend on state. Use within $effect. */
  offer(set: () => readonly Command[]): () => void {
    this.sets.add(set);
    this.version = ++this.changes;
    return () => {
      this.sets.delete(set);
      this.version = ++this.changes;
    };
  }
}

export const commands = new Commands();

/** "Mod+Shift+P" as this host's users write it. */
export function keysText(keys: string): string {
  const signs: Record<string, string> = isMac
    ? { Mod: "⌘", Shift: "⇧", Alt: "⌥", Enter: "↩" }
    : { Mod: "Ctrl", Enter: "Enter" };
  const parts = (combination: string) => combination.split("+").map((part) => signs[part] ?? part);
  return keys
    .split(" ")
    .map((combination) => parts(combination).join(isMac ? "" : "+"))
    .join(" then ");
}

function combinationOf(event: KeyboardEvent): string {
  const modifiers = [
    (isMac ? event.metaKey : event.ctrlKey) ? "Mod+" : "",
    event.altKey ? "Alt+" : "",
    // The sign already tells that Shift was down.
    event.shiftKey && (event.key.length > 1 || /[a-z]/i.test(event.key)) ? "Shift+" : "",
  ].join("");
  return modifiers + (event.key.length === 1 ? event.key.toUpperCase() : event.key);
}

/** What is closed stays in the document, and keeps the focus, for some frames more. */
const closed = ':is([role="dialog"], [role="menu"])[data-state="closed"]';
const inTheWay = ':is([role="dialog"], [role="menu"]):not([data-state="closed"])';

/** Where letters are text, only combinations with a modifier are commands; a console takes those too, but for ours. */
function takesText(target: EventTarget | null): boolean {
  if (!(target instanceof HTMLElement) || target.closest(closed)) return false;
  return target.isContentEditable || /^(INPUT|TEXTAREA|SELECT)$/.test(target.tagName);
}

/** Listens to keys for all commands. @returns how to stop */
export function listenToKeys(): () => void {
  let before = "";
  let beforeAt = 0;
  const listener = (event: KeyboardEvent) => {
    if (event.defaultPrevented || event.isComposing) return;
    const combination = combinationOf(event);
    const isPlain = !combination.includes("Mod+") && !combination.includes("Alt+");
    if (isPlain && (takesText(event.target) || document.querySelector(inTheWay))) return;
    const sequence = event.timeStamp - beforeAt < SEQUENCE_MS ? `${before} ${combination}` : combination;
    const usable = commands.all.filter(({ enabled }) => enabled?.() ?? true);
    const found = usable.find(({ keys }) => keys === sequence) ?? usable.find(({ keys }) => keys === combination);
    // A console's own keys: Control with a letter belongs to the guest, so ours there have Shift or Alt.
    const inConsole = event.target instanceof Element && event.target.closest(".xterm") !== null;
    const isOurs = found && !(inConsole && (isPlain || /^Mod\+[A-Z]$/.test(combination)));
    if (isOurs) {
      event.preventDefault();
      event.stopPropagation();
      found.run();
    }
    before = isOurs ? "" : combination;
    beforeAt = event.timeStamp;
  };
  window.addEventListener("keydown", listener, { capture: true });
  return () => window.removeEventListener("keydown", listener, { capture: true });
}
