/** The page of the window while the lab ends. It stands alone: the renderer has lost its lab by then. */

export function quittingPage(): string {
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>Domlab – suspending machines…</title>
<style>
:root { color-scheme: light dark; }
body { margin: 0; height: 100vh; display: grid; place-content: center; gap: 0.5rem; text-align: center;
  font: 15px system-ui, sans-serif; background: Canvas; color: CanvasText; }
h1 { font-size: 1.25rem; margin: 0; }
p { margin: 0; opacity: 0.75; }
</style>
</head>
<body>
<main role="status">
<h1>Suspending machines…</h1>
<p>They go on where they were at the next start. This window closes by itself.</p>
</main>
</body>
</html>
`;
}
