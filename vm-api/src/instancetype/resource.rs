//! What the client library has to know of the kinds of this group.

use super::{
    GROUP, VERSION, VirtualMachineClusterInstancetype, VirtualMachineClusterPreference,
    VirtualMachineInstancetype, VirtualMachinePreference,
};
use crate::resource::resource;

resource!(
    VirtualMachineInstancetype,
    "virtualmachineinstancetypes",
    NamespaceResourceScope,
    GROUP,
    VERSION
);
resource!(
    VirtualMachineClusterInstancetype,
    "virtualmachineclusterinstancetypes",
    ClusterResourceScope,
    GROUP,
    VERSION
);
resource!(
    VirtualMachinePreference,
    "virtualmachinepreferences",
    NamespaceResourceScope,
    GROUP,
    VERSION
);
resource!(
    VirtualMachineClusterPreference,
    "virtualmachineclusterpreferences",
    ClusterResourceScope,
    GROUP,
    VERSION
);
