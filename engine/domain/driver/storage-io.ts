/** What runs on a driver domain's blocking vCPUs: synchronous stores and their rings. */
import type { BlockChannel, VbdIdentity } from "../../device/block/channel.ts";
import type { IoKernel } from "../typescript/kernel.ts";
import { DriverEnvironment } from "./driver-environment.ts";
import { type OpenRequest, VbdThread } from "./vbd-thread.ts";

export type StorageRequest =
  | { readonly op: "open"; readonly request: OpenRequest }
  | { readonly op: "attach"; readonly channel: BlockChannel }
  | { readonly op: "detach" | "close"; readonly device: VbdIdentity }
  | { readonly op: "hold"; readonly frontendId: number }
  | { readonly op: "prepare"; readonly device: VbdIdentity; readonly store: unknown }
  | { readonly op: "release"; readonly frontendId: number; readonly swap: boolean }
  /** In bytes. */
  | { readonly op: "resize"; readonly device: VbdIdentity; readonly size: number };

/** Performs a request on the thread that has the devices. */
export function perform(devices: VbdThread, request: StorageRequest): Promise<unknown> {
  switch (request.op) {
    case "open":
      return devices.open(request.request);
    case "attach":
      return devices.attach(request.channel);
    case "detach":
      return devices.detach(request.device);
    case "close":
      return devices.close(request.device);
    case "hold":
      return devices.hold(request.frontendId);
    case "prepare":
      return devices.prepare(request.device, request.store);
    case "release":
      return devices.release(request.frontendId, request.swap);
    case "resize":
      return devices.resize(request.device, request.size);
  }
}

const storageIo: IoKernel = (thread, log) => {
  const devices = new VbdThread(new DriverEnvironment(thread, log));
  return (request) => perform(devices, request as StorageRequest);
};

export default storageIo;
