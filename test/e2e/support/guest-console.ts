/** A machine's console in a page, read through the tree that xterm.js makes for screen readers. */
import type { Locator, Page } from "playwright-core";

const PROMPT = /[#$] ?$/;
/** A kernel boots in seconds; on a machine that has much else to do it takes a multiple. */
export const BOOT_MS = 180_000;
const ANSWER_MS = 90_000;

let commands = 0;

export class GuestConsole {
  readonly region: Locator;
  /** What takes the keys. */
  readonly input: Locator;
  private readonly page: Page;
  private readonly label: string;

  /** @param name the machine's @param label of its part of the page */
  constructor(page: Page, name: string, label = `Console of ${name}`) {
    this.page = page;
    this.label = label;
    this.region = page.getByRole("region", { name: label, exact: true });
    this.input = this.region.getByRole("textbox", { name: label });
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
    await this.region.getByRole("button", { name: `More for ${this.label}` }).click();
    await this.page.getByRole("menuitem", { name: item }).click();
  }

  /** Clicks into its screen: the text for screen readers lies below what takes the mouse. */
  async click(): Promise<void> {
    await this.clickOn(this.region.getByRole("list"), 1);
  }

  /** Clicks twice on the beginning of the row with that text, which selects its first word. */
  async doubleClick(text: string): Promise<void> {
    await this.clickOn(this.region.getByRole("listitem").filter({ hasText: text }), 2);
  }

  private async clickOn(place: Locator, clickCount: number): Promise<void> {
    const box = await place.boundingBox();
    if (box === null) throw new Error(`${place} is not shown`);
    await this.page.mouse.click(box.x + 20, box.y + Math.min(box.height, 20) / 2, { clickCount });
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
