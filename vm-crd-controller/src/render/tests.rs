//! Snapshots of rendered pods, and what the renderer refuses.

use serde_json::{Value, json};
use vm_api::annotation;
use vm_api::contract::{IMAGE_CONTAINERS_ANNOTATION, VMI_SPEC_ANNOTATION};

use super::*;

fn instance(spec: Value) -> VirtualMachineInstance {
    serde_json::from_value(json!({
        "metadata": {
            "name": "tl", "namespace": "default",
            "uid": "5d307ca9-b3ef-428c-8861-06e72d69f223",
            "labels": { "app": "tl" },
            "annotations": {
                "example.com/a": "b",
                "kubectl.kubernetes.io/last-applied-configuration": "{}",
            },
        },
        "spec": spec,
    }))
    .unwrap()
}

const PLACEHOLDER: &str = "example.com/placeholder:1";

fn render(spec: Value, claims: &Claims) -> Result<Pod, RenderError> {
    pod(&instance(spec), claims, PLACEHOLDER, ImageForm::Volume)
}

/// The same in a cluster without image volumes.
fn render_with_sidecars(spec: Value) -> Pod {
    let instance = instance(spec);
    pod(&instance, &Claims::new(), PLACEHOLDER, ImageForm::Sidecar).unwrap()
}

/// The pod in YAML, with the spec in its annotation spread out.
fn spread(pod: &Pod) -> Value {
    let mut value = serde_json::to_value(pod).unwrap();
    let spec = &mut value["metadata"]["annotations"][VMI_SPEC_ANNOTATION];
    *spec = serde_json::from_str(spec.as_str().unwrap()).unwrap();
    value
}

fn minimal() -> Value {
    json!({
        "domain": { "memory": { "guest": "128Mi" }, "devices": {} },
        "volumes": [{ "name": "root", "containerDisk": { "image": "example.com/disk:1" } }],
    })
}

#[test]
fn a_minimal_machine() {
    insta::assert_yaml_snapshot!(spread(&render(minimal(), &Claims::new()).unwrap()));
}

#[test]
fn a_machine_with_everything() {
    let spec = json!({
        "domain": {
            "cpu": { "cores": 2, "sockets": 2 },
            "memory": { "guest": "1Gi" },
            "resources": { "requests": { "cpu": "500m" }, "limits": { "cpu": "2" } },
            "devices": {
                "disks": [
                    { "name": "root", "disk": { "bus": "virtio" } },
                    { "name": "data", "disk": { "bus": "scsi" } },
                    { "name": "cd", "cdrom": { "bus": "sata" } },
                ],
                "interfaces": [{
                    "name": "default", "masquerade": {}, "macAddress": "02:00:00:00:00:01",
                    "ports": [{ "name": "ssh", "port": 22 }, { "port": 53, "protocol": "UDP" }],
                }],
            },
        },
        "networks": [{ "name": "default", "pod": {} }],
        "volumes": [
            { "name": "root", "persistentVolumeClaim": { "claimName": "files" } },
            { "name": "data", "persistentVolumeClaim": { "claimName": "blocks" } },
            { "name": "cd", "persistentVolumeClaim": { "claimName": "cds" } },
            { "name": "scratch", "emptyDisk": { "capacity": "1Gi" } },
            { "name": "seed", "cloudInitNoCloud": {
                "secretRef": { "name": "user" }, "networkDataSecretRef": { "name": "network" },
            } },
        ],
        "hostname": "host", "subdomain": "sub",
        "nodeSelector": { "disk": "fast" },
        "tolerations": [{ "key": "a", "operator": "Exists" }],
        "affinity": { "nodeAffinity": {} },
        "topologySpreadConstraints": [{
            "maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule",
        }],
        "schedulerName": "mine", "priorityClassName": "high",
        "terminationGracePeriodSeconds": 5,
        "dnsPolicy": "None", "dnsConfig": { "nameservers": ["192.0.2.1"] },
    });
    let claim = |block| Claim {
        block,
        size: Some("2Gi".into()),
    };
    let claims = Claims::from([
        ("files".to_owned(), claim(false)),
        ("blocks".to_owned(), claim(true)),
        ("cds".to_owned(), claim(false)),
    ]);
    insta::assert_yaml_snapshot!(spread(&render(spec, &claims).unwrap()));
}

#[test]
fn directories_are_volumes_of_the_pod() {
    let mut spec = minimal();
    let names = ["settings", "key", "account", "about", "data"];
    let filesystems = names.map(|name| json!({ "name": name, "virtiofs": {} }));
    spec["domain"]["devices"]["filesystems"] = json!(filesystems);
    let label = json!({ "path": "labels", "fieldRef": { "fieldPath": "metadata.labels" } });
    let volumes = json!([
        { "name": "settings", "configMap": { "name": "a" } },
        { "name": "key", "secret": { "secretName": "b", "optional": true } },
        { "name": "account", "serviceAccount": { "serviceAccountName": "c" } },
        { "name": "about", "downwardAPI": { "fields": [label] } },
        { "name": "data", "persistentVolumeClaim": { "claimName": "d" } },
    ]);
    let all = spec["volumes"].as_array_mut().unwrap();
    all.extend(volumes.as_array().unwrap().iter().cloned());
    let mut claims = Claims::from([("d".to_owned(), Claim::default())]);
    let named = claim_names(&serde_json::from_value(spec.clone()).unwrap()).unwrap();
    assert_eq!(named, [("data".to_owned(), "d".to_owned())]);
    let pod = render(spec.clone(), &claims).unwrap().spec.unwrap();
    let container = pod.containers[0].clone();
    insta::assert_yaml_snapshot!(json!({
        "account": pod.service_account_name, "volumes": pod.volumes, "mounts": container.volume_mounts,
    }));
    claims.get_mut("d").unwrap().block = true;
    let error = render(spec.clone(), &claims).unwrap_err().to_string();
    assert!(error.contains("volume mode Block"), "{error}");
    spec["volumes"].as_array_mut().unwrap().remove(1);
    let error = render(spec, &claims).unwrap_err().to_string();
    assert!(error.contains("no volume is called `settings`"), "{error}");
}

#[test]
fn further_networks_are_asked_of_multus() {
    let mut spec = minimal();
    spec["domain"]["devices"]["interfaces"] = json!([
        { "name": "main", "masquerade": {} },
        { "name": "blue", "bridge": {} },
        { "name": "red", "bridge": {}, "macAddress": "02:00:00:00:00:01" },
    ]);
    spec["networks"] = json!([
        { "name": "main", "multus": { "networkName": "uplink", "default": true } },
        { "name": "blue", "multus": { "networkName": "vlan10" } },
        { "name": "red", "multus": { "networkName": "shared/vlan20" } },
    ]);
    let pod = render(spec, &Claims::new()).unwrap();
    let annotations = pod.metadata.annotations.unwrap();
    let namespace = pod.metadata.namespace.unwrap();
    assert_eq!(
        annotations["v1.multus-cni.io/default-network"],
        format!("{namespace}/uplink")
    );
    let further: Value = serde_json::from_str(&annotations["k8s.v1.cni.cncf.io/networks"]).unwrap();
    assert_eq!(
        further,
        json!([
            { "name": "vlan10", "namespace": namespace, "interface": "pod16477688c0e" },
            { "name": "vlan20", "namespace": "shared", "interface": "podb1f51a511f1",
              "mac": "02:00:00:00:00:01" },
        ])
    );
}

#[test]
fn probes_are_those_of_the_machine_container() {
    let mut spec = minimal();
    spec["readinessProbe"] = json!({ "guestAgentPing": {}, "periodSeconds": 3 });
    spec["livenessProbe"] = json!({
        "httpGet": { "port": 80, "path": "/health" },
        "initialDelaySeconds": 120, "timeoutSeconds": 2, "failureThreshold": 5,
    });
    let container = render(spec.clone(), &Claims::new()).unwrap().spec.unwrap();
    let container = serde_json::to_value(&container.containers[0]).unwrap();
    assert_eq!(
        container["readinessProbe"],
        json!({ "exec": { "command": ["vm:agent", "guest-ping"] }, "periodSeconds": 3 })
    );
    assert_eq!(container["livenessProbe"], spec["livenessProbe"]);
    for probe in [
        json!({ "exec": { "command": ["cat", "/run/up"] }, "successThreshold": 2 }),
        json!({ "tcpSocket": { "port": "ssh" }, "periodSeconds": 1 }),
    ] {
        spec["readinessProbe"] = probe.clone();
        let pod = render(spec.clone(), &Claims::new()).unwrap().spec.unwrap();
        let rendered = pod.containers[0].readiness_probe.as_ref();
        assert_eq!(serde_json::to_value(rendered).unwrap(), probe);
    }
    spec["readinessProbe"] = json!({ "periodSeconds": 1 });
    let error = render(spec, &Claims::new()).unwrap_err().to_string();
    assert!(
        error.starts_with("readinessProbe: set exactly one"),
        "{error}"
    );
}

#[test]
fn what_persists_is_in_a_claim_of_whoever_lasts() {
    let mut spec = minimal();
    assert_eq!(state_claim(&instance(spec.clone())), Ok(None));
    spec["domain"]["devices"]["tpm"] = json!({ "persistent": true });
    let mut instance = instance(spec);
    let claim = |instance: &VirtualMachineInstance| {
        serde_json::to_value(state_claim(instance).unwrap().unwrap()).unwrap()
    };
    insta::assert_yaml_snapshot!(claim(&instance));
    let of_machine: Value = json!([{
        "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "name": "tl", "uid": "m",
        "controller": true, "blockOwnerDeletion": true,
    }]);
    instance.metadata.owner_references = serde_json::from_value(of_machine).unwrap();
    let owner = &claim(&instance)["metadata"]["ownerReferences"][0];
    assert_eq!(
        (&owner["kind"], &owner["uid"]),
        (&json!("VirtualMachine"), &json!("m"))
    );
    assert!(owner.get("controller").is_none(), "{owner}");
    let pod = pod(&instance, &Claims::new(), PLACEHOLDER, ImageForm::Volume).unwrap();
    let spec = pod.spec.unwrap();
    let volume = &spec.volumes.as_ref().unwrap()[0];
    let claimed = volume.persistent_volume_claim.as_ref().unwrap();
    assert_eq!(claimed.claim_name, "persistent-state-for-tl");
    let mount = &spec.containers[0].volume_mounts.as_ref().unwrap()[0];
    assert_eq!(
        (mount.name.as_str(), mount.mount_path.as_str()),
        ("vm-state", "/state")
    );
}

#[test]
fn secrets_with_access_credentials_are_mounted_once() {
    let mut spec = minimal();
    let source = |name: &str| json!({ "secret": { "secretName": name } });
    let users = json!({ "qemuGuestAgent": { "users": ["root"] } });
    let agent = json!({ "qemuGuestAgent": {} });
    spec["accessCredentials"] = json!([
        { "sshPublicKey": { "source": source("b"), "propagationMethod": users } },
        { "userPassword": { "source": source("a.b"), "propagationMethod": agent } },
        { "sshPublicKey": { "source": source("b"), "propagationMethod": users } },
    ]);
    let pod = render(spec, &Claims::new()).unwrap().spec.unwrap();
    let volumes = serde_json::to_value(&pod.volumes).unwrap();
    assert_eq!(
        volumes,
        json!([
            { "name": "access-credentials-0", "secret": { "secretName": "a.b" } },
            { "name": "access-credentials-1", "secret": { "secretName": "b" } },
        ])
    );
    let mounts = serde_json::to_value(&pod.containers[0].volume_mounts).unwrap();
    let mount = |index: usize, path: &str| json!({ "name": format!("access-credentials-{index}"), "mountPath": path, "readOnly": true });
    let expected = [
        mount(0, "/access-credentials/a.b"),
        mount(1, "/access-credentials/b"),
    ];
    assert_eq!(mounts, json!(expected));
}

/// The shim reads the annotation strictly: what is rendered must pass.
#[test]
fn the_shim_reads_what_is_rendered() {
    let pod = render(minimal(), &Claims::new()).unwrap();
    let json = &pod.metadata.annotations.as_ref().unwrap()[VMI_SPEC_ANNOTATION];
    let spec = annotation::parse(json).unwrap();
    assert_eq!(vm_api::validate::annotation(&spec), []);
    assert_eq!(vm_api::support::instance(&spec), []);
}

#[test]
fn a_seed_of_one_secret_is_that_secret() {
    for seed in [
        json!({ "secretRef": { "name": "one" } }),
        json!({ "networkDataSecretRef": { "name": "one" }, "userData": "#!/bin/sh" }),
        json!({ "secretRef": { "name": "one" }, "networkDataSecretRef": { "name": "one" } }),
    ] {
        let mut spec = minimal();
        let volume = json!({ "name": "seed", "cloudInitNoCloud": seed });
        spec["volumes"].as_array_mut().unwrap().push(volume);
        let pod = render(spec, &Claims::new()).unwrap().spec.unwrap();
        let volume = &pod.volumes.as_ref().unwrap()[0];
        assert_eq!(
            volume.secret.as_ref().unwrap().secret_name.as_deref(),
            Some("one")
        );
        let mount = &pod.containers[0].volume_mounts.as_ref().unwrap()[0];
        assert_eq!(
            (mount.mount_path.as_str(), mount.read_only),
            ("/volumes/seed", Some(true))
        );
    }
}

#[test]
fn a_pod_is_not_forgotten_while_its_guest_runs() {
    let mut spec = minimal();
    spec["terminationGracePeriodSeconds"] = json!(0);
    let pod = render(spec, &Claims::new()).unwrap().spec.unwrap();
    assert_eq!(pod.termination_grace_period_seconds, Some(1));
}

/// Volumes, mounts and devices of a machine with these disks and volumes beside its first.
fn volumes_of(disks: Value, volumes: Value, claims: &Claims) -> Result<Value, RenderError> {
    let mut spec = minimal();
    spec["domain"]["devices"]["disks"] = disks;
    let all = spec["volumes"].as_array_mut().unwrap();
    all.extend(volumes.as_array().unwrap().iter().cloned());
    let pod = render(spec, claims)?;
    let annotations = pod.metadata.annotations.unwrap();
    let pod = pod.spec.unwrap();
    let container = &pod.containers[0];
    Ok(json!({
        "account": pod.service_account_name,
        "image": container.image,
        "pullSecrets": pod.image_pull_secrets,
        "volumes": pod.volumes,
        "mounts": container.volume_mounts,
        "devices": container.volume_devices,
        "sizes": annotations.get("kubevirt.io/volume-sizes"),
    }))
}

#[test]
fn every_volume_that_is_a_disk_is_one_of_the_pod() {
    let label = json!({ "path": "labels", "fieldRef": { "fieldPath": "metadata.labels" } });
    let volumes = json!([
        { "name": "settings", "configMap": { "name": "a", "volumeLabel": "x" } },
        { "name": "key", "secret": { "secretName": "b", "optional": true } },
        { "name": "account", "serviceAccount": { "serviceAccountName": "c" } },
        { "name": "about", "downwardAPI": { "fields": [label] } },
        { "name": "answers", "sysprep": { "configMap": { "name": "d" } } },
        { "name": "secret-answers", "sysprep": { "secret": { "name": "e" } } },
        { "name": "drive", "cloudInitConfigDrive": {
            "secretRef": { "name": "user" }, "networkDataSecretRef": { "name": "network" },
        } },
        { "name": "imported", "dataVolume": { "name": "files" } },
        { "name": "base", "ephemeral": { "persistentVolumeClaim": { "claimName": "files", "readOnly": true } } },
        { "name": "base-block", "ephemeral": { "persistentVolumeClaim": { "claimName": "blocks" } } },
        { "name": "node", "hostDisk": { "path": "/var/lib/disks/a.img", "type": "Disk" } },
        { "name": "lun", "persistentVolumeClaim": { "claimName": "blocks" } },
        { "name": "read", "persistentVolumeClaim": { "claimName": "files", "readOnly": true } },
    ]);
    let disks = json!([
        { "name": "root", "disk": { "bus": "virtio" } },
        { "name": "lun", "lun": {} },
        { "name": "read", "cdrom": {} },
        { "name": "empty", "cdrom": {} },
    ]);
    let claim = |block| Claim {
        block,
        size: Some("2Gi".into()),
    };
    let mut claims = Claims::from([
        ("files".to_owned(), claim(false)),
        ("blocks".to_owned(), claim(true)),
    ]);
    let rendered = volumes_of(disks.clone(), volumes.clone(), &claims).unwrap();
    insta::assert_yaml_snapshot!(rendered);
    claims.get_mut("blocks").unwrap().block = false;
    let error = volumes_of(disks, volumes, &claims).unwrap_err().to_string();
    assert!(
        error.starts_with("volumes[12]: the claim `blocks` is of"),
        "{error}"
    );
}

#[test]
fn what_is_optional_may_be_missing() {
    let volumes = json!([
        { "name": "a", "configMap": { "name": "m", "optional": true } },
        { "name": "b", "secret": { "secretName": "s", "optional": true } },
        { "name": "c", "configMap": { "name": "m" } },
    ]);
    let rendered = volumes_of(json!([]), volumes, &Claims::new()).unwrap();
    let of = |kind: &str, name: &str| {
        let mut all = rendered["volumes"].as_array().unwrap().iter();
        let volume = all.find(|volume| volume["name"] == name).unwrap();
        volume[kind]["optional"].clone()
    };
    assert_eq!(of("configMap", "a"), true);
    assert_eq!(of("secret", "b"), true);
    assert_ne!(of("configMap", "c"), true);
}

#[test]
fn further_images_are_image_volumes() {
    let image = |name: &str, image: &str, secret: &str| {
        json!({ "name": name, "containerDisk": {
            "image": image, "imagePullPolicy": "Always", "imagePullSecret": secret,
        } })
    };
    let disks = json!([{ "name": "data", "disk": {} }]);
    let volumes = json!([
        image("data", "example.com/data:1", "one"),
        image("more", "example.com/data:1", "two"),
        image("again", "example.com/data:2", "one"),
    ]);
    let rendered = volumes_of(disks, volumes, &Claims::new()).unwrap();
    // The first disk's image is the container's own, whichever volume it is.
    assert_eq!(rendered["image"], "example.com/data:1");
    insta::assert_yaml_snapshot!(rendered);
}

/// A machine with two images beside its own, and a kernel in a third.
fn with_images() -> Value {
    let mut spec = minimal();
    let image = |name: &str, secret: &str| {
        json!({ "name": name, "containerDisk": {
            "image": format!("example.com/{name}:1"), "imagePullPolicy": "Always", "imagePullSecret": secret,
        } })
    };
    let volumes = spec["volumes"].as_array_mut().unwrap();
    volumes.extend([image("data", "one"), image("more", "two")]);
    spec["domain"]["firmware"] = json!({ "kernelBoot": { "container": {
        "image": "example.com/kernel:1", "kernelPath": "/boot/vmlinuz", "imagePullPolicy": "Never",
    } } });
    spec
}

#[test]
fn without_image_volumes_further_images_are_sidecars() {
    let pod = render_with_sidecars(with_images());
    let spec = pod.spec.unwrap();
    assert!(spec.volumes.is_none() && spec.containers[0].volume_mounts.is_none());
    assert_eq!(
        spec.containers[0].image.as_deref(),
        Some("example.com/disk:1")
    );
    insta::assert_yaml_snapshot!(json!({
        "sidecars": spec.init_containers, "pullSecrets": spec.image_pull_secrets,
        "named": pod.metadata.annotations.unwrap()[IMAGE_CONTAINERS_ANNOTATION],
    }));
    let alone = render_with_sidecars(minimal());
    assert!(alone.spec.unwrap().init_containers.is_none());
    let annotations = alone.metadata.annotations.unwrap();
    assert!(!annotations.contains_key(IMAGE_CONTAINERS_ANNOTATION));
}

#[test]
fn an_image_asks_for_the_least_of_what_the_machine_asks_for() {
    let mut spec = with_images();
    spec["domain"]["cpu"] = json!({ "cores": 1, "dedicatedCpuPlacement": true });
    spec["domain"]["resources"] =
        json!({ "limits": { "ephemeral-storage": "1Gi", "example.com/x": "1" } });
    let spec = render_with_sidecars(spec).spec.unwrap();
    for sidecar in spec.init_containers.unwrap() {
        // As kubelet wants it of every container of a pod of the class Guaranteed.
        let resources = serde_json::to_value(sidecar.resources).unwrap();
        assert_eq!(
            resources,
            json!({
                "requests": { "cpu": "1m", "memory": "1Mi" },
                "limits": { "cpu": "1m", "memory": "1Mi", "ephemeral-storage": "1Mi" },
            })
        );
    }
}

#[test]
fn the_user_names_no_containers_as_images() {
    let mut instance = instance(minimal());
    let annotations = instance.metadata.annotations.as_mut().unwrap();
    annotations.insert(
        IMAGE_CONTAINERS_ANNOTATION.to_owned(),
        "root=compute".to_owned(),
    );
    let pod = pod(&instance, &Claims::new(), PLACEHOLDER, ImageForm::Volume).unwrap();
    let annotations = pod.metadata.annotations.unwrap();
    assert!(!annotations.contains_key(IMAGE_CONTAINERS_ANNOTATION));
}

#[test]
fn a_kernel_is_in_the_machines_image_or_in_one_of_its_own() {
    let rendered = |image: &str, volumes: Value| {
        let mut spec = minimal();
        spec["volumes"] = volumes;
        spec["domain"]["firmware"] = json!({ "kernelBoot": {
            "container": {
                "image": image, "kernelPath": "/boot/vmlinuz", "imagePullSecret": "secret",
                "imagePullPolicy": "Never",
            },
        } });
        render(spec, &Claims::new()).unwrap().spec.unwrap()
    };
    let disk = json!([{ "name": "root", "containerDisk": { "image": "example.com/disk:1" } }]);
    let own = rendered("example.com/kernel:1", json!([]));
    assert_eq!(
        own.containers[0].image.as_deref(),
        Some("example.com/kernel:1")
    );
    assert_eq!(
        own.containers[0].image_pull_policy.as_deref(),
        Some("Never")
    );
    assert!(own.volumes.is_none());
    assert!(
        rendered("example.com/disk:1", disk.clone())
            .volumes
            .is_none()
    );
    let beside = rendered("example.com/kernel:1", disk);
    assert_eq!(beside.image_pull_secrets.unwrap()[0].name, "secret");
    let volume = &beside.volumes.unwrap()[0];
    let image = volume.image.as_ref().unwrap();
    assert_eq!(
        (
            volume.name.as_str(),
            image.reference.as_deref(),
            image.pull_policy.as_deref()
        ),
        ("kernel-boot", Some("example.com/kernel:1"), Some("Never"))
    );
    let mount = &beside.containers[0].volume_mounts.as_ref().unwrap()[0];
    assert_eq!(
        (mount.mount_path.as_str(), mount.read_only),
        ("/volumes/kernel-boot", Some(true))
    );
}

#[test]
fn what_cannot_be_rendered_is_named() {
    let of = |source: Value| {
        let mut volume = source;
        volume["name"] = "x".into();
        let error = volumes_of(json!([]), json!([volume]), &Claims::new());
        error.unwrap_err().to_string()
    };
    let error = of(json!({ "containerPath": { "path": "/x" } }));
    assert!(error.starts_with("volumes[1].containerPath: "), "{error}");
    let error = of(json!({ "hostDisk": { "path": "/x", "type": "Disk" } }));
    assert!(error.starts_with("volumes[1].hostDisk.path: "), "{error}");

    let error = render(json!({ "domain": {} }), &Claims::new())
        .unwrap_err()
        .to_string();
    assert!(error.starts_with("domain.memory.guest: "), "{error}");
}
