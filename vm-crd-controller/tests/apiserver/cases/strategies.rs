//! What each run strategy does when a guest ends, and when a user asks for something once.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use kube::ResourceExt;
use serde_json::json;

use crate::bench::Bench;
use crate::space::{NAME, Space, until};

pub(crate) async fn always_runs_again(bench: Arc<Bench>, name: String) -> Result<()> {
    let space = Space::new(&bench.client, &name).await?;
    let mut pod = space.running("Always").await?;
    // After a power-off and after a crash alike, and at once: the guest ran.
    for code in [0, 137, 137] {
        space.node.end(&pod, code, "").await?;
        let begin = Instant::now();
        space.gone(&space.pods, &pod.name_any()).await?;
        pod = space.another_pod(&pod).await?;
        ensure!(
            begin.elapsed() < Duration::from_secs(5),
            "it took {:?}",
            begin.elapsed()
        );
        space.node.run(&pod).await?;
        let vm = space.status("Running").await?;
        ensure!(vm.status.context("a status")?.start_failure.is_none());
    }
    space.delete().await
}

pub(crate) async fn rerun_on_failure(bench: Arc<Bench>, name: String) -> Result<()> {
    let space = Space::new(&bench.client, &name).await?;
    let pod = space.running("RerunOnFailure").await?;
    space.node.end(&pod, 1, "").await?;
    let next = space.another_pod(&pod).await?;
    space.node.run(&next).await?;
    let vm = space.status("Running").await?;
    ensure!(
        vm.status
            .context("a status")?
            .state_change_requests
            .is_empty()
    );
    // A power-off is no failure.
    space.node.end(&next, 0, "").await?;
    space.gone(&space.vmis, NAME).await?;
    space.status("Stopped").await?;
    stays_stopped(&space).await?;
    // A user may start it again.
    space.request(json!([{ "action": "Start" }])).await?;
    let pod = space.pod().await?;
    space.node.run(&pod).await?;
    space.status("Running").await?;
    space.delete().await
}

pub(crate) async fn once(bench: Arc<Bench>, name: String) -> Result<()> {
    let space = Space::new(&bench.client, &name).await?;
    let pod = space.running("Once").await?;
    space.node.end(&pod, 1, "").await?;
    let vmi = space.phase("Failed").await?;
    space.status("Stopped").await?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    ensure!(
        space.vmi().await?.uid() == vmi.uid(),
        "the instance stays as it ended"
    );
    space.delete().await
}

pub(crate) async fn manual(bench: Arc<Bench>, name: String) -> Result<()> {
    let space = Space::new(&bench.client, &name).await?;
    space.machine("Manual", json!({})).await?;
    space.status("Stopped").await?;
    stays_stopped(&space).await?;
    // Started.
    space.request(json!([{ "action": "Start" }])).await?;
    let pod = space.pod().await?;
    space.node.run(&pod).await?;
    let vm = space.status("Running").await?;
    ensure!(
        vm.status
            .context("a status")?
            .state_change_requests
            .is_empty(),
        "it was followed"
    );
    // Restarted: a stop of this instance, then a start.
    let uid = space.vmi().await?.uid();
    space
        .request(json!([{ "action": "Stop", "uid": uid }, { "action": "Start" }]))
        .await?;
    space.terminating(&pod).await?;
    space.node.finish(&pod, 0).await?;
    let next = space.another_pod(&pod).await?;
    space.node.run(&next).await?;
    let vm = space.status("Running").await?;
    ensure!(
        vm.status
            .context("a status")?
            .state_change_requests
            .is_empty(),
        "they were followed"
    );
    // The guest powers off: it stays as it ended.
    space.node.end(&next, 0, "").await?;
    space.phase("Succeeded").await?;
    space.status("Stopped").await?;
    // Started again, though the old instance is still there.
    space.request(json!([{ "action": "Start" }])).await?;
    let third = space.another_pod(&next).await?;
    space.node.run(&third).await?;
    space.status("Running").await?;
    // Stopped.
    let uid = space.vmi().await?.uid();
    space
        .request(json!([{ "action": "Stop", "uid": uid }]))
        .await?;
    space.terminating(&third).await?;
    space.node.finish(&third, 0).await?;
    space.gone(&space.vmis, NAME).await?;
    until("the stop is forgotten", || async {
        let status = space.vm().await?.status.unwrap_or_default();
        ensure!(status.state_change_requests.is_empty(), "{status:?}");
        Ok(())
    })
    .await?;
    stays_stopped(&space).await?;
    space.delete().await
}

pub(crate) async fn halted_follows_a_start_request(bench: Arc<Bench>, name: String) -> Result<()> {
    let space = Space::new(&bench.client, &name).await?;
    space.machine("Halted", json!({})).await?;
    space.status("Stopped").await?;
    space.request(json!([{ "action": "Start" }])).await?;
    let pod = space.pod().await?;
    space.node.run(&pod).await?;
    let vm = space.status("Running").await?;
    ensure!(
        vm.spec.run_strategy.as_deref() == Some("Always"),
        "{:?}",
        vm.spec.run_strategy
    );
    space.delete().await
}

pub(crate) async fn running_true(bench: Arc<Bench>, name: String) -> Result<()> {
    let space = Space::new(&bench.client, &name).await?;
    space.machine("Halted", json!({})).await?;
    space.status("Stopped").await?;
    space
        .patch(json!({ "runStrategy": null, "running": true }))
        .await?;
    let pod = space.pod().await?;
    space.node.run(&pod).await?;
    space.status("Running").await?;
    space.patch(json!({ "running": false })).await?;
    space.terminating(&pod).await?;
    space.node.finish(&pod, 0).await?;
    space.gone(&space.vmis, NAME).await?;
    space.status("Stopped").await?;
    space.delete().await
}

/// A machine that cannot be created is tried again with growing pauses, and says why meanwhile.
pub(crate) async fn crash_loop(bench: Arc<Bench>, name: String) -> Result<()> {
    let space = Space::new(&bench.client, &name).await?;
    space.machine("Always", json!({})).await?;
    let pod = space.pod().await?;
    space
        .node
        .refuse(&pod, "two disks in /disk: a machine image holds one")
        .await?;
    let vm = space.status("CrashLoopBackOff").await?;
    let status = vm.status.context("a status")?;
    let failure = status.start_failure.context("a failure")?;
    ensure!(failure.consecutive_fail_count == Some(1), "{failure:?}");
    space.gone(&space.pods, &pod.name_any()).await?;
    space.gone(&space.vmis, NAME).await?;
    ensure!(space.live_pods().await?.is_empty(), "it waits");
    let vm = space.status("CrashLoopBackOff").await?;
    let status = vm.status.context("a status")?;
    let why = status
        .conditions
        .iter()
        .find(|c| c.r#type == "Failure")
        .context("Failure")?;
    ensure!(why.reason.as_deref() == Some("StartError"), "{why:?}");
    ensure!(
        why.message
            .as_deref()
            .is_some_and(|text| text.contains("two disks")),
        "{why:?}"
    );
    // The pause of the first failure is 10 to 15 s.
    let next = space.another_pod(&pod).await?;
    space.node.run(&next).await?;
    let vm = space.status("Running").await?;
    let status = vm.status.context("a status")?;
    ensure!(status.start_failure.is_none(), "{status:?}");
    ensure!(
        status.conditions.iter().all(|c| c.r#type != "Failure"),
        "{status:?}"
    );
    space.delete().await
}

async fn stays_stopped(space: &Space) -> Result<()> {
    tokio::time::sleep(Duration::from_secs(1)).await;
    ensure!(
        space.vmis.get_opt(NAME).await?.is_none(),
        "an instance was made"
    );
    Ok(())
}

/// Who mends the machine need not wait for the pause to end.
pub(crate) async fn crash_loop_mended(bench: Arc<Bench>, name: String) -> Result<()> {
    let space = Space::new(&bench.client, &name).await?;
    space.machine("Always", json!({})).await?;
    let pod = space.pod().await?;
    space.node.refuse(&pod, "no disk in /disk").await?;
    space.gone(&space.vmis, NAME).await?;
    space.status("CrashLoopBackOff").await?;
    let begin = Instant::now();
    let image = json!([{ "name": "root", "containerDisk": { "image": "example.com/disk:2" } }]);
    space
        .patch(json!({ "template": { "spec": { "volumes": image } } }))
        .await?;
    let next = space.another_pod(&pod).await?;
    ensure!(
        begin.elapsed() < Duration::from_secs(5),
        "it took {:?}",
        begin.elapsed()
    );
    space.node.run(&next).await?;
    space.status("Running").await?;
    space.delete().await
}
