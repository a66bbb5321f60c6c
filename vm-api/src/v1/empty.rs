//! An object without fields, by whose presence something is chosen, such as `masquerade: {}`.

use serde::{Deserialize, Serialize};

/// An object without fields.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Empty {}
