//! The four kinds: instance type and preference, each of a namespace and of the cluster.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};

use super::{API_VERSION, InstancetypeSpec, PreferenceSpec};

macro_rules! kind {
    ($(#[$doc:meta])* $name:ident, $own_name:ident, $default:literal, $spec:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        #[serde(rename_all = "camelCase")]
        pub struct $name {
            /// Always [`API_VERSION`].
            #[serde(default = "api_version")]
            pub api_version: String,
            /// The kind's name.
            #[serde(default = $default)]
            pub kind: String,
            /// Name, namespace, labels and the like.
            #[serde(default)]
            pub metadata: ObjectMeta,
            /// Its content.
            pub spec: $spec,
        }

        fn $own_name() -> String {
            stringify!($name).to_owned()
        }

        impl $name {
            /// An object with this name and content, in no namespace yet.
            pub fn new(name: &str, spec: $spec) -> Self {
                let metadata = ObjectMeta {
                    name: Some(name.to_owned()),
                    ..ObjectMeta::default()
                };
                Self {
                    api_version: api_version(),
                    kind: $own_name(),
                    metadata,
                    spec,
                }
            }
        }
    };
}

fn api_version() -> String {
    API_VERSION.to_owned()
}

kind!(
    /// An instance type for the machines of its namespace.
    VirtualMachineInstancetype,
    instancetype,
    "instancetype",
    InstancetypeSpec
);
kind!(
    /// An instance type for all machines.
    VirtualMachineClusterInstancetype,
    cluster_instancetype,
    "cluster_instancetype",
    InstancetypeSpec
);
kind!(
    /// A preference for the machines of its namespace.
    VirtualMachinePreference,
    preference,
    "preference",
    PreferenceSpec
);
kind!(
    /// A preference for all machines.
    VirtualMachineClusterPreference,
    cluster_preference,
    "cluster_preference",
    PreferenceSpec
);
