//! `kubectl` as a user runs it.

use std::io::Write;
use std::process::{Child, Command, Stdio};

/// What a command said and how it ended.
#[derive(Debug)]
pub struct Output {
    /// Its exit code; none if a signal ended it.
    pub code: Option<i32>,
    /// What it wrote to stdout.
    pub stdout: Vec<u8>,
    /// What it wrote to stderr, as text.
    pub stderr: String,
}

impl Output {
    /// What it wrote to stdout, as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// The text on stdout of a command that must have succeeded.
    ///
    /// # Panics
    /// With its stderr, if it did not.
    #[track_caller]
    pub fn expect_success(self) -> String {
        assert_eq!(
            self.code,
            Some(0),
            "stdout: {}\nstderr: {}",
            self.text(),
            self.stderr
        );
        self.text()
    }
}

impl From<std::process::Output> for Output {
    fn from(output: std::process::Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: output.stdout,
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

fn command(arguments: &[&str]) -> Command {
    assert!(
        std::env::var_os("CLUSTER_DIR").is_some(),
        "no cluster: run `cargo xtask test`, or eval \"$(cargo xtask cluster env)\" first"
    );
    let mut command = Command::new("kubectl");
    command.args(arguments);
    command
}

/// Runs `kubectl` to its end.
#[track_caller]
pub fn kubectl(arguments: &[&str]) -> Output {
    let output = command(arguments)
        .stdin(Stdio::null())
        .output()
        .expect("kubectl is on PATH");
    output.into()
}

/// Runs `kubectl` with `input` on its stdin, to its end.
#[track_caller]
pub fn kubectl_input(arguments: &[&str], input: &[u8]) -> Output {
    let mut child = command(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("kubectl is on PATH");
    let mut stdin = child.stdin.take().expect("stdin is a pipe");
    std::thread::scope(|scope| {
        scope.spawn(move || {
            // A command that ends early leaves the rest unread.
            let _ = stdin.write_all(input);
        });
        child.wait_with_output().expect("kubectl ends").into()
    })
}

/// Starts `kubectl` with pipes, for commands that run until they are ended.
#[track_caller]
pub fn kubectl_spawn(arguments: &[&str]) -> Child {
    command(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("kubectl is on PATH")
}
