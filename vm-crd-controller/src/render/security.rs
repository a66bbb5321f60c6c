//! Security contexts that Pod Security's level *restricted* admits.

use k8s_openapi::api::core::v1::{
    Capabilities, PodSecurityContext, SeccompProfile, SecurityContext,
};

/// The uid and gid of machines on their node: KubeVirt's, which owns the disks in containerDisk
/// images. It is never a user of the guest.
const MACHINE_USER: i64 = 107;

/// The pod's.
pub(super) fn pod() -> PodSecurityContext {
    PodSecurityContext {
        run_as_user: Some(MACHINE_USER),
        run_as_group: Some(MACHINE_USER),
        run_as_non_root: Some(true),
        // Claims of volume mode Filesystem become writable for the machine by this group.
        fs_group: Some(MACHINE_USER),
        // A claim with many files is not walked at each start once its root is right.
        fs_group_change_policy: Some("OnRootMismatch".to_owned()),
        seccomp_profile: Some(SeccompProfile {
            type_: "RuntimeDefault".to_owned(),
            localhost_profile: None,
        }),
        ..PodSecurityContext::default()
    }
}

/// The machine container's.
pub(super) fn container() -> SecurityContext {
    SecurityContext {
        allow_privilege_escalation: Some(false),
        capabilities: Some(Capabilities {
            add: None,
            drop: Some(vec!["ALL".to_owned()]),
        }),
        run_as_non_root: Some(true),
        ..SecurityContext::default()
    }
}
