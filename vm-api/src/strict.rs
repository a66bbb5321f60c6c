//! JSON that is read as a type, strictly: what the type does not know is named by its path, and so
//! is a value of a wrong type.

use serde::de::DeserializeOwned;
use serde_ignored::Path;

use crate::field::{self, FieldError};

/// Why JSON cannot be read as a type.
#[derive(Debug)]
pub enum StrictError {
    /// It is not JSON.
    Syntax(serde_json::Error),
    /// It is JSON, but something in it has the wrong type.
    Type(FieldError),
}

/// A value, and the paths of the fields that its type does not have.
#[derive(Clone, Debug)]
pub struct Strict<T> {
    /// What the type knows.
    pub value: T,
    /// What it does not know.
    pub unknown: Vec<String>,
}

/// Reads JSON as a type.
///
/// # Errors
///
/// If the text is not JSON, or something in it has a wrong type.
pub fn read<T: DeserializeOwned>(json: &str) -> Result<Strict<T>, StrictError> {
    let mut reader = serde_json::Deserializer::from_str(json);
    let mut track = serde_path_to_error::Track::new();
    let mut unknown = Vec::new();
    let tracked = serde_path_to_error::Deserializer::new(&mut reader, &mut track);
    let value = serde_ignored::deserialize(tracked, |path| {
        unknown.push(field::shown(&readable(&path)));
    });
    let value = value.map_err(|error: serde_json::Error| {
        if error.is_data() {
            // The whole is `.` there, and nothing here.
            let path = track.path().to_string();
            StrictError::Type(FieldError::new(path.trim_matches('.'), error))
        } else {
            StrictError::Syntax(error)
        }
    })?;
    reader.end().map_err(StrictError::Syntax)?;
    Ok(Strict { value, unknown })
}

/// The path as it is written in messages, such as `domain.devices.disks[0].nmae`.
fn readable(path: &Path<'_>) -> String {
    match path {
        Path::Root => String::new(),
        Path::Seq { parent, index } => format!("{}[{index}]", readable(parent)),
        Path::Map { parent, key } => match readable(parent) {
            parent if parent.is_empty() => key.clone(),
            parent => format!("{parent}.{key}"),
        },
        Path::Some { parent }
        | Path::NewtypeStruct { parent }
        | Path::NewtypeVariant { parent } => readable(parent),
    }
}
