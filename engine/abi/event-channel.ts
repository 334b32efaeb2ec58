import { defineStruct } from "./struct.ts";

/** Sub-operations of event_channel_op (xen/include/public/event_channel.h). */
export const EventChannelOp = {
  bind_interdomain: 0,
  bind_virq: 1,
  bind_pirq: 2,
  close: 3,
  send: 4,
  status: 5,
  alloc_unbound: 6,
  bind_ipi: 7,
  bind_vcpu: 8,
  unmask: 9,
  reset: 10,
  init_control: 11,
  expand_array: 12,
  set_priority: 13,
} as const;

/** Channels a 64-bit guest has with the 2-level interface; port 0 is never used. */
export const NR_EVENT_CHANNELS_2L = 4096;
/** And a 32-bit guest: 32 words of 32 bits. */
export const NR_EVENT_CHANNELS_2L_COMPAT = 1024;

/** Values of evtchn_status.status. */
export const ChannelStatus = { closed: 0, unbound: 1, interdomain: 2, pirq: 3, virq: 4, ipi: 5 } as const;

/** struct evtchn_bind_interdomain { domid_t remote_dom; evtchn_port_t remote_port, local_port; }; */
export const bindInterdomain = defineStruct({ remoteDom: "u16", remotePort: "u32", localPort: "u32" });
/** struct evtchn_bind_virq { uint32_t virq, vcpu; evtchn_port_t port; }; */
export const bindVirq = defineStruct({ virq: "u32", vcpu: "u32", port: "u32" });
/** struct evtchn_bind_pirq { uint32_t pirq, flags; evtchn_port_t port; }; */
export const bindPirq = defineStruct({ pirq: "u32", flags: "u32", port: "u32" });
/** struct evtchn_close, evtchn_send and evtchn_unmask { evtchn_port_t port; }; */
export const portOnly = defineStruct({ port: "u32" });
/** struct evtchn_alloc_unbound { domid_t dom, remote_dom; evtchn_port_t port; }; */
export const allocUnbound = defineStruct({ dom: "u16", remoteDom: "u16", port: "u32" });
/** struct evtchn_bind_ipi { uint32_t vcpu; evtchn_port_t port; }; */
export const bindIpi = defineStruct({ vcpu: "u32", port: "u32" });
/** struct evtchn_bind_vcpu { evtchn_port_t port; uint32_t vcpu; }; */
export const bindVcpu = defineStruct({ port: "u32", vcpu: "u32" });
/** struct evtchn_reset { domid_t dom; }; */
export const resetChannels = defineStruct({ dom: "u16" });
/**
 * struct evtchn_status { domid_t dom; evtchn_port_t port; uint32_t status, vcpu; union { domid_t unbound.dom;
 *   struct { domid_t dom; evtchn_port_t port; } interdomain; uint32_t pirq, virq; } u; };
 */
export const channelStatus = defineStruct({
  dom: "u16",
  port: "u32",
  status: "u32",
  vcpu: "u32",
  detail: "u32",
  remotePort: "u32",
});
