//! What a pod says about the life of a container holds for a machine: consoles, probes, hooks,
//! restarts, deadlines.

use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};
use tests::{
    Manifest, Node, STARTED, TestNamespace, eventually, image, kubectl_spawn, on_both_nodes,
};

on_both_nodes!(
    a_console_is_attached_to,
    probes_ask_the_guest,
    hooks_run_in_the_guest,
    a_failed_liveness_probe_boots_it_afresh,
    a_deadline_ends_it,
);

fn a_console_is_attached_to(node: Node) {
    let namespace = TestNamespace::new("attach");
    let pod = Manifest::machine_pod("vm", image::TINY, node)
        .with("/spec/containers/0/stdin", json!(true))
        .with("/spec/containers/0/tty", json!(true));
    namespace.apply(&pod);
    namespace.wait_for_log("vm", "machine", image::TINY_READY);
    // From a terminal of this side's own, as a container with a terminal wants it.
    let line = format!("kubectl -n {} attach -it vm", namespace.name());
    let attach = || {
        let mut terminal = Command::new("script");
        terminal.args(["-qec", &line, "/dev/null"]);
        terminal.stdin(Stdio::piped()).stdout(Stdio::piped());
        terminal.spawn().expect("script is there")
    };
    let mut first = attach();
    let mut second = attach();
    // A login shell is offered at the first key.
    type_line(&mut first, "");
    type_line(&mut first, "echo from the $((40+2))nd");
    read_until(&mut first, "from the 42nd");
    read_until(&mut second, "from the 42nd");
    end(first);
    type_line(&mut second, "echo still $((6*7)) here");
    read_until(&mut second, "still 42 here");
    end(second);
    let log = namespace.wait_for_log("vm", "machine", "still 42 here");
    assert!(log.contains("from the 42nd"), "{log}");
    let mut third = attach();
    type_line(&mut third, "echo again $((50-8))");
    read_until(&mut third, "again 42");
    end(third);
}

fn type_line(client: &mut Child, line: &str) {
    let stdin = client.stdin.as_mut().expect("a pipe");
    writeln!(stdin, "{line}").expect("it takes input");
}

fn read_until(client: &mut Child, text: &str) {
    let stdout = client.stdout.as_mut().expect("a pipe");
    let mut said = Vec::new();
    while !String::from_utf8_lossy(&said).contains(text) {
        let mut chunk = [0; 1024];
        let count = stdout.read(&mut chunk).expect("it is read");
        assert!(
            count > 0,
            "it ended after {:?}",
            String::from_utf8_lossy(&said)
        );
        said.extend_from_slice(&chunk[..count]);
    }
}

fn end(mut client: Child) {
    client.kill().expect("it can be ended");
    client.wait().expect("it ends");
}

fn probes_ask_the_guest(node: Node) {
    let namespace = TestNamespace::new("probes");
    let exec = json!({ "exec": { "command": ["test", "-e", "/run/healthy"] }, "periodSeconds": 1 });
    let pod = Manifest::machine_pod("vm", image::TINY, node)
        .with(
            "/spec/containers/0/startupProbe",
            json!({ "tcpSocket": { "port": 22 }, "periodSeconds": 1, "failureThreshold": 180 }),
        )
        .with("/spec/containers/0/readinessProbe", exec)
        .with(
            "/spec/containers/0/livenessProbe",
            json!({ "httpGet": { "port": 80 }, "periodSeconds": 2, "timeoutSeconds": 5 }),
        );
    namespace.apply(&pod);
    namespace.wait_for_log("vm", "machine", image::TINY_READY);
    namespace.wait_for("pod", "vm", "/status/containerStatuses/0/started", "true");
    namespace.wait_for("pod", "vm", "/status/containerStatuses/0/ready", "false");
    namespace
        .kubectl(&["exec", "vm", "--", "touch", "/run/healthy"])
        .expect_success();
    namespace.wait_for("pod", "vm", "/status/containerStatuses/0/ready", "true");
    namespace
        .kubectl(&["exec", "vm", "--", "rm", "/run/healthy"])
        .expect_success();
    namespace.wait_for("pod", "vm", "/status/containerStatuses/0/ready", "false");
    let pod = namespace.get("pod", "vm").expect("the pod is there");
    assert_eq!(restarts(&pod), 0);
}

fn restarts(pod: &Value) -> u64 {
    let count = &pod["status"]["containerStatuses"][0]["restartCount"];
    count.as_u64().unwrap_or_default()
}

fn hooks_run_in_the_guest(node: Node) {
    let namespace = TestNamespace::new("hooks");
    let hook = |words: &str| {
        let script = format!("echo {words} $(hostname) > /dev/ttyS0");
        json!({ "exec": { "command": ["sh", "-c", script] } })
    };
    let pod = Manifest::machine_pod("vm", image::TINY, node)
        .with(
            "/spec/containers/0/lifecycle",
            json!({ "postStart": hook("post-start in"), "preStop": hook("pre-stop in") }),
        )
        .with("/spec/terminationGracePeriodSeconds", json!(60));
    namespace.apply(&pod);
    // The hook came before the guest was up, and waited for it.
    namespace.wait_for_log("vm", "machine", "post-start in");
    namespace.wait_for_log("vm", "machine", image::TINY_READY);
    namespace.wait_for("pod", "vm", "/status/phase", "Running");
    let mut logs = kubectl_spawn(&["-n", namespace.name(), "logs", "-f", "vm"]);
    namespace.kubectl(&["delete", "pod", "vm"]).expect_success();
    let mut text = String::new();
    let stdout = logs.stdout.as_mut().expect("a pipe");
    stdout.read_to_string(&mut text).expect("the log is text");
    logs.wait().expect("kubectl ends");
    assert!(text.contains("pre-stop in vm"), "{text}");
}

fn a_failed_liveness_probe_boots_it_afresh(node: Node) {
    let namespace = TestNamespace::new("restart");
    let probe = json!({
        "exec": { "command": ["test", "!", "-e", "/sick"] },
        "periodSeconds": 1, "timeoutSeconds": 5, "failureThreshold": 3,
        "initialDelaySeconds": 30,
    });
    let pod = Manifest::machine_pod("vm", image::TINY, node)
        .with("/spec/restartPolicy", json!("Always"))
        .with("/spec/containers/0/livenessProbe", probe);
    namespace.apply(&pod);
    namespace.wait_for_log("vm", "machine", image::TINY_READY);
    namespace
        .kubectl(&["exec", "vm", "--", "touch", "/sick"])
        .expect_success();
    eventually(STARTED, || {
        let pod = namespace.get("pod", "vm")?;
        match restarts(&pod) {
            0 => Err(pod["status"].to_string()),
            _ => Ok(()),
        }
    });
    // Its disk is the image's again.
    namespace.wait_for_log("vm", "machine", image::TINY_READY);
    let output = namespace.kubectl(&["exec", "vm", "--", "test", "-e", "/sick"]);
    assert_eq!(output.code, Some(1), "{output:?}");
}

fn a_deadline_ends_it(node: Node) {
    let namespace = TestNamespace::new("deadline");
    let pod = Manifest::machine_pod("vm", image::BOOT_SECTOR, node)
        .with("/spec/activeDeadlineSeconds", json!(5))
        .with("/spec/terminationGracePeriodSeconds", json!(1));
    namespace.apply(&pod);
    namespace.wait_for("pod", "vm", "/status/reason", "DeadlineExceeded");
    namespace.wait_for("pod", "vm", "/status/phase", "Failed");
}
