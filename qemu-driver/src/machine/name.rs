//! Words that go into QEMU's arguments: short, of a fixed alphabet, so that no comma, quote or
//! `=` can ever turn a name into an option.

use std::fmt;

use super::MachineError;

/// The name of a machine, a disk or a network interface: 1 to 63 characters of
/// `[A-Za-z0-9._-]`, beginning with a letter or digit (what Kubernetes calls a DNS label fits).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(String);

impl Name {
    /// The most characters a name has.
    pub const MAX: usize = 63;

    /// Checks `name`; `of` says what is being named, for the error ("disk", "machine").
    pub fn new(of: &'static str, name: impl Into<String>) -> Result<Self, MachineError> {
        let name = name.into();
        let first = name
            .bytes()
            .next()
            .is_some_and(|b| b.is_ascii_alphanumeric());
        if first && name.len() <= Self::MAX && name.bytes().all(is_word_byte) {
            Ok(Self(name))
        } else {
            Err(MachineError::Name { of, name })
        }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether `b` is of the alphabet that every word of ours keeps to.
pub(super) fn is_word_byte(b: u8) -> bool {
    b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-')
}

/// QEMU's name of the block node of the disk `name`: `disk-<name>`.
///
/// QEMU keeps 31 characters of a node's name and refuses more; a longer one is cut and ends in its
/// own hash (FNV-1a), so that it stays the same for the life of the machine.
pub(crate) fn disk_node(name: &Name) -> String {
    const MOST: usize = 31;
    let node = format!("disk-{name}");
    if node.len() <= MOST {
        return node;
    }
    let hash = name.as_str().bytes().fold(0x811c_9dc5_u32, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    });
    format!("{}.{hash:08x}", &node[..MOST - 9])
}

/// QEMU's machine type: `q35`, or a versioned one such as `pc-q35-7.2`.
///
/// The alias `q35` means "the newest this QEMU knows"; what it stood for is told by
/// [`Qmp::machine_type`](crate::Qmp::machine_type) once QEMU runs, and must be recorded by whoever
/// wants to restore or migrate the machine, since device state is only compatible within one
/// version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MachineType(String);

impl MachineType {
    /// Checks `machine_type`: `q35` or `pc-q35-MAJOR.MINOR[.PATCH]`. Distributions' own names
    /// (`pc-q35-rhel9.4.0`, `pc-q35-noble`) fit too. Whether this QEMU knows it, QEMU says.
    pub fn new(machine_type: impl Into<String>) -> Result<Self, MachineError> {
        let machine_type = machine_type.into();
        let versioned = machine_type.strip_prefix("pc-q35-").is_some_and(|version| {
            (1..=32).contains(&version.len()) && version.bytes().all(is_word_byte)
        });
        if machine_type == "q35" || versioned {
            Ok(Self(machine_type))
        } else {
            Err(MachineError::MachineType(machine_type))
        }
    }

    /// The type as QEMU's `-machine` takes it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for MachineType {
    fn default() -> Self {
        Self("q35".into())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_keep_to_the_alphabet() {
        for good in ["a", "0", "root-disk", "A.b_c-9", &"x".repeat(63)] {
            assert!(Name::new("disk", good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "-a",
            ".a",
            "a,b",
            "a=b",
            "a b",
            "a/b",
            "ä",
            "a\n",
            &"x".repeat(64),
        ] {
            assert!(Name::new("disk", bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn nodes_have_short_names() {
        let node = |name: &str| disk_node(&Name::new("disk", name).unwrap());
        assert_eq!(node("root"), "disk-root");
        assert_eq!(node(&"x".repeat(26)), format!("disk-{}", "x".repeat(26)));
        let (a, b) = (node(&"x".repeat(27)), node(&"x".repeat(28)));
        assert_eq!((a.len(), b.len()), (31, 31));
        assert_ne!(a, b);
    }

    #[test]
    fn machine_types_are_of_the_q35_family() {
        for good in ["q35", "pc-q35-7.2", "pc-q35-10.0", "pc-q35-rhel9.4.0"] {
            assert!(MachineType::new(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "pc",
            "microvm",
            "pc-q35-",
            "pc-q35-7.2,usb=on",
            "Q35",
            "pc-i440fx-7.2",
        ] {
            assert!(MachineType::new(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_is_no_name_is_refused_on_one_line(text in "\\PC*|[a-z]{1,8}[,=:/\0\n '\"][a-z]{0,8}") {
            let alphabet = text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
            match Name::new("disk", text.clone()) {
                Ok(name) => {
                    prop_assert!(alphabet && text.len() <= 63);
                    prop_assert!(disk_node(&name).len() <= 31);
                }
                Err(error) => prop_assert!(!error.to_string().contains(char::is_control)),
            }
            for machine_type in [text.clone(), format!("pc-q35-{text}")] {
                if MachineType::new(machine_type).is_ok() {
                    prop_assert!(alphabet);
                }
            }
        }

        #[test]
        fn names_that_begin_alike_have_nodes_of_their_own(a in "[a-z]{1,39}", b in "[a-z]{1,39}") {
            let node = |name: &str| {
                disk_node(&Name::new("disk", format!("{}{name}", "x".repeat(24))).unwrap())
            };
            prop_assert_eq!(node(&a) == node(&b), a == b);
        }
    }
}
