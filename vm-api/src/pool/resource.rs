//! What the client library has to know of the kinds of this group.

use super::{GROUP, VERSION, VirtualMachinePool, VirtualMachinePoolSpec, VirtualMachinePoolStatus};
use crate::resource::{content, resource};

resource!(
    VirtualMachinePool,
    "virtualmachinepools",
    NamespaceResourceScope,
    GROUP,
    VERSION
);
content!(
    VirtualMachinePool,
    VirtualMachinePoolSpec,
    VirtualMachinePoolStatus
);
