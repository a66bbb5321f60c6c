//! Whom the guests talk to when the network is measured: two servers on the node, and a tap between
//! them and QEMU alone.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};

use anyhow::{Context, Result, ensure};

use super::NODE;
use crate::cluster::{self, ClusterName};
use crate::command;

/// The tap of QEMU alone.
pub(super) const TAP: &str = "bench";

/// The node's address on the tap, and the guest's with the length of their prefix.
pub(super) const HOST: &str = "169.254.77.1";
pub(super) const GUEST: &str = "169.254.77.2/30";

/// Port of the server that reads [`MIB`] and then says so in a line, and of the one that sends as much.
pub(super) const SINK: u16 = 7001;
pub(super) const SOURCE: u16 = 7002;

/// What a connection carries.
pub(super) const MIB: u32 = 128;

/// Runs until it is dropped.
pub(super) struct FarEnd {
    cluster: ClusterName,
    servers: Child,
    /// As their node knows them.
    pids: String,
}

impl FarEnd {
    pub(super) fn new(cluster: &ClusterName) -> Result<Self> {
        let script = format!(
            "ip link delete {TAP} 2>/dev/null
             ip tuntap add {TAP} mode tap && ip address add {HOST}/30 dev {TAP} && ip link set {TAP} up || exit
             busybox nc -ll -p {SINK} -e sh -c 'dd of=/dev/null bs=1M count={MIB} iflag=fullblock 2>/dev/null; echo all' & sink=$!
             busybox nc -ll -p {SOURCE} -e dd if=/dev/zero bs=1M count={MIB} 2>/dev/null & source=$!
             echo $sink $source
             wait"
        );
        let mut node = cluster::on_node(cluster, NODE)?;
        node.args(["sh", "-c", &script]).stdout(Stdio::piped());
        let mut servers = node.spawn()?;
        let output = servers.stdout.take().context("a pipe")?;
        let mut pids = String::new();
        BufReader::new(output).read_line(&mut pids)?;
        let far_end = Self {
            cluster: cluster.clone(),
            servers,
            pids,
        };
        ensure!(!far_end.pids.is_empty(), "no tap on the node");
        Ok(far_end)
    }
}

impl Drop for FarEnd {
    fn drop(&mut self) {
        if let Ok(mut node) = cluster::on_node(&self.cluster, NODE) {
            let end = format!("kill {}; ip link delete {TAP}", self.pids.trim());
            let _ = command::run(node.args(["sh", "-c", &end]));
        }
        let _ = self.servers.wait();
    }
}
