//! Devices of a machine: what they do for a guest, and what is said where a node has none.

use serde_json::{Value, json};
use tests::{Manifest, Node, SOON, STARTED, TestNamespace, eventually, image, on_both_nodes};

on_both_nodes!(
    a_watchdog_resets_a_guest_that_hangs,
    a_watchdog_ends_a_machine_and_its_restart_policy_acts,
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
fn start_watchdog(namespace: &TestNamespace) {
    let script = "cd /sys/bus/pci/devices/0000:00:06.0 && \
                  printf '\\007\\000' | dd of=config bs=2 seek=48 conv=notrunc && \
                  printf '\\002' | dd of=config bs=1 seek=104 conv=notrunc";
    namespace
        .kubectl(&["exec", "vm", "--", "sh", "-c", script])
        .expect_success();
}

fn a_watchdog_resets_a_guest_that_hangs(node: Node) {
    let namespace = TestNamespace::new("watchdog-reset");
    namespace.apply(&with_watchdog(node, "reset"));
    namespace.wait_for_log("vm", "machine", image::TINY_READY);
    start_watchdog(&namespace);
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
    start_watchdog(&namespace);
    namespace.wait_for("pod", "vm", "/status/containerStatuses/0/restartCount", "1");
    let pod = namespace.get("pod", "vm").expect("the pod is there");
    let last = &pod["status"]["containerStatuses"][0]["lastState"]["terminated"];
    assert_eq!(last["exitCode"], 1, "{last:#}");
    let message = last["message"].as_str().unwrap_or_default();
    assert!(message.contains("ended by its watchdog"), "{last:#}");
}

fn randomness_and_freed_memory_pass_between_guest_and_node(node: Node) {
    let namespace = TestNamespace::new("rng-balloon");
    namespace.apply(&Manifest::machine_pod("vm", image::TINY, node));
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
    let held = || {
        let script = "kill -0 1; for process in /proc/[0-9]*; do \
                      tr '\\0' ' ' < $process/cmdline 2>/dev/null | grep -q \"guest=vm,\" && \
                      grep -l . $process/cmdline && awk '/^Rss/ { print $2 }' $process/smaps_rollup; \
                      done";
        node.shell(script).text()
    };
    let _ = held;
    let _: Value = json!(null);
    let _ = SOON;
}

fn what_the_node_does_not_have_is_refused_by_name(node: Node) {
    let namespace = TestNamespace::new("no-device");
    let vsock = with_domain(node, json!({ "devices": { "autoattachVSOCK": true } }));
    namespace.expect_refused(
        &vsock,
        &["domain.devices.autoattachVSOCK", "machine.vsock = true"],
    );
}
