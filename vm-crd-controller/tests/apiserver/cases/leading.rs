//! Which replica works, and where none does.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use nix::sys::signal::Signal;
use serde_json::json;

use crate::bench::Bench;
use crate::controller::Controller;
use crate::space::{NAME, Space, until};

/// A lease short enough for a test.
pub(super) const SHORT: &[&str] = &["--lease-seconds=4"];

async fn leader(bench: &Bench) -> Result<String> {
    let leases: Api<Lease> = Api::namespaced(bench.client.clone(), "kubevirt");
    let lease = leases.get("vm-crd-controller").await?;
    lease
        .spec
        .and_then(|spec| spec.holder_identity)
        .context("nobody leads")
}

/// Waits until `identity` leads.
pub(super) async fn leads(bench: &Bench, identity: &str) -> Result<()> {
    until(&format!("{identity} leads"), || async {
        let leader = leader(bench).await?;
        ensure!(leader == identity, "{leader} does");
        Ok(())
    })
    .await
}

pub(crate) async fn hands_over_when_it_stops(bench: Arc<Bench>, name: String) -> Result<()> {
    let first = Controller::start(&bench, "one", SHORT);
    leads(&bench, "one").await?;
    let second = Controller::start(&bench, "two", SHORT);
    until("the second stands by", || async {
        ensure!(second.log().contains("standing by"), "{}", second.log());
        Ok(())
    })
    .await?;
    let space = Space::new(&bench.client, &name).await?;
    let pod = space.running("Always").await?;
    ensure!(
        !second.log().contains("pod created"),
        "only the leader works"
    );
    let begin = Instant::now();
    let log = first.stop();
    ensure!(log.contains("released"), "{log}");
    leads(&bench, "two").await?;
    ensure!(
        begin.elapsed() < Duration::from_secs(3),
        "a release needs no waiting"
    );
    // The new leader goes on where the old one stopped.
    space.node.end(&pod, 0, "").await?;
    let next = space.another_pod(&pod).await?;
    space.node.run(&next).await?;
    space.status("Running").await?;
    space.delete().await?;
    second.stop();
    Ok(())
}

pub(crate) async fn takes_over_when_the_leader_dies(bench: Arc<Bench>, name: String) -> Result<()> {
    let mut first = Controller::start(&bench, "three", SHORT);
    leads(&bench, "three").await?;
    let second = Controller::start(&bench, "four", SHORT);
    let space = Space::new(&bench.client, &name).await?;
    let pod = space.running("Always").await?;
    first.signal(Signal::SIGKILL);
    first.wait(Duration::from_secs(5));
    leads(&bench, "four").await?;
    space.node.end(&pod, 0, "").await?;
    let next = space.another_pod(&pod).await?;
    space.node.run(&next).await?;
    space.status("Running").await?;
    space.delete().await?;
    second.stop();
    Ok(())
}

/// A leader that was suspended finds another one in its place, and stands by.
pub(crate) async fn stands_by_after_a_pause(bench: Arc<Bench>, name: String) -> Result<()> {
    let first = Controller::start(&bench, "nine", SHORT);
    leads(&bench, "nine").await?;
    let second = Controller::start(&bench, "ten", SHORT);
    first.signal(Signal::SIGSTOP);
    leads(&bench, "ten").await?;
    first.signal(Signal::SIGCONT);
    until("the first stands by", || async {
        ensure!(first.log().contains("standing by"), "{}", first.log());
        Ok(())
    })
    .await?;
    let space = Space::new(&bench.client, &name).await?;
    let pod = space.running("Always").await?;
    ensure!(
        !first.log().contains("pod created"),
        "only the leader works"
    );
    second.stop();
    leads(&bench, "nine").await?;
    space.node.end(&pod, 0, "").await?;
    let next = space.another_pod(&pod).await?;
    space.node.run(&next).await?;
    space.status("Running").await?;
    space.delete().await?;
    first.stop();
    Ok(())
}

/// What happened while no controller ran is made up for.
pub(crate) async fn catches_up_after_an_outage(bench: Arc<Bench>, name: String) -> Result<()> {
    let space = Space::new(&bench.client, &name).await?;
    let controller = Controller::start(&bench, "five", SHORT);
    let pod = space.running("Always").await?;
    controller.stop();
    // The pod is deleted and gone, and the template changes.
    space.node.remove(&pod).await?;
    let memory =
        json!({ "template": { "spec": { "domain": { "memory": { "guest": "256Mi" } } } } });
    space.patch(memory).await?;
    let controller = Controller::start(&bench, "six", SHORT);
    let next = space.another_pod(&pod).await?;
    space.node.run(&next).await?;
    space.status("Running").await?;
    // The machine is deleted while no controller runs.
    controller.stop();
    space
        .vms
        .delete(NAME, &kube::api::DeleteParams::default())
        .await?;
    let controller = Controller::start(&bench, "seven", SHORT);
    space.terminating(&next).await?;
    space.node.finish(&next, 0).await?;
    space.gone(&space.vms, NAME).await?;
    controller.stop();
    Ok(())
}

pub(crate) async fn refuses_kubevirt(bench: Arc<Bench>, _: String) -> Result<()> {
    let definition = bench.log_file("kubevirt-crd");
    let object = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": { "name": "kubevirts.kubevirt.io" },
        "spec": {
            "group": "kubevirt.io", "scope": "Namespaced",
            "names": { "kind": "KubeVirt", "plural": "kubevirts", "singular": "kubevirt" },
            "versions": [{ "name": "v1", "served": true, "storage": true,
                "schema": { "openAPIV3Schema": { "type": "object" } } }],
        },
    });
    std::fs::write(&definition, object.to_string())?;
    bench.apply(&["-f", &definition.display().to_string()]);
    until("the controller refuses", || async {
        let mut controller = Controller::start(&bench, "eight", SHORT);
        tokio::time::sleep(Duration::from_secs(1)).await;
        let log = controller.log();
        ensure!(
            log.contains("KubeVirt itself is installed in this cluster"),
            "{log}"
        );
        let status = controller.wait(Duration::from_secs(5));
        ensure!(!status.success(), "{status}");
        Ok(())
    })
    .await
}
