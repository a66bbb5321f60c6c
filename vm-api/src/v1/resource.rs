//! What the client library has to know of the kinds of this group.

use super::{
    VERSION, VirtualMachine, VirtualMachineInstance, VirtualMachineInstanceReplicaSet,
    VirtualMachineInstanceReplicaSetSpec, VirtualMachineInstanceReplicaSetStatus,
    VirtualMachineInstanceSpec, VirtualMachineInstanceStatus, VirtualMachineSpec,
    VirtualMachineStatus,
};
use crate::contract::GROUP;
use crate::resource::{content, resource};

resource!(
    VirtualMachine,
    "virtualmachines",
    NamespaceResourceScope,
    GROUP,
    VERSION
);
content!(VirtualMachine, VirtualMachineSpec, VirtualMachineStatus);
resource!(
    VirtualMachineInstance,
    "virtualmachineinstances",
    NamespaceResourceScope,
    GROUP,
    VERSION
);
content!(
    VirtualMachineInstance,
    VirtualMachineInstanceSpec,
    VirtualMachineInstanceStatus
);
resource!(
    VirtualMachineInstanceReplicaSet,
    "virtualmachineinstancereplicasets",
    NamespaceResourceScope,
    GROUP,
    VERSION
);
content!(
    VirtualMachineInstanceReplicaSet,
    VirtualMachineInstanceReplicaSetSpec,
    VirtualMachineInstanceReplicaSetStatus
);
