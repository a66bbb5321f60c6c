//! What an ordinary shell needs to work with the cluster: variables and small wrappers.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use super::names::{ClusterName, Node, Place};
use super::supervisor::PATH;

/// Writes the wrappers `ctr-node1`, `node1` and so on into the cluster's `bin`.
pub(crate) fn write_wrappers(cluster: &ClusterName) -> Result<()> {
    for node in Node::ALL {
        let enter = enter(cluster, node);
        let name = node.name();
        write(cluster, name, &format!("{enter} \"${{@:-sh}}\"\n"))?;
        // Without `-n`, what kubelet sees.
        let namespace = "CONTAINERD_NAMESPACE=\"${CONTAINERD_NAMESPACE:-k8s.io}\"";
        write(
            cluster,
            &format!("ctr-{name}"),
            &format!("{enter} env {namespace} ctr \"$@\"\n"),
        )?;
    }
    Ok(())
}

fn enter(cluster: &ClusterName, node: Node) -> String {
    let pid_file = cluster.place_dir(Place::Node(node)).join("pid");
    let pid_file = pid_file.display();
    format!(
        "#!/bin/bash\n\
         read -r pid _ < {pid_file} || exit 1\n\
         exec nsenter --target=\"$pid\" --mount --uts --ipc --net --pid --wd=/ -- \
         env PATH={PATH}"
    )
}

fn write(cluster: &ClusterName, name: &str, script: &str) -> Result<()> {
    let path = cluster.bin().join(name);
    fs::write(&path, script).with_context(|| format!("write {}", path.display()))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

/// The `export` lines. Names hold no character that a shell would take for more than itself.
///
/// # Errors
/// When there is no such cluster.
pub(crate) fn exports(cluster: &ClusterName) -> Result<String> {
    let (dir, bin) = (cluster.dir(), cluster.bin());
    if !cluster.kubeconfig().exists() {
        bail!("there is no cluster {cluster}; `cargo xtask cluster up --name {cluster}` makes it");
    }
    Ok(format!(
        "export CLUSTER_DIR={}\n\
         export KUBECONFIG={}\n\
         case \":$PATH:\" in *:{bin}:*) ;; *) export PATH={bin}:\"$PATH\" ;; esac\n",
        dir.display(),
        cluster.kubeconfig().display(),
        bin = bin.display(),
    ))
}

/// The same for a program that this one starts.
pub(crate) fn environment(cluster: &ClusterName) -> HashMap<String, String> {
    let path = std::env::var("PATH").unwrap_or_default();
    let text = |path: PathBuf| path.display().to_string();
    HashMap::from([
        ("CLUSTER_DIR".to_owned(), text(cluster.dir())),
        ("KUBECONFIG".to_owned(), text(cluster.kubeconfig())),
        (
            "PATH".to_owned(),
            format!("{}:{path}", cluster.bin().display()),
        ),
    ])
}
