use serde_json::{Value, json};

use super::*;
use crate::{support, validate};

fn expanded(template: Value, instancetype: Value, preference: Value) -> Result<Value, Vec<String>> {
    let mut template: VirtualMachineInstanceTemplateSpec =
        serde_json::from_value(template).unwrap();
    let instancetype: Option<InstancetypeSpec> = serde_json::from_value(instancetype).unwrap();
    let preference: Option<PreferenceSpec> = serde_json::from_value(preference).unwrap();
    let expansion = Expansion {
        instancetype: instancetype.as_ref(),
        preference: preference.as_ref(),
        memory_is_fallback: false,
    };
    match expand(&mut template, expansion) {
        Ok(()) => Ok(serde_json::to_value(template).unwrap()),
        Err(errors) => Err(errors.into_iter().map(|error| error.path).collect()),
    }
}

fn small() -> Value {
    json!({ "cpu": { "guest": 2 }, "memory": { "guest": "1Gi" } })
}

fn with_domain(domain: Value) -> Value {
    json!({ "spec": { "domain": domain } })
}

#[test]
fn an_instance_type_sets_everything_it_owns() {
    let instancetype = json!({
        "cpu": {
            "guest": 4, "model": "host-passthrough", "dedicatedCPUPlacement": true,
            "isolateEmulatorThread": true, "numa": { "guestMappingPassthrough": {} },
            "realtime": { "mask": "0-1" }, "maxSockets": 8,
        },
        "memory": { "guest": "2Gi", "maxGuest": "4Gi", "overcommitPercent": 25 },
        "nodeSelector": { "disk": "fast" },
        "schedulerName": "own",
        "gpus": [{ "name": "a", "deviceName": "example.com/gpu" }],
        "hostDevices": [{ "name": "b", "deviceName": "example.com/nic" }],
        "ioThreadsPolicy": "auto",
        "ioThreads": { "supplementalPoolThreadCount": 2 },
        "launchSecurity": { "sev": {} },
        "annotations": { "example.com/size": "large" },
    });
    let template = expanded(with_domain(json!({})), instancetype, Value::Null).unwrap();
    let spec = &template["spec"];
    assert_eq!(
        spec["domain"]["cpu"],
        json!({
            "sockets": 4, "cores": 1, "threads": 1, "maxSockets": 8, "model": "host-passthrough",
            "dedicatedCpuPlacement": true, "isolateEmulatorThread": true,
            "numa": { "guestMappingPassthrough": {} }, "realtime": { "mask": "0-1" },
        })
    );
    assert_eq!(
        spec["domain"]["memory"],
        json!({ "guest": "2Gi", "maxGuest": "4Gi" })
    );
    assert_eq!(
        spec["domain"]["resources"],
        json!({ "requests": { "memory": "1536Mi" } })
    );
    assert_eq!(spec["nodeSelector"], json!({ "disk": "fast" }));
    assert_eq!(spec["schedulerName"], "own");
    let devices = &spec["domain"]["devices"];
    assert_eq!(devices["gpus"][0]["deviceName"], "example.com/gpu");
    assert_eq!(devices["hostDevices"][0]["deviceName"], "example.com/nic");
    assert_eq!(spec["domain"]["ioThreadsPolicy"], "auto");
    assert_eq!(
        spec["domain"]["ioThreads"]["supplementalPoolThreadCount"],
        2
    );
    assert_eq!(spec["domain"]["launchSecurity"], json!({ "sev": {} }));
    assert_eq!(
        template["metadata"]["annotations"]["example.com/size"],
        "large"
    );
}

#[test]
fn a_template_that_sets_the_same_conflicts_and_is_told_where() {
    let owner = json!({
        "cpu": {
            "guest": 1, "model": "a", "dedicatedCPUPlacement": true, "isolateEmulatorThread": true,
            "numa": {}, "realtime": {}, "maxSockets": 2,
        },
        "memory": { "guest": "1Gi", "hugepages": {}, "maxGuest": "2Gi" },
        "nodeSelector": { "a": "b" }, "schedulerName": "a",
        "gpus": [{ "name": "a" }], "hostDevices": [{ "name": "a" }],
        "ioThreadsPolicy": "auto", "ioThreads": { "supplementalPoolThreadCount": 1 },
        "launchSecurity": {}, "annotations": { "x": "1" },
    });
    let cpu = |cpu: Value| with_domain(json!({ "cpu": cpu }));
    let memory = |memory: Value| with_domain(json!({ "memory": memory }));
    let resources = |resources: Value| with_domain(json!({ "resources": resources }));
    let table = [
        (cpu(json!({ "sockets": 1 })), "domain.cpu.sockets"),
        (cpu(json!({ "cores": 2 })), "domain.cpu.cores"),
        (cpu(json!({ "threads": 1 })), "domain.cpu.threads"),
        (cpu(json!({ "model": "b" })), "domain.cpu.model"),
        (
            cpu(json!({ "dedicatedCpuPlacement": true })),
            "domain.cpu.dedicatedCpuPlacement",
        ),
        (
            cpu(json!({ "isolateEmulatorThread": true })),
            "domain.cpu.isolateEmulatorThread",
        ),
        (cpu(json!({ "numa": {} })), "domain.cpu.numa"),
        (cpu(json!({ "realtime": {} })), "domain.cpu.realtime"),
        (cpu(json!({ "maxSockets": 1 })), "domain.cpu.maxSockets"),
        (memory(json!({ "guest": "1Gi" })), "domain.memory.guest"),
        (
            memory(json!({ "hugepages": {} })),
            "domain.memory.hugepages",
        ),
        (
            memory(json!({ "maxGuest": "1Gi" })),
            "domain.memory.maxGuest",
        ),
        (
            resources(json!({ "requests": { "cpu": 1 } })),
            "domain.resources.requests.cpu",
        ),
        (
            resources(json!({ "limits": { "cpu": 1 } })),
            "domain.resources.limits.cpu",
        ),
        (
            resources(json!({ "requests": { "memory": "1Gi" } })),
            "domain.resources.requests.memory",
        ),
        (
            resources(json!({ "limits": { "memory": "1Gi" } })),
            "domain.resources.limits.memory",
        ),
        (
            json!({ "spec": { "nodeSelector": { "c": "d" } } }),
            "nodeSelector",
        ),
        (json!({ "spec": { "schedulerName": "b" } }), "schedulerName"),
        (
            with_domain(json!({ "devices": { "gpus": [{ "name": "b" }] } })),
            "domain.devices.gpus",
        ),
        (
            with_domain(json!({ "devices": { "hostDevices": [{ "name": "b" }] } })),
            "domain.devices.hostDevices",
        ),
        (
            with_domain(json!({ "ioThreadsPolicy": "shared" })),
            "domain.ioThreadsPolicy",
        ),
        (
            with_domain(json!({ "ioThreads": { "supplementalPoolThreadCount": 2 } })),
            "domain.ioThreads.supplementalPoolThreadCount",
        ),
        (
            with_domain(json!({ "launchSecurity": {} })),
            "domain.launchSecurity",
        ),
    ];
    for (template, path) in table {
        let refused = expanded(template.clone(), owner.clone(), Value::Null).unwrap_err();
        assert_eq!(refused, [format!("template.spec.{path}")], "{template}");
    }
    let annotated = json!({ "metadata": { "annotations": { "x": "2" } } });
    let refused = expanded(annotated, owner.clone(), Value::Null).unwrap_err();
    assert_eq!(refused, ["template.metadata.annotations.x"]);
    let same = json!({ "metadata": { "annotations": { "x": "1" } } });
    assert!(expanded(same, owner, Value::Null).is_ok());
}

#[test]
fn what_an_instance_type_leaves_open_is_the_templates() {
    let template = with_domain(json!({
        "cpu": { "model": "host-model", "maxSockets": 4, "sockets": 0 },
        "memory": { "hugepages": { "pageSize": "2Mi" } },
    }));
    let spec = expanded(template, small(), Value::Null).unwrap()["spec"].clone();
    assert_eq!(spec["domain"]["cpu"]["model"], "host-model");
    assert_eq!(spec["domain"]["cpu"]["sockets"], 2);
    assert_eq!(
        spec["domain"]["memory"],
        json!({ "guest": "1Gi", "hugepages": { "pageSize": "2Mi" } })
    );
}

#[test]
fn a_machine_with_a_size_is_a_whole_machine() {
    let template = json!({ "spec": {
        "domain": { "devices": { "disks": [{ "name": "root", "disk": { "bus": "virtio" } }] } },
        "volumes": [{ "name": "root", "containerDisk": { "image": "example.com/disk:1" } }],
    } });
    let template = expanded(template, small(), Value::Null).unwrap();
    let mut spec: VirtualMachineInstanceSpec =
        serde_json::from_value(template["spec"].clone()).unwrap();
    defaults::instance(&mut spec);
    assert_eq!(support::instance(&spec), []);
    assert_eq!(validate::instance(&spec), []);
}

#[test]
fn a_field_that_does_not_work_is_named_as_the_expanded_instances() {
    let owner = json!({ "cpu": { "guest": 1, "realtime": {} }, "memory": { "guest": "1Gi" } });
    let template = expanded(with_domain(json!({})), owner, Value::Null).unwrap();
    let spec = serde_json::from_value(template["spec"].clone()).unwrap();
    let refused = support::instance(&spec);
    assert_eq!(refused[0].path, "domain.cpu.realtime");
}

#[test]
fn a_preference_fills_in_what_is_open_and_nothing_else() {
    let preference = json!({
        "devices": {
            "preferredDiskBus": "virtio", "preferredCdromBus": "scsi", "preferredLunBus": "scsi",
            "preferredDiskCache": "none", "preferredDiskIO": "native",
            "preferredDiskDedicatedIoThread": true,
            "preferredInterfaceModel": "e1000e", "preferredInterfaceMasquerade": {},
            "preferredRng": {}, "preferredTPM": { "persistent": true },
            "preferredBlockMultiQueue": true, "preferredNetworkInterfaceMultiQueue": true,
            "preferredAutoattachMemBalloon": false, "preferredAutoattachInputDevice": true,
            "preferredInputBus": "virtio", "preferredInputType": "tablet",
            "preferredSoundModel": "ac97", "preferredVideoType": "virtio",
            "preferredPanicDeviceModel": "isa", "preferredDisableHotplug": true,
            "preferredUseVirtioTransitional": true,
            "preferredVirtualGPUOptions": { "display": { "enabled": true } },
        },
    });
    let template = json!({ "spec": {
        "domain": { "devices": {
            "disks": [
                { "name": "a", "disk": { "bus": "sata" }, "cache": "writeback" },
                { "name": "b", "cdrom": {} }, { "name": "c", "lun": {} },
            ],
            "interfaces": [{ "name": "x", "model": "virtio" }, { "name": "y", "bridge": {} }],
            "gpus": [{ "name": "g" }],
            "autoattachMemBalloon": true,
        } },
        "networks": [{ "name": "x", "pod": {} }, { "name": "y", "multus": { "networkName": "n" } }],
        "volumes": [{ "name": "d", "emptyDisk": { "capacity": "1Gi" } }],
    } });
    let spec = expanded(template, Value::Null, preference).unwrap()["spec"].clone();
    assert_eq!(
        spec["domain"]["devices"],
        json!({
            "disks": [
                { "name": "a", "disk": { "bus": "sata" }, "cache": "writeback", "io": "native" },
                { "name": "b", "cdrom": { "bus": "scsi" } }, { "name": "c", "lun": { "bus": "scsi" } },
                { "name": "d", "disk": { "bus": "virtio" }, "cache": "none", "io": "native",
                  "dedicatedIOThread": true },
            ],
            "interfaces": [
                { "name": "x", "model": "virtio", "masquerade": {} },
                { "name": "y", "model": "e1000e", "bridge": {} },
            ],
            "gpus": [{ "name": "g", "virtualGPUOptions": { "display": { "enabled": true } } }],
            "rng": {}, "tpm": { "persistent": true },
            "blockMultiQueue": true, "networkInterfaceMultiqueue": true,
            "autoattachMemBalloon": true, "autoattachInputDevice": true,
            "inputs": [{ "name": "default-0", "type": "tablet", "bus": "virtio" }],
            "video": { "type": "virtio" }, "panicDevices": [{ "model": "isa" }],
            "disableHotplug": true, "useVirtioTransitional": true,
        })
    );
}

#[test]
fn a_machine_without_interfaces_has_the_preferred_one() {
    let model = json!({ "devices": { "preferredInterfaceModel": "e1000" } });
    let spec = expanded(with_domain(json!({})), Value::Null, model).unwrap()["spec"].clone();
    let interfaces = &spec["domain"]["devices"]["interfaces"];
    assert_eq!(
        *interfaces,
        json!([{ "name": "default", "model": "e1000" }])
    );
    let none = json!({ "devices": { "preferredAutoattachPodInterface": false } });
    let spec = expanded(with_domain(json!({})), Value::Null, none).unwrap()["spec"].clone();
    assert!(spec.get("networks").is_none(), "{spec}");
}

#[test]
fn a_preference_fills_in_the_machine_around_the_devices() {
    let preference = json!({
        "cpu": { "preferredCPUFeatures": [{ "name": "vmx" }, { "name": "svm" }] },
        "features": {
            "preferredAcpi": { "enabled": true }, "preferredApic": {}, "preferredSmm": {},
            "preferredKvm": { "hidden": true }, "preferredPvspinlock": {},
            "preferredHyperv": { "relaxed": {}, "spinlocks": { "spinlocks": 8191 } },
        },
        "clock": { "preferredClockOffset": { "utc": {} }, "preferredTimer": { "hpet": { "present": false } } },
        "machine": { "preferredMachineType": "pc-q35-9.0" },
        "preferredSubdomain": "sub", "preferredTerminationGracePeriodSeconds": 180,
        "preferredArchitecture": "amd64", "preferredLaunchSecurity": { "snp": {} },
        "annotations": { "a": "theirs", "b": "theirs" },
    });
    let template = json!({
        "metadata": { "annotations": { "a": "own" } },
        "spec": { "domain": {
            "cpu": { "features": [{ "name": "vmx", "policy": "disable" }] },
            "clock": { "timezone": "Europe/Berlin" },
            "features": { "hyperv": { "spinlocks": { "spinlocks": 4096 } } },
        } },
    });
    let template = expanded(template, Value::Null, preference).unwrap();
    let spec = &template["spec"];
    let domain = &spec["domain"];
    assert_eq!(
        domain["cpu"]["features"],
        json!([{ "name": "vmx", "policy": "disable" }, { "name": "svm" }])
    );
    assert_eq!(
        domain["features"],
        json!({
            "acpi": { "enabled": true }, "apic": {}, "smm": {}, "kvm": { "hidden": true },
            "pvspinlock": {}, "hyperv": { "relaxed": {}, "spinlocks": { "spinlocks": 4096 } },
        })
    );
    assert_eq!(
        domain["clock"],
        json!({ "timezone": "Europe/Berlin", "timer": { "hpet": { "present": false } } })
    );
    assert_eq!(domain["machine"]["type"], "pc-q35-9.0");
    assert_eq!(spec["subdomain"], "sub");
    assert_eq!(spec["terminationGracePeriodSeconds"], 180);
    assert_eq!(spec["architecture"], "amd64");
    assert_eq!(domain["launchSecurity"], json!({ "snp": {} }));
    assert_eq!(
        template["metadata"]["annotations"],
        json!({ "a": "own", "b": "theirs" })
    );
}

#[test]
fn firmware_is_chosen_once() {
    let table = [
        (
            json!({}),
            json!({ "preferredUseEfi": true, "preferredUseSecureBoot": false }),
            json!({ "efi": { "secureBoot": false } }),
        ),
        (
            json!({}),
            json!({ "preferredEfi": { "persistent": true }, "preferredUseSecureBoot": true }),
            json!({ "efi": { "persistent": true } }),
        ),
        (
            json!({}),
            json!({ "preferredUseBios": true, "preferredUseBiosSerial": true }),
            json!({ "bios": { "useSerial": true } }),
        ),
        (
            json!({ "bios": {} }),
            json!({ "preferredUseEfi": true, "preferredEfi": {} }),
            json!({ "bios": {} }),
        ),
        (
            json!({ "efi": {} }),
            json!({ "preferredUseSecureBoot": true }),
            json!({ "efi": { "secureBoot": true } }),
        ),
    ];
    for (own, preferred, expected) in table {
        let template = with_domain(json!({ "firmware": { "bootloader": own } }));
        let preference = json!({ "firmware": preferred });
        let spec = expanded(template, Value::Null, preference).unwrap()["spec"].clone();
        assert_eq!(spec["domain"]["firmware"]["bootloader"], expected);
    }
    let nothing = json!({ "firmware": { "preferredUseEfi": false } });
    let spec = expanded(with_domain(json!({})), Value::Null, nothing).unwrap()["spec"].clone();
    assert!(spec["domain"].get("firmware").is_none(), "{spec}");
}

#[test]
fn what_a_preference_requires_is_there() {
    let requires = |topology: &str, requirements: Value| json!({ "cpu": { "preferredCPUTopology": topology }, "requirements": requirements });
    let cpu = json!({ "cpu": { "guest": 4 } });
    let at = |template: Value, instancetype: Value, preference: Value| {
        expanded(template, instancetype, preference).err()
    };
    let bare = || with_domain(json!({}));
    let owned = at(bare(), small(), requires("cores", cpu.clone()));
    assert_eq!(owned.unwrap(), ["instancetype"]);
    let none = at(bare(), Value::Null, requires("cores", cpu.clone()));
    assert_eq!(none.unwrap(), ["template.spec.domain.cpu.cores"]);
    let requested = |name: &str, amount: &str| {
        with_domain(json!({ "resources": { "requests": { name: amount } } }))
    };
    let by_request = requested("cpu", "3500m");
    assert_eq!(
        at(by_request, Value::Null, requires("sockets", cpu.clone())),
        None
    );
    for (topology, parts) in [
        ("sockets", vec!["sockets"]),
        ("preferCores", vec!["cores"]),
        ("threads", vec!["threads"]),
        ("any", vec!["cores", "sockets", "threads"]),
        ("spread", vec!["cores", "sockets"]),
    ] {
        let own = with_domain(json!({ "cpu": { "sockets": 3, "cores": 1, "threads": 1 } }));
        let refused = at(own, Value::Null, requires(topology, cpu.clone())).unwrap();
        let expected: Vec<_> = parts
            .into_iter()
            .map(|part| format!("template.spec.domain.cpu.{part}"))
            .collect();
        assert_eq!(refused, expected, "{topology}");
    }
    let enough = with_domain(json!({ "cpu": { "sockets": 2, "cores": 2, "threads": 1 } }));
    assert_eq!(at(enough, Value::Null, requires("any", cpu)), None);
    let memory = json!({ "memory": { "guest": "2Gi" } });
    let refused = at(bare(), small(), requires("any", memory.clone()));
    assert_eq!(refused.unwrap(), ["instancetype"]);
    let by_request = requested("memory", "2Gi");
    assert_eq!(
        at(by_request, Value::Null, requires("any", memory.clone())),
        None
    );
    let own = with_domain(json!({ "memory": { "guest": "1Gi" } }));
    let refused = at(own, Value::Null, requires("any", memory));
    assert_eq!(refused.unwrap(), ["template.spec.domain.memory"]);
    let arm = json!({ "architecture": "arm64" });
    let refused = at(bare(), small(), requires("any", arm));
    assert_eq!(refused.unwrap(), ["template.spec.architecture"]);
    let prefers =
        json!({ "preferredArchitecture": "arm64", "requirements": { "architecture": "arm64" } });
    let spec = expanded(bare(), small(), prefers).unwrap()["spec"].clone();
    assert_eq!(
        spec["architecture"], "arm64",
        "what is required is preferred"
    );
}

#[test]
fn a_wrong_object_is_named_as_such() {
    let nothing = json!({ "cpu": { "guest": 0 }, "memory": { "guest": "1Gi" } });
    let refused = expanded(with_domain(json!({})), nothing, Value::Null);
    assert_eq!(refused.unwrap_err(), ["instancetype.spec.cpu.guest"]);
    let odd = json!({ "cpu": { "guest": 3 }, "memory": { "guest": "1Gi" } });
    let spread = json!({ "cpu": { "preferredCPUTopology": "spread" } });
    let refused = expanded(with_domain(json!({})), odd, spread);
    assert_eq!(refused.unwrap_err(), ["instancetype.spec.cpu.guest"]);
    let unknown = json!({ "cpu": { "preferredCPUTopology": "heap" } });
    let refused = expanded(with_domain(json!({})), small(), unknown);
    assert_eq!(
        refused.unwrap_err(),
        ["preference.spec.cpu.preferredCPUTopology"]
    );
}

#[test]
fn a_fallbacks_memory_is_no_conflict() {
    let template = with_domain(json!({ "memory": { "guest": "512Mi" } }));
    let mut template: VirtualMachineInstanceTemplateSpec =
        serde_json::from_value(template).unwrap();
    let instancetype: InstancetypeSpec = serde_json::from_value(small()).unwrap();
    let expansion = Expansion {
        instancetype: Some(&instancetype),
        preference: None,
        memory_is_fallback: true,
    };
    assert_eq!(expand(&mut template, expansion), Ok(()));
    let memory = template.spec.unwrap().domain.memory.unwrap();
    assert_eq!(memory.guest, Some("1Gi".into()));
}
