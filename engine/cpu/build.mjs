/**
 * Builds the CPU core: instruction table → generated AssemblyScript → dist/engine/cpu/core.wasm.
 * Run as `node engine/cpu/build.mjs [--text]`; needs node_modules. Exported: {@link buildCore}.
 */
import { copyFile, mkdir, mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { dirname, join, relative } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import ts from "typescript";

const here = dirname(fileURLToPath(import.meta.url));
const root = join(here, "..", "..");
const assembly = join(here, "assembly");
const generated = join(assembly, "generated");

/** Where the core is written. */
export const CORE_WASM = join(root, "dist", "engine", "cpu", "core.wasm");

async function transpile(work, folder, file) {
  await mkdir(join(work, folder), { recursive: true });
  const source = await readFile(join(here, folder, file), "utf8");
  const options = { module: ts.ModuleKind.ESNext, target: ts.ScriptTarget.ES2022, verbatimModuleSyntax: true };
  const { outputText } = ts.transpileModule(source, { compilerOptions: options, fileName: file });
  const linked = outputText.replace(/(from "\.[^"]*)\.ts"/g, '$1.mjs"');
  await writeFile(join(work, folder, file.replace(/\.ts$/, ".mjs")), linked);
}

/** What the compiler of hot code reads. */
const OPERATIONS = join(dirname(CORE_WASM), "operations.json");

/** Transpiles the table and the generator (no type check: that is `npm run check`) and loads the generator. */
async function loadGenerator(work) {
  for (const folder of ["table", "generate"]) {
    for (const file of await readdir(join(here, folder))) await transpile(work, folder, file);
  }
  await transpile(work, "assembly", "layout.ts");
  return import(pathToFileURL(join(work, "generate", "index.mjs")).href);
}

/** Handler functions of the AssemblyScript sources: name → module. */
async function findHandlers() {
  const handlers = new Map();
  for (const file of (await readdir(assembly)).filter((name) => name.endsWith(".ts"))) {
    const source = await readFile(join(assembly, file), "utf8");
    for (const [, name] of source.matchAll(/^export function (\w+)\(_?ip: u32\): void/gm)) {
      if (handlers.has(name)) throw new Error(`handler ${name} is in ${file} and in ${handlers.get(name)}.ts`);
      handlers.set(name, file.replace(/\.ts$/, ""));
    }
  }
  return handlers;
}

async function writeGenerated() {
  const work = await mkdtemp(join(root, "node_modules", ".domlab-generate-"));
  try {
    const { generate } = await loadGenerator(work);
    await mkdir(generated, { recursive: true });
    for (const { name, text } of generate(await findHandlers())) await writeFile(join(generated, name), text);
  } finally {
    await rm(work, { recursive: true, force: true });
  }
}

/** Generates and compiles. @throws Error with the compiler's message. */
export async function buildCore({ text = false } = {}) {
  await writeGenerated();
  await mkdir(dirname(CORE_WASM), { recursive: true });
  const { default: asc } = await import("assemblyscript/asc");
  const path = (file) => relative(root, file).replaceAll("\\", "/");
  const { error, stderr } = await asc.main([
    path(join(assembly, "index.ts")),
    "--baseDir",
    root,
    "--outFile",
    path(CORE_WASM),
    ...(text ? ["--textFile", path(CORE_WASM.replace(".wasm", ".wat"))] : []),
    "-O3",
    "--noAssert",
    "--runtime",
    "stub",
    "--importMemory",
    "--sharedMemory",
    "--initialMemory",
    "1024",
    "--maximumMemory",
    "65536",
    "--memoryBase",
    "1048576",
    "--enable",
    "threads",
    "--enable",
    "simd",
    "--enable",
    "bulk-memory",
    "--noExportMemory",
    "--exportTable",
    "--disableWarning",
    "112",
  ]);
  await copyFile(join(generated, "operations.json"), OPERATIONS);
  if (error) throw new Error(`the CPU core does not compile:\n${stderr.toString()}`);
  return stderr.toString();
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  process.stdout.write(await buildCore({ text: process.argv.includes("--text") }));
}
