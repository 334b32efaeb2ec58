/** The user's home folder, below which everything lies that the user has not put elsewhere. */
import { homedir, userInfo } from "node:os";
import { isAbsolute } from "node:path";
import { BadInput } from "./failure.ts";

/** What a question of the operating system answers; undefined where it has no entry for the user. */
function known(ask: () => string): string | undefined {
  try {
    const folder = ask();
    // An empty or relative HOME would lead to another place from each folder.
    return isAbsolute(folder) ? folder : undefined;
  } catch {
    return undefined;
  }
}

/** $HOME, else what the user database says. @throws BadInput when neither names an absolute path */
export function homeFolder(): string {
  const folder = known(homedir) ?? known(() => userInfo().homedir);
  if (folder !== undefined) return folder;
  throw new BadInput("bad-folder", "this user has no home folder", "set HOME to a folder of your own");
}
