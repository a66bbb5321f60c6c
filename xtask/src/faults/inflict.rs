//! Does harm to a node, as a shell there could.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::plan::{Fault, Plan};
use crate::cluster::{self, ClusterName};
use crate::command;
use crate::progress;

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
  hit=
  for pid in $pids; do
    kill -$signal $pid 2>/dev/null && hit=hit
  done
  [ -n "$hit" ] && echo hit && exit
  [ $(date +%s) -ge $end ] && echo missed && exit
done
"#;

/// Does what `plan` says to the pod with this UID or its node; whether there was anything to harm.
pub(super) fn inflict(cluster: &ClusterName, plan: &Plan, uid: &str) -> Result<bool> {
    let (kind, signal) = match (plan.fault, plan.fault.daemon()) {
        (Fault::KillContainerd | Fault::KillKubelet, Some(daemon)) => (daemon, "KILL"),
        (_, Some(daemon)) => (daemon, "TERM"),
        (Fault::PowerCut, _) => {
            cluster::power_cycle(cluster, plan.node)?;
            return Ok(true);
        }
        (Fault::KillVirtiofsd, _) => ("virtiofsd", "KILL"),
        (Fault::KillRunc, _) => ("runc", "KILL"),
        (Fault::StopQemu, _) => ("qemu-system-x86_64", "STOP"),
        (Fault::KillQemu, _) => ("qemu-system-x86_64", "KILL"),
        (_, None) => ("shim", "KILL"),
    };
    let before = pids_of(cluster, plan, kind)?;
    let patience = PATIENCE.as_secs().to_string();
    let mut node = cluster::on_node(cluster, plan.node)?;
    let words = ["sh", "-c", SIGNAL, "sh", kind, signal, uid, &patience];
    let hit = command::output(node.args(words))?.trim() == "hit";
    if plan.fault.daemon().is_some() {
        let again = progress::wait(PATIENCE * 10, || {
            pids_of(cluster, plan, kind).is_ok_and(|now| !now.is_empty() && now != before)
        });
        ensure!(again, "{kind} did not come back");
    }
    Ok(hit)
}

/// The processes of a program, as its name finds them.
fn pids_of(cluster: &ClusterName, plan: &Plan, program: &str) -> Result<String> {
    let pidof = format!("pidof {program} || true");
    command::output(cluster::on_node(cluster, plan.node)?.args(["sh", "-c", &pidof]))
}
