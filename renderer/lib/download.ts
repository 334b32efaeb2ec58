/** Hands the user a file. */
export function download(name: string, parts: readonly BlobPart[], type = "application/octet-stream"): void {
  const url = URL.createObjectURL(new Blob([...parts], { type }));
  const link = document.createElement("a");
  link.href = url;
  link.download = name;
  link.click();
  window.setTimeout(() => URL.revokeObjectURL(url), 60_000);
}
