//! The forms of names that Kubernetes knows.

use std::fmt;

/// A form that a name can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// RFC 1123 label: what a container, a volume of a pod or a host is called.
    Label,
    /// RFC 1123 subdomain: what an object is called.
    Subdomain,
    /// What KubeVirt lets an interface or network be called.
    Interface,
    /// RFC 6335 service name: what a port is called.
    Port,
}

impl Form {
    pub(super) fn allows(self, name: &str) -> bool {
        let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let bytes = name.as_bytes();
        let edges = |text: &[u8]| {
            text.first().copied().is_some_and(alphanumeric)
                && text.last().copied().is_some_and(alphanumeric)
        };
        let label =
            |text: &[u8]| edges(text) && text.iter().all(|b| alphanumeric(*b) || *b == b'-');
        match self {
            Self::Label => bytes.len() <= 63 && label(bytes),
            Self::Subdomain => bytes.len() <= 253 && bytes.split(|b| *b == b'.').all(label),
            Self::Interface => {
                !bytes.is_empty()
                    && bytes
                        .iter()
                        .all(|b| b.is_ascii_alphanumeric() || b"-_".contains(b))
            }
            Self::Port => {
                bytes.len() <= 15
                    && label(bytes)
                    && bytes.iter().any(u8::is_ascii_lowercase)
                    && !name.contains("--")
            }
        }
    }
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Label => "at most 63 lower-case letters, digits and inner hyphens",
            Self::Subdomain => "at most 253 lower-case letters, digits, inner hyphens and dots",
            Self::Interface => "letters, digits, hyphens and underscores",
            Self::Port => "at most 15 lower-case letters, digits and single inner hyphens, a letter among them",
        })
    }
}

/// Whether an object, or its namespace, can be called so: a name that is part of a path has to.
pub fn is_object_name(name: &str) -> bool {
    Form::Subdomain.allows(name)
}

/// What is wrong with the name, if it does not have the form.
pub(super) fn wrong(form: Form, name: &str) -> Option<String> {
    (!form.allows(name)).then(|| format!("`{name}` is not a name that can stand here: use {form}"))
}

#[cfg(test)]
mod tests {
    use super::Form::{Interface, Label, Port, Subdomain};

    #[test]
    fn forms_tell_names_apart() {
        let long = "a".repeat(64);
        for (form, good, bad) in [
            (Label, ["a", "a-1", "1"], ["", "A", "-a"]),
            (Label, ["ab", "a1", "0"], ["a.b", "a_b", &long]),
            (Subdomain, ["a.b", "a", "1.2"], ["a..b", ".", "a.-b"]),
            (Interface, ["a_B", "-", "9"], ["", "a.b", "ä"]),
            (
                Port,
                ["http", "a-1", "x"],
                ["80", "a--b", "abcdefghijklmnop"],
            ),
        ] {
            assert!(
                good.iter().all(|name| form.allows(name)),
                "{form:?} {good:?}"
            );
            assert!(
                bad.iter().all(|name| !form.allows(name)),
                "{form:?} {bad:?}"
            );
        }
    }
}
