//! A pod's own user namespace (`hostUsers: false`): which ids of the node its ids are.
//!
//! containerd makes it before the sandbox, with the pod's network namespace in it. The pod's users
//! are those of the jail; a file on a volume has the id that the pod sees, since kubelet has every
//! volume of such a pod mounted with its ids mapped.

use oci_spec::runtime::{Linux, LinuxIdMapping, LinuxNamespaceType};
use rustix::thread::CapabilitySet;
use serde::{Deserialize, Serialize};

use crate::identity::Identity;

/// A user namespace, by its maps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserNamespace {
    /// Which uids of the node its uids are.
    pub uids: Vec<LinuxIdMapping>,
    /// Which gids of the node its gids are.
    pub gids: Vec<LinuxIdMapping>,
}

/// An id of the pod's that its user namespace has not.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the pod's user namespace has no {kind} {id}: set runAsUser and runAsGroup to ids that it has \
     (kubelet gives a pod 0 to 65535), or remove hostUsers: false from the pod"
)]
pub struct NotMapped {
    kind: &'static str,
    id: u32,
}

impl UserNamespace {
    /// The user namespace that the spec's section has its container in, unless that is the node's.
    pub fn of(linux: &Linux) -> Option<Self> {
        let mut namespaces = linux.namespaces().iter().flatten();
        namespaces.find(|namespace| namespace.typ() == LinuxNamespaceType::User)?;
        Some(Self {
            uids: linux.uid_mappings().clone().unwrap_or_default(),
            gids: linux.gid_mappings().clone().unwrap_or_default(),
        })
    }

    /// Who on the node a user of the namespace without groups and capabilities is.
    pub fn on_node(&self, user: &Identity) -> Result<Identity, NotMapped> {
        Ok(Identity {
            uid: map(&self.uids, "user", user.uid)?,
            gid: map(&self.gids, "group", user.gid)?,
            groups: Vec::new(),
            capabilities: CapabilitySet::empty(),
        })
    }
}

fn map(mappings: &[LinuxIdMapping], kind: &'static str, id: u32) -> Result<u32, NotMapped> {
    let found = mappings.iter().find_map(|mapping| {
        let offset = id.checked_sub(mapping.container_id())?;
        (offset < mapping.size()).then(|| mapping.host_id().checked_add(offset))?
    });
    found.ok_or(NotMapped { kind, id })
}

#[cfg(test)]
pub(crate) mod tests {
    use serde_json::json;

    use super::*;

    /// What kubelet gives the first pod of a node.
    pub(crate) fn first() -> UserNamespace {
        let linux = json!({
            "namespaces": [{"type": "user", "path": "/run/containerd/pinned"}],
            "uidMappings": [{"containerID": 0, "hostID": 65536, "size": 65536}],
            "gidMappings": [{"containerID": 0, "hostID": 65536, "size": 65536}],
        });
        UserNamespace::of(&serde_json::from_value(linux).unwrap()).unwrap()
    }

    fn user(uid: u32, gid: u32) -> Identity {
        Identity {
            uid,
            gid,
            groups: vec![5],
            capabilities: CapabilitySet::all(),
        }
    }

    #[test]
    fn an_id_is_its_offset_in_the_range() {
        let found = first().on_node(&user(107, 65535)).unwrap();
        assert_eq!((found.uid, found.gid), (65536 + 107, 65536 + 65535));
        assert!(found.groups.is_empty() && found.capabilities.is_empty());
    }

    #[test]
    fn an_id_out_of_the_range_is_nobodys() {
        let error = first().on_node(&user(65536, 0)).unwrap_err();
        assert_eq!((error.kind, error.id), ("user", 65536));
        let error = first().on_node(&user(0, 70000)).unwrap_err();
        assert_eq!((error.kind, error.id), ("group", 70000));
        let none = UserNamespace {
            uids: vec![],
            gids: vec![],
        };
        none.on_node(&user(0, 0)).unwrap_err();
    }

    #[test]
    fn the_nodes_own_is_none() {
        let linux = json!({"namespaces": [{"type": "pid"}]});
        assert_eq!(
            UserNamespace::of(&serde_json::from_value(linux).unwrap()),
            None
        );
    }
}
