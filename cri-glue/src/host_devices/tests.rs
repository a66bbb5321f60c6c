//! What a container was given, and what its machine gets. A directory stands in for the kernel's
//! sysfs: no machine of ours has a device to give away.

use std::fs;
use std::os::unix::fs::symlink;

use serde_json::{Value, json};

use super::*;
use crate::bundle::tests::{bundle, spec};

const GPU: &str = "0000:3b:00.0";
const NIC: &str = "0000:5e:02.0";
const DISK: &str = "0000:00:1f.2";

/// A sysfs with the GPU in group 12, the NIC in group 7, and the node's disk in group 1.
fn sysfs() -> (tempfile::TempDir, Sysfs) {
    let directory = tempfile::tempdir().unwrap();
    for (address, group) in [(GPU, 12), (NIC, 7), (DISK, 1)] {
        let device = directory.path().join("bus/pci/devices").join(address);
        fs::create_dir_all(&device).unwrap();
        let target = format!("../../../../kernel/iommu_groups/{group}");
        symlink(target, device.join("iommu_group")).unwrap();
    }
    for (group, number) in [(12, "240:3\n"), (7, "240:1\n")] {
        let class = directory.path().join(format!("class/vfio/{group}"));
        fs::create_dir_all(&class).unwrap();
        fs::write(class.join("dev"), number).unwrap();
    }
    let sysfs = Sysfs::at(directory.path());
    (directory, sysfs)
}

fn character(name: &str, major: i64, minor: i64) -> Value {
    json!({"path": format!("/dev/vfio/{name}"), "type": "c", "major": major, "minor": minor})
}

fn gpu() -> Value {
    character("12", 240, 3)
}

fn nic() -> Value {
    character("7", 240, 1)
}

fn common() -> Value {
    character("vfio", 10, 196)
}

fn of(devices: Value, env: &[&str], wish: Value) -> Result<HostDevices, String> {
    let (_directory, sysfs) = sysfs();
    let mut spec = spec();
    spec["linux"]["devices"] = devices;
    spec["process"]["env"] = json!(env);
    let wish = json!({ "domain": { "devices": wish } });
    let wish = serde_json::from_value(wish).unwrap();
    HostDevices::within(&sysfs, &wish, &bundle(spec)).map_err(|error| error.to_string())
}

fn refused(devices: Value, env: &[&str], wish: Value, words: &str) {
    let error = of(devices, env, wish).unwrap_err();
    assert!(error.contains(words), "{error}");
    assert!(!error.contains('\n'), "{error}");
}

fn wished() -> Value {
    json!({"gpus": [{"name": "a", "deviceName": "x.com/gpu"}]})
}

const GPU_VARIABLE: &str = "PCI_RESOURCE_X_COM_GPU=0000:3b:00.0";
const NIC_VARIABLE: &str = "PCIDEVICE_X_COM_NIC=0000:5e:02.0";

fn addresses(found: &HostDevices) -> Vec<String> {
    let addresses = found.devices.iter().map(|it| it.address().to_string());
    addresses.collect()
}

#[test]
fn what_the_spec_names_is_taken_from_its_plugins_pool() {
    let wish = json!({
        "gpus": [{"name": "a", "deviceName": "x.com/gpu"}],
        "hostDevices": [{"name": "b", "deviceName": "x.com/nic"}],
    });
    let devices = json!([nic(), gpu(), common()]);
    let found = of(devices, &[NIC_VARIABLE, GPU_VARIABLE], wish).unwrap();
    assert_eq!(addresses(&found), [GPU, NIC]);
    let nodes: Vec<_> = found.nodes.iter().map(|it| it.path.clone()).collect();
    let expected = ["/dev/vfio/12", "/dev/vfio/7", "/dev/vfio/vfio"];
    assert_eq!(nodes, expected.map(PathBuf::from));
    assert!(found.directories[0].ends_with("bus/pci/devices/0000:3b:00.0"));
}

#[test]
fn a_plain_pods_devices_are_all_its_machines() {
    let found = of(
        json!([gpu(), common()]),
        &[GPU_VARIABLE, NIC_VARIABLE],
        json!({}),
    );
    // The NIC is an interface of the pod's network, and no device of its container.
    assert_eq!(addresses(&found.unwrap()), [GPU]);
    let nothing = of(json!([]), &[GPU_VARIABLE], json!({})).unwrap();
    assert_eq!(nothing, HostDevices::default());
}

#[test]
fn a_device_that_the_container_was_not_given_is_refused() {
    let disk = format!("PCI_RESOURCE_X_COM_GPU={DISK}");
    let given = || json!([gpu(), common()]);
    refused(
        given(),
        &[&disk],
        wished(),
        "IOMMU group 1, which the container was not given",
    );
    refused(
        json!([]),
        &[GPU_VARIABLE],
        wished(),
        "group 12, which the container was not given",
    );
    refused(
        given(),
        &[],
        wished(),
        "domain.devices.gpus[0]: the pod was given no device of x.com/gpu",
    );
    let missing = "PCI_RESOURCE_X_COM_GPU=0000:ff:00.0";
    refused(
        given(),
        &[missing],
        wished(),
        "0000:ff:00.0: the kernel does not tell",
    );
    let twice = json!({"gpus": [
        {"name": "a", "deviceName": "x.com/gpu"}, {"name": "b", "deviceName": "x.com/gpu"},
    ]});
    refused(given(), &[GPU_VARIABLE], twice, "gpus[1]");
}

#[test]
fn a_node_that_only_looks_like_a_group_is_refused() {
    let other = json!([character("12", 8, 0), common()]);
    refused(
        other,
        &[GPU_VARIABLE],
        wished(),
        "/dev/vfio/12 is not the device of that group",
    );
    let named = json!([character("vfio", 8, 0), gpu()]);
    refused(named, &[GPU_VARIABLE], wished(), "/dev/vfio/");
    refused(
        json!([gpu()]),
        &[GPU_VARIABLE],
        wished(),
        "not /dev/vfio/vfio",
    );
    let block = json!({"path": "/dev/vfio/12", "type": "b", "major": 240, "minor": 3});
    let device = serde_json::from_value(block).unwrap();
    assert!(!is_vfio(&device));
}

#[test]
fn a_group_without_an_iommu_is_refused() {
    let without = || json!([character("noiommu-0", 240, 0), common()]);
    for wish in [wished(), json!({})] {
        let words = "/dev/vfio/noiommu-0, a group without an IOMMU";
        refused(without(), &[GPU_VARIABLE], wish, words);
    }
}

#[test]
fn nothing_is_given_in_vain() {
    let devices = || json!([gpu(), nic(), common()]);
    refused(
        devices(),
        &[GPU_VARIABLE, NIC_VARIABLE],
        wished(),
        "/dev/vfio/7, and no device of that group is named in the spec",
    );
    refused(
        devices(),
        &[GPU_VARIABLE],
        json!({}),
        "/dev/vfio/7, and no device of that group is told",
    );
}
