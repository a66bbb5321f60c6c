//! What is wrong with a field: its path, in the words of the manifest, and one sentence.

use std::fmt;

use crate::words::UnknownWord;

/// A field that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
#[error("{path}: {message}")]
pub struct FieldError {
    /// Where it is, such as `domain.devices.disks[0].bootOrder`; relative to the spec until
    /// [`FieldError::under`] says where that is.
    pub path: String,
    /// What is wrong with it and what would be right.
    pub message: String,
}

impl FieldError {
    /// The field at `path` is wrong. Both texts may quote what others wrote: they are [`shown`].
    pub fn new(path: impl Into<String>, message: impl fmt::Display) -> Self {
        Self {
            path: shown(&path.into()),
            message: shown(&message.to_string()),
        }
    }

    /// The same with its path below `parent`.
    pub fn under(self, parent: &str) -> Self {
        let path = if self.path.is_empty() {
            parent.to_owned()
        } else {
            format!("{parent}.{}", self.path)
        };
        Self { path, ..self }
    }
}

/// Characters of a quoted text at most: more than any message of ours has by itself.
const SHOWN: usize = 512;

/// Text that others wrote, fit for one line of a message: cut, and with U+FFFD in place of control
/// characters.
pub fn shown(text: &str) -> String {
    let printable = |c: char| match c {
        c if c.is_control() => char::REPLACEMENT_CHARACTER,
        c => c,
    };
    text.chars().take(SHOWN).map(printable).collect()
}

/// Items of a list that a message names at most; a hostile spec can have thousands of mistakes.
const NAMED: usize = 8;

/// The first wrong fields in one line, for an event or a condition.
pub fn join(errors: &[FieldError]) -> String {
    listed(errors, "; ")
}

/// The first items with a separator between, and how many more there are.
pub(crate) fn listed<T: ToString>(items: &[T], separator: &str) -> String {
    let named: Vec<_> = items.iter().take(NAMED).map(ToString::to_string).collect();
    let more = match items.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!("{separator}and {more} more"),
    };
    named.join(separator) + &more
}

/// Errors in the order of their paths, each once.
pub(crate) fn sorted(mut errors: Vec<FieldError>) -> Vec<FieldError> {
    errors.sort();
    errors.dedup();
    errors
}

/// Reads an optional word; an empty one counts as absent, as it does in KubeVirt.
pub(crate) fn word<T>(
    path: impl FnOnce() -> String,
    text: Option<&str>,
) -> Result<Option<T>, FieldError>
where
    T: std::str::FromStr<Err = UnknownWord>,
{
    match text {
        None | Some("") => Ok(None),
        Some(text) => text
            .parse()
            .map(Some)
            .map_err(|error| FieldError::new(path(), error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_names_the_first_mistakes_and_counts_the_rest() {
        let errors: Vec<_> = (1..=10)
            .map(|n| FieldError::new(format!("a[{n}]"), "wrong"))
            .collect();
        assert_eq!(join(&errors[..2]), "a[1]: wrong; a[2]: wrong");
        assert!(join(&errors).ends_with("a[8]: wrong; and 2 more"));
    }

    #[test]
    fn a_path_can_be_put_below_another() {
        let under = |path: &str| FieldError::new(path, "x").under("spec").path;
        assert_eq!(under("domain"), "spec.domain");
        assert_eq!(under(""), "spec");
    }
}
