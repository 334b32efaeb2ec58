/** The types of all calls, by the tables of the lab and of the app process; nothing here needs a window. */
import type { z } from "zod";
import type { appApi } from "../../../main/app/app-api.ts";
import type { controlApi } from "../../../main/lab/control-api.ts";

type Api = typeof controlApi & typeof appApi;
export type Method = keyof Api;
export type Parameters<M extends Method> = z.input<Api[M]["parameters"]>;
export type Result<M extends Method> = z.output<Api[M]["result"]>;
