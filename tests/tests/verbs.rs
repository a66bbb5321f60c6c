//! Verbs on a machine, by `kubectl exec POD -- vm:VERB`.

use std::io::{Read, Write};

use serde_json::Value;
use tests::{
    Manifest, Node, SOON, TestNamespace, eventually, image, kubectl_input, kubectl_spawn,
    on_both_nodes,
};

on_both_nodes!(
    show_change_and_enter_a_machine,
    shutdown_powers_the_guest_off,
);

fn machine(case: &str, node: Node) -> TestNamespace {
    let namespace = TestNamespace::new(case);
    namespace.apply(&Manifest::machine_pod("vm", image::TINY, node));
    namespace.wait_for_log("vm", "machine", image::TINY_READY);
    namespace
}

fn json(namespace: &TestNamespace, words: &[&str]) -> Value {
    let text = namespace
        .kubectl(&[&["exec", "vm", "--"], words].concat())
        .expect_success();
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn show_change_and_enter_a_machine(node: Node) {
    let namespace = machine("verbs", node);
    let verb = |words: &[&str]| namespace.kubectl(&[&["exec", "vm", "--"], words].concat());
    let name = namespace.name();

    let status = json(&namespace, &["vm:status", "-o", "json"]);
    assert_eq!(status["state"], "running", "{status:#}");
    assert_eq!(status["vcpus"], 1, "{status:#}");
    assert_eq!(status["memoryBytes"], 128 << 20, "{status:#}");
    assert_eq!(status["guestAgent"]["connected"], true, "{status:#}");
    assert_eq!(status["guestAgent"]["hostname"], "vm", "{status:#}");
    assert!(
        verb(&["vm:status"])
            .expect_success()
            .contains("State:        running")
    );
    assert!(
        verb(&["vm:connect", "--help"])
            .expect_success()
            .contains("Usage: vm:connect")
    );
    let output = verb(&["vm:explode"]);
    assert_eq!(output.code, Some(2), "{output:?}");
    assert!(
        output.stderr.contains("there is no verb vm:explode"),
        "{output:?}"
    );

    let paused = json(&namespace, &["vm:pause", "-o", "json"]);
    assert_eq!(paused["state"], "paused", "{paused}");
    let output = verb(&["true"]);
    assert_eq!(output.code, Some(126), "{output:?}");
    assert!(output.stderr.contains("vm:resume"), "{output:?}");
    let resumed = json(&namespace, &["vm:resume", "-o", "json"]);
    assert_eq!(resumed["state"], "running", "{resumed}");
    eventually(SOON, || match verb(&["true"]) {
        output if output.code == Some(0) => Ok(()),
        output => Err(format!("{output:?}")),
    });

    let picture = verb(&["vm:screenshot"]);
    assert_eq!(picture.code, Some(0), "{}", picture.stderr);
    assert!(picture.stdout.starts_with(b"\x89PNG\r\n"), "no PNG");

    let ssh = [
        "-n",
        name,
        "exec",
        "-i",
        "vm",
        "--",
        "vm:connect",
        "tcp",
        "22",
    ];
    let output = kubectl_input(&ssh, b"SSH-2.0-test\r\n");
    assert!(output.text().starts_with("SSH-2.0-dropbear"), "{output:?}");
    let output = verb(&["vm:connect", "tcp", "23"]);
    assert_eq!(output.code, Some(1), "{output:?}");

    let info = json(&namespace, &["vm:agent"]);
    assert!(info["version"].is_string(), "{info}");
    let output = verb(&["vm:agent", "guest-explode"]);
    assert_eq!(output.code, Some(1), "{output:?}");

    greets(
        &["-n", name, "exec", "-i", "vm", "--", "vm:vnc"],
        b"",
        b"RFB 003.008\n",
    );
    let echo = [
        "-n",
        name,
        "exec",
        "-i",
        "vm",
        "--",
        "vm:connect",
        "udp",
        "7",
    ];
    greets(&echo, b"one datagram", b"one datagram");
    greets(
        &["-n", name, "exec", "-i", "vm", "--", "vm:console"],
        b"\n\necho over the cons''ole\n",
        b"over the console",
    );
}

/// Writes `input` to a stream that stays open, and waits for `wanted` in its output.
fn greets(arguments: &[&str], input: &[u8], wanted: &[u8]) {
    let mut client = kubectl_spawn(arguments);
    let mut stdin = client.stdin.take().expect("a pipe");
    stdin.write_all(input).expect("it takes input");
    let mut stdout = client.stdout.take().expect("a pipe");
    let mut said = Vec::new();
    while !said.windows(wanted.len()).any(|piece| piece == wanted) {
        let mut chunk = [0; 4096];
        let count = stdout.read(&mut chunk).expect("it is read");
        let text = String::from_utf8_lossy(&said).into_owned();
        assert!(count > 0, "{arguments:?} ended after {text:?}");
        said.extend_from_slice(&chunk[..count]);
    }
    drop(stdin);
    client.kill().expect("it can be ended");
    client.wait().expect("it ends");
}

fn shutdown_powers_the_guest_off(node: Node) {
    let namespace = machine("verb-off", node);
    namespace
        .kubectl(&["exec", "vm", "--", "vm:reset"])
        .expect_success();
    eventually(SOON, || {
        let log = namespace.kubectl(&["logs", "vm"]).text();
        match log.matches(image::TINY_READY).count() {
            2 => Ok(()),
            count => Err(format!("it was ready {count} times")),
        }
    });
    namespace
        .kubectl(&["exec", "vm", "--", "vm:shutdown"])
        .expect_success();
    namespace.wait_for("pod", "vm", "/status/phase", "Succeeded");
}
