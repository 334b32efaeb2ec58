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

  show(dialog: OpenDialog): void {
    this.open = dialog;
  }

  close(): void {
    this.open = undefined;
  }
}

export const dialogs = new Dialogs();
