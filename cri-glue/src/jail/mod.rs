//! The jail: the OCI bundle that QEMU runs in.
//!
//! Made of the machine container's own spec, so that limits, security labels and seccomp profile
//! are what the pod asked for; everything else is as little as QEMU can live with: no capability,
//! no new privilege, an unprivileged user, a root of QEMU's own read-only files, an empty `/dev`.

mod devices;
mod root;
mod sys_resource;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use oci_spec::OciSpecError;
use oci_spec::runtime::{
    Linux, LinuxBuilder, LinuxCapabilitiesBuilder, LinuxDeviceBuilder, LinuxDeviceCgroup,
    LinuxDeviceCgroupBuilder, LinuxDeviceType, LinuxNamespace, LinuxNamespaceBuilder,
    LinuxNamespaceType, LinuxResources, MountBuilder, PosixRlimitBuilder, PosixRlimitType, Process,
    ProcessBuilder, RootBuilder, Spec, SpecBuilder, UserBuilder,
};
use qemu_driver::machine::Accelerator;

use crate::bundle::Bundle;
use crate::helper::{self, Helper};
use crate::host_devices::{HostDevices, Node};
use crate::identity::Identity;
use crate::sandbox::Sandbox;
use crate::user_namespace::UserNamespace;

/// Directory of the jail in the machine container's bundle.
pub const DIRECTORY: &str = "jail";

/// Directory in the jail's bundle with the nodes of devices, where they are bound: a file system of its
/// own, since bundles are mounted `nodev`.
pub const DEVICES: &str = "devices";

/// KVM's device: misc major, and KVM's minor (Documentation/admin-guide/devices.txt).
const KVM: (&str, i64, i64) = ("/dev/kvm", 10, 232);

/// What runc's own default masks in `/proc`, whatever the pod asks for: QEMU reads none of it.
const MASKED: [&str; 9] = [
    "/proc/acpi",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
];

/// Bytes that may be locked beside the guest's memory: firmware and devices' own memory, for which
/// libvirt allows as much. The latter is no memory of the node's, so the control group needs no more
/// for it.
const DEVICE_MEMORY: u64 = 1 << 30;

const READ_ONLY: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// What a jail is made of.
#[derive(Debug)]
pub struct Jail<'a> {
    /// The tree that holds QEMU.
    pub root: &'a Path,
    /// The machine container's bundle.
    pub bundle: &'a Bundle,
    /// The pod's sandbox.
    pub sandbox: &'a Sandbox,
    /// Pid of the process that holds the pod's namespaces.
    pub holder: u32,
    /// Who QEMU is, in the pod's user namespace if it has one.
    pub user: &'a Identity,
    /// Who it is on the node.
    pub owner: &'a Identity,
    /// QEMU and its arguments, as seen in the jail.
    pub arguments: Vec<String>,
    /// What runs the guest's instructions.
    pub accelerator: Accelerator,
    /// Limits of QEMU's control group.
    pub resources: LinuxResources,
    /// Directories of the pod that are shared with the guest.
    pub binds: &'a [Bind],
    /// The programs beside QEMU.
    pub helpers: &'a [Helper],
    /// Whether one of them is a TPM.
    pub tpm: bool,
    /// Devices of the node.
    pub host_devices: &'a HostDevices,
    /// The most bytes of guest memory.
    pub memory_bytes: u64,
}

/// A directory of the node in the jail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bind {
    /// Where it is on the node.
    pub source: PathBuf,
    /// Where it is in the jail.
    pub destination: PathBuf,
    /// Options of the mount.
    pub options: Vec<String>,
    /// How the pod's user namespace sees the owners of what is in it.
    pub ids: Option<UserNamespace>,
}

/// The file in the jail's bundle that describes the process of the helper `index`.
pub fn helper_file(index: usize) -> String {
    format!("helper-{index}.json")
}

/// Why there is no jail.
#[derive(Debug, thiserror::Error)]
#[expect(
    missing_docs,
    reason = "the messages say it, the fields are named in them"
)]
pub enum JailError {
    #[error("cannot make the jail's root from {}: {source}", root.display())]
    Root { root: PathBuf, source: io::Error },
    #[error("cannot write {}: {source}", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("the container's spec cannot become a jail's: {0}")]
    Spec(#[from] OciSpecError),
}

impl Jail<'_> {
    /// Makes the bundle in `directory`, which must not exist.
    pub fn make(self, directory: &Path) -> Result<(), JailError> {
        let rootfs = directory.join("rootfs");
        let write = |path: &Path| {
            let path = path.to_owned();
            |source| JailError::Write { path, source }
        };
        fs::create_dir(directory).map_err(write(directory))?;
        fs::create_dir(&rootfs).map_err(write(&rootfs))?;
        let visible = root::make(self.root, &rootfs).map_err(|source| JailError::Root {
            root: self.root.to_owned(),
            source,
        })?;
        let own = self.binds.iter().map(|bind| bind.destination.as_path());
        for path in own.chain(self.tpm.then_some(Path::new(helper::TPM_STATE))) {
            let path = rootfs.join(path.strip_prefix("/").unwrap_or(path));
            fs::create_dir_all(&path).map_err(write(&path))?;
        }
        if self.binds_devices() {
            let devices = directory.join(DEVICES);
            devices::make(&devices, &self.devices(), self.owner).map_err(write(&devices))?;
        }
        let spec = self.spec(directory, &visible)?;
        write_json(&directory.join("config.json"), &spec)?;
        for (index, helper) in self.helpers.iter().enumerate() {
            let process = self.process(&helper.arguments, &self.helper_groups())?;
            write_json(&directory.join(helper_file(index)), &process)?;
        }
        Ok(())
    }

    /// The groups by which the pod gets at its volumes. Root's comes with the user root, which no
    /// helper is.
    fn helper_groups(&self) -> Vec<u32> {
        let own = self.bundle.identity();
        let groups = own.groups.into_iter();
        groups.filter(|gid| *gid != 0 || own.uid != 0).collect()
    }

    /// The spec of the bundle in `directory`, with `visible` paths of the root bound into the jail.
    fn spec(&self, directory: &Path, visible: &[PathBuf]) -> Result<Spec, JailError> {
        let proc_options = ["nosuid", "noexec", "nodev"];
        let dev_options = ["nosuid", "noexec", "strictatime", "mode=755", "size=64k"];
        let mut mounts = vec![
            mount("/proc", "proc", Path::new("proc"), &proc_options)?,
            mount("/dev", "tmpfs", Path::new("tmpfs"), &dev_options)?,
        ];
        for path in visible {
            let source = self.root.join(path.strip_prefix("/").unwrap_or(path));
            let destination = path.to_string_lossy();
            mounts.push(mount(
                &destination,
                "bind",
                &source,
                &["bind", "ro", "nosuid", "nodev"],
            )?);
        }
        for bind in self.binds {
            let options: Vec<_> = bind.options.iter().map(String::as_str).collect();
            let destination = bind.destination.to_string_lossy();
            let mut bound = mount(&destination, "bind", &bind.source, &options)?;
            let ids = bind.ids.as_ref();
            bound.set_uid_mappings(ids.map(|ids| ids.uids.clone()));
            bound.set_gid_mappings(ids.map(|ids| ids.gids.clone()));
            mounts.push(bound);
        }
        if self.binds_devices() {
            for node in self.devices() {
                let source = directory.join(DEVICES).join(devices::name(&node));
                let destination = node.path.to_string_lossy();
                let options = ["bind", "nosuid", "noexec"];
                mounts.push(mount(&destination, "bind", &source, &options)?);
            }
        }
        if self.tpm {
            let (uid, gid) = (self.user.uid, self.user.gid);
            let owner = [format!("uid={uid}"), format!("gid={gid}")];
            let mut options = vec!["nosuid", "noexec", "nodev", "mode=700", "size=1m"];
            options.extend(owner.iter().map(String::as_str));
            let state = mount(helper::TPM_STATE, "tmpfs", Path::new("tmpfs"), &options)?;
            mounts.push(state);
        }
        for directory in &self.host_devices.directories {
            let options = ["bind", "ro", "nosuid", "nodev", "noexec"];
            let destination = directory.to_string_lossy();
            mounts.push(mount(&destination, "bind", directory, &options)?);
        }
        let root = RootBuilder::default()
            .path("rootfs")
            .readonly(true)
            .build()?;
        let mut spec = SpecBuilder::default()
            .version("1.0.2")
            .root(root)
            .mounts(mounts)
            .process(self.process(&self.arguments, &self.user.groups)?)
            .linux(self.linux()?)
            .build()?;
        spec.set_hostname(self.sandbox.hostname.clone());
        Ok(spec)
    }

    /// The process of a program in the jail.
    fn process(&self, arguments: &[String], groups: &[u32]) -> Result<Process, OciSpecError> {
        let own = self.bundle.process();
        let none = LinuxCapabilitiesBuilder::default()
            .bounding([])
            .effective([])
            .inheritable([])
            .permitted([])
            .ambient([])
            .build()?;
        let user = UserBuilder::default()
            .uid(self.user.uid)
            .gid(self.user.gid)
            .additional_gids(groups)
            .build()?;
        let mut rlimits = Vec::new();
        if self.sandbox.user_namespace.is_none() || sys_resource::limits_other_users() {
            // A core dump would leave QEMU's memory on the node; the guest's is left out of it by QEMU.
            let no_core = PosixRlimitBuilder::default()
                .typ(PosixRlimitType::RlimitCore)
                .hard(0u64)
                .soft(0u64)
                .build()?;
            rlimits.push(no_core);
        }
        if !self.host_devices.devices.is_empty() {
            // A device reaches all of the guest's memory, which is therefore locked.
            let locked = self.memory_bytes.saturating_add(DEVICE_MEMORY);
            let lock = PosixRlimitBuilder::default()
                .typ(PosixRlimitType::RlimitMemlock)
                .hard(locked)
                .soft(locked)
                .build()?;
            rlimits.push(lock);
        }
        let mut process = ProcessBuilder::default()
            .args(arguments)
            .cwd("/")
            .env(["PATH=/usr/sbin:/usr/bin:/sbin:/bin".to_owned()])
            .user(user)
            .capabilities(none)
            .no_new_privileges(true)
            .rlimits(rlimits)
            .terminal(false)
            .build()?;
        process.set_apparmor_profile(own.apparmor_profile().clone());
        process.set_selinux_label(own.selinux_label().clone());
        process.set_oom_score_adj(own.oom_score_adj().map(sys_resource::oom_score_adj));
        Ok(process)
    }

    fn linux(&self) -> Result<Linux, OciSpecError> {
        let own = self.bundle.linux();
        let mut linux = LinuxBuilder::default()
            .namespaces(self.namespaces()?)
            .masked_paths(MASKED.map(str::to_owned))
            .readonly_paths(READ_ONLY.map(str::to_owned))
            .build()?;
        let mut resources = self.resources.clone();
        resources.set_devices(Some(self.device_rules()?));
        linux.set_resources(Some(resources));
        linux.set_cgroups_path(own.cgroups_path().clone());
        linux.set_seccomp(own.seccomp().clone());
        linux.set_mount_label(own.mount_label().clone());
        let mut devices = Vec::new();
        let made = if self.binds_devices() {
            Vec::new()
        } else {
            self.devices()
        };
        for Node { path, major, minor } in made {
            let device = LinuxDeviceBuilder::default()
                .path(path)
                .typ(LinuxDeviceType::C)
                .major(major)
                .minor(minor)
                .file_mode(0o600u32)
                .uid(self.user.uid)
                .gid(self.user.gid);
            devices.push(device.build()?);
        }
        linux.set_devices(Some(devices).filter(|devices| !devices.is_empty()));
        if let Some(UserNamespace { uids, gids }) = self.sandbox.user_namespace.clone() {
            linux.set_uid_mappings(Some(uids));
            linux.set_gid_mappings(Some(gids));
        }
        Ok(linux)
    }

    /// Whether devices come as mounts of [`DEVICES`]: the OCI runtime cannot make them in a user
    /// namespace, and would bind the node's own, which are not the machine's user's.
    pub fn binds_devices(&self) -> bool {
        self.sandbox.user_namespace.is_some() && !self.devices().is_empty()
    }

    /// The character devices that QEMU opens.
    fn devices(&self) -> Vec<Node> {
        let (path, major, minor) = KVM;
        let path = path.into();
        let kvm = (self.accelerator == Accelerator::Kvm).then_some(Node { path, major, minor });
        let given = self.host_devices.nodes.iter().cloned();
        kvm.into_iter().chain(given).collect()
    }

    fn namespaces(&self) -> Result<Vec<LinuxNamespace>, OciSpecError> {
        use LinuxNamespaceType::{Ipc, Mount, Network, Pid, User, Uts};
        let own = |typ| LinuxNamespaceBuilder::default().typ(typ).build();
        let joined =
            |typ, path: PathBuf| LinuxNamespaceBuilder::default().typ(typ).path(path).build();
        let holders = |name| PathBuf::from(format!("/proc/{}/ns/{name}", self.holder));
        let mut namespaces = vec![
            own(Mount)?,
            own(Ipc)?,
            own(Uts)?,
            joined(Pid, holders("pid"))?,
            joined(Network, self.sandbox.network_namespace.clone())?,
        ];
        if self.sandbox.user_namespace.is_some() {
            namespaces.push(joined(User, holders("user"))?);
        }
        Ok(namespaces)
    }

    /// No device but those without which no program runs (the runtime adds them) and what QEMU opens.
    fn device_rules(&self) -> Result<Vec<LinuxDeviceCgroup>, OciSpecError> {
        let mut rules = vec![
            LinuxDeviceCgroupBuilder::default()
                .allow(false)
                .access("rwm")
                .build()?,
        ];
        for Node { major, minor, .. } in self.devices() {
            let device = LinuxDeviceCgroupBuilder::default()
                .allow(true)
                .typ(LinuxDeviceType::C)
                .major(major)
                .minor(minor)
                .access("rw");
            rules.push(device.build()?);
        }
        Ok(rules)
    }
}

fn write_json(path: &Path, value: &impl serde::Serialize) -> Result<(), JailError> {
    let text = serde_json::to_vec(value).map_err(io::Error::from);
    text.and_then(|text| fs::write(path, text))
        .map_err(|source| JailError::Write {
            path: path.to_owned(),
            source,
        })
}

fn mount(
    destination: &str,
    typ: &str,
    source: &Path,
    options: &[&str],
) -> Result<oci_spec::runtime::Mount, OciSpecError> {
    let options: Vec<_> = options.iter().map(|option| (*option).to_owned()).collect();
    MountBuilder::default()
        .destination(destination)
        .typ(typ)
        .source(source)
        .options(options)
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::tests::{bundle, spec};

    fn jail_spec(accelerator: Accelerator, host_devices: &HostDevices) -> serde_json::Value {
        with_jail(|jail| {
            let jail = Jail {
                accelerator,
                host_devices,
                ..jail
            };
            let directory = Path::new("/bundle/jail");
            serde_json::to_value(jail.spec(directory, &["/usr".into()]).unwrap()).unwrap()
        })
    }

    /// What `look` sees in a jail with nothing but QEMU.
    fn with_jail<T>(look: impl FnOnce(Jail<'_>) -> T) -> T {
        let mut given = spec();
        given["process"]["apparmorProfile"] = "cri-containerd.apparmor.d".into();
        given["linux"]["seccomp"] = serde_json::json!({"defaultAction": "SCMP_ACT_ERRNO"});
        let bundle = bundle(given);
        let sandbox = Sandbox {
            network_namespace: "/var/run/netns/cni-1".into(),
            hostname: Some("pod-a".into()),
            sysctls: [].into(),
            cgroups_path: None,
            oom_score_adj: None,
            user_namespace: None,
        };
        let user = Identity {
            uid: 2_000_000_001,
            gid: 2_000_000_001,
            groups: vec![],
            capabilities: rustix::thread::CapabilitySet::empty(),
        };
        look(Jail {
            root: Path::new("/opt/kubevirt/qemu"),
            bundle: &bundle,
            sandbox: &sandbox,
            holder: 4242,
            user: &user,
            owner: &user,
            arguments: vec!["/usr/bin/qemu-system-x86_64".into(), "-S".into()],
            accelerator: Accelerator::Kvm,
            resources: bundle.linux().resources().clone().unwrap(),
            binds: &[],
            helpers: &[],
            tpm: false,
            host_devices: &HostDevices::default(),
            memory_bytes: 4 << 30,
        })
    }

    #[test]
    fn a_jail_has_nothing_but_qemu() {
        insta::assert_snapshot!(
            serde_json::to_string_pretty(&jail_spec(Accelerator::Kvm, &HostDevices::default()))
                .unwrap()
        );
    }

    #[test]
    fn devices_of_the_node_come_with_all_that_qemu_needs() {
        let node = |path: &str, minor| Node {
            path: path.into(),
            major: 240,
            minor,
        };
        let devices = HostDevices {
            devices: vec![qemu_driver::machine::HostDevice::new(
                qemu_driver::machine::Name::new("device", "gpu").unwrap(),
                "0000:3b:00.0".parse().unwrap(),
            )],
            nodes: vec![node("/dev/vfio/12", 3), node("/dev/vfio/vfio", 9)],
            directories: vec!["/sys/bus/pci/devices/0000:3b:00.0".into()],
        };
        let spec = jail_spec(Accelerator::Tcg, &devices);
        let shown = serde_json::json!({
            "devices": spec["linux"]["devices"],
            "rules": spec["linux"]["resources"]["devices"],
            "rlimits": spec["process"]["rlimits"],
            "sysfs": spec["mounts"].as_array().unwrap().last(),
        });
        insta::assert_snapshot!(serde_json::to_string_pretty(&shown).unwrap());
    }

    #[test]
    fn a_user_namespace_is_joined_and_has_devices_bound() {
        let ids = crate::user_namespace::tests::first();
        let bind = Bind {
            source: "/var/lib/kubelet/data".into(),
            destination: "/volumes/data".into(),
            options: vec!["rbind".into()],
            ids: Some(ids.clone()),
        };
        let spec = with_jail(|jail| {
            let sandbox = Sandbox {
                user_namespace: Some(ids),
                ..jail.sandbox.clone()
            };
            let jail = Jail {
                sandbox: &sandbox,
                binds: &[bind],
                ..jail
            };
            let spec = jail.spec(Path::new("/bundle/jail"), &[]).unwrap();
            serde_json::to_value(spec).unwrap()
        });
        let shown = serde_json::json!({
            "mounts": spec["mounts"].as_array().unwrap()[2..],
            "namespaces": spec["linux"]["namespaces"],
            "uids": spec["linux"]["uidMappings"],
            "gids": spec["linux"]["gidMappings"],
            "devices": spec["linux"]["devices"],
        });
        insta::assert_snapshot!(serde_json::to_string_pretty(&shown).unwrap());
    }

    #[test]
    fn programs_beside_qemu_have_their_directories_and_the_pods_groups() {
        let bind = Bind {
            source: "/var/lib/kubelet/data".into(),
            destination: "/volumes/data".into(),
            options: ["rbind", "nosuid", "nodev", "noexec"]
                .map(Into::into)
                .into(),
            ids: None,
        };
        let helper = Helper {
            name: "virtiofsd of data".into(),
            arguments: vec!["/usr/libexec/virtiofsd".into(), "--fd=3".into()],
            descriptors: vec![],
        };
        let root = tempfile::tempdir().unwrap();
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path().join("jail");
        with_jail(|jail| {
            let jail = Jail {
                root: root.path(),
                binds: &[bind],
                helpers: &[helper],
                tpm: true,
                ..jail
            };
            jail.make(&directory).unwrap();
        });
        let read = |file: &str| -> serde_json::Value {
            serde_json::from_slice(&fs::read(directory.join(file)).unwrap()).unwrap()
        };
        let mounts = &read("config.json")["mounts"];
        let own = |mount: &&serde_json::Value| {
            let destination = mount["destination"].as_str().unwrap();
            ["/volumes/data", "/tpm"].contains(&destination)
        };
        let own: Vec<_> = mounts.as_array().unwrap().iter().filter(own).collect();
        for path in ["rootfs/volumes/data", "rootfs/tpm"] {
            assert!(directory.join(path).is_dir(), "{path}");
        }
        let shown = serde_json::json!({ "mounts": own, "process": read(&helper_file(0)) });
        insta::assert_snapshot!(serde_json::to_string_pretty(&shown).unwrap());
    }

    #[test]
    fn emulation_needs_no_device() {
        let spec = jail_spec(Accelerator::Tcg, &HostDevices::default());
        assert!(spec["linux"].get("devices").is_none(), "{}", spec["linux"]);
        assert_eq!(
            spec["linux"]["resources"]["devices"]
                .as_array()
                .unwrap()
                .len(),
            1
        );
    }
}
