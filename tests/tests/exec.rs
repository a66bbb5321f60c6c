//! `kubectl exec` and `cp` into a machine mean its guest: true streams, exit codes, terminals.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;
use tests::{
    Manifest, Node, Output, SOON, TestNamespace, eventually, image, kubectl_input, kubectl_spawn,
    on_both_nodes,
};

on_both_nodes!(
    has_streams_and_an_exit_code,
    carries_bytes_unchanged_both_ways,
    has_a_terminal,
    ends_with_its_client,
    survives_a_long_silence,
    copies_files_both_ways,
    runs_as_the_user_of_the_annotation,
    says_what_a_guest_without_agent_lacks,
    a_debug_container_sees_the_machine,
);

/// Many MiB, of which no two pieces are alike.
const MANY: usize = 64 << 20;

fn machine(case: &str, node: Node) -> TestNamespace {
    let namespace = TestNamespace::new(case);
    namespace.apply(&Manifest::machine_pod("vm", image::TINY, node));
    namespace.wait_for_log("vm", "machine", image::TINY_READY);
    namespace
}

/// Runs a shell script in the guest.
fn guest(namespace: &TestNamespace, script: &str) -> Output {
    namespace.kubectl(&["exec", "vm", "--", "sh", "-c", script])
}

fn has_streams_and_an_exit_code(node: Node) {
    let namespace = machine("exec", node);
    let output = guest(&namespace, "echo to stdout; echo to stderr >&2; exit 7");
    assert_eq!(output.code, Some(7), "{output:?}");
    assert_eq!(output.text(), "to stdout\n");
    assert!(output.stderr.starts_with("to stderr\n"), "{output:?}");

    let output = guest(&namespace, "id -u; pwd; echo $HOME; cat /proc/1/comm; cat");
    assert_eq!(output.expect_success(), "0\n/\n/root\ninit\n");

    let odd = [
        "exec", "vm", "--", "printf", "%s|", "a b", "it's", "$HOME", "*", "", "ä",
    ];
    let words = namespace.kubectl(&odd).expect_success();
    assert_eq!(words, "a b|it's|$HOME|*||ä|");

    let output = namespace.kubectl(&["exec", "vm", "--", "no-such-command"]);
    assert_eq!(output.code, Some(127), "{output:?}");
    assert!(output.stderr.contains("no-such-command"), "{output:?}");

    let output = guest(&namespace, "kill -9 $$");
    assert_eq!(output.code, Some(137), "{output:?}");

    // What is left running keeps nobody waiting.
    let begun = Instant::now();
    assert_eq!(
        guest(&namespace, "sleep 600 & echo started").text(),
        "started\n"
    );
    assert!(begun.elapsed() < Duration::from_secs(60));
}

fn carries_bytes_unchanged_both_ways(node: Node) {
    let namespace = machine("exec-bytes", node);
    let bytes: Vec<u8> = (0..MANY as u32 / 4)
        .flat_map(|index| index.wrapping_mul(2_654_435_761).to_le_bytes())
        .collect();
    let exec = ["-n", namespace.name(), "exec", "-i", "vm", "--"];
    let output = kubectl_input(&[&exec[..], &["cat"]].concat(), &bytes);
    assert_eq!(output.code, Some(0), "{}", output.stderr);
    assert!(
        output.stdout == bytes,
        "{} bytes came back",
        output.stdout.len()
    );
    let output = kubectl_input(&[&exec[..], &["wc", "-c"]].concat(), b"");
    assert_eq!(output.expect_success().trim(), "0", "an empty input ends");
}

fn has_a_terminal(node: Node) {
    let namespace = machine("exec-tty", node);
    let exec = format!("kubectl -n {} exec -it vm -- sh", namespace.name());
    // A terminal of this side's own, of an odd size.
    let mut terminal = Command::new("script")
        .args([
            "-qec",
            &format!("stty rows 33 cols 77; exec {exec}"),
            "/dev/null",
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("script is there");
    let mut input = terminal.stdin.take().expect("a pipe");
    let mut output = BufReader::new(terminal.stdout.take().expect("a pipe"));
    let mut said = String::new();
    let mut until = |output: &mut BufReader<_>, text: &str| {
        while !said.contains(text) {
            let mut line = Vec::new();
            let count = output
                .read_until(b'\n', &mut line)
                .expect("the terminal is read");
            assert!(count > 0, "{text:?} does not come: {said}");
            said.push_str(&String::from_utf8_lossy(&line));
        }
        std::mem::take(&mut said)
    };
    // The size follows the first moments of the terminal.
    input
        .write_all(b"tty; until [ \"$(stty size)\" = '33 77' ]; do sleep 0.2; done; echo sized-$(stty size | tr ' ' x)\n")
        .expect("the terminal is written");
    let text = until(&mut output, "sized-33x77");
    assert!(text.contains("/dev/pts/"), "{text}");
    // The interrupt key ends the command, not the shell.
    input
        .write_all(b"echo wait-$((1+1)); sleep 600\n")
        .expect("written");
    until(&mut output, "wait-2");
    // A shell that is about to start it would take the key for itself.
    eventually(SOON, || {
        let pids = namespace.kubectl(&["exec", "vm", "--", "pidof", "sleep"]);
        let runs = pids.code == Some(0);
        runs.then_some(()).ok_or_else(|| format!("{pids:?}"))
    });
    input.write_all(b"\x03").expect("written");
    input
        .write_all(b"echo after-$((2+2)); exit 5\n")
        .expect("written");
    until(&mut output, "after-4");
    let code = terminal.wait().expect("the terminal ends").code();
    assert_eq!(code, Some(5));
}

/// What is left of the command below.
const LEFT: &str = "ps | grep 'still her[e]' || echo none";

/// Longer than any bound of ours: nothing may take silence for an end.
const SILENCE: Duration = Duration::from_secs(100);

fn survives_a_long_silence(node: Node) {
    let namespace = machine("exec-silent", node);
    let script = format!("echo begin; sleep {}; cat; echo end", SILENCE.as_secs());
    let arguments = [
        "--namespace",
        namespace.name(),
        "exec",
        "-i",
        "vm",
        "--",
        "sh",
        "-c",
        &script,
    ];
    let output = kubectl_input(&arguments, b"typed before\n");
    assert_eq!(output.expect_success(), "begin\ntyped before\nend\n");
}

fn ends_with_its_client(node: Node) {
    let namespace = machine("exec-gone", node);
    let mut client = kubectl_spawn(&[
        "-n",
        namespace.name(),
        "exec",
        "vm",
        "--",
        "sh",
        "-c",
        // Containerd learns that nobody reads any more when there is something to read.
        "echo begun; while sleep 0.5; do echo still here; done",
    ]);
    let mut begun = [0; 5];
    client
        .stdout
        .as_mut()
        .expect("a pipe")
        .read_exact(&mut begun)
        .expect("it begins");
    let there = guest(&namespace, LEFT).expect_success();
    assert!(there.contains("still here"), "{there}");
    client.kill().expect("the client can be killed");
    client.wait().expect("the client ends");
    eventually(SOON, || {
        let left = guest(&namespace, LEFT).expect_success();
        if left == "none\n" { Ok(()) } else { Err(left) }
    });
}

fn copies_files_both_ways(node: Node) {
    let namespace = machine("cp", node);
    let directory = std::env::temp_dir().join(namespace.name());
    std::fs::create_dir(&directory).expect("a directory");
    let (there, back) = (directory.join("there"), directory.join("back"));
    let bytes: Vec<u8> = (0..1_000_000_u32)
        .map(|index| (index % 253) as u8)
        .collect();
    std::fs::write(&there, &bytes).expect("a file");
    let path = |path: &std::path::Path| path.to_str().expect("text").to_owned();
    namespace
        .kubectl(&["cp", &path(&there), "vm:/tmp/file"])
        .expect_success();
    namespace
        .kubectl(&["cp", "vm:/tmp/file", &path(&back)])
        .expect_success();
    let same = std::fs::read(&back).expect("the file came back") == bytes;
    std::fs::remove_dir_all(&directory).expect("the directory goes");
    assert!(same);
}

fn runs_as_the_user_of_the_annotation(node: Node) {
    let namespace = TestNamespace::new("exec-user");
    let pod = Manifest::machine_pod("vm", image::TINY, node).with(
        "/metadata/annotations",
        json!({ "kubevirt.io/guest-user": "nobody" }),
    );
    namespace.apply(&pod);
    namespace.wait_for_log("vm", "machine", image::TINY_READY);
    let output = guest(&namespace, "id -un; id -u; echo \"$USER\"");
    assert_eq!(output.expect_success(), "nobody\n65534\nnobody\n");
}

fn says_what_a_guest_without_agent_lacks(node: Node) {
    let namespace = TestNamespace::new("exec-none");
    let mut probe = json!({ "exec": { "command": ["true"] }, "periodSeconds": 1 });
    probe["failureThreshold"] = json!(1);
    let pod = Manifest::machine_pod("vm", image::BOOT_SECTOR, node)
        .with("/spec/containers/0/readinessProbe", probe);
    namespace.apply(&pod);
    namespace.wait_for_log("vm", "machine", "boot-sector guest ready");
    // A probe fails at once, and says why where the user looks.
    let message = namespace.wait_for_event("vm", "Readiness probe failed");
    assert!(
        message.contains("install and start qemu-guest-agent"),
        "{message}"
    );
    // A verb needs no agent, and the machine runs on.
    let status = namespace
        .kubectl(&["exec", "vm", "--", "vm:status", "-o", "json"])
        .expect_success();
    let status: serde_json::Value = serde_json::from_str(&status).expect("JSON");
    assert_eq!(status["state"], "running", "{status:#}");
    assert_eq!(status["guestAgent"]["connected"], false, "{status:#}");
    let output = namespace.kubectl(&["exec", "vm", "--", "vm:agent"]);
    assert_eq!(output.code, Some(1));
    assert!(output.stderr.contains("no guest agent runs"), "{output:?}");
}

fn a_debug_container_sees_the_machine(node: Node) {
    let namespace = machine("debug", node);
    let arguments = [
        "debug",
        "vm",
        "--image",
        image::BUSYBOX,
        "--image-pull-policy=IfNotPresent",
        "--target=machine",
        "--container=debugger",
        "--attach=false",
        "--",
        "sh",
        "-c",
        "ps; nc -w 5 127.0.0.1 22 < /dev/null; hostname",
    ];
    namespace.kubectl(&arguments).expect_success();
    let log = namespace.wait_for_log("vm", "debugger", "vm\n");
    assert!(log.contains("qemu"), "it sees QEMU's process: {log}");
    assert!(log.contains("SSH-2.0"), "it reaches the guest: {log}");
}
