//! The cluster's nodes, and running a command as on one of them.

use std::panic::AssertUnwindSafe;
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::Output;

/// A node of the test cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Node {
    /// containerd 1.6, the distribution's.
    One,
    /// containerd 2.x, the newest.
    Two,
}

impl Node {
    /// Its name in Kubernetes.
    pub fn name(self) -> &'static str {
        match self {
            Self::One => "node1",
            Self::Two => "node2",
        }
    }

    /// The other one.
    pub fn other(self) -> Self {
        match self {
            Self::One => Self::Two,
            Self::Two => Self::One,
        }
    }

    /// Runs a shell script as on the node.
    #[track_caller]
    pub fn shell(self, script: &str) -> Output {
        let mut command = Command::new(self.name());
        let output = command
            .args(["sh", "-c", script])
            .stdin(Stdio::null())
            .output();
        output.expect("the node's wrapper is on PATH").into()
    }
}

/// A configuration of the runtime on a node for a while; the one before comes back with the value's
/// end. Another case of the same file waits until then.
pub struct NodeConfiguration {
    node: Node,
    _only: MutexGuard<'static, ()>,
}

impl NodeConfiguration {
    const FILE: &str = "/etc/kubevirt/config.toml";

    /// Puts it there.
    #[track_caller]
    pub fn new(node: Node, content: &str) -> Self {
        static OF_EACH: [Mutex<()>; 2] = [const { Mutex::new(()) }; 2];
        let only = OF_EACH[node as usize].lock();
        let _only = only.unwrap_or_else(PoisonError::into_inner);
        let file = Self::FILE;
        node.shell(&format!("cp {file} {file}.before"))
            .expect_success();
        let this = Self { node, _only };
        node.shell(&format!("printf '%s\\n' '{content}' > {file}"))
            .expect_success();
        this
    }

    /// Puts the one before back, and keeps others waiting.
    pub fn mend(&self) {
        let file = Self::FILE;
        self.node
            .shell(&format!(
                "[ ! -e {file}.before ] || mv {file}.before {file}"
            ))
            .expect_success();
    }
}

impl Drop for NodeConfiguration {
    fn drop(&mut self) {
        let _ = std::panic::catch_unwind(AssertUnwindSafe(|| self.mend()));
    }
}
