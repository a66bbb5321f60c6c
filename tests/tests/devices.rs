//! Devices of a machine: what they do for a guest, and what is said where a node has none.

use serde_json::{Value, json};
use tests::{Manifest, Node, SOON, STARTED, TestNamespace, eventually, image, on_both_nodes};

on_both_nodes!(
    a_watchdog_resets_a_guest_that_hangs,
    a_watchdog_ends_a_machine_and_its_restart_policy_acts,
    a_virtual_machine_is_started_again_after_its_watchdog_ended_it,
    a_virtual_machines_pod_requests_what_its_devices_need,
    randomness_and_freed_memory_pass_between_guest_and_node,
    what_the_node_does_not_have_is_refused_by_name,
);

fn with_domain(node: Node, domain: Value) -> Manifest {
    let spec = json!({ "domain": domain });
    Manifest::machine_pod("vm", image::TINY, node).with(
        "/metadata/annotations",
        json!({ "kubevirt.io/vmi-spec": spec.to_string() }),
    )
}

fn with_watchdog(node: Node, action: &str) -> Manifest {
    let watchdog = json!({ "name": "w", "i6300esb": { "action": action } });
    with_domain(node, json!({ "devices": { "watchdog": watchdog } }))
}

/// Starts the watchdog by hand, as the guest's kernel has no driver for it: timers at 1 MHz, and then
/// on (Intel 6300ESB datasheet, 16.5). It barks two seconds later.
fn start_watchdog(namespace: &TestNamespace, pod: &str) {
    let script = "cd /sys/bus/pci/devices/0000:00:06.0 && \
                  printf '\\007\\000' | dd of=config bs=2 seek=48 conv=notrunc && \
                  printf '\\002' | dd of=config bs=1 seek=104 conv=notrunc";
    namespace
        .kubectl(&["exec", pod, "--", "sh", "-c", script])
        .expect_success();
}

fn a_watchdog_resets_a_guest_that_hangs(node: Node) {
    let namespace = TestNamespace::new("watchdog-reset");
    namespace.apply(&with_watchdog(node, "reset"));
    namespace.wait_for_log("vm", "machine", image::TINY_READY);
    start_watchdog(&namespace, "vm");
    eventually(STARTED, || {
        let log = namespace.kubectl(&["logs", "vm"]).text();
        match log.matches(image::TINY_READY).count() {
            2 => Ok(()),
            count => Err(format!("it was ready {count} times")),
        }
    });
    let pod = namespace.get("pod", "vm").expect("the pod is there");
    let container = &pod["status"]["containerStatuses"][0];
    assert_eq!(container["restartCount"], 0, "{container:#}");
}

fn a_watchdog_ends_a_machine_and_its_restart_policy_acts(node: Node) {
    let namespace = TestNamespace::new("watchdog-off");
    let pod = with_watchdog(node, "poweroff").with("/spec/restartPolicy", json!("OnFailure"));
    namespace.apply(&pod);
    namespace.wait_for_log("vm", "machine", image::TINY_READY);
    start_watchdog(&namespace, "vm");
    // Kubelet counts the restart before it tells of what was before it.
    let exit_code = "/status/containerStatuses/0/lastState/terminated/exitCode";
    namespace.wait_for("pod", "vm", exit_code, "1");
    let pod = namespace.get("pod", "vm").expect("the pod is there");
    let status = &pod["status"]["containerStatuses"][0];
    assert_eq!(status["restartCount"], 1, "{status:#}");
    let last = &status["lastState"]["terminated"];
    let message = last["message"].as_str().unwrap_or_default();
    assert!(message.contains("ended by its watchdog"), "{last:#}");
}

fn randomness_and_freed_memory_pass_between_guest_and_node(node: Node) {
    let namespace = TestNamespace::new("rng-balloon");
    // A guest returns memory by 2 MiB, which it has in one piece only if it has some to spare.
    let pod = Manifest::machine_pod("vm", image::TINY, node)
        .with("/spec/containers/0/resources/limits/memory", json!("384Mi"));
    namespace.apply(&pod);
    namespace.wait_for_log("vm", "machine", image::TINY_READY);
    let guest = |script: &str| {
        let output = namespace.kubectl(&["exec", "vm", "--", "sh", "-c", script]);
        output.expect_success()
    };
    let source = guest("cat /sys/class/misc/hw_random/rng_current");
    assert!(source.starts_with("virtio_rng"), "{source}");
    let bytes = guest("dd if=/dev/hwrng bs=16 count=1 2>/dev/null | od -An -tx1");
    assert_eq!(bytes.split_whitespace().count(), 16, "{bytes}");

    // The memory of a file in the guest is taken from the node, and given back with it.
    guest("dd if=/dev/zero of=/tmp/file bs=1M count=150 2>/dev/null");
    let full = resident_kib(&namespace, node);
    guest("rm /tmp/file");
    eventually(SOON, || match resident_kib(&namespace, node) {
        less if less + (100 << 10) < full => Ok(()),
        much => Err(format!("QEMU holds {much} KiB after {full} KiB")),
    });
}

/// KiB of memory that the QEMU of the pod `vm` holds on its node.
fn resident_kib(namespace: &TestNamespace, node: Node) -> u64 {
    let uid = namespace.get("pod", "vm").expect("the pod is there")["metadata"]["uid"].to_string();
    let uid = uid.trim_matches('"');
    // The jail's cgroup carries the pod's uid, so that this finds this pod's QEMU and no other.
    let script = format!(
        "for p in /proc/[0-9]*; do grep -q qemu $p/comm 2>/dev/null && \
         grep -q {uid} $p/cgroup && awk '/^VmRSS/ {{ print $2 }}' $p/status; done; true"
    );
    let text = node.shell(&script).expect_success();
    text.trim().parse().unwrap_or_else(|_| panic!("{text:?}"))
}

fn a_virtual_machine_is_started_again_after_its_watchdog_ended_it(node: Node) {
    let namespace = TestNamespace::new("vm-watchdog");
    let watchdog = json!({ "name": "w", "i6300esb": { "action": "poweroff" } });
    let machine = Manifest::virtual_machine("vm", image::TINY, node)
        .with("/spec/runStrategy", json!("RerunOnFailure"))
        .with("/spec/template/spec/domain/devices/watchdog", watchdog);
    namespace.apply(&machine);
    let first = eventually(STARTED, || machine_pod(&namespace));
    let name = first["metadata"]["name"].as_str().expect("a name");
    namespace.wait_for_log(name, "compute", image::TINY_READY);
    start_watchdog(&namespace, name);
    eventually(STARTED, || {
        let now = machine_pod(&namespace)?;
        match now["metadata"]["uid"] != first["metadata"]["uid"] {
            true => Ok(()),
            false => Err(now["status"].to_string()),
        }
    });
}

/// The pod of the VirtualMachine `vm`.
fn machine_pod(namespace: &TestNamespace) -> Result<Value, String> {
    let pods = namespace.list("pod", "vm.kubevirt.io/name=vm");
    let newest = pods.into_iter().max_by_key(|pod| {
        let created = &pod["metadata"]["creationTimestamp"];
        created.as_str().unwrap_or_default().to_owned()
    });
    newest.ok_or_else(|| "no pod".to_owned())
}

/// The scheduler is asked for what only some nodes have, and none of the bench's.
fn a_virtual_machines_pod_requests_what_its_devices_need(node: Node) {
    let namespace = TestNamespace::new("vm-devices");
    let at = |field: &str| format!("/spec/template/spec/domain/{field}");
    let memory = json!({ "guest": "128Mi", "hugepages": { "pageSize": "2Mi" } });
    let cpu = json!({
        "cores": 1, "dedicatedCpuPlacement": true, "isolateEmulatorThread": true,
    });
    let gpus = json!([{ "name": "gpu", "deviceName": "example.com/gpu" }]);
    let machine = Manifest::virtual_machine("vm", image::BOOT_SECTOR, node)
        .with(&at("memory"), memory)
        .with(&at("cpu"), cpu)
        .with(&at("devices/gpus"), gpus);
    namespace.apply(&machine);
    namespace.wait_for("vm", "vm", "/status/printableStatus", "ErrorUnschedulable");
    let pod = machine_pod(&namespace).expect("a pod was made");
    let resources = &pod["spec"]["containers"][0]["resources"];
    assert_eq!(resources["requests"], resources["limits"], "{resources:#}");
    for (name, amount) in [
        ("hugepages-2Mi", "128Mi"),
        ("cpu", "2"),
        ("example.com/gpu", "1"),
    ] {
        assert_eq!(resources["limits"][name], amount, "{resources:#}");
    }
    assert_eq!(pod["status"]["qosClass"], "Guaranteed");
}

fn what_the_node_does_not_have_is_refused_by_name(node: Node) {
    let namespace = TestNamespace::new("no-device");
    let vsock = with_domain(node, json!({ "devices": { "autoattachVSOCK": true } }));
    namespace.expect_refused(
        &vsock,
        &["domain.devices.autoattachVSOCK", "machine.vsock = true"],
    );
    let pages = json!({ "memory": { "hugepages": { "pageSize": "2Mi" } } });
    namespace.expect_refused(
        &with_domain(node, pages),
        &["domain.memory.hugepages", "resources.limits[hugepages-2Mi]"],
    );
    let cpu = json!({ "cpu": { "dedicatedCpuPlacement": true } });
    namespace.expect_refused(
        &with_domain(node, cpu),
        &[
            "domain.cpu.dedicatedCpuPlacement",
            "cpuManagerPolicy static",
        ],
    );
    let gpus = json!([{ "name": "gpu", "deviceName": "example.com/gpu" }]);
    // Whoever writes a pod can write this, too: it is not what gives a device.
    let env = json!([{ "name": "PCI_RESOURCE_EXAMPLE_COM_GPU", "value": "ffff:ff:1f.7" }]);
    let pod = with_domain(node, json!({ "devices": { "gpus": gpus } }));
    namespace.expect_refused(
        &pod,
        &["domain.devices.gpus[0]", "no device of example.com/gpu"],
    );
    let pod = pod.with("/spec/containers/0/env", env);
    namespace.expect_refused(&pod, &["PCI device ffff:ff:1f.7"]);
}
