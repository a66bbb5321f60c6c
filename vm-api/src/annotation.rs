//! The annotation that carries a machine's finer wishes, read strictly.
//!
//! A field that is not known is refused by its path, and so is a value of a wrong type: the shim is
//! the last door, and nothing may pass it that is not understood.

use crate::contract::VMI_SPEC_ANNOTATION;
use crate::field::{self, FieldError};
use crate::strict::{self, Strict, StrictError};
use crate::v1::VirtualMachineInstanceSpec;
use crate::{support, validate};

/// Bytes of an annotation at most; all annotations of an object together have at most 256 KiB.
pub const MAXIMUM_BYTES: usize = 256 * 1024;

/// Why an annotation cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum AnnotationError {
    /// It is too large to be one.
    #[error("annotation {VMI_SPEC_ANNOTATION} has {0} bytes; at most {MAXIMUM_BYTES} are read")]
    TooLarge(usize),
    /// It is not JSON.
    #[error("annotation {VMI_SPEC_ANNOTATION} is not JSON: {0}")]
    Syntax(serde_json::Error),
    /// It is JSON, but something in it has the wrong type.
    #[error("annotation {VMI_SPEC_ANNOTATION}: {0}")]
    Type(FieldError),
    /// It has fields that a VirtualMachineInstanceSpec does not have.
    #[error(
        "annotation {VMI_SPEC_ANNOTATION}: no such field: {}; fields are those of a \
         VirtualMachineInstance's spec", field::listed(.0, ", ")
    )]
    UnknownFields(Vec<String>),
    /// It has fields that are wrong or do not work.
    #[error("annotation {VMI_SPEC_ANNOTATION}: {}", field::join(.0))]
    Refused(Vec<FieldError>),
}

/// Reads the annotation and refuses what is wrong in it and what does not work: all that stands
/// between a pod and its machine.
pub fn read(json: &str) -> Result<VirtualMachineInstanceSpec, AnnotationError> {
    let spec = parse(json)?;
    for errors in [validate::annotation(&spec), support::instance(&spec)] {
        if !errors.is_empty() {
            return Err(AnnotationError::Refused(errors));
        }
    }
    Ok(spec)
}

/// Reads the annotation, which holds any part of a `VirtualMachineInstanceSpec` in JSON.
pub fn parse(json: &str) -> Result<VirtualMachineInstanceSpec, AnnotationError> {
    if json.len() > MAXIMUM_BYTES {
        return Err(AnnotationError::TooLarge(json.len()));
    }
    let Strict { value, unknown } = strict::read(json)?;
    if unknown.is_empty() {
        Ok(value)
    } else {
        Err(AnnotationError::UnknownFields(unknown))
    }
}

impl From<StrictError> for AnnotationError {
    fn from(error: StrictError) -> Self {
        match error {
            StrictError::Syntax(error) => Self::Syntax(error),
            StrictError::Type(error) => Self::Type(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(json: &str) -> String {
        parse(json).unwrap_err().to_string()
    }

    #[test]
    fn any_part_of_a_spec_is_read() {
        assert_eq!(parse("{}").unwrap(), VirtualMachineInstanceSpec::default());
        let spec = parse(r#"{"domain":{"cpu":{"cores":2}},"hostname":"a"}"#).unwrap();
        assert_eq!(spec.domain.cpu.unwrap().cores, Some(2));
    }

    #[test]
    fn every_unknown_field_is_named() {
        let json = r#"{"domain":{"cpu":{"corse":2},"devices":{"disks":[{"name":"a","disk":{"buss":"x"}}]}},"affinity":{"x":1}}"#;
        let text = message(json);
        for path in [
            "domain.cpu.corse",
            "domain.devices.disks[0].disk.buss",
            "affinity.x",
        ] {
            assert!(text.contains(path), "{text}");
        }
    }

    #[test]
    fn a_wrong_type_is_named() {
        let text =
            message(r#"{"domain":{"devices":{"disks":[{"name":"a","bootOrder":"first"}]}}}"#);
        assert!(text.contains("domain.devices.disks[0].bootOrder"), "{text}");
        assert!(message(r#"{"volumes":[{}]}"#).contains("volumes[0]: missing field `name`"));
    }

    #[test]
    fn what_is_wrong_or_does_not_work_is_named() {
        let refused = |json: &str| read(json).unwrap_err().to_string();
        let text = refused(r#"{"volumes":[{"name":"a"}],"hostname":"A"}"#);
        assert!(
            text.contains("hostname: `A`") && text.contains("volumes[0]: no source"),
            "{text}"
        );
        let text = refused(r#"{"domain":{"devices":{"downwardMetrics":{}}}}"#);
        assert!(
            text.contains("domain.devices.downwardMetrics: is not supported yet: read the node's"),
            "{text}"
        );
        assert!(read(r#"{"domain":{"cpu":{"cores":2}}}"#).is_ok());
    }

    #[test]
    fn what_is_not_json_is_said_to_be_not_json() {
        for json in ["", "{", "domain: {}", "{} {}", "{}}"] {
            assert!(message(json).contains("is not JSON"), "{json}");
        }
    }
}

#[cfg(test)]
mod hostile_tests;
