/** The clipboard; a browser may keep it from pages, which is told with what works instead. */
import { notices } from "../../lib/state/notices.svelte.ts";

export async function copyText(text: string): Promise<void> {
  if (text === "") {
    notices.info("Nothing is selected. Drag over the text to select it; with Shift where the program takes the mouse.");
    return;
  }
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    notices.error("The browser does not let this page write the clipboard; select the text and copy it from its menu.");
  }
}

/** @returns undefined when it cannot be read */
export async function clipboardText(): Promise<string | undefined> {
  try {
    const text = await navigator.clipboard.readText();
    if (text === "") notices.info("There is no text in the clipboard.");
    return text === "" ? undefined : text;
  } catch {
    notices.error(
      "The browser does not let this page read the clipboard; allow it for this page, or paste with the browser's own keys.",
    );
    return undefined;
  }
}
