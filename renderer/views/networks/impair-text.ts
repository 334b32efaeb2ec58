/** Impairments as fields of a form and as the text that the lab reads (engine/network/policy/impair-spec.ts). */

export const impairFields = [
  { key: "delay", label: "Delay", unit: "ms", hint: "50ms, 200us or 1s" },
  { key: "jitter", label: "Jitter", unit: "ms", hint: "Delay varies by so much" },
  { key: "loss", label: "Loss", unit: "%", hint: "Share of frames that are lost" },
  { key: "duplicate", label: "Duplicates", unit: "%", hint: "Share of frames that come twice" },
  { key: "reorder", label: "Reordering", unit: "%", hint: "Share of frames that overtake" },
  { key: "corrupt", label: "Corruption", unit: "%", hint: "Share of frames with one bit turned" },
  { key: "rate", label: "Rate", unit: "", hint: "10Mb/s, 250KB/s" },
] as const;
export type ImpairKey = (typeof impairFields)[number]["key"];

/** Values by word; words without a field stay as they are. */
export type Impairment = Readonly<Record<string, string>>;

export function readImpairment(text: string): Impairment {
  const parts = text.split(",").map((part) => part.trim());
  return Object.fromEntries(
    parts
      .filter((part) => part.includes("="))
      .map((part) => [part.slice(0, part.indexOf("=")).trim(), part.slice(part.indexOf("=") + 1).trim()]),
  );
}

/** "" for none. A number alone gets its field's unit. */
export function impairmentText(values: Impairment): string {
  return Object.entries(values)
    .map(([key, value]) => {
      const unit = impairFields.find((field) => field.key === key)?.unit ?? "";
      const text = value.trim().replaceAll(" ", "");
      return [key, /^\d+(\.\d+)?$/.test(text) ? `${text}${unit}` : text] as const;
    })
    .filter(([, value]) => value !== "" && !/^0+(\.0+)?(ms|us|s|%)?$/.test(value))
    .map(([key, value]) => `${key}=${value}`)
    .join(",");
}

/** Lines as they are met outside. */
export const impairPresets: readonly { readonly label: string; readonly values: Impairment }[] = [
  { label: "Far away", values: { delay: "150ms", jitter: "10ms" } },
  { label: "Mobile", values: { delay: "60ms", jitter: "20ms", loss: "1%", rate: "5Mb/s" } },
  { label: "Bad radio", values: { delay: "30ms", jitter: "15ms", loss: "8%", duplicate: "1%", reorder: "5%" } },
];
