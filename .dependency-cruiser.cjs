/**
 * The layer walls of engine/DESIGN.md. A folder may import what its row lists, and itself; everything else fails
 * `npm run check`. `errors` is open to all. A folder without a row fails too, so a new layer must state its place here.
 */
const layers = {
  abi: [],
  errors: [],
  memory: ["abi"],
  cpu: ["memory"],
  hypervisor: ["abi", "memory", "cpu"],
  xenstore: ["abi", "memory"],
  device: ["abi", "memory", "xenstore"],
  disk: ["abi", "memory", "device"],
  network: ["device"],
  builder: ["abi", "memory"],
  trace: ["abi"],
  snapshot: ["abi", "memory", "cpu", "hypervisor", "xenstore", "device"],
  domain: [
    "abi",
    "memory",
    "cpu",
    "hypervisor",
    "xenstore",
    "device",
    "disk",
    "network",
    "builder",
    "snapshot",
    "trace",
  ],
};

const names = Object.keys(layers).join("|");

const walls = Object.entries(layers).map(([layer, allowed]) => ({
  name: `${layer}-imports-only-lower-layers`,
  comment: `engine/${layer} may import ${allowed.length ? allowed.join(", ") : "no other layer"}.`,
  severity: "error",
  from: { path: `^engine/${layer}/` },
  to: {
    path: "^(engine|main|preload|renderer|test)/",
    pathNot: `^engine/(${[layer, "errors", ...allowed].join("|")})/`,
  },
}));

module.exports = {
  forbidden: [
    ...walls,
    {
      name: "known-layers-only",
      comment: "A folder of engine/ without a row in .dependency-cruiser.cjs has no place yet.",
      severity: "error",
      from: { path: "^(engine|main|test)/" },
      to: { path: "^engine/[^/]+/", pathNot: `^engine/(${names})/` },
    },
    {
      name: "main-is-the-top",
      comment: "Nothing under main/ reaches into tests, and the renderer and preload are loaded, not imported.",
      severity: "error",
      from: { path: "^main/" },
      to: { path: "^(test|preload|renderer)/" },
    },
    {
      name: "renderer-sees-types-only",
      comment: "The renderer runs in a browser: of main/ it knows the shapes of calls, and of the engine nothing.",
      severity: "error",
      from: { path: "^renderer/" },
      to: { path: "^(engine|main|preload|test)/", dependencyTypesNot: ["type-only"] },
    },
    {
      name: "electron-only-in-its-shell",
      comment: "Everything but the Electron entry and the preload bridge runs on plain Node.",
      severity: "error",
      from: { path: "^(engine|main|preload|renderer|test)/", pathNot: "^(main/electron|preload/)" },
      to: { path: "^electron$|node_modules/electron/" },
    },
    {
      name: "no-cycles",
      comment: "Modules that need each other are one module, or lack a third.",
      severity: "error",
      from: { pathNot: "^engine/cpu/assembly/" },
      to: { circular: true, viaOnly: { dependencyTypesNot: ["type-only"] } },
    },
    {
      name: "no-unresolvable",
      comment: "An import that resolves to nothing.",
      severity: "error",
      from: {},
      to: { couldNotResolve: true, pathNot: "^electron$|/dist/" },
    },
    {
      name: "product-code-without-dev-dependencies",
      comment: "What runs in a user's hands must be in dependencies; electron is what it runs in.",
      severity: "error",
      from: { path: "^(engine|main)/", pathNot: "^engine/cpu/(build\\.mjs$|generate/)|^main/bootstrap\\.mjs$" },
      to: {
        dependencyTypes: ["npm-dev"],
        dependencyTypesNot: ["type-only"],
        pathNot: "node_modules/(@types|electron)/",
      },
    },
  ],
  options: {
    doNotFollow: { path: "node_modules" },
    exclude: { path: "^(dist|engine/cpu/assembly/(?!layout\\.ts))" },
    tsPreCompilationDeps: true,
    tsConfig: { fileName: "tsconfig.json" },
    enhancedResolveOptions: {
      extensions: [".ts", ".js", ".mjs"],
      exportsFields: ["exports"],
      conditionNames: ["import", "node", "default", "types"],
    },
  },
};
