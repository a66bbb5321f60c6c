//! What a hostile guest agent makes the host hold: about its longest line, whatever is in it.
//!
//! A program of its own, since it looks at the memory of the whole process.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use qapi::qga;
use qemu_driver::Agent;

/// The longest line that the agent may send, and what may be held of it: the line while it grows, a
/// copy, and what is kept.
const LINE: usize = 1 << 20;
const MOST_KIB: u64 = 8 << 10;

/// An agent that answers each command by `answer`.
fn agent(answer: String) -> Agent {
    let (host, guest) = UnixStream::pair().unwrap();
    std::thread::spawn(move || {
        let mut write = guest.try_clone().unwrap();
        for line in BufReader::new(guest).split(b'\n') {
            let line = line.unwrap();
            let line = String::from_utf8_lossy(&line);
            if line.contains("guest-sync-delimited") {
                let id: String = line.chars().filter(char::is_ascii_digit).collect();
                write.write_all(b"\xff").unwrap();
                writeln!(write, "{{\"return\": {id}}}").unwrap();
            } else {
                writeln!(write, "{{\"return\": {answer}}}").unwrap();
            }
        }
    });
    Agent::new(host, Duration::from_secs(20)).unwrap()
}

/// The most memory that this process has had, in KiB.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    let line = line.unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// `element` as often as it fits into a line, between `head` and `tail`.
fn long(head: &str, element: &str, tail: &str) -> String {
    let room = LINE - head.len() - tail.len() - 100;
    let list = vec![element; room / (element.len() + 1)].join(",");
    format!("{head}{list}{tail}")
}

#[tokio::test]
async fn an_answer_takes_little_more_than_its_line() {
    let tree = long("[", "{\"a\":[]}", "]");
    let commands = long(
        "{\"version\":\"1\",\"supported_commands\":[",
        "{\"enabled\":true,\"name\":\"\",\"success-response\":true}",
        "]}",
    );
    let interfaces = long("[", "{\"name\":\"\"}", "]");
    let addresses = long(
        "[{\"name\":\"\",\"ip-addresses\":[",
        "{\"ip-address\":\"::\",\"ip-address-type\":\"ipv6\",\"prefix\":0}",
        "]}]",
    );
    let before = peak();

    let deep = agent(tree.clone());
    assert!(deep.any("guest-x", None).await.is_ok());
    assert!(deep.execute(&qga::guest_get_time {}).await.is_err());
    assert!(deep.ping().await.is_err());
    assert!(deep.info().await.is_err());
    assert_eq!(agent(commands).info().await.unwrap().commands.len(), 512);
    let told = agent(interfaces).interfaces().await.unwrap();
    assert_eq!(told.len(), 64);
    let told = agent(addresses).interfaces().await.unwrap();
    assert_eq!(told[0].addresses.len(), 64);

    let held = peak() - before;
    assert!(held < MOST_KIB, "{held} KiB");
}
