//! Does harm to a node, as a shell there could.

use std::time::Duration;

use anyhow::Result;

use super::plan::{Fault, Plan};
use crate::cluster::{self, ClusterName};
use crate::command;

/// How long is looked for something to harm.
const PATIENCE: Duration = Duration::from_secs(3);

/// Sends `$2` to the processes of kind `$1` of the pod whose UID is `$3`, within `$4` seconds. Says
/// whether there were any.
const SIGNAL: &str = r#"
of_pod() {
  for pid in $(pidof "$1"); do
    grep -q "$uid" /proc/$pid/cgroup 2>/dev/null && echo $pid
  done
}
shims() {
  for config in $(grep -l "$uid" /run/containerd/io.containerd.runtime.v2.task/k8s.io/*/config.json 2>/dev/null); do
    id=${config%/config.json}
    pgrep -f "^[^ ]*containerd-shim-kubevirt-v1 .*-id ${id##*/}"
  done
}
kind=$1 signal=$2 uid=$3 end=$(($(date +%s) + $4))
while :; do
  case $kind in
    shim) pids=$(shims) ;;
    qemu-system-x86_64 | virtiofsd) pids=$(of_pod $kind) ;;
    *) pids=$(pidof $kind) ;;
  esac
  [ -n "$pids" ] && kill -$signal $pids 2>/dev/null && echo hit && exit
  [ $(date +%s) -ge $end ] && echo missed && exit
done
"#;

/// Does what `plan` says to the pod with this UID or its node; whether there was anything to harm.
pub(super) fn inflict(cluster: &ClusterName, plan: &Plan, uid: &str) -> Result<bool> {
    let (kind, signal) = match plan.fault {
        Fault::KillShim => ("shim", "KILL"),
        Fault::KillQemu => ("qemu-system-x86_64", "KILL"),
        Fault::StopQemu => ("qemu-system-x86_64", "STOP"),
        Fault::KillVirtiofsd => ("virtiofsd", "KILL"),
        Fault::KillRunc => ("runc", "KILL"),
        Fault::KillContainerd => ("containerd", "KILL"),
        Fault::RestartContainerd => ("containerd", "TERM"),
        Fault::KillKubelet => ("kubelet", "KILL"),
        Fault::RestartKubelet => ("kubelet", "TERM"),
        Fault::PowerCut => {
            cluster::power_cycle(cluster, plan.node)?;
            return Ok(true);
        }
    };
    let patience = PATIENCE.as_secs().to_string();
    let mut node = cluster::on_node(cluster, plan.node)?;
    let words = ["sh", "-c", SIGNAL, "sh", kind, signal, uid, &patience];
    Ok(command::output(node.args(words))?.trim() == "hit")
}
