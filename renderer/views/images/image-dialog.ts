import type { ImageRow } from "./files.ts";

/** A dialog of the images view. */
export type ImageDialog =
  | { readonly kind: "create" | "import" }
  | { readonly kind: "resize" | "convert" | "check" | "details" | "use"; readonly row: ImageRow };
