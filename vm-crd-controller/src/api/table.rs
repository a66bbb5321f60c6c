//! The subresources: every one that KubeVirt has, and what is done by it here.
//!
//! Paths, discovery and permissions all follow from this table. What is not supported stands in it
//! too, so that it is refused by its name.

use hyper::Method;

use Operation::{
    Console, ExpandSpec, FilesystemList, Freeze, GuestInfo, ObjectGraph, Pause, PortForward,
    Refused, Reset, Restart, Screenshot, SoftReboot, Start, Stop, Unfreeze, Unpause, UserList, Vnc,
};
use Resource::{Instances, Machines};

/// What a subresource belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Resource {
    /// `virtualmachines`.
    Machines,
    /// `virtualmachineinstances`.
    Instances,
}

impl Resource {
    /// Both.
    pub(super) const ALL: [Self; 2] = [Machines, Instances];

    /// As it stands in paths and permissions.
    pub(super) fn word(self) -> &'static str {
        match self {
            Machines => "virtualmachines",
            Instances => "virtualmachineinstances",
        }
    }

    /// The kind of its objects.
    pub(super) fn kind(self) -> &'static str {
        match self {
            Machines => "VirtualMachine",
            Instances => "VirtualMachineInstance",
        }
    }
}

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    Start,
    Stop,
    Restart,
    ExpandSpec,
    ObjectGraph,
    PortForward,
    Pause,
    Unpause,
    Freeze,
    Unfreeze,
    Reset,
    SoftReboot,
    GuestInfo,
    UserList,
    FilesystemList,
    Console,
    Vnc,
    Screenshot,
    /// Nothing: what to do instead.
    Refused(&'static str),
}

/// One subresource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) resource: Resource,
    /// With its slash, as permissions name it.
    pub(super) name: &'static str,
    pub(super) method: Method,
    pub(super) operation: Operation,
}

const fn get(resource: Resource, name: &'static str, operation: Operation) -> Entry {
    Entry {
        resource,
        name,
        method: Method::GET,
        operation,
    }
}

const fn put(resource: Resource, name: &'static str, operation: Operation) -> Entry {
    Entry {
        resource,
        name,
        method: Method::PUT,
        operation,
    }
}

const NO_MIGRATION: Operation = Refused(
    "live migration is not supported: stop the machine and start it, and it is scheduled anew",
);
const NO_HOTPLUG: Operation = Refused(
    "volumes cannot be added to or taken from a running machine: change the template of the \
     VirtualMachine and restart it",
);
const NO_DUMP: Operation = Refused("memory dumps are not supported");
const NO_BACKUP: Operation =
    Refused("backups by changed blocks are not supported: use snapshots of the machine's claims");
const NO_SEV: Operation = Refused("encrypted guest memory (SEV) is not supported");
const NO_USB: Operation = Refused("USB redirection is not supported");
const NO_VSOCK: Operation = Refused(
    "vsock cannot be reached by the API: use portforward, or the guest's vsock address on its node",
);

/// All of them.
pub(super) static TABLE: [Entry; 37] = [
    put(Machines, "start", Start),
    put(Machines, "stop", Stop),
    put(Machines, "restart", Restart),
    put(Machines, "migrate", NO_MIGRATION),
    put(Machines, "addvolume", NO_HOTPLUG),
    put(Machines, "removevolume", NO_HOTPLUG),
    put(Machines, "memorydump", NO_DUMP),
    put(Machines, "removememorydump", NO_DUMP),
    put(Machines, "evacuate/cancel", NO_MIGRATION),
    get(Machines, "expand-spec", ExpandSpec),
    get(Machines, "objectgraph", ObjectGraph),
    get(Machines, "portforward", PortForward),
    put(Instances, "pause", Pause),
    put(Instances, "unpause", Unpause),
    put(Instances, "freeze", Freeze),
    put(Instances, "unfreeze", Unfreeze),
    put(Instances, "reset", Reset),
    put(Instances, "softreboot", SoftReboot),
    put(Instances, "addvolume", NO_HOTPLUG),
    put(Instances, "removevolume", NO_HOTPLUG),
    put(Instances, "backup", NO_BACKUP),
    put(Instances, "redefine-checkpoint", NO_BACKUP),
    put(Instances, "evacuate/cancel", NO_MIGRATION),
    put(Instances, "sev/setupsession", NO_SEV),
    put(Instances, "sev/injectlaunchsecret", NO_SEV),
    get(Instances, "sev/fetchcertchain", NO_SEV),
    get(Instances, "sev/querylaunchmeasurement", NO_SEV),
    get(Instances, "guestosinfo", GuestInfo),
    get(Instances, "userlist", UserList),
    get(Instances, "filesystemlist", FilesystemList),
    get(Instances, "objectgraph", ObjectGraph),
    get(Instances, "console", Console),
    get(Instances, "vnc", Vnc),
    get(Instances, "vnc/screenshot", Screenshot),
    get(Instances, "portforward", PortForward),
    get(Instances, "usbredir", NO_USB),
    get(Instances, "vsock", NO_VSOCK),
];

impl Entry {
    /// Whether it does anything.
    pub(super) fn is_served(&self) -> bool {
        !matches!(self.operation, Refused(_))
    }

    /// Segments that may follow its name: a port and its protocol.
    fn more(&self) -> std::ops::RangeInclusive<usize> {
        match self.operation {
            PortForward => 1..=2,
            _ => 0..=0,
        }
    }

    /// What follows its name in `segments`, if these are it.
    pub(super) fn rest<'a>(&self, segments: &'a [&'a str]) -> Option<&'a [&'a str]> {
        let own: Vec<_> = self.name.split('/').collect();
        let rest = segments.strip_prefix(own.as_slice())?;
        self.more().contains(&rest.len()).then_some(rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subresource_stands_once() {
        for (index, entry) in TABLE.iter().enumerate() {
            let same =
                |other: &&Entry| (other.resource, other.name) == (entry.resource, entry.name);
            let first = TABLE.iter().position(|other| same(&other));
            assert_eq!(first, Some(index), "{}", entry.name);
        }
    }
}
