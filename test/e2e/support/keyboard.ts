/** Moving about with keys alone. */
import type { Locator, Page } from "playwright-core";
import { expect } from "vitest";

/** More than any view has controls. */
const MOST = 150;

/** Whether an element has the focus. */
export async function hasFocus(target: Locator): Promise<boolean> {
  return await target.evaluate((element) => element.matches(":focus"));
}

/** Presses Tab, or goes the other way, until the element has the focus. @throws Error when it never gets it */
export async function tabTo(page: Page, target: Locator, way: "Tab" | "Shift+Tab" = "Tab"): Promise<void> {
  await target.waitFor();
  for (let presses = 0; presses < MOST; presses++) {
    if (await hasFocus(target)) return;
    await page.keyboard.press(way);
  }
  throw new Error(`${target} cannot be reached with Tab`);
}

/** Goes to a button and presses it. */
export async function press(page: Page, button: Locator, way: "Tab" | "Shift+Tab" = "Tab"): Promise<void> {
  await tabTo(page, button, way);
  await page.keyboard.press("Enter");
}

/** Goes down an open menu to a row, and chooses it. */
export async function chooseItem(page: Page, name: string): Promise<void> {
  const item = page.getByRole("menuitem", { name });
  await item.waitFor();
  for (let presses = 0; presses < MOST; presses++) {
    if (await hasFocus(item)) break;
    await page.keyboard.press("ArrowDown");
  }
  await page.keyboard.press("Enter");
}

/** Takes back what a message tells of, once it offers that: a row may be gone from its table before. */
export async function takeBack(page: Page, told: string): Promise<void> {
  const message = page.getByRole("region", { name: "Messages" }).getByRole("status").filter({ hasText: told });
  await message.last().getByRole("button", { name: "Undo" }).waitFor();
  await page.keyboard.press("u");
}

/** Finds a command in the palette by its name, and runs it: with keys that also a console leaves to the app. */
export async function runCommand(page: Page, name: string): Promise<void> {
  const field = page.getByRole("combobox", { name: "Commands" });
  await page.keyboard.press("Control+Shift+P");
  await field.waitFor();
  await expect.poll(() => hasFocus(field)).toBe(true);
  await page.keyboard.type(name);
  const list = page.getByRole("listbox", { name: "Commands" });
  await list.getByRole("option", { selected: true }).filter({ hasText: name }).waitFor();
  await page.keyboard.press("Enter");
  await field.waitFor({ state: "detached" });
}
