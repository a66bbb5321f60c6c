//! What only the machine knows: shown when it tells, asked seldom, written when it is news.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::bench::{Bench, CONTROLLER_USER};
use crate::node::ADDRESS;
use crate::space::{Space, until};

/// A guest whose agent answers; `interfaces` are its own.
fn guest(state: &str, interfaces: &Value) -> Value {
    json!({ "state": state, "machineType": "pc-q35-7.2", "guestAgent": {
        "connected": true, "version": "7.2",
        "os": { "id": "debian", "name": "Debian GNU/Linux", "pretty-name": "Debian 12",
            "version-id": "12", "kernel-release": "6.1.0", "machine": "x86_64" },
        "interfaces": interfaces,
    } })
}

pub(crate) async fn agent_tells(bench: Arc<Bench>, name: String) -> Result<()> {
    let space = Space::new(&bench.client, &name).await?;
    space.running("Always").await?;
    let mac = space.vmi().await?.status.context("a status")?.interfaces[0]
        .mac
        .clone()
        .context("a MAC address")?;
    let interfaces = json!([
        { "name": "lo", "mac": null, "addresses": ["127.0.0.1/8"] },
        { "name": "enp1s0", "mac": mac.to_uppercase(), "addresses": ["10.0.2.2/24"] },
        { "name": "docker0", "mac": "02:42:00:00:00:01", "addresses": ["172.17.0.1/16"] },
    ]);
    bench
        .machines
        .answer(&space.namespace, guest("running", &interfaces));
    // Nobody hints: it is asked because it has just started.
    space.condition("AgentConnected", "True", "").await?;
    let status = space.vmi().await?.status.context("a status")?;
    let os = status.guest_os_info.context("the operating system")?;
    ensure!(os.pretty_name.as_deref() == Some("Debian 12"), "{os:?}");
    ensure!(os.kernel_release.as_deref() == Some("6.1.0"), "{os:?}");
    let [first, second] = status.interfaces.as_slice() else {
        anyhow::bail!("{:?}", status.interfaces);
    };
    // The guest is reached by the pod's address, whatever it calls its own.
    ensure!(first.ip_address.as_deref() == Some(ADDRESS), "{first:?}");
    ensure!(
        first.interface_name.as_deref() == Some("enp1s0"),
        "{first:?}"
    );
    ensure!(
        first.info_source.as_deref() == Some("domain, guest-agent"),
        "{first:?}"
    );
    ensure!(second.name.is_none(), "{second:?}");
    ensure!(
        second.info_source.as_deref() == Some("guest-agent"),
        "{second:?}"
    );
    ensure!(
        second.ip_address.as_deref() == Some("172.17.0.1"),
        "{second:?}"
    );
    let machine = status.machine.and_then(|machine| machine.r#type);
    ensure!(machine.as_deref() == Some("pc-q35-7.2"), "{machine:?}");
    space.machine_condition("AgentConnected").await?;
    space.delete().await
}

pub(crate) async fn paused_behind_the_controllers_back(
    bench: Arc<Bench>,
    name: String,
) -> Result<()> {
    let space = Space::new(&bench.client, &name).await?;
    space.running("Always").await?;
    bench
        .machines
        .answer(&space.namespace, json!({ "state": "paused" }));
    // It is seen when the machine is asked the next time, soon after its start.
    space.status("Paused").await?;
    space.condition("Paused", "True", "PausedByUser").await?;
    space
        .condition("Ready", "False", "ReadinessGatesNotReady")
        .await?;
    space.event("VirtualMachineInstance", "Paused").await?;
    bench
        .machines
        .answer(&space.namespace, json!({ "state": "running" }));
    space.hint("resumed").await?;
    space.status("Running").await?;
    space.event("VirtualMachineInstance", "Unpaused").await?;
    space.condition("Ready", "True", "").await?;
    space.delete().await
}

pub(crate) async fn disk_fails(bench: Arc<Bench>, name: String) -> Result<()> {
    let space = Space::new(&bench.client, &name).await?;
    space.running("Always").await?;
    bench
        .machines
        .answer(&space.namespace, json!({ "state": "io-error" }));
    space.hint("full").await?;
    space.condition("Paused", "True", "PausedIOError").await?;
    space.status("Paused").await?;
    space.delete().await
}

pub(crate) async fn nothing_new_is_not_written(bench: Arc<Bench>, name: String) -> Result<()> {
    let space = Space::new(&bench.client, &name).await?;
    bench
        .machines
        .answer(&space.namespace, guest("running", &json!([])));
    space.running("Always").await?;
    space.machine_condition("AgentConnected").await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let writes = bench.writes(CONTROLLER_USER, &space.namespace).len();
    let asked = bench.machines.asked(&space.namespace);
    for round in 0..3 {
        space.hint(&round.to_string()).await?;
        until("the machine is asked again", || async {
            let now = bench.machines.asked(&space.namespace);
            ensure!(now > asked + round, "{now}");
            Ok(())
        })
        .await?;
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    let after = bench.writes(CONTROLLER_USER, &space.namespace);
    ensure!(after.len() == writes, "{after:?}");
    space.delete().await
}

pub(crate) async fn asked_until_the_agent_answers(bench: Arc<Bench>, name: String) -> Result<()> {
    let space = Space::new(&bench.client, &name).await?;
    space.running("Always").await?;
    // It does not answer at first, as a guest that boots.
    until("it was asked twice", || async {
        let asked = bench.machines.asked(&space.namespace);
        ensure!(asked >= 2, "{asked}");
        Ok(())
    })
    .await?;
    bench
        .machines
        .answer(&space.namespace, guest("running", &json!([])));
    space.condition("AgentConnected", "True", "").await?;
    let asked = bench.machines.asked(&space.namespace);
    tokio::time::sleep(Duration::from_secs(4)).await;
    ensure!(
        bench.machines.asked(&space.namespace) == asked,
        "one that has answered is left alone"
    );
    space.delete().await
}
