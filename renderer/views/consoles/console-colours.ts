/** Colours of consoles: the ground from the page's variables, the sixteen colours our own. Consoles are dark in every theme. */
import type { ISearchDecorationOptions } from "@xterm/addon-search";
import type { ITheme } from "@xterm/xterm";

/** The page's colours as they are now. */
export function consoleTheme(): ITheme {
  const style = getComputedStyle(document.documentElement);
  const background = style.getPropertyValue("--console-bg").trim() || "#10151a";
  const foreground = style.getPropertyValue("--console-text").trim() || "#dfe6ec";
  return {
    background,
    foreground,
    cursor: "#4cc2b3",
    cursorAccent: background,
    selectionBackground: "#2f6d78aa",
    black: "#2a343e",
    red: "#f2777a",
    green: "#7fc77f",
    yellow: "#e5b567",
    blue: "#7aa6f0",
    magenta: "#c792ea",
    cyan: "#5cc8bd",
    white: "#cfd8e0",
    brightBlack: "#7c8a98",
    brightRed: "#ff9a9c",
    brightGreen: "#a3dea3",
    brightYellow: "#f5d08f",
    brightBlue: "#a3c4ff",
    brightMagenta: "#ddb6f7",
    brightCyan: "#8ae0d7",
    brightWhite: "#ffffff",
  };
}

export const searchColours: ISearchDecorationOptions = {
  matchBackground: "#5c4a1e",
  matchOverviewRuler: "#e5a848",
  activeMatchBackground: "#a8741a",
  activeMatchColorOverviewRuler: "#ffd27f",
};
