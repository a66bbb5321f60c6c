//! What files are called in each of the two hierarchies.

use std::collections::BTreeSet;

/// UCS-2 characters of a name in Joliet at most.
const JOLIET_CHARACTERS: usize = 64;

/// One of the hierarchies of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Names {
    /// ISO's own, of level 1: a number for each name, with the name as Rock Ridge has it beside.
    RockRidge,
    /// Joliet's: UCS-2.
    Joliet,
}

impl Names {
    /// Identifiers of the entries of one directory, in the order of the entries: `(name, is a file)`.
    pub(super) fn identifiers(self, entries: &[(&str, bool)]) -> Vec<Vec<u8>> {
        let mut taken = BTreeSet::new();
        let entries = entries.iter().enumerate();
        let one = |(index, (name, is_file)): (usize, &(&str, bool))| match (self, is_file) {
            (Self::RockRidge, true) => format!("{index:08}.;1").into_bytes(),
            (Self::RockRidge, false) => format!("{index:08}").into_bytes(),
            (Self::Joliet, is_file) => {
                let version = if *is_file { ";1" } else { "" };
                let name = unique(name, &mut taken);
                ucs2(&(name + version))
            }
        };
        entries.map(one).collect()
    }
}

/// The name as Joliet can have it, and as no other in its directory is.
fn unique(name: &str, taken: &mut BTreeSet<String>) -> String {
    let allowed = |c: char| match c {
        '*' | '/' | ':' | ';' | '?' | '\\' => '_',
        c if c.is_control() || c > '\u{ffff}' => '_',
        c => c,
    };
    let plain: Vec<char> = name.chars().map(allowed).collect();
    let mut number = 0_usize;
    loop {
        let tail = match number {
            0 => String::new(),
            number => format!("~{number}"),
        };
        let kept = plain.iter().take(JOLIET_CHARACTERS - tail.len());
        let candidate = kept.collect::<String>() + &tail;
        if taken.insert(candidate.clone()) {
            return candidate;
        }
        number += 1;
    }
}

/// Text in UCS-2, big-endian.
pub(super) fn ucs2(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_be_bytes).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn joliets_names_are_short_and_apart() {
        let mut taken = BTreeSet::new();
        let long = "x".repeat(100);
        assert_eq!(unique("a:b", &mut taken), "a_b");
        assert_eq!(unique("a;b", &mut taken), "a_b~1");
        assert_eq!(unique("a?b", &mut taken), "a_b~2");
        assert_eq!(unique(&long, &mut taken), "x".repeat(64));
        assert_eq!(unique(&long, &mut taken), "x".repeat(62) + "~1");
        assert_eq!(unique("🦀", &mut taken), "_");
    }
}
