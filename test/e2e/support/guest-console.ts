/** A machine's console in a page, read through the tree that xterm.js makes for screen readers. */
import type { Locator, Page } from "playwright-core";

const PROMPT = /[#$] ?$/;
/** A kernel boots in seconds; on a machine that has much else to do it takes a multiple. */
export const BOOT_MS = 110_000;
const ANSWER_MS = 30_000;

let commands = 0;

export class GuestConsole {
  readonly region: Locator;
  /** What takes the keys. */
  readonly input: Locator;
  private readonly page: Page;
  private readonly name: string;

  /** @param name the machine's */
  constructor(page: Page, name: string) {
    this.page = page;
    this.name = name;
    this.region = page.getByRole("region", { name: `Console of ${name}`, exact: true });
    this.input = this.region.getByRole("textbox", { name: `Console of ${name}` });
  }

  /** Waits until it is shown, and has its text put into the page. */
  async open(): Promise<this> {
    await this.region.waitFor();
    if ((await this.region.getByRole("list").count()) > 0) return this;
    await this.choose("Screen reader support: off");
    await this.region.getByRole("list").waitFor();
    return this;
  }

  /** Chooses a row of its menu. */
  async choose(item: string): Promise<void> {
    await this.region.getByRole("button", { name: `More for Console of ${this.name}` }).click();
    await this.page.getByRole("menuitem", { name: item }).click();
  }

  /** The screen's rows, without the empty ones below. */
  async text(): Promise<string> {
    const rows = await this.region.getByRole("list").getByRole("listitem").allTextContents();
    return rows
      .map((row) => row.replaceAll("\u00a0", " ").trimEnd())
      .join("\n")
      .trimEnd();
  }

  /** Waits until the screen fits. @returns its text */
  async shows(what: RegExp, limit = ANSWER_MS): Promise<string> {
    let text = "";
    const end = Date.now() + limit;
    for (;;) {
      text = await this.text();
      if (what.test(text)) return text;
      if (Date.now() > end) throw new Error(`the console does not show ${what} but:\n${text.slice(-1500)}`);
      await this.page.waitForTimeout(100);
    }
  }

  /** Waits for a shell's prompt in the last row. */
  async prompt(limit = BOOT_MS): Promise<void> {
    await this.shows(PROMPT, limit);
  }

  async type(text: string): Promise<void> {
    await this.input.focus();
    await this.page.keyboard.type(text);
  }

  /**
   * Types a command and waits for its end.
   * @returns what it has printed, as far as that fits on the screen, and its status
   */
  async run(command: string, limit = ANSWER_MS): Promise<{ output: string; status: number }> {
    const mark = `end${++commands}`;
    // Spelt so that the echo of the command is no answer.
    await this.type(`clear; ${command}; echo ${mark.slice(0, 2)}''${mark.slice(2)} $?\n`);
    const text = await this.shows(new RegExp(`^${mark} \\d+$`, "m"), limit);
    const match = new RegExp(`([\\s\\S]*?)^${mark} (\\d+)$`, "m").exec(text);
    return { output: (match?.[1] ?? "").trim(), status: Number(match?.[2]) };
  }
}
