/** electron-builder.yml against electron-builder's own schema, the files that it names, and what the program imports. */
import { readdirSync, readFileSync, statSync } from "node:fs";
import { createRequire, isBuiltin } from "node:module";
import path from "node:path";
import { describe, expect, it } from "vitest";
import { compiledPath } from "../../../engine/domain/entry.ts";
import { EXTENSIONS } from "../../../main/electron/open-files.ts";

const ROOT = path.join(import.meta.dirname, "../../..");
const inRoot = (...parts: string[]) => path.join(ROOT, ...parts);

/** electron-builder's own libraries: whatever reads and checks the configuration when it runs. */
const builder = createRequire(createRequire(import.meta.url).resolve("app-builder-lib/package.json"));

interface Configuration {
  files: string[];
  asarUnpack: string[];
  extraResources: { from: string }[];
  electronFuses: Record<string, boolean>;
  fileAssociations: { ext: string }[];
  directories: { output: string; buildResources: string };
  linux: { icon: string; target: string[] };
  mac: { icon: string; target: string[] };
  win: { icon: string; target: string[] };
  npmRebuild: boolean;
  asar: boolean;
}

const configuration = (): Configuration => {
  const yaml = builder("js-yaml") as { load(text: string): unknown };
  return yaml.load(readFileSync(inRoot("electron-builder.yml"), "utf8")) as Configuration;
};
const manifest = JSON.parse(readFileSync(inRoot("package.json"), "utf8")) as {
  dependencies: Record<string, string>;
  devDependencies: Record<string, string>;
};

/** Compiled modules below a folder of dist/. */
function* modules(folder: string): Generator<string> {
  for (const entry of readdirSync(inRoot("dist", folder), { withFileTypes: true })) {
    const name = path.join(folder, entry.name);
    if (entry.isDirectory()) yield* modules(name);
    else if (entry.name.endsWith(".js")) yield name;
  }
}

/** Build steps: never packed, or at least never run from a package. */
const BUILD_STEPS = /^engine.cpu.generate/;

/** Packages that are loaded at run time by the modules of a folder; types are gone from compiled ones. */
function packagesOf(folder: string): Set<string> {
  const found = new Set<string>();
  for (const file of modules(folder)) {
    if (BUILD_STEPS.test(file)) continue;
    const text = readFileSync(inRoot("dist", file), "utf8");
    const statements = text.matchAll(/^(?:import|export)\s(?:[\w\s{},*$]*\sfrom\s)?"([^".][^"\n]*)"/gm);
    const calls = text.matchAll(/\bimport\("([^".][^"\n]*)"\)/g);
    for (const [, name = ""] of [...statements, ...calls]) {
      if (!isBuiltin(name)) found.add(name.split("/", name.startsWith("@") ? 2 : 1).join("/"));
    }
  }
  return found;
}

describe("the packages' configuration", () => {
  it("is one that electron-builder accepts", async () => {
    const { validateConfiguration } = builder("./out/util/config/config.js") as {
      validateConfiguration(configuration: object, debug: object): Promise<void>;
    };
    await validateConfiguration(configuration(), { isEnabled: false });
    // The check finds mistakes, if there are any.
    const wrong = { ...configuration(), noSuchSetting: 1 };
    await expect(validateConfiguration(wrong, { isEnabled: false })).rejects.toThrow(/noSuchSetting/);
  });

  it("makes what the issue asks for", () => {
    const { linux, mac, win } = configuration();
    expect(linux.target).toEqual(["AppImage", "deb", "rpm"]);
    expect(mac.target).toEqual(["dmg"]);
    expect(win.target).toEqual(["nsis"]);
  });

  it("closes the executable's other uses", () => {
    expect(configuration().electronFuses).toEqual({
      runAsNode: false,
      enableCookieEncryption: true,
      enableNodeOptionsEnvironmentVariable: false,
      enableNodeCliInspectArguments: false,
      enableEmbeddedAsarIntegrityValidation: true,
      onlyLoadAppFromAsar: true,
      loadBrowserProcessSpecificV8Snapshot: false,
      grantFileProtocolExtraPrivileges: false,
    });
    expect(configuration()).toMatchObject({ asar: true, npmRebuild: false });
  });

  it("names files that are there", () => {
    const { files, extraResources, directories, linux, mac, win } = configuration();
    const named = [
      ...files.filter((pattern) => !pattern.startsWith("!")).map((pattern) => pattern.replace(/\/\*\*$/, "")),
      ...extraResources.map(({ from }) => from),
      directories.buildResources,
      linux.icon,
      mac.icon,
      win.icon,
    ];
    // What the build makes is there once it has run; its source is there always.
    const made = named.map((name) => name.replace(/^dist\/(?=engine|main|preload|renderer)/, ""));
    for (const name of made) expect(() => statSync(inRoot(name)), name).not.toThrow();
    expect(named).toEqual(expect.arrayContaining(["dist/engine", "dist/main", "dist/preload", "dist/renderer"]));
    expect(directories.output.startsWith("dist/")).toBe(true);
  });

  it("has icons of the sizes that they are named after", () => {
    const folder = inRoot(configuration().linux.icon);
    const icons = readdirSync(folder).filter((name) => name.endsWith(".png"));
    expect(icons).toContain("512x512.png");
    for (const name of icons) {
      const png = readFileSync(path.join(folder, name));
      // PNG: signature, then IHDR with width and height as big-endian numbers.
      expect(png.subarray(1, 4).toString("latin1")).toBe("PNG");
      expect(`${png.readUInt32BE(16)}x${png.readUInt32BE(20)}.png`).toBe(name);
    }
  });

  it("opens the files that the app knows", () => {
    expect(configuration().fileAssociations.map(({ ext }) => ext)).toEqual([...EXTENSIONS]);
  });

  it("packs every library that runs in a user's hands", () => {
    const used = new Set([...packagesOf("engine"), ...packagesOf("main")]);
    // Part of the executable.
    used.delete("electron");
    expect([...used].filter((name) => manifest.dependencies[name] === undefined)).toEqual([]);
    expect([...used]).toEqual(expect.arrayContaining(["koffi", "node-pty", "ws", "zod"]));
    expect(manifest.devDependencies.electron).toMatch(/^\d+\.\d+\.\d+$/);
  });

  it("leaves what the engine's processes load beside the archive", () => {
    const { asarUnpack } = configuration();
    for (const pattern of ["**/*.node", "dist/engine/**", "package.json"]) expect(asarUnpack).toContain(pattern);
    const used = [...packagesOf("engine")];
    expect(used.length).toBeGreaterThan(3);
    for (const name of [...used, "node-pty"]) {
      expect(asarUnpack, name).toContain(`node_modules/${name}/**`);
      const { dependencies = {}, optionalDependencies = {} } = JSON.parse(
        readFileSync(inRoot("node_modules", name, "package.json"), "utf8"),
      ) as Record<string, Record<string, string>>;
      // Libraries with a binary for each system have them in packages of one scope.
      const scopes = new Set(Object.keys(optionalDependencies).map((each) => each.split("/", 1)[0]));
      for (const scope of scopes) expect(asarUnpack, name).toContain(`node_modules/${scope}/**`);
      const others = Object.keys(dependencies).filter((each) => each !== "node-addon-api");
      expect(others.filter((each) => !asarUnpack.includes(`node_modules/${each}/**`))).toEqual([]);
    }
  });

  it("has workers and processes started from there", () => {
    const inArchive = "file:///opt/Domlab/resources/app.asar/dist/engine/domain/machine.js";
    expect(compiledPath(inArchive, "vcpu-worker.js")).toBe(
      path.normalize("/opt/Domlab/resources/app.asar.unpacked/dist/engine/domain/vcpu-worker.js"),
    );
    const beside = "file:///opt/Domlab/resources/app.asar.unpacked/dist/engine/domain/machine.js";
    expect(compiledPath(beside, "x.js")).toBe(
      path.normalize("/opt/Domlab/resources/app.asar.unpacked/dist/engine/domain/x.js"),
    );
    expect(compiledPath("file:///home/app.asariel/dist/a.js", "x.js")).toBe(
      path.normalize("/home/app.asariel/dist/x.js"),
    );
  });
});
