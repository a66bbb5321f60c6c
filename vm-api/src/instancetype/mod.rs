//! `instancetype.kubevirt.io/v1beta1`: instance types and preferences, each for a namespace or for
//! the whole cluster, and what a machine is with them.
//!
//! An instance type owns what it sets; a preference only fills in what a machine leaves open. The
//! pure function [`expand`] makes a template of both that stands for itself. Relies on [`crate::v1`]
//! for everything that a machine is made of.

mod devices;
mod expand;
mod guest;
mod kinds;
mod matcher;
mod preference;
#[cfg(feature = "schema")]
mod resource;
mod size;
mod validate;

pub use devices::*;
pub use expand::{Expansion, expand};
pub use guest::*;
pub use kinds::*;
pub use matcher::{Family, Inference, Matcher, ObjectKind, Scope};
pub use preference::*;
pub use size::*;
pub use validate::{instancetype, preference};

/// The API group.
pub const GROUP: &str = "instancetype.kubevirt.io";

/// Version of the API.
pub const VERSION: &str = "v1beta1";

/// The value of `apiVersion`.
pub const API_VERSION: &str = "instancetype.kubevirt.io/v1beta1";
