import { errorLine } from "../../lib/error-line.ts";

/** What an answer says: the file's path on the host. @throws Error with the server's line */
export function uploadedPath(status: number, body: string): string {
  let told: unknown;
  try {
    told = JSON.parse(body);
  } catch {
    told = undefined;
  }
  const answer = typeof told === "object" && told !== null ? told : {};
  if (status === 200 && "path" in answer && typeof answer.path === "string") return answer.path;
  if ("line" in answer && typeof answer.line === "string") throw new Error(answer.line);
  throw new Error(`the app did not take the file (status ${status}); try again`);
}

/** A refusal of what was sent, in which the file is called as its user calls it. */
export function refusalOf(error: unknown, path: string, name: string): Error {
  return new Error(errorLine(error).replaceAll(path, () => name));
}
