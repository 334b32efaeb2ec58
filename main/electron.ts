/** Entry point of the desktop app in Electron: package.json's "main". */
import { runShell } from "./electron/shell.ts";

// Not awaited: the app is ready only after this module has been loaded (docs/tutorial/esm.md).
void runShell();
