//! cgroup v2, the systemd cgroup driver, KVM, vhost, huge pages and kubelet's static CPU manager, which
//! the test cluster's nodes do not have: a machine that is itself a node, with the programs of the node
//! below it, runs machines.
//!
//! Everything in it is emulated, its processor's virtualization too, and takes its time.

use std::time::Duration;

use serde_json::{Value, json};
use tests::{Manifest, Node, TestNamespace, eventually, image};

/// Debian boots in about a minute of emulation on cores of its own.
const BOOTED: Duration = Duration::from_secs(600);

/// An emulated node starts a machine in about two.
const NESTED: Duration = Duration::from_secs(900);

const START: &str = include_str!("../nested/start");

/// What the guest mounts: tag and directory of the node below it.
const SHARED: [(&str, &str); 2] = [("usr", "/usr"), ("kubevirt", "/opt/kubevirt")];

struct Nested {
    namespace: TestNamespace,
    directory: String,
}

impl Drop for Nested {
    fn drop(&mut self) {
        let remove = format!("rm -rf {}", self.directory);
        let _ = std::panic::catch_unwind(|| Node::Two.shell(&remove));
    }
}

impl Nested {
    /// A Debian guest that is a node.
    fn new() -> Self {
        let namespace = TestNamespace::new("nested");
        let directory = format!("/var/lib/kubevirt-tests/{}", namespace.name());
        let nested = Self {
            namespace,
            directory,
        };
        let directory = &nested.directory;
        for (file, reference) in [
            ("pause", "kubevirt.local/bench/pause:1"),
            ("guest", image::BOOT_SECTOR),
        ] {
            // Without `--local`, containerd 2.4 streams the archive and can lose its end.
            let export = format!(
                "mkdir -p {directory} && \
                 ctr -n k8s.io images export --local {directory}/{file}.tar {reference} && \
                 chmod a+rX -R {directory}"
            );
            Node::Two.shell(&export).expect_success();
        }
        let sums = format!("cd {directory} && sha256sum *.tar > sums");
        Node::Two.shell(&sums).expect_success();
        let shared: Vec<_> = SHARED
            .into_iter()
            .chain([("images", directory.as_str())])
            .collect();
        let filesystems: Vec<_> = shared
            .iter()
            .map(|(name, _)| json!({ "name": name, "virtiofs": {} }))
            .collect();
        let volumes: Vec<_> = shared
            .iter()
            .map(|(name, path)| json!({ "name": name, "hostPath": { "path": path } }))
            .collect();
        let mounts: Vec<_> = shared
            .iter()
            .map(|(name, _)| json!({ "name": name, "mountPath": format!("/volumes/{name}"), "readOnly": true }))
            .collect();
        let spec = json!({ "domain": { "devices": { "filesystems": filesystems } } });
        nested.namespace.apply(
            &Manifest::machine_pod("node", image::DEBIAN, Node::Two)
                .with(
                    "/metadata/annotations",
                    json!({ "kubevirt.io/vmi-spec": spec.to_string() }),
                )
                .with(
                    "/spec/containers/0/resources/limits",
                    json!({ "cpu": "2", "memory": "1Gi" }),
                )
                .with("/spec/containers/0/volumeMounts", json!(mounts))
                .with("/spec/volumes", json!(volumes)),
        );
        eventually(BOOTED, || {
            match nested.try_shell("systemctl is-system-running --wait; true") {
                Ok(state) if !state.trim().is_empty() => Ok(()),
                other => Err(format!("{other:?}")),
            }
        });
        assert_eq!(nested.shell(START), "started\n");
        nested
    }

    fn try_shell(&self, script: &str) -> Result<String, String> {
        let output = self
            .namespace
            .kubectl(&["exec", "node", "--", "sh", "-c", script]);
        match output.code {
            Some(0) => Ok(output.text()),
            _ => Err(format!("{output:?}")),
        }
    }

    #[track_caller]
    fn shell(&self, script: &str) -> String {
        self.try_shell(script)
            .unwrap_or_else(|error| panic!("{script}: {error}"))
    }

    /// Waits until the script prints something.
    #[track_caller]
    fn wait(&self, script: &str) -> String {
        eventually(NESTED, || match self.try_shell(script) {
            Ok(text) if !text.trim().is_empty() => Ok(text.trim().to_owned()),
            other => Err(format!(
                "{script}: {other:?}\n{:?}",
                self.try_shell("journalctl --no-pager -n 60 -u containerd -u kubelet")
            )),
        })
    }
}

/// A pod that kubelet reads from a file. Its overhead is what the RuntimeClass would give it, as far as
/// the node has room: one that wants a processor to itself finds no further share of one there.
fn static_pod(name: &str, limits: &Value, spec: &Value) -> Value {
    let mut overhead = json!({ "memory": "256Mi" });
    if limits["cpu"] != "1" {
        overhead["cpu"] = "100m".into();
    }
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": name, "namespace": "default",
            "annotations": { "kubevirt.io/vmi-spec": spec.to_string() },
        },
        "spec": {
            "restartPolicy": "Never", "terminationGracePeriodSeconds": 1,
            "overhead": overhead,
            "containers": [{
                "name": "machine", "image": image::BOOT_SECTOR, "imagePullPolicy": "Never",
                "command": ["vm"], "resources": { "limits": limits, "requests": limits },
            }],
        },
    })
}

/// A machine in the node.
struct Inner<'a> {
    node: &'a Nested,
    name: &'static str,
    group: String,
    mounts: String,
}

impl<'a> Inner<'a> {
    #[track_caller]
    fn new(node: &'a Nested, name: &'static str, limits: &Value, spec: &Value) -> Self {
        let mounts = node.shell("mount | wc -l");
        let pod = static_pod(name, limits, spec);
        node.shell(&format!(
            "cat > /etc/pods/{name}.json <<'JSON'\n{pod}\nJSON"
        ));
        node.wait(&format!(
            "grep -h 'boot-sector guest ready' /var/log/pods/default_{name}-*/machine/*.log"
        ));
        let group = node.wait("cut -d: -f3 /proc/$(pidof qemu-system-x86_64)/cgroup");
        Self {
            node,
            name,
            group,
            mounts,
        }
    }

    fn file(&self, name: &str) -> String {
        let file = format!("/sys/fs/cgroup{}/{name}", self.group);
        self.node.shell(&format!("cat {file}")).trim().to_owned()
    }

    fn arguments(&self) -> String {
        self.node
            .shell("tr '\\0' ' ' < /proc/$(pidof qemu-system-x86_64)/cmdline")
    }

    /// Deletes the pod; nothing of it must stay.
    #[track_caller]
    fn end(self) {
        let node = self.node;
        node.shell(&format!("rm /etc/pods/{}.json", self.name));
        node.wait("pidof qemu-system-x86_64 containerd-shim-kubevirt-v1 > /dev/null || echo gone");
        node.wait("find /sys/fs/cgroup/kubepods.slice -name '*.scope' | grep -q . || echo none");
        let held = "find /run/netns /run/kubevirt/uids /run/kubevirt/runc/k8s.io -mindepth 1";
        node.wait(&format!("{held} | grep -q . || echo none"));
        assert_eq!(node.shell("mount | wc -l"), self.mounts);
    }
}

#[test]
fn machines_run_under_systemds_groups_by_kvm_and_leave_nothing() {
    let node = Nested::new();
    let limits = json!({ "cpu": "500m", "memory": "32Mi" });
    let inner = Inner::new(&node, "plain", &limits, &json!({}));
    let group = &inner.group;
    assert!(
        group.starts_with("/kubepods.slice/")
            && group.contains("/cri-containerd-")
            && group.ends_with(".scope"),
        "{group}"
    );
    // An emulated processor has SVM, so the inner machine runs by KVM, and its network by vhost.
    let arguments = inner.arguments();
    assert!(arguments.contains("-accel kvm"), "{arguments}");
    assert!(arguments.contains("\"vhost\":true"), "{arguments}");
    // The guest's memory and QEMU's need; half a processor and the share of QEMU's threads.
    assert_eq!(inner.file("memory.max"), ((32 + 112) << 20).to_string());
    assert_eq!(inner.file("cpu.max"), "60000 100000");
    let container = group.rsplit("cri-containerd-").next().unwrap_or_default();
    let container = container.trim_end_matches(".scope");
    let metrics = node.shell(&format!(
        "PATH=$PATH:/node/usr/local/bin ctr -n k8s.io task metrics {container}"
    ));
    assert!(metrics.contains("memory.usage"), "{metrics}");
    inner.end();

    // What only such a node can give: a processor to itself, huge pages, a vsock.
    let limits = json!({ "cpu": "1", "memory": "16Mi", "hugepages-2Mi": "32Mi" });
    let spec = json!({ "domain": {
        "cpu": { "dedicatedCpuPlacement": true },
        "memory": { "hugepages": { "pageSize": "2Mi" } },
        "devices": { "autoattachVSOCK": true },
    } });
    let inner = Inner::new(&node, "special", &limits, &spec);
    let arguments = inner.arguments();
    for word in ["vhost-vsock-pci", "\"hugetlb\":true"] {
        assert!(arguments.contains(word), "{word} is not in {arguments}");
    }
    let free = node.shell("cat /sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages");
    assert_eq!(free, "16\n");
    // Threads are called by what they run (`-name debug-threads=on`).
    let bound = node.shell(
        "grep -l '^CPU ' /proc/$(pidof qemu-system-x86_64)/task/*/comm | while read comm; do \
         grep Cpus_allowed_list ${comm%comm}status; done",
    );
    assert_eq!(bound, "Cpus_allowed_list:\t1\n");
    inner.end();
    let free = node.shell("cat /sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages");
    assert_eq!(free, "32\n");
}
