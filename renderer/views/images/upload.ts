/** Sending a file of the browser's to the app (served form): PUT ./upload, with its progress. */
import { lab } from "../../lib/state/lab.svelte.ts";
import { uploadedPath } from "./upload-answer.ts";

export interface UploadOptions {
  readonly signal: AbortSignal;
  /** Bytes that were sent. */
  readonly progress: (sent: number) => void;
}

/**
 * Sends a file. XMLHttpRequest, as fetch() does not tell how much was sent.
 * @returns its path on the host, from where it can be imported
 * @throws Error with one line; whatever was sent is removed then
 */
export function upload(file: File, { signal, progress }: UploadOptions): Promise<string> {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    const fail = (line: string) => () => reject(new Error(line));
    const words = new URLSearchParams({ name: file.name, ...(lab.app && { page: lab.app.page }) });
    request.open("PUT", `./upload?${words}`);
    request.upload.onprogress = ({ loaded }) => progress(loaded);
    request.onload = () => {
      try {
        resolve(uploadedPath(request.status, request.responseText));
      } catch (error) {
        reject(error);
      }
    };
    // A folder that was dropped cannot be read and ends here too.
    request.onerror = fail(`${file.name} could not be sent: the connection broke, or it is no file; try again`);
    request.onabort = fail(`sending ${file.name} was cancelled`);
    signal.addEventListener("abort", () => request.abort(), { once: true });
    request.send(file);
  });
}
