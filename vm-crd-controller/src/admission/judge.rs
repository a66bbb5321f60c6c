//! What is answered to a request, and why.

use serde_json::Value;
use vm_api::strict::{self, StrictError};
use vm_api::{FieldError, support, validate};

use super::Webhook;
use super::kinds::{self, Reviewed};
use super::labels;
use super::patch::{self, Change};
use super::request::{Object, Request};

/// What is answered.
#[derive(Debug, PartialEq)]
pub(super) enum Verdict {
    /// The object may be stored, with a change.
    Allowed {
        change: Option<Change>,
        /// What its user is told all the same.
        warnings: Vec<String>,
        /// Its spec is new or changed, and what it refers to, if anything, is to be looked up.
        look_up: bool,
    },
    /// It may not.
    Denied(Vec<Cause>),
}

/// Why an object may not be stored.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Cause {
    /// The field, from the object's root and as KubeVirt spells it; empty if it is none.
    pub(super) field: String,
    pub(super) message: String,
    pub(super) reason: Reason,
}

/// The kind of a cause, in Kubernetes' words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    Invalid,
    NotSupported,
}

impl Reason {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Invalid => "FieldValueInvalid",
            Self::NotSupported => "FieldValueNotSupported",
        }
    }
}

impl Verdict {
    /// The object may be stored as it is.
    pub(super) fn allowed() -> Self {
        Self::Allowed {
            change: None,
            warnings: Vec::new(),
            look_up: false,
        }
    }
}

impl Cause {
    pub(super) fn new(field: &str, message: impl Into<String>) -> Self {
        Self {
            field: field.to_owned(),
            message: message.into(),
            reason: Reason::Invalid,
        }
    }

    /// Of a field that is wrong, its path relative to the object's spec.
    fn of(error: FieldError) -> Self {
        let field = validate::spelled(&error.path);
        Self::new(&field, error.under("spec").to_string())
    }

    /// Of a field of a machine, or of its instance type or its preference, by which they do not go
    /// together; its path from the machine's root.
    pub(super) fn of_reference(error: &FieldError) -> Self {
        let path = error.path.strip_prefix("spec.").unwrap_or(&error.path);
        let beside = ["instancetype.spec.", "preference.spec."];
        let field = match beside.iter().any(|of| path.starts_with(of)) {
            true => path.to_owned(),
            false => validate::spelled(path),
        };
        Self::new(&field, error.to_string())
    }
}

/// The answer to a request. Objects that are being deleted, parts of objects such as their status, and
/// what the controller itself writes (`own` is its name) are let through.
pub(super) fn judge(webhook: Webhook, own: &str, request: &Request<'_>) -> Verdict {
    let is_write = matches!(request.operation.as_str(), "CREATE" | "UPDATE");
    if !is_write || !request.is_of_whole() || request.user() == own {
        return Verdict::allowed();
    }
    match kinds::find(request.group_and_kind()) {
        Some(review) => review(webhook, request),
        None => Verdict::allowed(),
    }
}

/// The answer to a request about an object whose spec is an `S`.
pub(super) fn reviewed<S: Reviewed>(webhook: Webhook, request: &Request<'_>) -> Verdict {
    let Some(object) = request.object().filter(|object| !object.is_leaving()) else {
        return Verdict::allowed();
    };
    let old = request.old_object();
    match webhook {
        Webhook::Mutate => mutated::<S>(request, &object, old.as_ref()),
        Webhook::Validate => validated::<S>(&object, old.as_ref()),
    }
}

fn mutated<S: Reviewed>(
    request: &Request<'_>,
    object: &Object<'_>,
    old: Option<&Object<'_>>,
) -> Verdict {
    let untouched = old.is_some_and(|old| S::IS_FIXED || !is_changed(object, old));
    // What cannot be read is told by the schema, or by the validating webhook.
    let Ok(text) = object.spec() else {
        return Verdict::allowed();
    };
    // A list can be read as a spec too, field by field, but not be changed by the fields' names.
    if !text.trim_start().starts_with('{') {
        return Verdict::allowed();
    }
    let Ok(spec) = strict::read::<S>(text) else {
        return Verdict::allowed();
    };
    if untouched {
        return Verdict::allowed();
    }
    let mut spec = spec.value;
    let old = old.and_then(|old| strict::read::<S>(old.spec().ok()?).ok());
    spec.fill(old.as_ref().map(|old| &old.value), &request.uid);
    Verdict::Allowed {
        change: patch::between(object.has_spec().then_some(text), &spec),
        warnings: Vec::new(),
        look_up: false,
    }
}

fn validated<S: Reviewed>(object: &Object<'_>, old: Option<&Object<'_>>) -> Verdict {
    let mut causes = Vec::new();
    if S::IS_FIXED {
        causes.extend(labels::changed(object, old));
    }
    // An object that was stored while nobody looked can still get labels and lose finalizers.
    let is_new = old.is_none_or(|old| is_changed(object, old));
    if S::IS_FIXED && old.is_some() && is_new {
        causes.push(Cause {
            field: String::new(),
            message: "update of VMI object is restricted".to_owned(),
            reason: Reason::NotSupported,
        });
        return Verdict::Denied(causes);
    }
    let mut warnings = Vec::new();
    if is_new {
        match spec::<S>(object) {
            Err(cause) => causes.push(cause),
            Ok(spec) => {
                causes.extend(spec.wrong().into_iter().map(Cause::of));
                let unsupported = spec.unsupported().into_iter();
                warnings.extend(unsupported.map(|error| error.under("spec").to_string()));
                if S::IS_FIXED {
                    // Of an instance; those of a template are its spec's.
                    let given = object.metadata.annotations.as_ref();
                    let refused = support::annotations(given).into_iter();
                    warnings.extend(refused.map(|error| error.to_string()));
                }
            }
        }
    }
    if causes.is_empty() {
        Verdict::Allowed {
            change: None,
            warnings,
            look_up: is_new && S::REFERS,
        }
    } else {
        Verdict::Denied(causes)
    }
}

fn spec<S: Reviewed>(object: &Object<'_>) -> Result<S, Cause> {
    let text = object
        .spec()
        .map_err(|error| Cause::of(FieldError::new("", error)))?;
    match strict::read::<S>(text) {
        Ok(read) => Ok(read.value),
        Err(StrictError::Type(error)) => Err(Cause::of(error)),
        Err(StrictError::Syntax(error)) => Err(Cause::of(FieldError::new("", error))),
    }
}

fn is_changed(object: &Object<'_>, old: &Object<'_>) -> bool {
    let (Ok(new), Ok(old)) = (object.spec(), old.spec()) else {
        return true;
    };
    let value = |text| serde_json::from_str::<Value>(text).ok();
    new != old && value(new) != value(old)
}
