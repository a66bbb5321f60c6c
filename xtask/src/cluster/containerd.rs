//! The two nodes' containerds: the distribution's own with its own runc, and the newest of both, each
//! configured as its generation is configured.

use super::names::Node;

/// Where containerd listens, as on any node.
pub(crate) const SOCKET: &str = "/run/containerd/containerd.sock";

/// Where containerd's configuration lies, as on any node.
pub(crate) const CONFIG: &str = "/etc/containerd/config.toml";

/// A file that the newest containerd merges into [`CONFIG`]; the old one merges none.
const DROP_IN: &str = "/etc/containerd/conf.d/kubevirt.toml";

/// The image of the sandbox's own container.
pub(crate) const PAUSE_IMAGE: &str = "kubevirt.local/bench/pause:1";

/// Whether the node runs the newest containerd, not the distribution's.
pub(crate) const fn is_newest(node: Node) -> bool {
    matches!(node, Node::Two)
}

/// The daemon's path on the node.
pub(crate) const fn program(node: Node) -> &'static str {
    if is_newest(node) {
        "/usr/local/bin/containerd"
    } else {
        "/usr/bin/containerd"
    }
}

/// The node's `config.toml`.
///
/// `restrict_oom_score_adj`: a machine without CAP_SYS_RESOURCE cannot lower an OOM score, and runc
/// then fails to start anything.
pub(crate) fn config(node: Node) -> String {
    if is_newest(node) {
        format!(
            r#"version = 3
imports = ["/etc/containerd/conf.d/*.toml"]

[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = "{PAUSE_IMAGE}"

[plugins."io.containerd.cri.v1.runtime"]
  restrict_oom_score_adj = true

  [plugins."io.containerd.cri.v1.runtime".cni]
    bin_dirs = ["/usr/lib/cni"]
    conf_dir = "/etc/cni/net.d"
"#
        )
    } else {
        format!(
            r#"version = 2

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE_IMAGE}"
  restrict_oom_score_adj = true

  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "/etc/cni/net.d"

[plugins."io.containerd.internal.v1.opt"]
  path = "/var/lib/containerd/opt"
"#
        )
    }
}

/// The file that runtimes are added to.
pub(crate) const fn runtime_file(node: Node) -> &'static str {
    if is_newest(node) { DROP_IN } else { CONFIG }
}

/// `old`, the content of [`runtime_file`], with the runtime `kubevirt` as the installer adds it.
pub(crate) fn with_runtime(node: Node, old: &str, shim: &str) -> String {
    let mut new = old.to_owned();
    let (plugin, runtime) = if is_newest(node) {
        if old.is_empty() {
            new += "version = 3\n";
        }
        let runtime =
            format!("runtime_type = \"io.containerd.kubevirt.v1\"\n  runtime_path = \"{shim}\"");
        ("io.containerd.cri.v1.runtime", runtime)
    } else {
        let plugin = "io.containerd.grpc.v1.cri";
        let runc = format!("[plugins.\"{plugin}\".containerd.runtimes.runc]");
        // The old containerd takes a file's list of runtimes in the place of its own, and loads no
        // CRI plugin when runc is not in it.
        if !old.contains(&runc) {
            new += &format!("\n{runc}\n  runtime_type = \"io.containerd.runc.v2\"\n");
        }
        // It reads `runtime_path` and forgets it; but a path may be the type.
        (plugin, format!("runtime_type = \"{shim}\""))
    };
    new + &format!(
        r#"
[plugins."{plugin}".containerd.runtimes.kubevirt]
  {runtime}
  pod_annotations = ["kubevirt.io/*"]
  container_annotations = ["kubevirt.io/*", "io.kubernetes.container.*"]
  privileged_without_host_devices = true
"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_generation_names_its_own_plugin() {
        assert!(config(Node::One).contains("io.containerd.grpc.v1.cri"));
        assert!(!config(Node::Two).contains("io.containerd.grpc.v1.cri"));
        for node in Node::ALL {
            assert!(config(node).contains("restrict_oom_score_adj = true"));
        }
    }
    #[test]
    fn the_old_containerd_keeps_runc_beside_our_runtime() {
        let runc = "runtimes.runc]";
        let new = with_runtime(Node::One, &config(Node::One), "/shim");
        assert_eq!(new.matches(runc).count(), 1);
        assert_eq!(
            with_runtime(Node::One, &new, "/shim").matches(runc).count(),
            1
        );
        assert!(!with_runtime(Node::Two, "", "/shim").contains(runc));
    }
}
