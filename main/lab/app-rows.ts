/** The rows of the control table that the desktop app needs beyond those of the command line. */
import { imageApi } from "./image-api.ts";
import { metricsApi } from "./metrics-api.ts";
import { viewApi } from "./view-api.ts";
import { xenstoreApi } from "./xenstore-api.ts";

export const appRows = { ...metricsApi, ...xenstoreApi, ...imageApi, ...viewApi } as const;
