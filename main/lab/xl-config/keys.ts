/** The keys of xl.cfg(5): which are read, and why the others are passed over. */

/** Keys that become part of a machine. */
export const READ_KEYS = [
  "name",
  "type",
  "builder",
  "kernel",
  "ramdisk",
  "cmdline",
  "root",
  "extra",
  "bootloader",
  "memory",
  "maxmem",
  "vcpus",
  "maxvcpus",
  "cap",
  "disk",
  "vif",
  "on_poweroff",
  "on_reboot",
  "on_crash",
] as const;
export type ReadKey = (typeof READ_KEYS)[number];

/** Why keys of a group mean nothing here. */
const GROUPS: Readonly<Record<string, string>> = {
  "there is no graphics card":
    "vnc vnclisten vncdisplay vncunused vncpasswd sdl opengl nographic spice spicehost spiceport spicetls_port " +
    "spicedisable_ticketing spicepasswd spiceagent_mouse spicevdagent spice_clipboard_sharing spiceusbredirection " +
    "spice_image_compression spice_streaming_video vga stdvga videoram vfb vdispl gfx_passthru vkb keymap",
  "there is no USB": "usb usbdevice usbctrl usbdev usbversion",
  "there is no sound": "soundhw vsnd",
  "devices of the host are not passed through":
    "pci pci_msitranslate pci_power_mgmt pci_permissive pci_seize rdm rdm_mem_boundary dtdev ioports iomem irqs " +
    "device_tree passthrough serial",
  "this kind of device is not offered": "vtpm p9 p9s pvcalls channel virtio",
  "there is no device model and no firmware":
    "device_model_version device_model_override device_model_stubdomain_override device_model_args " +
    "device_model_args_pv device_model_args_hvm device_model_user device_model_stubdomain_seclabel stubdomain_kernel " +
    "stubdomain_ramdisk stubdomain_cmdline stubdomain_memory dm_restrict boot firmware " +
    "firmware_override bios bios_path_override " +
    "hdtype acpi acpi_firmware smbios smbios_firmware ms_vm_genid xen_platform_pci mmio_hole system_firmware hpet " +
    "vpt_align timer_mode rtc_timeoffset localtime apic acpi_s3 acpi_s4 acpi_laptop_slate pae nx viridian",
  "the processor is always the same one":
    "cpuid msr_relaxed nestedhvm hap altp2m altp2mhvm tsc_mode e820_host vpmu arch",
  "the host's scheduler decides": "pool cpus cpus_soft cpu_weight sched vnuma oos shadow_memory",
  "the limits are this program's":
    "max_grant_frames max_maptrack_frames max_grant_version max_event_channels event_channels claim_mode vuart " +
    "gic_version " +
    "vmtrace_buf_kb iommu_memory vm_notify_max",
  "the machine gets one of the lab's": "uuid",
  "there are no security modules": "seclabel init_seclabel",
  "it has no meaning here":
    "nomigrate xend_suspend_evtchn_compat driver_domain xenstore_feature_mask suppress_spurious_page_faults",
  "this end of a guest is handled as a crash or not at all": "on_watchdog on_soft_reset",
  "a kernel is started directly": "bootloader_args bootargs pvshim pvshim_path pvshim_cmdline pvshim_extra",
};

/** Keys that are known and passed over → why. */
export const IGNORED_KEYS: ReadonlyMap<string, string> = new Map(
  Object.entries(GROUPS).flatMap(([why, keys]) => keys.split(" ").map((key) => [key, why] as const)),
);

export function isReadKey(key: string): key is ReadKey {
  return (READ_KEYS as readonly string[]).includes(key);
}
