//! Descriptors of the volume (ECMA-119, 8).

use super::names::{Names, ucs2};
use super::records::Hierarchy;
use super::{SECTOR, both16, both32};

/// Joliet's level 3: any character of UCS-2.
const JOLIET_LEVEL: &[u8] = b"%/E";

/// Texts that say nothing: bytes, and how many.
const TEXTS: [(usize, usize); 8] = [
    (8, 32),
    (190, 128),
    (318, 128),
    (446, 128),
    (574, 128),
    (702, 37),
    (739, 37),
    (776, 37),
];

/// The descriptor of a hierarchy of an image with so many sectors.
pub(super) fn descriptor(hierarchy: &Hierarchy<'_>, label: &str, sectors: usize) -> Vec<u8> {
    let joliet = hierarchy.names == Names::Joliet;
    let mut bytes = begin(if joliet { 2 } else { 1 });
    let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
    let text = |text: &str, size: usize| {
        let (mut text, blank) = if joliet {
            (ucs2(text), &[0, b' '][..])
        } else {
            (text.as_bytes().to_vec(), &b" "[..])
        };
        text.truncate(size);
        let rest = blank.iter().copied().cycle().take(size - text.len());
        text.extend(rest);
        text
    };
    for (at, size) in TEXTS {
        put(at, &text("", size));
    }
    put(40, &text(label, 32));
    put(80, &both32(sectors));
    if joliet {
        put(88, JOLIET_LEVEL);
    }
    put(120, &both16(1));
    put(124, &both16(1));
    put(128, &both16(2048));
    let ([little, big], size) = hierarchy.tables();
    let number = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    put(132, &both32(size));
    put(140, &number(little).to_le_bytes());
    put(148, &number(big).to_be_bytes());
    put(156, &hierarchy.root());
    // Four times that are not told.
    for at in [813, 830, 847, 864] {
        put(at, b"0000000000000000\0");
    }
    put(881, &[1]);
    bytes
}

/// The descriptor after the last.
pub(super) fn end() -> Vec<u8> {
    begin(255)
}

fn begin(kind: u8) -> Vec<u8> {
    let mut bytes = vec![0; SECTOR];
    bytes[0] = kind;
    bytes[1..7].copy_from_slice(b"CD001\x01");
    bytes
}
