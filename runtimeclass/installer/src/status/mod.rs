//! `kubevirt-node status`: what runs on this node, by what, and what is wrong with it.

mod machine;

use std::fs;
use std::path::Path;

use anyhow::Result;
use clap::ValueEnum;
use serde::Serialize;
use toml_edit::DocumentMut;

use crate::containerd::{Daemon, HANDLER, SOCKET};
use crate::node::Node;
use crate::{cri, in_root, install, machines};
use machine::Machine;

/// How a status is written.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Format {
    /// For people
    Text,
    /// For programs
    Json,
}

/// What a node shows.
#[derive(Debug, Serialize)]
struct Status {
    /// Versions, of those that tell one.
    versions: Versions,
    /// `kvm` or `tcg`, as in the node's label.
    accelerator: &'static str,
    machines: Vec<Machine>,
    findings: Vec<Finding>,
}

#[derive(Debug, Default, Serialize)]
struct Versions {
    shim: Option<String>,
    qemu: Option<String>,
    containerd: Option<String>,
}

/// Something that is wrong, or could be better.
#[derive(Debug, PartialEq, Serialize)]
struct Finding {
    what: String,
    /// What to do about it.
    mend: String,
    /// Whether machines cannot start for it.
    fatal: bool,
}

impl Finding {
    fn fatal(what: impl Into<String>, mend: &str) -> Self {
        Self {
            what: what.into(),
            mend: mend.to_owned(),
            fatal: true,
        }
    }

    fn hint(what: impl Into<String>, mend: &str) -> Self {
        Self {
            fatal: false,
            ..Self::fatal(what, mend)
        }
    }
}

const REINSTALL: &str =
    "kubectl -n kubevirt delete pod -l app.kubernetes.io/name=kubevirt-node installs it again";

/// Prints the node's status.
///
/// # Errors
/// Machines cannot start here, with the number of reasons; each stands in what was printed.
pub(crate) async fn run(node: &Node, format: Format) -> Result<()> {
    let status = Status::of(node).await?;
    match format {
        Format::Text => print!("{}", status.text()),
        Format::Json => println!("{}", serde_json::to_string_pretty(&status)?),
    }
    let fatal = status.findings.iter().filter(|it| it.fatal).count();
    anyhow::ensure!(
        fatal == 0,
        "machines cannot start on this node: {fatal} reasons"
    );
    Ok(())
}

impl Status {
    async fn of(node: &Node) -> Result<Self> {
        let mut findings = Vec::new();
        let mut versions = Versions::default();
        match version(node.root(), &[node.shim().as_os_str(), "-v".as_ref()]) {
            Ok(version) => versions.shim = Some(version),
            Err(error) => {
                findings.push(Finding::fatal(
                    format!("the shim does not run: {error:#}"),
                    REINSTALL,
                ));
            }
        }
        let tree = node.path(node.prefix())?.join("qemu");
        match version(&tree, &[install::QEMU, "--version"]) {
            Ok(version) => versions.qemu = Some(version),
            Err(error) => {
                findings.push(Finding::fatal(
                    format!("QEMU does not run: {error:#}"),
                    REINSTALL,
                ));
            }
        }
        match Daemon::find(node) {
            Ok(daemon) => {
                let program = [daemon.executable.as_os_str(), "--version".as_ref()];
                versions.containerd = version(node.root(), &program).ok();
            }
            Err(error) => findings.push(Finding::fatal(
                format!("containerd is not to be found: {error:#}"),
                "start containerd on the node",
            )),
        }
        match cri::has_handler(&node.path(SOCKET)?, HANDLER).await {
            Ok(true) => {}
            Ok(false) => findings.push(Finding::fatal(
                format!("containerd has not loaded the runtime {HANDLER}"),
                REINSTALL,
            )),
            Err(error) => findings.push(Finding::fatal(
                format!("containerd does not serve CRI: {error:#}"),
                "enable its CRI plugin (no \"cri\" in disabled_plugins) and restart it",
            )),
        }
        findings.extend(of_configuration(&node.path(node.config())?));
        findings.extend(of_devices(&node.path("/dev")?));
        let accelerator = install::accelerator(node);
        let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        if accelerator == "tcg" {
            findings.push(of_emulation(&cpu, &node.path("/dev/kvm")?));
        }
        Ok(Self {
            versions,
            accelerator,
            machines: Machine::all(node, &machines::shims(node)?),
            findings,
        })
    }

    fn text(&self) -> String {
        let or_none = |version: &Option<String>| version.clone().unwrap_or_else(|| "-".to_owned());
        let mut text = format!(
            "shim         {}\nQEMU         {}\ncontainerd   {}\naccelerator  {}\n",
            or_none(&self.versions.shim),
            or_none(&self.versions.qemu),
            or_none(&self.versions.containerd),
            self.accelerator,
        );
        text += &format!("machines     {}\n", self.machines.len());
        for machine in &self.machines {
            text += &format!("  {machine}\n");
        }
        for Finding { what, mend, fatal } in &self.findings {
            let kind = if *fatal { "WRONG" } else { "note" };
            text += &format!("{kind}: {what}\n      {mend}\n");
        }
        text
    }
}

/// The first line of what a program says of its version.
fn version<A: AsRef<std::ffi::OsStr>>(root: &Path, command: &[A]) -> Result<String> {
    let output = in_root::run(root, command)?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = text.lines().next();
    Ok(line.unwrap_or_default().trim().to_owned())
}

/// A configuration that cannot be read as TOML; what is in it is the shim's matter.
fn of_configuration(path: &Path) -> Option<Finding> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
        Err(error) => {
            return Some(Finding::fatal(
                format!("the configuration cannot be read: {error}"),
                "mend /etc/kubevirt/config.toml, or the ConfigMap kubevirt-node that it is made from",
            ));
        }
    };
    let error = text.parse::<DocumentMut>().err()?;
    let first = error
        .to_string()
        .lines()
        .next()
        .unwrap_or_default()
        .to_owned();
    Some(Finding::fatal(
        format!("the configuration is no TOML: {first}"),
        "mend /etc/kubevirt/config.toml, or the ConfigMap kubevirt-node that it is made from",
    ))
}

/// Devices that machines need, and such that serve them.
fn of_devices(dev: &Path) -> Vec<Finding> {
    let mut findings = Vec::new();
    if !dev.join("net/tun").exists() {
        findings.push(Finding::fatal(
            "there is no /dev/net/tun, by which machines have their network",
            "modprobe tun, and name it in /etc/modules-load.d",
        ));
    }
    if !dev.join("vhost-net").exists() {
        findings.push(Finding::hint(
            "there is no /dev/vhost-net: QEMU itself copies what machines send and receive",
            "modprobe vhost_net, and name it in /etc/modules-load.d",
        ));
    }
    findings
}

/// Why machines are emulated.
fn of_emulation(cpu: &str, kvm: &Path) -> Finding {
    if !install::virtualizes(cpu) {
        return Finding::hint(
            "machines are emulated, many times slower: the processor offers neither vmx nor svm",
            "switch virtualization on in the firmware; if the node is a machine itself, give it nested \
             virtualization",
        );
    }
    if !kvm.exists() {
        return Finding::hint(
            "machines are emulated, many times slower: there is no /dev/kvm",
            "modprobe kvm_intel or kvm_amd, and name it in /etc/modules-load.d",
        );
    }
    Finding::hint(
        "machines are emulated, many times slower: the configuration says so",
        "remove accelerator = \"tcg\" of [qemu] from /etc/kubevirt/config.toml",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn emulation_has_its_reason() {
        let dir = tempfile::tempdir().unwrap();
        let kvm = dir.path().join("kvm");
        let what = |cpu: &str| of_emulation(cpu, &kvm).what;
        assert!(what("flags : fpu\n").ends_with("neither vmx nor svm"));
        assert!(what("flags : fpu vmx\n").ends_with("no /dev/kvm"));
        fs::write(&kvm, "").unwrap();
        assert!(what("flags : fpu vmx\n").ends_with("the configuration says so"));
    }

    #[test]
    fn a_configuration_that_is_no_toml_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.toml");
        assert_eq!(of_configuration(&path), None);
        fs::write(&path, "[qemu]\naccelerator = \"tcg\"\n").unwrap();
        assert_eq!(of_configuration(&path), None);
        fs::write(&path, "[qemu\n").unwrap();
        let finding = of_configuration(&path).unwrap();
        assert!(
            finding.fatal && finding.what.contains("line 1"),
            "{finding:?}"
        );
    }

    #[test]
    fn devices_are_looked_for() {
        let dir = tempfile::tempdir().unwrap();
        let findings = of_devices(dir.path());
        assert_eq!(findings.iter().filter(|it| it.fatal).count(), 1);
        fs::create_dir(dir.path().join("net")).unwrap();
        fs::write(dir.path().join("net/tun"), "").unwrap();
        fs::write(dir.path().join("vhost-net"), "").unwrap();
        assert!(of_devices(dir.path()).is_empty());
    }

    #[test]
    fn the_text_says_what_is_wrong_and_what_to_do() {
        let status = Status {
            versions: Versions {
                shim: Some("0.1.0".to_owned()),
                ..Versions::default()
            },
            accelerator: "kvm",
            machines: Vec::new(),
            findings: vec![Finding::fatal("QEMU does not run", "install it")],
        };
        let expected = "shim         0.1.0\nQEMU         -\ncontainerd   -\naccelerator  kvm\n\
                        machines     0\nWRONG: QEMU does not run\n      install it\n";
        assert_eq!(status.text(), expected);
    }
}
