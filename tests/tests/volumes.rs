//! Disks from claims, in both volume modes, and disks that live as long as the pod.

use serde_json::{Value, json};
use tests::{LocalClaim, Manifest, Node, STARTED, TestNamespace, eventually, image, on_both_nodes};

on_both_nodes!(
    a_filesystem_claim_keeps_what_was_written,
    a_block_claim_keeps_what_was_written,
    a_block_claim_has_one_writer,
    an_init_container_fills_a_claim,
    an_empty_disk_has_its_capacity,
    a_guest_waits_for_space_on_its_volume,
);

/// The pod `vm` of the tiny guest, with a claim `data` beside its own disk and `script` as seed.
fn with_data(node: Node, source: Value, script: &str) -> Manifest {
    let spec = json!({
        "domain": { "devices": { "disks": [
            { "name": "root", "disk": { "bus": "virtio" } },
            { "name": "data", "disk": { "bus": "virtio" }, "serial": "data" },
            { "name": "seed", "disk": { "bus": "virtio" } },
        ] } },
        "volumes": [
            { "name": "root", "containerDisk": { "image": image::TINY } },
            { "name": "data" },
            { "name": "seed", "cloudInitNoCloud": { "userData": script } },
        ],
    });
    let mut spec = spec;
    for (key, value) in source.as_object().expect("a volume source") {
        spec["volumes"][1][key] = value.clone();
    }
    Manifest::machine_pod("vm", image::TINY, node).with(
        "/metadata/annotations",
        json!({ "kubevirt.io/vmi-spec": spec.to_string() }),
    )
}

fn claimed(name: &str) -> Value {
    json!({ "persistentVolumeClaim": { "claimName": name } })
}

fn volumes(claim: &str) -> Value {
    json!([{ "name": "data", "persistentVolumeClaim": { "claimName": claim } }])
}

/// Finds the disk by its serial number, says what it held, and writes a mark.
const MARK: &str = "#!/bin/sh\n\
    for d in /sys/block/*; do [ \"$(cat $d/serial 2>/dev/null)\" = data ] && disk=/dev/${d##*/}; done\n\
    echo size=$(cat /sys/block/${disk##*/}/size)\n\
    echo held=$(head -c 5 $disk | tr -d '\\0')=\n\
    printf MARK1 | dd of=$disk conv=fsync 2>/dev/null && echo written\n";

/// Runs the pod twice: what the first run wrote, the second one reads.
fn keeps(namespace: &TestNamespace, pod: &Manifest) {
    for held in ["held==", "held=MARK1="] {
        namespace.apply(pod);
        let log = namespace.wait_for_log("vm", "machine", "tiny guest user-data ended");
        assert!(log.contains(held), "{held} not in {log}");
        assert!(log.contains("written"), "{log}");
        namespace
            .kubectl(&["delete", "pod", "vm", "--grace-period=30"])
            .expect_success();
        namespace.wait_gone("pod", "vm");
    }
}

fn a_filesystem_claim_keeps_what_was_written(node: Node) {
    let namespace = TestNamespace::new("claim-fs");
    let claim = LocalClaim::filesystem(&namespace, "data", node);
    let mount = json!([{ "name": "data", "mountPath": "/volumes/data" }]);
    let sizes = json!({ "data": "64Mi" });
    keeps(
        &namespace,
        &with_data(node, claimed("data"), MARK)
            .with("/spec/volumes", volumes("data"))
            .with("/spec/containers/0/volumeMounts", mount)
            .with(
                "/metadata/annotations/kubevirt.io~1volume-sizes",
                sizes.to_string().into(),
            ),
    );
    let listing = node
        .shell(&format!("ls {}", claim.directory()))
        .expect_success();
    assert_eq!(listing.trim(), "disk.img");
}

fn block_pod(node: Node) -> Manifest {
    let device = json!([{ "name": "data", "devicePath": "/volumes/data" }]);
    with_data(node, claimed("data"), MARK)
        .with("/spec/volumes", volumes("data"))
        .with("/spec/containers/0/volumeDevices", device)
}

fn a_block_claim_keeps_what_was_written(node: Node) {
    let namespace = TestNamespace::new("claim-block");
    let _claim = LocalClaim::block(&namespace, "data", node);
    keeps(&namespace, &block_pod(node));
}

fn a_block_claim_has_one_writer(node: Node) {
    let namespace = TestNamespace::new("claim-two");
    let _claim = LocalClaim::block(&namespace, "data", node);
    namespace.apply(&block_pod(node));
    namespace.wait_for_log("vm", "machine", "written");
    namespace.apply(&block_pod(node).with("/metadata/name", json!("second")));
    let message = namespace.wait_for_event("second", "data");
    assert!(message.contains("in use"), "{message}");
    namespace
        .kubectl(&["delete", "pod", "vm", "second", "--grace-period=1"])
        .expect_success();
    namespace.wait_gone("pod", "vm");
    namespace.wait_gone("pod", "second");
}

fn an_init_container_fills_a_claim(node: Node) {
    let namespace = TestNamespace::new("claim-filled");
    let _claim = LocalClaim::filesystem(&namespace, "data", node);
    // The boot sector of a machine that prints "ok" and powers off, as octal bytes.
    let sector = "\\372\\061\\300\\260\\157\\272\\370\\003\\356\\260\\153\\356\\260\\012\\356\
                  \\272\\004\\006\\270\\000\\040\\357\\364";
    let script = format!(
        "printf '{sector}' > /claim/disk.img && truncate -s 1M /claim/disk.img && \
         printf '\\125\\252' | dd of=/claim/disk.img bs=1 seek=510 conv=notrunc"
    );
    let mut init = Manifest::shell_container("fill", &script);
    init["volumeMounts"] = json!([{ "name": "data", "mountPath": "/claim" }]);
    let spec = json!({
        "domain": { "devices": { "disks": [{ "name": "data", "disk": { "bus": "virtio" } }] } },
        "volumes": [{ "name": "data", "persistentVolumeClaim": { "claimName": "data" } }],
    });
    namespace.apply(
        &Manifest::machine_pod("vm", image::BUSYBOX, node)
            .with(
                "/metadata/annotations",
                json!({
                    "kubevirt.io/vmi-spec": spec.to_string(),
                    "kubevirt.io/machine-container": "machine",
                }),
            )
            .with("/spec/initContainers", json!([init]))
            .with("/spec/volumes", volumes("data"))
            .with(
                "/spec/containers/0/volumeMounts",
                json!([
                    { "name": "data", "mountPath": "/volumes/data" },
                ]),
            ),
    );
    namespace.wait_for("pod", "vm", "/status/phase", "Succeeded");
    let log = namespace
        .kubectl(&["logs", "vm", "-c", "machine"])
        .expect_success();
    assert_eq!(log.trim(), "ok");
}

fn an_empty_disk_has_its_capacity(node: Node) {
    let namespace = TestNamespace::new("empty-disk");
    namespace.apply(&with_data(
        node,
        json!({ "emptyDisk": { "capacity": "48Mi" } }),
        MARK,
    ));
    let log = namespace.wait_for_log("vm", "machine", "tiny guest user-data ended");
    assert!(log.contains(&format!("size={}", (48 << 20) / 512)), "{log}");
    assert!(log.contains("held==") && log.contains("written"), "{log}");
}

/// A file system that somebody else may fill, mounted on a node; gone with the value.
struct SmallFileSystem {
    node: Node,
    directory: String,
}

impl SmallFileSystem {
    #[track_caller]
    fn new(node: Node, directory: &str) -> Self {
        node.shell(&format!(
            "mount -t tmpfs -o size=64m,mode=777 small {directory}"
        ))
        .expect_success();
        let directory = directory.to_owned();
        Self { node, directory }
    }
}

impl Drop for SmallFileSystem {
    fn drop(&mut self) {
        let unmount = format!("umount -l {}", self.directory);
        let _ = std::panic::catch_unwind(|| self.node.shell(&unmount));
    }
}

fn a_guest_waits_for_space_on_its_volume(node: Node) {
    let namespace = TestNamespace::new("no-space");
    let claim = LocalClaim::filesystem(&namespace, "data", node);
    let small = SmallFileSystem::new(node, claim.directory());
    let script = "#!/bin/sh\n\
        for d in /sys/block/*; do [ \"$(cat $d/serial 2>/dev/null)\" = data ] && disk=/dev/${d##*/}; done\n\
        for n in 0 1 2 3 4 5 6 7 8 9; do\n\
        dd if=/dev/urandom of=$disk bs=1M count=4 seek=$((4 * n)) conv=fsync 2>/dev/null && echo wrote $n\n\
        until [ -e /tmp/go ]; do sleep 0.1; done\n\
        done\n";
    namespace.apply(
        &with_data(node, claimed("data"), script)
            .with("/spec/volumes", volumes("data"))
            .with(
                "/spec/containers/0/volumeMounts",
                json!([{ "name": "data", "mountPath": "/volumes/data" }]),
            )
            .with(
                "/metadata/annotations/kubevirt.io~1volume-sizes",
                json!({ "data": "64Mi" }).to_string().into(),
            ),
    );
    namespace.wait_for_log("vm", "machine", "wrote 0");
    let filler = format!("{}/filler", small.directory);
    let filled = node.shell(&format!("head -c 64M /dev/zero >{filler}"));
    assert!(
        filled.text().is_empty() && filled.code != Some(0),
        "{filled:?}"
    );
    // The guest stops soon after it went on, and must have answered by then.
    let later = "(sleep 2; touch /tmp/go) >/dev/null 2>&1 </dev/null &";
    namespace
        .kubectl(&["exec", "vm", "--", "sh", "-c", later])
        .expect_success();
    let state = |wanted: &str| {
        eventually(STARTED, || {
            let status = namespace.kubectl(&["exec", "vm", "--", "vm:status", "-o", "json"]);
            let status: Value =
                serde_json::from_slice(&status.stdout).map_err(|error| error.to_string())?;
            if status["state"] == wanted {
                Ok(())
            } else {
                Err(status.to_string())
            }
        });
    };
    state("io-error");
    node.shell(&format!("rm {filler}")).expect_success();
    let log = namespace.wait_for_log("vm", "machine", "wrote 9");
    assert_eq!(log.matches("wrote ").count(), 10, "{log}");
    state("running");
    namespace
        .kubectl(&["delete", "pod", "vm", "--grace-period=1"])
        .expect_success();
    namespace.wait_gone("pod", "vm");
}
