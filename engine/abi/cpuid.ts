/** Xen's CPUID leaves, relative to the base (xen/include/public/arch-x86/cpuid.h). */
export const XEN_CPUID_BASE = 0x40000000;
export const XEN_CPUID_LEAVES = 5;
/** Leaf 3, EBX: the guest's TSC is never emulated. */
export const TSC_MODE_NEVER_EMULATE = 2;
/** Leaf 3, EAX: the TSC is reliable. */
export const TIME_TSC_RELIABLE = 2;
/** Leaf 4, EAX: EBX holds the vCPU id, ECX the domain id. */
export const HVM_VCPU_ID_PRESENT = 8;
export const HVM_DOMID_PRESENT = 16;
/** MSR whose write makes the hypervisor fill a hypercall page. */
export const MSR_HYPERCALL_PAGE = 0x40000000;
