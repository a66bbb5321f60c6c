use kube::runtime::reflector::store;
use kube::runtime::watcher::Event;
use serde_json::{Value, json};
use vm_api::v1::{VirtualMachine, VirtualMachineInstance};

use super::*;
use crate::packed::Packed;
use crate::watch::Guarded;

#[test]
fn writes_are_told_by_resource_and_verb() {
    let metrics = Metrics::new();
    metrics.count_write("pods", "create");
    metrics.count_write("pods", "create");
    let text = metrics.text().unwrap();
    assert!(
        text.contains("vm_crd_controller_api_writes_total{resource=\"pods\",verb=\"create\"} 2"),
        "{text}"
    );
    assert_eq!(text.matches("# EOF").count(), 1, "{text}");
}

fn machine() -> Packed<VirtualMachine> {
    let object = json!({
        "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine",
        "metadata": { "name": "web", "namespace": "shop", "creationTimestamp": "2024-01-01T00:00:00Z" },
        "spec": {
            "runStrategy": "Always",
            "instancetype": { "name": "u1.small" },
            "template": {
                "metadata": { "annotations": { "vm.kubevirt.io/os": "debian" } },
                "spec": { "domain": {
                    "cpu": { "cores": 2, "sockets": 3 },
                    "memory": { "guest": "1Gi" },
                    "resources": { "limits": { "cpu": "1500m" }, "requests": { "memory": "2Gi" } },
                    "devices": {},
                } },
            },
        },
        "status": {
            "printableStatus": "Running",
            "conditions": [{
                "type": "Ready", "status": "True", "lastTransitionTime": "2024-01-01T00:01:00Z",
            }],
        },
    });
    serde_json::from_value(object).unwrap()
}

fn instance() -> Guarded<VirtualMachineInstance> {
    let object = json!({
        "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance",
        "metadata": { "name": "web", "namespace": "shop", "uid": "u" },
        "spec": { "domain": { "devices": {} }, "evictionStrategy": "LiveMigrate" },
        "status": {
            "phase": "Running", "nodeName": "node1",
            "memory": { "guestCurrent": "1Gi" },
            "interfaces": [{ "name": "default", "ipAddress": "10.0.0.7" }],
        },
    });
    serde_json::from_value(object).unwrap()
}

#[test]
fn what_the_stores_hold_is_told_by_kubevirts_names_while_they_are_shown() {
    let metrics = Metrics::new();
    let (machines, mut writer) = store();
    writer.apply_watcher_event(&Event::Apply(machine()));
    let (instances, mut writer) = store();
    writer.apply_watcher_event(&Event::Apply(instance()));
    let shown = metrics.objects.show(machines, instances);
    let all = metrics.text().unwrap();
    let lines = all.lines().filter(|line| !line.starts_with('#'));
    let told: Vec<_> = lines
        .filter(|line| line.starts_with("kubevirt_vm"))
        .collect();
    insta::assert_snapshot!(told.join("\n"));
    drop(shown);
    let after = metrics.text().unwrap();
    assert!(!after.contains("kubevirt_vm_info"), "{after}");
}

#[test]
fn each_phase_that_a_written_status_adds_is_counted_once() {
    let metrics = Metrics::new();
    let status = |phases: &[(&str, u32)]| {
        let entries = phases.iter().map(|(phase, second)| {
            let time = format!("2024-01-01T00:00:{second:02}Z");
            json!({ "phase": phase, "phaseTransitionTimestamp": time })
        });
        serde_json::from_value(
            json!({ "phaseTransitionTimestamps": entries.collect::<Vec<Value>>() }),
        )
        .unwrap()
    };
    let metadata = serde_json::from_value(json!({
        "creationTimestamp": "2024-01-01T00:00:00Z", "deletionTimestamp": "2024-01-01T00:00:30Z",
    }))
    .unwrap();
    let first = status(&[("Pending", 0), ("Scheduling", 1)]);
    let last = status(&[
        ("Pending", 0),
        ("Scheduling", 1),
        ("Running", 4),
        ("Succeeded", 40),
    ]);
    metrics.transitions.count(&metadata, None, &first);
    metrics.transitions.count(&metadata, Some(&first), &last);
    metrics.transitions.count(&metadata, Some(&last), &last);
    let text = metrics.text().unwrap();
    let sums: Vec<_> = text
        .lines()
        .filter(|line| line.contains("_seconds_sum") && line.starts_with("kubevirt_vmi_phase"))
        .collect();
    let mut sums = sums;
    sums.sort_unstable();
    insta::assert_snapshot!(sums.join("\n"));
    let running =
        "kubevirt_vmi_phase_transition_time_from_creation_seconds_count{phase=\"Running\"} 1";
    assert!(text.contains(running), "{text}");
}

/// What kubelet (`/metrics/cadvisor`) and kube-state-metrics export, as far as rules and dashboard use it.
const OTHERS: [&str; 15] = [
    "container_cpu_usage_seconds_total",
    "container_cpu_user_seconds_total",
    "container_cpu_system_seconds_total",
    "container_memory_working_set_bytes",
    "container_fs_reads_bytes_total",
    "container_fs_writes_bytes_total",
    "container_network_receive_bytes_total",
    "container_network_receive_packets_total",
    "container_network_receive_packets_dropped_total",
    "container_network_transmit_bytes_total",
    "container_network_transmit_packets_total",
    "container_network_transmit_packets_dropped_total",
    "kube_daemonset_status_number_unavailable",
    // Labels that begin alike.
    "kubevirt_name",
    "kubevirt_namespace",
];

/// The metrics that a rule or a panel's query names: words that begin as metrics do.
fn named(text: &str) -> Vec<&str> {
    let begins = [
        "kubevirt_",
        "vm_crd_",
        "container_",
        "kube_",
        "namespace:",
        "node:",
        "pod:",
    ];
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    text.split(|c| !is_word(c))
        .filter(|word| begins.iter().any(|begin| word.starts_with(begin)))
        .filter(|word| !word.ends_with(':'))
        .collect()
}

#[test]
fn what_the_charts_rules_and_dashboard_name_is_exported() {
    let metrics = Metrics::new();
    let (machines, mut writer) = store();
    writer.apply_watcher_event(&Event::Apply(machine()));
    let (instances, mut writer) = store();
    writer.apply_watcher_event(&Event::Apply(instance()));
    let _shown = metrics.objects.show(machines, instances);
    // Families are there once something was counted.
    metrics.count_write("pods", "create");
    let kind = "VirtualMachine";
    metrics.durations.get_or_create(&Kind { kind }).observe(0.1);
    let outcome = Outcome { kind, result: "ok" };
    metrics.reconciliations.get_or_create(&outcome).inc();
    let outcome = EventOutcome { result: "created" };
    metrics.events.get_or_create(&outcome).inc();
    let status = json!({ "phaseTransitionTimestamps": [
        { "phase": "Pending", "phaseTransitionTimestamp": "2024-01-01T00:00:00Z" },
        { "phase": "Failed", "phaseTransitionTimestamp": "2024-01-01T00:00:01Z" },
    ] });
    let metadata = json!({
        "creationTimestamp": "2024-01-01T00:00:00Z", "deletionTimestamp": "2024-01-01T00:00:00Z",
    });
    let metadata = serde_json::from_value(metadata).unwrap();
    let status = serde_json::from_value(status).unwrap();
    metrics.transitions.count(&metadata, None, &status);
    let text = metrics.text().unwrap();
    let exported = |name: &str| {
        let of = |line: &str| {
            line.starts_with(&format!("{name}{{")) || line.starts_with(&format!("{name} "))
        };
        text.lines().any(of) || OTHERS.contains(&name)
    };

    let chart = concat!(env!("CARGO_MANIFEST_DIR"), "/../runtimeclass/chart/files");
    let read = |name| std::fs::read_to_string(format!("{chart}/{name}")).unwrap();
    let rules = read("rules.yaml");
    let recorded: Vec<_> = rules
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- record: "))
        .collect();
    assert!(recorded.len() > 5, "{recorded:?}");
    for name in &recorded {
        assert!(!exported(name), "{name} would be there twice");
    }
    let queries = rules
        .lines()
        .filter(|line| !line.trim_start().starts_with('#'));
    let rules: Vec<_> = queries.collect();
    for text in [rules.join("\n"), read("dashboard.json")] {
        let names = named(&text);
        assert!(names.len() > 20, "{names:?}");
        for name in names {
            assert!(
                exported(name) || recorded.contains(&name),
                "nobody exports {name}"
            );
        }
    }
}
