/** Starts the interface: session, connection, page. */
import "./app.css";
import { mount } from "svelte";
import App from "./App.svelte";
import { redeemToken } from "./lib/rpc/session.ts";
import { lab } from "./lib/state/lab.svelte.ts";
import { keepPreferences } from "./lib/state/preferences.svelte.ts";

const target = document.getElementById("app");
if (target === null) throw new Error("the page has no place for the interface");
keepPreferences();
const refusal = await redeemToken();
if (refusal === undefined) lab.start();
mount(App, { target, props: { refusal } });
