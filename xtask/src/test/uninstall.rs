//! Taking the product off a cluster by the commands of `docs/install.md`: refused on a node while a
//! machine runs there, done once it is gone, and done at once when forced.

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::{eventually, get};
use crate::cluster::{self, ClusterName, Node, kubectl};
use crate::command;

const UNINSTALL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../runtimeclass/uninstall");
const NAMESPACE: &str = "--namespace=kubevirt";

/// Uninstalls with a machine on each node.
pub(super) fn check(cluster: &ClusterName) -> Result<()> {
    for node in Node::ALL {
        run_machine(cluster, node)?;
    }
    let apply = ["apply", "--server-side", "--force-conflicts", "-k"];
    command::run(kubectl(cluster).args(apply).arg(UNINSTALL))?;
    for node in Node::ALL {
        eventually(|| refused(cluster, node))
            .with_context(|| format!("uninstalling {} while a machine runs", node.name()))?;
        if !installed(cluster, node)? {
            bail!("{} lost its files though a machine runs there", node.name());
        }
    }
    let [first, second] = Node::ALL;
    command::run(kubectl(cluster).args(["delete", "pod", &machine(first), "--grace-period=1"]))?;
    eventually(|| Ok(!installed(cluster, first)?))
        .with_context(|| format!("uninstalling {} once its machine is gone", first.name()))?;
    if !installed(cluster, second)? {
        bail!("{} lost its files though it was not forced", second.name());
    }
    let force = ["set", "env", "daemonset/kubevirt-node", "FORCE=true"];
    command::run(kubectl(cluster).arg(NAMESPACE).args(force))?;
    eventually(|| Ok(!installed(cluster, second)?))
        .with_context(|| format!("uninstalling {} by force", second.name()))?;
    eventually(|| {
        let pod = get(cluster, &["get", "pod", &machine(second), "--output=json"])?;
        Ok(pod["status"]["phase"] == "Failed")
    })
    .with_context(|| format!("ending the machine on {} by force", second.name()))?;
    command::run(kubectl(cluster).args(["delete", "pod", &machine(second), "--grace-period=1"]))?;
    cluster::uninstall(cluster)
}

fn machine(node: Node) -> String {
    format!("machine-on-{}", node.name())
}

fn run_machine(cluster: &ClusterName, node: Node) -> Result<()> {
    let name = machine(node);
    let image = "--image=kubevirt.local/guest/boot-sector:raw";
    let overrides = json!({ "spec": {
        "runtimeClassName": "kubevirt",
        "nodeSelector": { "kubernetes.io/hostname": node.name() },
        "containers": [{
            "name": name,
            "command": ["vm"],
            "resources": { "requests": { "cpu": "50m" }, "limits": { "memory": "64Mi" } },
        }],
    } });
    let overrides = format!("--overrides={overrides}");
    let strategic = "--override-type=strategic";
    command::run(
        kubectl(cluster)
            .args(["run", &name, image, "--restart=Never", strategic])
            .arg(overrides),
    )?;
    let wait = ["wait", "--for=condition=Ready", "--timeout=120s"];
    command::run(kubectl(cluster).args(wait).arg(format!("pod/{name}")))
}

/// Whether the installer on `node` refused and said why.
fn refused(cluster: &ClusterName, node: Node) -> Result<bool> {
    let selector = "--selector=app.kubernetes.io/name=kubevirt-node";
    let pods = get(
        cluster,
        &["get", "pods", selector, NAMESPACE, "--output=json"],
    )?;
    let here = |pod: &&Value| pod["spec"]["nodeName"] == node.name();
    let status = |pod: &Value| {
        let status = &pod["status"]["containerStatuses"][0];
        format!("{}{}", status["state"], status["lastState"])
    };
    let said = pods["items"]
        .as_array()
        .into_iter()
        .flatten()
        .find(here)
        .map(status);
    Ok(said.is_some_and(|said| said.contains("machines run on this node")))
}

/// Whether our files are on the node.
fn installed(cluster: &ClusterName, node: Node) -> Result<bool> {
    let look = "test -e /opt/kubevirt && echo there || echo gone";
    let said = command::output(cluster::on_node(cluster, node)?.args(["sh", "-c", look]))?;
    Ok(said.trim() == "there")
}
