/** Moving about with keys alone. */
import type { Locator, Page } from "playwright-core";

/** More than any view has controls. */
const MOST = 150;

/** Whether an element has the focus. */
export async function hasFocus(target: Locator): Promise<boolean> {
  return await target.evaluate((element) => element.matches(":focus"));
}

/** Presses Tab until the element has the focus. @throws Error when it never gets it */
export async function tabTo(page: Page, target: Locator): Promise<void> {
  await target.waitFor();
  for (let presses = 0; presses < MOST; presses++) {
    if (await hasFocus(target)) return;
    await page.keyboard.press("Tab");
  }
  throw new Error(`${target} cannot be reached with Tab`);
}
