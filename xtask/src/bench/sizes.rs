//! How big the programs on a node are.

use anyhow::Result;

use super::NODE;
use super::report::Report;
use crate::cluster::{self, ClusterName};
use crate::command;

const GROUP: &str = "Programs on a node";

pub(super) fn measure(cluster: &ClusterName, report: &mut Report) -> Result<()> {
    let list = "stat -Lc '%s %n' /opt/kubevirt/bin/*; du -sbL /opt/kubevirt/qemu | sed 's/\\t/ /'";
    let list = command::output(cluster::on_node(cluster, NODE)?.args(["sh", "-c", list]))?;
    for line in list.lines() {
        if let Some((size, name)) = line.split_once(' ') {
            report.add(GROUP, name, size.parse::<f64>()? / 1e6, "MB");
        }
    }
    Ok(())
}
