/** One terminal: xterm.js with its addons, drawn into an element that can be shown in one place after another. */
import { FitAddon } from "@xterm/addon-fit";
import { SearchAddon } from "@xterm/addon-search";
import { WebLinksAddon } from "@xterm/addon-web-links";
import { WebglAddon } from "@xterm/addon-webgl";
import { type IFunctionIdentifier, Terminal } from "@xterm/xterm";
import "@xterm/xterm/css/xterm.css";
import { call } from "../../lib/rpc/client.ts";
import { lab } from "../../lib/state/lab.svelte.ts";
import { attempt, notices } from "../../lib/state/notices.svelte.ts";
import { consoleTheme, searchColours } from "./console-colours.ts";

/** Lines above the screen that are kept. */
const SCROLLBACK = 5000;
/** A window that is being dragged changes its size all the time; the guest is told when it rests. */
const RESIZE_REST_MS = 120;
/** Sequences by which a program asks the terminal something: device attributes and status, modes, version, size. */
const QUESTIONS: readonly IFunctionIdentifier[] = [
  { final: "c" },
  { prefix: ">", final: "c" },
  { prefix: "=", final: "c" },
  { final: "n" },
  { prefix: "?", final: "n" },
  { intermediates: "$", final: "p" },
  { prefix: "?", intermediates: "$", final: "p" },
  { prefix: ">", final: "q" },
  { final: "t" },
];
/** Operating system commands that ask for colours when their text has a question mark. */
const COLOUR_COMMANDS = [4, 10, 11, 12];
/**
 * Leaves the other screen (1047, as 1049 would put the cursor somewhere else), soft reset, mouse and bracketed paste off:
 * what a guest that went away may have left behind.
 */
const MODES_OFF = "\x1b[?1047l\x1b[!p\x1b[?1000;1002;1003;1006;2004l\x1b[0m";

function openLink(uri: string): void {
  if (lab.app?.shell === "electron") void attempt(() => call("openExternal", { url: uri }));
  else window.open(uri, "_blank", "noopener,noreferrer");
}

/** Names of renderers that are programs: SwiftShader in Chromium, Mesa's, Windows' and macOS' own. */
const IMITATIONS = /swiftshader|llvmpipe|softpipe|basic render|software/i;
let graphics: boolean | undefined;

/**
 * Whether WebGL draws with a graphics processor. Where a browser imitates one, every frame costs the processors that the guests
 * run on many times what elements cost.
 */
function hasGraphics(): boolean {
  if (graphics !== undefined) return graphics;
  const gl = document.createElement("canvas").getContext("webgl2", { failIfMajorPerformanceCaveat: true });
  // Chromium does not count SwiftShader as a caveat, and says its name only through the extension.
  const named = gl?.getExtension("WEBGL_debug_renderer_info")?.UNMASKED_RENDERER_WEBGL ?? gl?.RENDERER ?? 0;
  graphics = gl !== null && !IMITATIONS.test(String(gl.getParameter(named)));
  // Contexts are few: this one is given back at once.
  gl?.getExtension("WEBGL_lose_context")?.loseContext();
  return graphics;
}

export interface TerminalEvents {
  /** Typed, pasted or answered by the terminal. */
  input(bytes: Uint8Array): void;
  size(columns: number, rows: number): void;
}

export interface Matches {
  /** -1: too many to count. */
  readonly index: number;
  readonly count: number;
}

export class ConsoleTerminal {
  private readonly terminal: Terminal;
  private readonly element = document.createElement("div");
  private readonly fitAddon = new FitAddon();
  private readonly searchAddon = new SearchAddon();
  private readonly observer: ResizeObserver;
  private webgl: WebglAddon | undefined;
  private resizeTimer: number | undefined;
  private isOpen = false;
  private disposed = false;
  /** Whether the questions of programs are answered: those of old output were asked of a terminal long gone. */
  answers = true;
  /** Told of the matches of the search. */
  onMatches: (matches: Matches) => void = () => {};

  constructor(events: TerminalEvents, fontSize: number) {
    this.terminal = new Terminal({
      // Search highlights are behind this switch.
      allowProposedApi: true,
      cursorBlink: true,
      fontFamily: getComputedStyle(document.documentElement).getPropertyValue("--mono").trim() || "monospace",
      fontSize,
      // At 1 a row is cut off at whole pixels, and at some sizes, the usual 14 among them, underscores with it.
      lineHeight: 1.1,
      // What a guest prints wrongly is told by the million, and kept by the browser's own console.
      logLevel: "off",
      minimumContrastRatio: 3,
      scrollback: SCROLLBACK,
      theme: consoleTheme(),
      // The text of such a link need not be its address: the address is shown before it is opened.
      linkHandler: {
        activate: (_event, uri) =>
          notices.info(`Link of the guest: ${uri}`, { label: "Open", run: () => openLink(uri) }),
      },
    });
    this.element.style.height = "100%";
    this.terminal.loadAddon(this.fitAddon);
    this.terminal.loadAddon(this.searchAddon);
    this.terminal.loadAddon(new WebLinksAddon((_event, uri) => openLink(uri)));
    const encoder = new TextEncoder();
    this.terminal.onData((text) => events.input(encoder.encode(text)));
    this.terminal.onBinary((text) => events.input(Uint8Array.from(text, (char) => char.charCodeAt(0))));
    this.terminal.onResize(({ cols, rows }) => {
      window.clearTimeout(this.resizeTimer);
      this.resizeTimer = window.setTimeout(() => events.size(cols, rows), RESIZE_REST_MS);
    });
    this.searchAddon.onDidChangeResults(({ resultIndex, resultCount }) =>
      this.onMatches({ index: resultIndex, count: resultCount }),
    );
    // Control-Shift-V is the browser's paste, which arrives as its own event; it is no Control-V for the guest.
    this.terminal.attachCustomKeyEventHandler((event) => !(event.ctrlKey && event.shiftKey && event.code === "KeyV"));
    this.silenceQuestions();
    this.observer = new ResizeObserver(() => this.fit());
  }

  private silenceQuestions(): void {
    const { parser } = this.terminal;
    for (const question of QUESTIONS) parser.registerCsiHandler(question, () => !this.answers);
    parser.registerDcsHandler({ intermediates: "$", final: "q" }, () => !this.answers);
    for (const command of COLOUR_COMMANDS) {
      parser.registerOscHandler(command, (text) => !this.answers && text.includes("?"));
    }
  }

  /** Draws it into `place`. @returns how to take it away again */
  show(place: HTMLElement): () => void {
    place.append(this.element);
    if (!this.isOpen) {
      this.terminal.open(this.element);
      this.isOpen = true;
    }
    this.observer.observe(this.element);
    this.fit();
    return () => {
      this.observer.unobserve(this.element);
      this.speedUp(false);
      this.element.remove();
    };
  }

  /** Names its input for screen readers; of a terminal that was shown. */
  setLabel(label: string): void {
    this.terminal.textarea?.setAttribute("aria-label", label);
  }

  /** Draws with the graphics processor where there is one. Contexts are few: only consoles that are seen have one. */
  speedUp(on: boolean): void {
    if (this.disposed || on === (this.webgl !== undefined)) return;
    if (!on) {
      this.webgl?.dispose();
      this.webgl = undefined;
      return;
    }
    if (!hasGraphics()) return;
    const webgl = new WebglAddon();
    try {
      webgl.onContextLoss(() => this.speedUp(false));
      this.terminal.loadAddon(webgl);
      this.webgl = webgl;
    } catch {
      // Without WebGL the terminal draws with elements, as it does from the start.
      webgl.dispose();
    }
  }

  /** Takes the size of its place. */
  fit(): void {
    // A hidden tab has no size.
    if (this.element.clientWidth > 0 && this.element.clientHeight > 0) this.fitAddon.fit();
  }

  get size(): { readonly columns: number; readonly rows: number } {
    return { columns: this.terminal.cols, rows: this.terminal.rows };
  }

  /** Shows output; `done` is called when it has been dealt with. */
  write(bytes: Uint8Array | string, done?: () => void): void {
    if (!this.disposed) this.terminal.write(bytes, done);
  }

  /** A line of our own, set apart from the guest's. */
  tell(line: string): void {
    this.write(`\r\n\x1b[0m\x1b[2m── ${line} ──\x1b[0m\r\n`);
  }

  /** The program that wrote is gone; its modes go too. */
  modesOff(): void {
    this.write(MODES_OFF);
  }

  /** Empty, as new. */
  reset(): void {
    this.terminal.reset();
  }

  /** Empties the screen and what lies above it, here and not in the log. */
  clear(): void {
    this.terminal.clear();
  }

  focus(): void {
    this.terminal.focus();
  }

  get selection(): string {
    return this.terminal.getSelection();
  }

  selectAll(): void {
    this.terminal.selectAll();
  }

  /** Pastes text, in brackets where the program asked for them. */
  paste(text: string): void {
    this.terminal.paste(text);
  }

  setFontSize(pixels: number): void {
    if (this.terminal.options.fontSize === pixels) return;
    this.terminal.options.fontSize = pixels;
    this.fit();
  }

  setScreenReader(on: boolean): void {
    this.terminal.options.screenReaderMode = on;
  }

  /** Takes the page's colours anew. */
  setColours(): void {
    this.terminal.options.theme = consoleTheme();
  }

  /** @param incremental stays at the present match as long as it still fits */
  find(text: string, direction: "next" | "previous", incremental = false): void {
    if (text === "") {
      this.endFind();
      return;
    }
    const options = { decorations: searchColours };
    if (direction === "next") this.searchAddon.findNext(text, { ...options, incremental });
    else this.searchAddon.findPrevious(text, options);
  }

  endFind(): void {
    this.searchAddon.clearDecorations();
    this.onMatches({ index: 0, count: 0 });
  }

  dispose(): void {
    this.speedUp(false);
    this.disposed = true;
    window.clearTimeout(this.resizeTimer);
    this.observer.disconnect();
    this.terminal.dispose();
    this.element.remove();
  }
}
