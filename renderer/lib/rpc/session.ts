/** The one-time token in the link's fragment, exchanged for a session before anything else. */

/** @returns why the link did not work; undefined when there was no token or it did */
export async function redeemToken(): Promise<string | undefined> {
  const token = new URLSearchParams(location.hash.slice(1)).get("token");
  if (token === null) return undefined;
  // Gone from the address bar and the history before it can be copied from there.
  history.replaceState(null, "", `${location.pathname}${location.search}#/machines`);
  try {
    const answer = await fetch("./session", {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ token }),
    });
    if (answer.ok) return undefined;
    const told: unknown = await answer.json();
    return typeof told === "object" && told !== null && "line" in told ? String(told.line) : "The link is not valid.";
  } catch {
    return "The server does not answer.";
  }
}
