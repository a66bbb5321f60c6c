//! What the API server asks: the parts of an AdmissionReview that an answer depends on.
//!
//! Objects stay text until something looks at them, and a spec is decoded only if it is no larger in
//! memory than one that can be valid.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use crate::json::{MAXIMUM_VALUES, values};

#[derive(Deserialize)]
struct Review<'a> {
    #[serde(borrow)]
    request: Request<'a>,
}

/// A question of the API server's.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Request<'a> {
    pub(super) uid: String,
    kind: Kind,
    sub_resource: Option<String>,
    pub(super) operation: String,
    pub(super) namespace: Option<String>,
    #[serde(default)]
    user_info: UserInfo,
    #[serde(borrow)]
    object: Option<&'a RawValue>,
    #[serde(borrow)]
    old_object: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Kind {
    group: String,
    kind: String,
}

#[derive(Default, Deserialize)]
struct UserInfo {
    #[serde(default)]
    username: String,
}

/// An object, as far as it is looked at.
#[derive(Deserialize)]
pub(super) struct Object<'a> {
    #[serde(default)]
    pub(super) metadata: Metadata,
    #[serde(borrow, default)]
    spec: Option<&'a RawValue>,
    #[serde(borrow, default)]
    status: Option<&'a RawValue>,
}

/// Metadata, as far as it is looked at.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Metadata {
    #[serde(default)]
    pub(super) labels: Option<BTreeMap<String, String>>,
    #[serde(default)]
    pub(super) annotations: Option<BTreeMap<String, String>>,
    deletion_timestamp: Option<IgnoredAny>,
}

/// A spec has more values than any valid one.
#[derive(Debug, thiserror::Error)]
#[error("it has more than {MAXIMUM_VALUES} values, and no valid spec has so many")]
pub(super) struct TooManyValues;

impl<'a> Request<'a> {
    /// Reads an AdmissionReview.
    pub(super) fn read(body: &'a [u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(body).map(|review: Review<'a>| review.request)
    }

    /// The kind of the object, with its group.
    pub(super) fn group_and_kind(&self) -> (&str, &str) {
        (&self.kind.group, &self.kind.kind)
    }

    /// The kind of the object.
    pub(super) fn kind(&self) -> &str {
        &self.kind.kind
    }

    /// Whether the object itself is meant, not its status or another part of it.
    pub(super) fn is_of_whole(&self) -> bool {
        self.sub_resource.as_deref().is_none_or(str::is_empty)
    }

    /// Who asks.
    pub(super) fn user(&self) -> &str {
        &self.user_info.username
    }

    /// The object as it shall be.
    pub(super) fn object(&self) -> Option<Object<'a>> {
        read(self.object)
    }

    /// The object as it is, if it is there.
    pub(super) fn old_object(&self) -> Option<Object<'a>> {
        read(self.old_object)
    }
}

/// An object that cannot be read is the schema's concern.
fn read<'a>(object: Option<&'a RawValue>) -> Option<Object<'a>> {
    serde_json::from_str(object?.get()).ok()
}

impl<'a> Object<'a> {
    /// Whether it is being deleted.
    pub(super) fn is_leaving(&self) -> bool {
        self.metadata.deletion_timestamp.is_some()
    }

    /// A part of its status; as if there were none where that cannot be read.
    pub(super) fn status<T: Default + Deserialize<'a>>(&self) -> T {
        let text = self.status.map_or("{}", RawValue::get);
        serde_json::from_str(text).unwrap_or_default()
    }

    /// Whether it has a spec.
    pub(super) fn has_spec(&self) -> bool {
        self.spec.is_some()
    }

    /// Its spec, as it was written.
    pub(super) fn spec(&self) -> Result<&'a str, TooManyValues> {
        let text = self.spec.map_or("{}", RawValue::get);
        if values(text.as_bytes()) > MAXIMUM_VALUES {
            Err(TooManyValues)
        } else {
            Ok(text)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spec_that_would_fill_the_memory_is_not_read() {
        let json = format!(r#"{{"spec":[{}]}}"#, ["{}"; MAXIMUM_VALUES].join(","));
        let object: Object<'_> = serde_json::from_str(&json).unwrap();
        assert!(object.spec().is_err());
        let object: Object<'_> = serde_json::from_str(r#"{"spec":{"a":1}}"#).unwrap();
        assert_eq!(object.spec().unwrap(), r#"{"a":1}"#);
        let object: Object<'_> = serde_json::from_str("{}").unwrap();
        assert_eq!(object.spec().unwrap(), "{}");
    }
}
