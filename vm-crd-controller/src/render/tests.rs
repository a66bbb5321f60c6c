//! Snapshots of rendered pods, and what the renderer refuses.

use serde_json::{Value, json};
use vm_api::annotation;
use vm_api::contract::VMI_SPEC_ANNOTATION;

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

fn render(spec: Value, claims: &Claims) -> Result<Pod, RenderError> {
    pod(&instance(spec), claims, "example.com/placeholder:1")
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

#[test]
fn what_cannot_be_rendered_is_named() {
    let mut two = minimal();
    let second = json!({ "name": "other", "containerDisk": { "image": "example.com/disk:2" } });
    two["volumes"].as_array_mut().unwrap().push(second);
    let error = render(two, &Claims::new()).unwrap_err().to_string();
    assert!(error.starts_with("volumes[1].containerDisk: "), "{error}");

    let mut sysprep = minimal();
    sysprep["volumes"][0] = json!({ "name": "root", "sysprep": { "secret": { "name": "x" } } });
    let error = render(sysprep, &Claims::new()).unwrap_err().to_string();
    assert!(error.starts_with("volumes[0].sysprep: "), "{error}");

    let error = render(json!({ "domain": {} }), &Claims::new())
        .unwrap_err()
        .to_string();
    assert!(error.starts_with("domain.memory.guest: "), "{error}");
}
