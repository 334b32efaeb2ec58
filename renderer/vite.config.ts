/** Builds the interface into dist/renderer: one page, the same for the Electron window and for browsers. */
import path from "node:path";
import { svelte, vitePreprocess } from "@sveltejs/vite-plugin-svelte";
import { defineConfig } from "vite";

const here = import.meta.dirname;

export default defineConfig({
  root: here,
  // Relative, so that the page works at any origin and under the app:// scheme.
  base: "./",
  plugins: [svelte({ configFile: false, preprocess: vitePreprocess() })],
  build: {
    outDir: path.join(here, "..", "dist", "renderer"),
    emptyOutDir: true,
    target: "es2023",
    // Inlined files would need data: sources in the content security policy.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
  },
});
