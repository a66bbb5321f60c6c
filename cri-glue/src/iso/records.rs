//! Directories of one hierarchy as sectors: records, system use fields, path tables.

use super::names::Names;
use super::tree::{Directory, Entry, Tree};
use super::{SECTOR, both16, both32, sectors};

/// Bytes of a record without identifier and system use fields.
const RECORD: usize = 33;

/// Bytes of a name beside its record at most; the rest of it is in another sector. With `PX` (36), `NM`
/// (5), `CE` (28) and an identifier of 12 the record stays below 255.
const INLINE_NAME: usize = 120;

/// Bit of a record's flags: it is a directory (ECMA-119, 9.1.6).
const IS_DIRECTORY: u8 = 2;

/// Rock Ridge's modes: everybody may read, nobody writes.
const FILE_MODE: usize = 0o100_444;
const DIRECTORY_MODE: usize = 0o40_555;

/// A hierarchy: its directories from the root downwards, level by level, each level in the order of the
/// one above and then of the identifiers.
pub(super) struct Hierarchy<'a> {
    pub(super) names: Names,
    directories: Vec<Flat<'a>>,
    /// Where its path tables are: with little-endian numbers, and with big-endian ones.
    tables: [usize; 2],
    /// Where the rests of long names are.
    rests: usize,
}

struct Flat<'a> {
    identifier: Vec<u8>,
    parent: usize,
    entries: Vec<FlatEntry<'a>>,
    sector: usize,
    bytes: usize,
}

struct FlatEntry<'a> {
    identifier: Vec<u8>,
    name: &'a str,
    target: Target,
}

#[derive(Clone, Copy)]
enum Target {
    File(usize),
    Directory(usize),
}

impl<'a> Hierarchy<'a> {
    pub(super) fn new(tree: &'a Tree, names: Names) -> Self {
        let mut this = Self {
            names,
            directories: vec![Flat::new(vec![0], 0)],
            tables: [0; 2],
            rests: 0,
        };
        let mut queue = vec![&tree.root];
        let mut done = 0;
        while let Some(directory) = queue.get(done).copied() {
            let below = this.add_entries(done, directory);
            queue.extend(below);
            done += 1;
        }
        this
    }

    /// Adds the entries of the directory `index`; the directories among them, in their order.
    fn add_entries(&mut self, index: usize, directory: &'a Directory) -> Vec<&'a Directory> {
        let named: Vec<_> = directory
            .0
            .iter()
            .map(|(name, entry)| (name.as_str(), matches!(entry, Entry::File(_))))
            .collect();
        let identifiers = self.names.identifiers(&named);
        let mut entries: Vec<_> = identifiers.into_iter().zip(&directory.0).collect();
        entries.sort_by(|(a, _), (b, _)| a.cmp(b));
        let mut below = Vec::new();
        for (identifier, (name, entry)) in entries {
            let target = match entry {
                Entry::File(file) => Target::File(*file),
                Entry::Directory(directory) => {
                    below.push(directory);
                    self.directories.push(Flat::new(identifier.clone(), index));
                    Target::Directory(self.directories.len() - 1)
                }
            };
            self.directories[index].entries.push(FlatEntry {
                identifier,
                name,
                target,
            });
        }
        below
    }

    /// Places everything from the sector `next` on; the sector after it.
    pub(super) fn place(&mut self, mut next: usize) -> usize {
        let table = sectors(self.table(u32::to_le_bytes, u16::to_le_bytes).len());
        self.tables = [next, next + table];
        next += 2 * table;
        let mut rests = Rests::new(0);
        for index in 0..self.directories.len() {
            let bytes = self.directory(index, &[], &mut rests).len();
            let directory = &mut self.directories[index];
            (directory.sector, directory.bytes) = (next, bytes);
            next += sectors(bytes);
        }
        self.rests = next;
        next + sectors(rests.bytes.len())
    }

    /// Sectors with what is in them; `files` are the places and sizes of the files.
    pub(super) fn written(&self, files: &[(usize, usize)]) -> Vec<(usize, Vec<u8>)> {
        let little = self.table(u32::to_le_bytes, u16::to_le_bytes);
        let big = self.table(u32::to_be_bytes, u16::to_be_bytes);
        let mut written = vec![(self.tables[0], little), (self.tables[1], big)];
        let mut rests = Rests::new(self.rests);
        for (index, directory) in self.directories.iter().enumerate() {
            let bytes = self.directory(index, files, &mut rests);
            written.push((directory.sector, bytes));
        }
        written.push((self.rests, rests.bytes));
        written
    }

    /// Where the path tables are, and how many bytes each has.
    pub(super) fn tables(&self) -> ([usize; 2], usize) {
        let bytes = self.table(u32::to_le_bytes, u16::to_le_bytes).len();
        (self.tables, bytes)
    }

    /// The record of the root.
    pub(super) fn root(&self) -> Vec<u8> {
        let root = &self.directories[0];
        record(&[0], (root.sector, root.bytes), IS_DIRECTORY, &[])
    }

    /// A path table (ECMA-119, 9.4).
    fn table(&self, long: fn(u32) -> [u8; 4], short: fn(u16) -> [u8; 2]) -> Vec<u8> {
        let mut table = Vec::new();
        for directory in &self.directories {
            let length = directory.identifier.len();
            table.extend([u8::try_from(length).unwrap_or(u8::MAX), 0]);
            table.extend(long(u32::try_from(directory.sector).unwrap_or(u32::MAX)));
            let parent = u16::try_from(directory.parent + 1).unwrap_or(u16::MAX);
            table.extend(short(parent));
            table.extend(&directory.identifier);
            table.extend(std::iter::repeat_n(0, length % 2));
        }
        table
    }

    /// The records of a directory: no record is in two sectors.
    fn directory(&self, index: usize, files: &[(usize, usize)], rests: &mut Rests) -> Vec<u8> {
        let own = &self.directories[index];
        let above = &self.directories[own.parent];
        let place = |directory: &Flat<'_>| (directory.sector, directory.bytes);
        let mut itself = self.attributes(DIRECTORY_MODE);
        if self.names == Names::RockRidge && index == 0 {
            // The first field of all says that there are such fields, another which they are.
            let mut fields = b"SP\x07\x01\xbe\xef\0".to_vec();
            fields.append(&mut itself);
            fields.extend(b"ER\x12\x01\x0a\0\0\x01RRIP_1991A");
            itself = fields;
        }
        let parents = self.attributes(DIRECTORY_MODE);
        let mut records = vec![
            record(&[0], place(own), IS_DIRECTORY, &itself),
            record(&[1], place(above), IS_DIRECTORY, &parents),
        ];
        for entry in &own.entries {
            let (at, flags, mode) = match entry.target {
                Target::File(file) => (files.get(file).copied(), 0, FILE_MODE),
                Target::Directory(below) => {
                    let below = place(&self.directories[below]);
                    (Some(below), IS_DIRECTORY, DIRECTORY_MODE)
                }
            };
            let mut fields = self.attributes(mode);
            if self.names == Names::RockRidge {
                fields.extend(name(entry.name.as_bytes(), rests));
            }
            let at = at.unwrap_or_default();
            records.push(record(&entry.identifier, at, flags, &fields));
        }
        let mut bytes = Vec::new();
        for record in records {
            let room = SECTOR - bytes.len() % SECTOR;
            if record.len() > room {
                bytes.extend(std::iter::repeat_n(0, room));
            }
            bytes.extend(record);
        }
        bytes.resize(sectors(bytes.len()) * SECTOR, 0);
        bytes
    }

    /// Rock Ridge's `PX`: mode, links, owner and group.
    fn attributes(&self, mode: usize) -> Vec<u8> {
        if self.names == Names::Joliet {
            return Vec::new();
        }
        let mut field = b"PX\x24\x01".to_vec();
        for number in [mode, 1, 0, 0] {
            field.extend(both32(number));
        }
        field
    }
}

impl Flat<'_> {
    fn new(identifier: Vec<u8>, parent: usize) -> Self {
        Self {
            identifier,
            parent,
            entries: Vec::new(),
            sector: 0,
            bytes: 0,
        }
    }
}

/// What does not fit into records, from the sector `first` on.
struct Rests {
    first: usize,
    bytes: Vec<u8>,
}

impl Rests {
    fn new(first: usize) -> Self {
        Self {
            first,
            bytes: Vec::new(),
        }
    }

    /// Takes `rest`, which is in one sector; `CE`, which says where.
    fn take(&mut self, rest: &[u8]) -> Vec<u8> {
        let room = SECTOR - self.bytes.len() % SECTOR;
        if rest.len() > room {
            self.bytes.extend(std::iter::repeat_n(0, room));
        }
        let mut field = b"CE\x1c\x01".to_vec();
        field.extend(both32(self.first + self.bytes.len() / SECTOR));
        field.extend(both32(self.bytes.len() % SECTOR));
        field.extend(both32(rest.len()));
        self.bytes.extend(rest);
        field
    }
}

/// Rock Ridge's `NM`, in two parts where it is long.
fn name(name: &[u8], rests: &mut Rests) -> Vec<u8> {
    let field = |part: &[u8], goes_on: bool| {
        let length = u8::try_from(part.len() + 5).unwrap_or(u8::MAX);
        let mut field = vec![b'N', b'M', length, 1, u8::from(goes_on)];
        field.extend(part);
        field
    };
    match name.split_at_checked(INLINE_NAME) {
        Some((begin, rest)) if !rest.is_empty() => {
            let mut fields = field(begin, true);
            fields.extend(rests.take(&field(rest, false)));
            fields
        }
        _ => field(name, false),
    }
}

/// A record (ECMA-119, 9.1) of what is at a sector and has so many bytes.
fn record(identifier: &[u8], (sector, bytes): (usize, usize), flags: u8, fields: &[u8]) -> Vec<u8> {
    let padded = identifier.len() + (identifier.len() + 1) % 2;
    let length = RECORD + padded + fields.len();
    let length = length + length % 2;
    let mut record = Vec::with_capacity(length);
    record.extend([u8::try_from(length).unwrap_or(u8::MAX), 0]);
    record.extend(both32(sector));
    record.extend(both32(bytes));
    // When it was made is nobody's concern: 1 January 1970.
    record.extend([70, 1, 1, 0, 0, 0, 0]);
    record.extend([flags, 0, 0]);
    record.extend(both16(1));
    record.push(u8::try_from(identifier.len()).unwrap_or(u8::MAX));
    record.extend(identifier);
    record.resize(RECORD + padded, 0);
    record.extend(fields);
    record.resize(length, 0);
    record
}
