//! What a preference fills in about devices.

use crate::instancetype::DevicePreferences;
use crate::v1::{
    Devices, Disk, Input, Interface, PanicDevice, VideoDevice, VirtualMachineInstanceSpec,
};

/// Name of an input device that is there without being listed; KubeVirt's.
const DEFAULT_INPUT: &str = "default-0";

/// The type of an input device that names none.
const TABLET: &str = "tablet";

/// Fills in which devices are there without being listed.
pub(super) fn attach(preferred: &DevicePreferences, devices: &mut Devices) {
    let flags = [
        (
            preferred.preferred_autoattach_graphics_device,
            &mut devices.autoattach_graphics_device,
        ),
        (
            preferred.preferred_autoattach_mem_balloon,
            &mut devices.autoattach_mem_balloon,
        ),
        (
            preferred.preferred_autoattach_pod_interface,
            &mut devices.autoattach_pod_interface,
        ),
        (
            preferred.preferred_autoattach_serial_console,
            &mut devices.autoattach_serial_console,
        ),
        (
            preferred.preferred_autoattach_input_device,
            &mut devices.autoattach_input_device,
        ),
    ];
    for (preferred, field) in flags {
        or(field, &preferred);
    }
}

/// Fills in the rest.
pub(super) fn fill(preferred: &DevicePreferences, spec: &mut VirtualMachineInstanceSpec) {
    interfaces(preferred, spec);
    let devices = &mut spec.domain.devices;
    or(
        &mut devices.use_virtio_transitional,
        &preferred.preferred_use_virtio_transitional,
    );
    or(
        &mut devices.block_multi_queue,
        &preferred.preferred_block_multi_queue,
    );
    or(
        &mut devices.network_interface_multiqueue,
        &preferred.preferred_network_interface_multi_queue,
    );
    or(
        &mut devices.disable_hotplug,
        &preferred.preferred_disable_hotplug,
    );
    or(&mut devices.rng, &preferred.preferred_rng);
    or(&mut devices.tpm, &preferred.preferred_tpm);
    if let Some(sound) = &mut devices.sound {
        or_text(&mut sound.model, &preferred.preferred_sound_model);
    }
    if preferred.preferred_video_type.is_some() {
        let video: &mut VideoDevice = devices.video.get_or_insert_default();
        or_text(&mut video.r#type, &preferred.preferred_video_type);
    }
    for gpu in &mut devices.gpus {
        or(
            &mut gpu.virtual_gpu_options,
            &preferred.preferred_virtual_gpu_options,
        );
    }
    devices.disks.iter_mut().for_each(|it| disk(preferred, it));
    inputs(preferred, devices);
    panic_devices(preferred, devices);
}

/// Sets `field` to `preferred` where it is not set.
pub(super) fn or<T: Clone>(field: &mut Option<T>, preferred: &Option<T>) {
    if field.is_none() {
        field.clone_from(preferred);
    }
}

/// Sets a text to `preferred` where it is not set or empty.
pub(super) fn or_text(field: &mut Option<String>, preferred: &Option<String>) {
    let set = field.as_deref().is_some_and(|text| !text.is_empty());
    if !set && preferred.as_deref().is_some_and(|text| !text.is_empty()) {
        field.clone_from(preferred);
    }
}

fn disk(preferred: &DevicePreferences, disk: &mut Disk) {
    if let Some(cdrom) = &mut disk.cdrom {
        or_text(&mut cdrom.bus, &preferred.preferred_cdrom_bus);
        return;
    }
    if let Some(lun) = &mut disk.lun {
        or_text(&mut lun.bus, &preferred.preferred_lun_bus);
        return;
    }
    let target = disk.disk.get_or_insert_default();
    or_text(&mut target.bus, &preferred.preferred_disk_bus);
    let virtio = target.bus.as_deref() == Some("virtio");
    or(&mut disk.block_size, &preferred.preferred_disk_block_size);
    or_text(&mut disk.cache, &preferred.preferred_disk_cache);
    or_text(&mut disk.io, &preferred.preferred_disk_io);
    if virtio {
        or(
            &mut disk.dedicated_io_thread,
            &preferred.preferred_disk_dedicated_io_thread,
        );
    }
}

fn interfaces(preferred: &DevicePreferences, spec: &mut VirtualMachineInstanceSpec) {
    let networks = &spec.networks;
    let on_pod_network = |interface: &Interface| {
        networks
            .iter()
            .any(|network| network.name == interface.name && network.pod.is_some())
    };
    for interface in &mut spec.domain.devices.interfaces {
        or_text(&mut interface.model, &preferred.preferred_interface_model);
        if !crate::defaults::is_bound(interface) && on_pod_network(interface) {
            or(
                &mut interface.masquerade,
                &preferred.preferred_interface_masquerade,
            );
        }
    }
}

fn inputs(preferred: &DevicePreferences, devices: &mut Devices) {
    let bus = &preferred.preferred_input_bus;
    let kind = &preferred.preferred_input_type;
    let likes = [bus, kind].into_iter().any(Option::is_some);
    if devices.autoattach_input_device == Some(true) && devices.inputs.is_empty() && likes {
        devices.inputs.push(Input {
            name: DEFAULT_INPUT.to_owned(),
            ..Input::default()
        });
    }
    for input in &mut devices.inputs {
        or_text(&mut input.bus, bus);
        if input.r#type.is_empty() {
            let kind = kind.as_deref().filter(|text| !text.is_empty());
            kind.unwrap_or(TABLET).clone_into(&mut input.r#type);
        }
    }
}

fn panic_devices(preferred: &DevicePreferences, devices: &mut Devices) {
    let model = &preferred.preferred_panic_device_model;
    if model.is_some() && devices.panic_devices.is_empty() {
        devices.panic_devices.push(PanicDevice::default());
    }
    for device in &mut devices.panic_devices {
        or(&mut device.model, model);
    }
}
