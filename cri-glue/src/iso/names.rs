//! What files are called in each of the two hierarchies.

use std::collections::{BTreeMap, BTreeSet};

/// UCS-2 characters of a name in Joliet at most.
const JOLIET_CHARACTERS: usize = 64;

/// Characters of a name that no number at its end takes the place of.
const ALIKE: usize = 56;

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
        let mut taken = Taken::default();
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

/// What is taken in a directory.
#[derive(Default)]
struct Taken {
    names: BTreeSet<String>,
    /// The number to try next, by the characters that a name keeps with any number.
    next: BTreeMap<String, usize>,
}

/// The name as Joliet can have it, and as no other in its directory is.
fn unique(name: &str, taken: &mut Taken) -> String {
    let allowed = |c: char| match c {
        '*' | '/' | ':' | ';' | '?' | '\\' => '_',
        c if c.is_control() || c > '\u{ffff}' => '_',
        c => c,
    };
    let plain: Vec<char> = name.chars().map(allowed).collect();
    let kept = |count: usize| plain.iter().take(count).collect::<String>();
    let plain_name = kept(JOLIET_CHARACTERS);
    if taken.names.insert(plain_name.clone()) {
        return plain_name;
    }
    let number = taken.next.entry(kept(ALIKE)).or_insert(1);
    loop {
        let tail = format!("~{number}");
        *number += 1;
        let candidate = kept(JOLIET_CHARACTERS - tail.len()) + &tail;
        if taken.names.insert(candidate.clone()) {
            return candidate;
        }
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
        let mut taken = Taken::default();
        let long = "x".repeat(100);
        assert_eq!(unique("a:b", &mut taken), "a_b");
        assert_eq!(unique("a;b", &mut taken), "a_b~1");
        assert_eq!(unique("a?b", &mut taken), "a_b~2");
        assert_eq!(unique(&long, &mut taken), "x".repeat(64));
        assert_eq!(unique(&long, &mut taken), "x".repeat(62) + "~1");
        assert_eq!(unique("🦀", &mut taken), "_");
        assert_eq!(unique("a_b~1", &mut taken), "a_b~1~1");
        assert_eq!(unique("a*b", &mut taken), "a_b~3");
        assert_eq!(unique("c~1", &mut taken), "c~1");
        assert_eq!(unique("c", &mut taken), "c");
        assert_eq!(unique("c", &mut taken), "c~2");
    }

    /// Comparing each with each would take minutes.
    #[test]
    fn many_names_alike_are_soon_apart() {
        let begin = std::time::Instant::now();
        let mut taken = Taken::default();
        let long = "x".repeat(JOLIET_CHARACTERS);
        for number in 0..40_000 {
            unique(&format!("{long}{number}"), &mut taken);
        }
        assert_eq!(unique(&long, &mut taken), "x".repeat(58) + "~40000");
        // Apart by their last characters, which numbers take the place of.
        let one = |number: u32| char::from_u32(0x4e00 + number).unwrap();
        for number in 0..20_000 {
            for last in [':', ';'] {
                unique(
                    &format!("{}{}{last}", "y".repeat(62), one(number)),
                    &mut taken,
                );
            }
        }
        assert!(begin.elapsed().as_secs() < 20, "{:?}", begin.elapsed());
    }
}
