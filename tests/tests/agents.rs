//! Guests whose agent does not do what a command needs: the user is told what to change, in a
//! bounded time, and the machine runs on.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tests::{Manifest, Node, SOON, TestNamespace, eventually, image, on_both_nodes};

on_both_nodes!(one_that_forbids_commands, one_that_never_answers);

/// For any command: one that was under way when its agent fell silent is given up after half a minute.
const BOUND: Duration = Duration::from_secs(60);

/// A machine whose probe runs a command, for longer than the shim waits for an agent.
fn machine(case: &str, node: Node) -> TestNamespace {
    let namespace = TestNamespace::new(case);
    let probe = json!({
        "exec": { "command": ["true"] },
        "periodSeconds": 1, "timeoutSeconds": 20, "failureThreshold": 1,
    });
    namespace.apply(&Manifest::machine_pod("vm", image::TINY, node).with_readiness(probe));
    namespace.wait_for_log("vm", "machine", image::TINY_READY);
    namespace.wait_for("pod", "vm", "/status/containerStatuses/0/ready", "true");
    namespace
}

/// Has the guest run `script` after the command that starts it has ended.
fn later(namespace: &TestNamespace, script: &str) {
    let script = format!("(sleep 1; {script}) > /dev/null 2>&1 < /dev/null &");
    let exec = ["exec", "vm", "--", "sh", "-c", &script];
    namespace.kubectl(&exec).expect_success();
}

fn status(namespace: &TestNamespace) -> Value {
    let exec = ["exec", "vm", "--", "vm:status", "-o", "json"];
    let status = namespace.kubectl(&exec).expect_success();
    serde_json::from_str(&status).expect("JSON")
}

/// Waits until a command is refused with exit code 126 and these words, and sees that a probe says
/// the same and that the machine runs on.
fn refuses(namespace: &TestNamespace, words: &str) {
    eventually(SOON, || {
        let begun = Instant::now();
        let output = namespace.kubectl(&["exec", "vm", "--", "true"]);
        let took = begun.elapsed();
        assert!(took < BOUND, "it took {took:?}");
        if output.code == Some(126) && output.stderr.contains(words) {
            Ok(())
        } else {
            Err(format!("{output:?}"))
        }
    });
    let message = namespace.wait_for_event("vm", words);
    assert!(message.starts_with("Readiness probe failed"), "{message}");
    namespace.wait_for("pod", "vm", "/status/containerStatuses/0/ready", "false");
    assert_eq!(status(namespace)["state"], "running");
    let page = namespace.forwarded("vm", 80);
    assert!(page.trim_end().ends_with("vm"), "{page}");
    let pod = namespace.get("pod", "vm").expect("the pod is there");
    assert_eq!(pod["status"]["phase"], "Running");
    assert_eq!(pod["status"]["containerStatuses"][0]["restartCount"], 0);
}

fn one_that_forbids_commands(node: Node) {
    let namespace = machine("agent-forbids", node);
    let agent = "qemu-ga --daemonize --method virtio-serial \
                 --path /dev/virtio-ports/org.qemu.guest_agent.0 -b guest-exec";
    later(&namespace, &format!("killall qemu-ga; sleep 1; {agent}"));
    refuses(
        &namespace,
        "take guest-exec and guest-exec-status off its block list",
    );
    // What is not forbidden goes on.
    assert_eq!(status(&namespace)["guestAgent"]["hostname"], "vm");
}

fn one_that_never_answers(node: Node) {
    let namespace = machine("agent-silent", node);
    let awake = "until [ -e /run/wake ]; do sleep 1; done; killall -CONT qemu-ga";
    // A page that is asked for wakes it: the agent cannot be told.
    let page = r#"printf '#!/bin/sh\ntouch /run/wake\nprintf "\\r\\nwoken"\n' > /srv/www/cgi-bin/wake
                  chmod 755 /srv/www/cgi-bin/wake"#;
    later(
        &namespace,
        &format!("{page}; killall -STOP qemu-ga; {awake}"),
    );
    refuses(
        &namespace,
        "the guest agent did not answer guest-exec within 5s",
    );
    namespace.apply(&Manifest::shell_pod("client", "sleep 3600", node));
    let address = namespace.addresses("vm").v4;
    let woken = eventually(SOON, || {
        namespace.fetch_path("client", "main", &address, 80, "/cgi-bin/wake")
    });
    assert_eq!(woken.trim(), "woken");
    namespace.wait_for("pod", "vm", "/status/containerStatuses/0/ready", "true");
    let output = namespace.kubectl(&["exec", "vm", "--", "echo", "back"]);
    assert_eq!(output.expect_success(), "back\n");
}
