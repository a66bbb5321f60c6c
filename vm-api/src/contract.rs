//! The pod contract: what the controller writes into a pod and the shim reads from it, stated once.
//!
//! A hand-written pod uses the same words. Nothing here can name a path of the node: an annotation
//! refers only to what the pod already has (a mount, a device, its network namespace).

/// The API group that annotations, labels and kinds of this project live in.
pub const GROUP: &str = "kubevirt.io";

/// The handler and name of the RuntimeClass whose pods are machines.
pub const RUNTIME_CLASS: &str = "kubevirt";

/// Annotation: the machine's finer wishes, a `VirtualMachineInstanceSpec` in JSON.
///
/// The controller writes the fully expanded spec there; a pod written by hand may carry any part.
pub const VMI_SPEC_ANNOTATION: &str = "kubevirt.io/vmi-spec";

/// Annotation: the name of the machine container, for a pod with no or several images that hold
/// [`DISK_DIRECTORY`].
pub const MACHINE_CONTAINER_ANNOTATION: &str = "kubevirt.io/machine-container";

/// Annotation: the containers of the pod that are images of the machine's disks and nothing else, a list
/// `<volume>=<container>,…`; the volume [`KERNEL_BOOT_VOLUME`] stands for the kernel's image. Such a
/// container is its image, mounted, and has no process; as native sidecars (init containers with
/// `restartPolicy: Always`) they are there before the machine and end after it.
///
/// A list and no JSON: the policy that limits the controller reads it too, and must read the same.
pub const IMAGE_CONTAINERS_ANNOTATION: &str = "kubevirt.io/image-containers";

/// Annotation: the firmware's UUID of the machine, so that it stays the same over its restarts.
/// Used when the spec names none.
pub const FIRMWARE_UUID_ANNOTATION: &str = "kubevirt.io/firmware-uuid";

/// Annotation: the name of the VirtualMachineInstance behind a pod; the guest's default hostname.
pub const DOMAIN_ANNOTATION: &str = "kubevirt.io/domain";

/// Annotation: the sizes of claims that may still be empty, JSON `{"<volume>": "<quantity>"}`. The
/// controller writes the claims' capacity there; the shim makes `disk.img` from it, less
/// [`FILESYSTEM_OVERHEAD_PERMILLE`]. A claim that is a file system of its own needs no entry.
pub const VOLUME_SIZES_ANNOTATION: &str = "kubevirt.io/volume-sizes";

/// Annotation: the user of the guest as whom commands (`kubectl exec`, probes, hooks) run in it;
/// without it, root.
pub const GUEST_USER_ANNOTATION: &str = "kubevirt.io/guest-user";

/// Annotation: the span that the machine's start is part of, as W3C's `traceparent`
/// (w3.org/TR/trace-context). The shim's spans become its children.
pub const TRACE_PARENT_ANNOTATION: &str = "kubevirt.io/traceparent";

/// Annotation of an instance (`true`): its start is traced, without a span of anybody's to be part of.
pub const TRACE_ANNOTATION: &str = "kubevirt.io/trace";

/// The ConfigMap beside the controller that says whether machines run, key [`IN_USE_RUNNING`], and
/// whether any are defined, key [`IN_USE_DEFINED`], by `true` or `false`.
pub const IN_USE_CONFIG_MAP: &str = "kubevirt-in-use";

/// Key of [`IN_USE_CONFIG_MAP`]: there is an instance.
pub const IN_USE_RUNNING: &str = "running";

/// Key of [`IN_USE_CONFIG_MAP`]: there is a machine or an instance.
pub const IN_USE_DEFINED: &str = "defined";

/// Annotation of [`IN_USE_CONFIG_MAP`] (`true`): the product may go from under its machines.
pub const FORCE_UNINSTALL_ANNOTATION: &str = "kubevirt.io/force-uninstall";

/// Part of a claim's capacity, in thousandths, that its file system keeps for itself: a new
/// `disk.img` is that much smaller than the claim (KubeVirt's default).
pub const FILESYSTEM_OVERHEAD_PERMILLE: u64 = 55;

/// Container annotation of kubelet's: the ports that a container declares, a JSON list of
/// `ContainerPort`. The node's runtime passes it on when its `container_annotations` lists it.
pub const CONTAINER_PORTS_ANNOTATION: &str = "io.kubernetes.container.ports";

/// Name of the machine container in pods that the controller makes.
pub const MACHINE_CONTAINER: &str = "compute";

/// Directory of a containerDisk image that holds its one disk.
pub const DISK_DIRECTORY: &str = "/disk";

/// Directory under which volumes are mounted in the machine container: the volume `data` is
/// `/volumes/data`: a directory for a claim of volume mode Filesystem, a Secret or a ConfigMap; a
/// block device for a claim of volume mode Block.
pub const VOLUMES_DIRECTORY: &str = "/volumes";

/// Name of the volume of the pod with the image that holds the kernel of `kernelBoot`, where that is
/// not the machine container's own; and of that image in [`IMAGE_CONTAINERS_ANNOTATION`].
pub const KERNEL_BOOT_VOLUME: &str = "kernel-boot";

/// Label of a namespace: with [`HOST_DISKS_ALLOWED`], machines of the controller may have files of
/// their node as disks (`hostDisk`) there.
pub const HOST_DISKS_LABEL: &str = "kubevirt.io/host-disks";

/// Value of [`HOST_DISKS_LABEL`].
pub const HOST_DISKS_ALLOWED: &str = "allowed";
/// Directory at which the machine container has the claim that holds what the machine keeps over its
/// restarts beside its disks (`efi.persistent`, `tpm.persistent`).
pub const STATE_DIRECTORY: &str = "/state";

/// Directory beneath which the machine container has the Secrets with keys and passwords for the guest's
/// users: the Secret `keys` is `/access-credentials/keys`.
pub const ACCESS_CREDENTIALS_DIRECTORY: &str = "/access-credentials";

/// File in a claim of volume mode Filesystem that is the disk.
pub const DISK_IMAGE_FILE: &str = "disk.img";

/// File in a seed's mount, `/volumes/<volume>`, that holds cloud-init's user data. The mount is a
/// Secret or, where user and network data come from two Secrets, a projected volume of both.
pub const SEED_USER_DATA_FILE: &str = "userdata";

/// File in a seed's mount that holds cloud-init's network data.
pub const SEED_NETWORK_DATA_FILE: &str = "networkdata";

/// The placeholder command of a machine container, and of an image's: a containerDisk image has none,
/// and CRI refuses a container without.
pub const MACHINE_COMMAND: &str = "vm";

/// The command of the machine container that succeeds if the guest's agent answers.
pub const AGENT_PING: [&str; 2] = ["vm:agent", "guest-ping"];

/// The path at which the volume `name` appears in the machine container.
pub fn volume_path(name: &str) -> String {
    format!("{VOLUMES_DIRECTORY}/{name}")
}

/// The path at which the Secret `name` with access credentials appears in the machine container.
pub fn access_credentials_path(name: &str) -> String {
    format!("{ACCESS_CREDENTIALS_DIRECTORY}/{name}")
}

/// Labels of pods that the controller makes, with KubeVirt's keys.
pub mod labels {
    /// `kubevirt.io=virt-launcher`: the pod is a machine.
    pub const APP: &str = "kubevirt.io";
    /// Value of [`APP`].
    pub const APP_VALUE: &str = "virt-launcher";
    /// UID of the VirtualMachineInstance that the pod was made for.
    pub const CREATED_BY: &str = "kubevirt.io/created-by";
    /// Name of the VirtualMachineInstance.
    pub const VM_NAME: &str = "vm.kubevirt.io/name";
    /// Node on which the instance runs.
    pub const NODE_NAME: &str = "kubevirt.io/nodeName";
    /// Set by the node installer once the runtime works on a node.
    pub const SCHEDULABLE: &str = "kubevirt.io/schedulable";
    /// Set beside [`SCHEDULABLE`]: `kvm` or `tcg`, what machines on that node are run by.
    pub const ACCELERATOR: &str = "kubevirt.io/accelerator";
}

/// What the shim writes to the container's termination message (`/dev/termination-log`): plain
/// text, one sentence, at most this many bytes (kubelet keeps 4096).
pub const TERMINATION_MESSAGE_LIMIT: usize = 4096;

/// Exit codes of the machine container.
pub mod exit_code {
    /// The guest powered itself off, or followed the power button.
    pub const POWERED_OFF: u32 = 0;
    /// The guest panicked or QEMU reported an internal error.
    pub const GUEST_CRASHED: u32 = 1;
    /// QEMU itself ended by a signal `n`: `128 + n`.
    pub const SIGNAL_BASE: u32 = 128;
}
