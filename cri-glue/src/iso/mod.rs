//! ISO 9660 file systems in memory: the disks that seeds and settings are in.
//!
//! Written as ECMA-119 has it, with Rock Ridge (IEEE P1282) for the names that Linux reads and Joliet
//! for those that Windows reads. The same tree always gives the same bytes. Nothing is ever read here.

mod names;
mod records;
mod tree;
mod volume;

pub(crate) use tree::Tree;

use names::Names;
use records::Hierarchy;

/// Bytes of a sector.
const SECTOR: usize = 2048;

/// The first sector that is not the system's.
const FIRST: usize = 16;

/// Descriptors of volumes: ISO's own, Joliet's, and the end.
const DESCRIPTORS: usize = 3;

/// The image of `tree` with this label: at most 32 printable ASCII characters, of which Joliet has 16.
pub(crate) fn image(tree: &Tree, label: &str) -> Vec<u8> {
    let mut hierarchies =
        [Names::RockRidge, Names::Joliet].map(|names| Hierarchy::new(tree, names));
    let mut next = FIRST + DESCRIPTORS;
    for hierarchy in &mut hierarchies {
        next = hierarchy.place(next);
    }
    let mut files = Vec::new();
    for content in tree.files() {
        files.push((next, content.len()));
        next += sectors(content.len());
    }
    let mut image = vec![0; next * SECTOR];
    let mut put = |sector: usize, bytes: &[u8]| {
        let begin = sector * SECTOR;
        image[begin..begin + bytes.len()].copy_from_slice(bytes);
    };
    for (index, hierarchy) in hierarchies.iter().enumerate() {
        put(FIRST + index, &volume::descriptor(hierarchy, label, next));
        for (sector, bytes) in hierarchy.written(&files) {
            put(sector, &bytes);
        }
    }
    put(FIRST + 2, &volume::end());
    for ((sector, _), content) in files.iter().zip(tree.files()) {
        put(*sector, content);
    }
    image
}

/// Sectors that so many bytes take.
fn sectors(bytes: usize) -> usize {
    bytes.div_ceil(SECTOR)
}

/// A number as ECMA-119, 7.3.3 has it: little-endian, then big-endian.
fn both32(number: usize) -> [u8; 8] {
    // Images of ours have some MiB.
    let number = u32::try_from(number).unwrap_or(u32::MAX);
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&number.to_le_bytes());
    bytes[4..].copy_from_slice(&number.to_be_bytes());
    bytes
}

/// The same in 16 bits (7.2.3).
fn both16(number: u16) -> [u8; 4] {
    let ([a, b], [c, d]) = (number.to_le_bytes(), number.to_be_bytes());
    [a, b, c, d]
}

#[cfg(test)]
pub(crate) mod tests;
