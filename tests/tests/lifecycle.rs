//! What a pod says about the life of a container holds for a machine: consoles, probes, hooks,
//! restarts, deadlines.

use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tests::{
    Manifest, Node, SOON, STARTED, TestNamespace, eventually, image, kubectl_spawn, on_both_nodes,
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
    let attach = || Terminal::new(&format!("kubectl -n {} attach -it vm", namespace.name()));
    let (mut first, mut second) = (attach(), attach());
    // A login shell is offered at the first key, and both see what one types.
    first.types_until("echo from the $((40+2))nd", "from the 42nd");
    second.types_until("echo back from $((6*7))", "back from 42");
    eventually(SOON, || {
        first.types("echo once more $((3*3))");
        match second.said().contains("once more 9") {
            true => Ok(()),
            false => Err(second.said()),
        }
    });
    drop(first);
    second.types_until("echo still $((6*7)) here", "still 42 here");
    drop(second);
    let log = namespace.wait_for_log("vm", "machine", "still 42 here");
    assert!(log.contains("from the 42nd"), "{log}");
    attach().types_until("echo again $((50-8))", "again 42");
}

/// A command in a terminal of this side's own; ended with the value.
struct Terminal {
    child: Child,
    said: Arc<Mutex<String>>,
}

impl Terminal {
    fn new(line: &str) -> Self {
        let mut terminal = Command::new("script");
        terminal.args(["-qec", line, "/dev/null"]);
        terminal.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = terminal.spawn().expect("script is there");
        let mut stdout = child.stdout.take().expect("a pipe");
        let said = Arc::new(Mutex::new(String::new()));
        let heard = said.clone();
        std::thread::spawn(move || {
            let mut chunk = [0; 1024];
            while let Ok(count) = stdout.read(&mut chunk)
                && count > 0
            {
                let text = String::from_utf8_lossy(&chunk[..count]);
                heard.lock().expect("nobody panics with it").push_str(&text);
            }
        });
        Self { child, said }
    }

    fn said(&self) -> String {
        self.said.lock().expect("nobody panics with it").clone()
    }

    fn types(&mut self, line: &str) {
        let stdin = self.child.stdin.as_mut().expect("a pipe");
        writeln!(stdin, "{line}").expect("it takes input");
    }

    /// Types the line, again and again while it may not be connected yet, until `text` appears.
    fn types_until(&mut self, line: &str, text: &str) {
        eventually(SOON, || {
            self.types(line);
            std::thread::sleep(Duration::from_millis(300));
            match self.said().contains(text) {
                true => Ok(()),
                false => Err(self.said()),
            }
        });
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
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
