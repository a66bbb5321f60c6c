//! A plain pod is a machine: it boots, speaks on its log, ends when asked, and ends by itself.

use std::io::Read;
use std::time::Duration;

use serde_json::json;
use tests::{Manifest, Node, TestNamespace, eventually, image, kubectl_spawn, on_both_nodes};

on_both_nodes!(
    boots_and_is_deleted,
    follows_the_power_button,
    loses_no_byte_at_a_fast_exit,
    is_unprivileged_on_the_node,
    says_what_it_uses,
    boots_by_uefi,
);

fn boots_and_is_deleted(node: Node) {
    let namespace = TestNamespace::new("boots");
    namespace.apply(&Manifest::machine_pod("vm", image::TINY, node));
    let log = namespace.wait_for_log("vm", "machine", image::TINY_READY);
    assert!(
        log.contains("name=vm "),
        "the guest has the pod's name: {log}"
    );
    namespace.wait_for("pod", "vm", "/status/phase", "Running");
    let stamped = namespace
        .kubectl(&["logs", "vm", "--timestamps"])
        .expect_success();
    assert!(
        stamped.lines().all(|line| line.starts_with("20")),
        "{stamped}"
    );
    namespace
        .kubectl(&["delete", "pod", "vm", "--grace-period=1"])
        .expect_success();
    namespace.wait_gone("pod", "vm");
}

fn follows_the_power_button(node: Node) {
    let namespace = TestNamespace::new("power-button");
    namespace.apply(&Manifest::machine_pod("vm", image::TINY, node));
    namespace.wait_for_log("vm", "machine", image::TINY_READY);
    let mut logs = kubectl_spawn(&["-n", namespace.name(), "logs", "-f", "vm"]);
    namespace
        .kubectl(&["delete", "pod", "vm", "--grace-period=60"])
        .expect_success();
    let mut text = String::new();
    logs.stdout
        .take()
        .expect("a pipe")
        .read_to_string(&mut text)
        .expect("the log is text");
    logs.wait().expect("kubectl ends");
    assert!(text.contains("tiny guest poweroff"), "{text}");
}

fn loses_no_byte_at_a_fast_exit(node: Node) {
    let namespace = TestNamespace::new("fast-exit");
    namespace.apply(&Manifest::machine_pod("vm", image::POWER_OFF, node));
    namespace.wait_for("pod", "vm", "/status/phase", "Succeeded");
    let pod = namespace.get("pod", "vm").expect("the pod is there");
    let ended = &pod["status"]["containerStatuses"][0]["state"]["terminated"];
    assert_eq!(ended["exitCode"], 0, "{ended:#}");
    let log = namespace.kubectl(&["logs", "vm"]).expect_success();
    let numbers: Vec<&str> = log
        .lines()
        .filter_map(|line| {
            line.split("power-off guest line ")
                .nth(1)?
                .split(' ')
                .next()
        })
        .collect();
    let wanted: Vec<String> = (0..1024).map(|number| format!("{number:04}")).collect();
    assert_eq!(numbers, wanted);
    assert!(log.trim_end().ends_with("power-off guest ends"), "{log}");
}

fn is_unprivileged_on_the_node(node: Node) {
    let namespace = TestNamespace::new("unprivileged");
    namespace.apply(&Manifest::machine_pod("vm", image::BOOT_SECTOR, node));
    namespace.wait_for_log("vm", "machine", "boot-sector guest ready");
    let uid = namespace.get("pod", "vm").expect("the pod is there")["metadata"]["uid"].to_string();
    let uid = uid.trim_matches('"');
    // The jail's cgroup carries the pod's uid, so that this finds this pod's QEMU and no other.
    let script = format!(
        "for p in /proc/[0-9]*; do grep -q qemu $p/comm 2>/dev/null && \
         grep -q {uid} $p/cgroup && cat $p/status; done; true"
    );
    let status = node.shell(&script).expect_success();
    let field = |name: &str| {
        let line = status
            .lines()
            .find(|line| line.starts_with(name))
            .unwrap_or_default();
        line.split_whitespace()
            .skip(1)
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert!(
        field("Uid:")
            .iter()
            .all(|uid| uid.parse::<u32>().is_ok_and(|uid| uid > 0)),
        "{status}"
    );
    assert_eq!(field("CapEff:"), ["0000000000000000"], "{status}");
    assert_eq!(field("CapBnd:"), ["0000000000000000"], "{status}");
    assert_eq!(field("NoNewPrivs:"), ["1"], "{status}");
    assert_eq!(field("Seccomp:"), ["2"], "{status}");
}

fn says_what_it_uses(node: Node) {
    let namespace = TestNamespace::new("stats");
    namespace.apply(&Manifest::machine_pod("vm", image::TINY, node));
    namespace.wait_for_log("vm", "machine", image::TINY_READY);
    let path = format!("/api/v1/nodes/{}/proxy/metrics/resource", node.name());
    let wanted = format!("namespace=\"{}\",pod=\"vm\"", namespace.name());
    let metric = |text: &str, name: &str| -> f64 {
        text.lines()
            .filter(|line| line.starts_with(name) && line.contains(&wanted))
            .filter_map(|line| line.split_whitespace().nth(1)?.parse().ok())
            .next()
            .unwrap_or_default()
    };
    eventually(Duration::from_secs(120), || {
        let text = namespace.kubectl(&["get", "--raw", &path]).expect_success();
        let cpu = metric(&text, "container_cpu_usage_seconds_total");
        let memory = metric(&text, "container_memory_working_set_bytes");
        if cpu > 0.5 && memory > 32e6 {
            Ok(())
        } else {
            Err(format!("cpu {cpu} s, memory {memory} bytes"))
        }
    });
}

fn boots_by_uefi(node: Node) {
    let namespace = TestNamespace::new("uefi");
    let spec =
        json!({ "domain": { "firmware": { "bootloader": { "efi": { "secureBoot": false } } } } });
    namespace.apply(
        &Manifest::machine_pod("vm", image::TINY, node)
            .with(
                "/metadata/annotations",
                json!({ "kubevirt.io/vmi-spec": spec.to_string() }),
            )
            // The firmware takes its part before Linux does.
            .with("/spec/containers/0/resources/limits/memory", json!("256Mi")),
    );
    namespace.wait_for_log("vm", "machine", image::TINY_READY);
    let pod = namespace.get("pod", "vm").expect("the pod is there");
    assert_eq!(pod["status"]["phase"], "Running");
}
