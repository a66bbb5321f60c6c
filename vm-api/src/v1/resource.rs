//! What the client library has to know of a kind to list, watch and change its objects.

use std::borrow::Cow;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube_core::Resource;
use kube_core::object::{HasSpec, HasStatus};

use super::{
    API_VERSION, VERSION, VirtualMachine, VirtualMachineInstance, VirtualMachineInstanceSpec,
    VirtualMachineInstanceStatus, VirtualMachineSpec, VirtualMachineStatus,
};
use crate::contract::GROUP;

macro_rules! resource {
    ($kind:ident, $plural:literal, $spec:ident, $status:ident) => {
        impl Resource for $kind {
            type DynamicType = ();
            type Scope = NamespaceResourceScope;

            fn kind(_: &()) -> Cow<'_, str> {
                stringify!($kind).into()
            }

            fn group(_: &()) -> Cow<'_, str> {
                GROUP.into()
            }

            fn version(_: &()) -> Cow<'_, str> {
                VERSION.into()
            }

            fn api_version(_: &()) -> Cow<'_, str> {
                API_VERSION.into()
            }

            fn plural(_: &()) -> Cow<'_, str> {
                $plural.into()
            }

            fn meta(&self) -> &ObjectMeta {
                &self.metadata
            }

            fn meta_mut(&mut self) -> &mut ObjectMeta {
                &mut self.metadata
            }
        }

        impl HasSpec for $kind {
            type Spec = $spec;

            fn spec(&self) -> &$spec {
                &self.spec
            }

            fn spec_mut(&mut self) -> &mut $spec {
                &mut self.spec
            }
        }

        impl HasStatus for $kind {
            type Status = $status;

            fn status(&self) -> Option<&$status> {
                self.status.as_ref()
            }

            fn status_mut(&mut self) -> &mut Option<$status> {
                &mut self.status
            }
        }
    };
}

resource!(
    VirtualMachine,
    "virtualmachines",
    VirtualMachineSpec,
    VirtualMachineStatus
);
resource!(
    VirtualMachineInstance,
    "virtualmachineinstances",
    VirtualMachineInstanceSpec,
    VirtualMachineInstanceStatus
);
