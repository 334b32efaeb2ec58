/** The dialog that is open. One at a time, shown by the shell, so that any view, menu or key can open it. */
import type { MachineSummary } from "../../../main/lab/machine-api.ts";

export type OpenDialog =
  | { readonly kind: "create" /** Chosen beforehand. */; readonly image?: string }
  | { readonly kind: "rename"; readonly machine: MachineSummary }
  | { readonly kind: "group"; readonly machines: readonly MachineSummary[] }
  | { readonly kind: "clone"; readonly machine: MachineSummary }
  | { readonly kind: "export"; readonly machine: MachineSummary }
  | { readonly kind: "snapshot"; readonly machine: MachineSummary }
  | { readonly kind: "lab-snapshot" };

class Dialogs {
  open = $state.raw<OpenDialog | undefined>();
  /** Place that it was opened at. */
  private at = "";

  constructor() {
    // "Back" leads away from what the dialog is about.
    window.addEventListener("hashchange", () => {
      if (location.hash !== this.at) this.close();
    });
  }

  show(dialog: OpenDialog): void {
    this.at = location.hash;
    this.open = dialog;
  }

  close(): void {
    this.open = undefined;
  }
}

export const dialogs = new Dialogs();
