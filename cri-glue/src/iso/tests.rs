//! Images read back, as a reader of each hierarchy would.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// The label and the files by path, by the names of Rock Ridge.
pub(crate) fn read(image: &[u8]) -> (String, BTreeMap<String, Vec<u8>>) {
    let label = String::from_utf8(image[descriptor(0)..][40..72].to_vec()).unwrap();
    (label.trim_end().to_owned(), Reader::of(image, 0).files())
}

/// The same by the names of Joliet.
fn read_joliet(image: &[u8]) -> (String, BTreeMap<String, Vec<u8>>) {
    let label = of_ucs2(&image[descriptor(1)..][40..72]);
    (label.trim_end().to_owned(), Reader::of(image, 1).files())
}

fn descriptor(index: usize) -> usize {
    (FIRST + index) * SECTOR
}

fn of_ucs2(bytes: &[u8]) -> String {
    let units: Vec<_> = bytes
        .chunks(2)
        .map(|pair| u16::from_be_bytes([pair[0], pair[1]]))
        .collect();
    String::from_utf16(&units).unwrap()
}

fn number(bytes: &[u8]) -> usize {
    let little = u32::from_le_bytes(bytes[..4].try_into().unwrap());
    assert_eq!(little, u32::from_be_bytes(bytes[4..8].try_into().unwrap()));
    little as usize
}

struct Reader<'a> {
    image: &'a [u8],
    joliet: bool,
    found: BTreeMap<String, Vec<u8>>,
}

impl<'a> Reader<'a> {
    fn of(image: &'a [u8], index: usize) -> Self {
        let begin = descriptor(index);
        let descriptor = &image[begin..begin + SECTOR];
        assert_eq!(&descriptor[1..6], b"CD001");
        assert_eq!(number(&descriptor[80..]) * SECTOR, image.len());
        let mut this = Self {
            image,
            joliet: index == 1,
            found: BTreeMap::new(),
        };
        assert_eq!(&descriptor[88..91] == b"%/E", this.joliet);
        let root = &descriptor[156..190];
        this.directory("", number(&root[2..]), number(&root[10..]));
        this.check_table(descriptor);
        this
    }

    fn files(self) -> BTreeMap<String, Vec<u8>> {
        self.found
    }

    fn directory(&mut self, path: &str, sector: usize, bytes: usize) {
        assert_eq!(bytes % SECTOR, 0);
        let mut before: Option<Vec<u8>> = None;
        for records in self.image[sector * SECTOR..][..bytes].chunks(SECTOR) {
            let mut at = 0;
            while at < SECTOR && records[at] > 0 {
                let record = &records[at..at + records[at] as usize];
                at += record.len();
                let identifier = record[33..33 + record[32] as usize].to_vec();
                if matches!(identifier.as_slice(), [0] | [1]) {
                    continue;
                }
                assert!(before.as_ref().is_none_or(|before| *before < identifier));
                let name = self.name(&identifier, record);
                let path = format!("{path}/{name}");
                let (at, size) = (number(&record[2..]), number(&record[10..]));
                if record[25] & 2 == 2 {
                    self.directory(&path, at, size);
                } else {
                    let content = self.image[at * SECTOR..][..size].to_vec();
                    assert!(self.found.insert(path, content).is_none());
                }
                before = Some(identifier);
            }
        }
    }

    fn name(&self, identifier: &[u8], record: &[u8]) -> String {
        if self.joliet {
            let name = of_ucs2(identifier);
            return name.strip_suffix(";1").unwrap_or(&name).to_owned();
        }
        let begin = 33 + identifier.len() + (identifier.len() + 1) % 2;
        let mut name = Vec::new();
        self.fields(&record[begin..], &mut name);
        String::from_utf8(name).unwrap()
    }

    fn fields(&self, mut fields: &[u8], name: &mut Vec<u8>) {
        while fields.len() >= 4 {
            let field = &fields[..fields[2] as usize];
            match &field[..2] {
                b"NM" => name.extend(&field[5..]),
                b"CE" => {
                    let (sector, at) = (number(&field[4..]), number(&field[12..]));
                    let rest = &self.image[sector * SECTOR + at..][..number(&field[20..])];
                    assert!(at + rest.len() <= SECTOR);
                    self.fields(rest, name);
                }
                _ => {}
            }
            fields = &fields[field.len()..];
        }
    }

    /// Every directory is in both path tables, at its place and below its parent.
    fn check_table(&self, descriptor: &[u8]) {
        let size = number(&descriptor[132..]);
        let begin = |bytes: [u8; 4], little| {
            let number = if little {
                u32::from_le_bytes(bytes)
            } else {
                u32::from_be_bytes(bytes)
            };
            number as usize * SECTOR
        };
        let little = begin(descriptor[140..144].try_into().unwrap(), true);
        let big = begin(descriptor[148..152].try_into().unwrap(), false);
        let (little, big) = (&self.image[little..][..size], &self.image[big..][..size]);
        let (mut at, mut count) = (0, 0_u16);
        while at < size {
            let length = little[at] as usize;
            let extent = |table: &[u8]| -> [u8; 4] { table[at + 2..at + 6].try_into().unwrap() };
            let sector = u32::from_le_bytes(extent(little));
            assert_eq!(sector, u32::from_be_bytes(extent(big)));
            let parent = u16::from_le_bytes(little[at + 6..at + 8].try_into().unwrap());
            count += 1;
            assert!(parent >= 1 && parent <= count);
            // The first record of a directory is its own.
            let own = &self.image[sector as usize * SECTOR..];
            assert_eq!(number(&own[2..]), sector as usize);
            at += 8 + length + length % 2;
        }
    }
}

fn tree(files: &[(&str, &[u8])]) -> Tree {
    let mut tree = Tree::default();
    for (path, content) in files {
        tree.add(path, content.to_vec());
    }
    tree
}

#[test]
fn files_are_read_back_by_either_name() {
    let large = vec![7; 5000];
    let files: [(&str, &[u8]); 5] = [
        ("meta-data", b"{}"),
        ("openstack/latest/user_data", b"#cloud-config\n"),
        ("openstack/latest/meta_data.json", &large),
        ("empty", b""),
        ("a, b: c", b"odd"),
    ];
    let image = image(&tree(&files), "config-2");
    let (label, found) = read(&image);
    assert_eq!(label, "config-2");
    let expected = files.map(|(path, content)| (format!("/{path}"), content.to_vec()));
    assert_eq!(found, BTreeMap::from(expected));
    let (label, found) = read_joliet(&image);
    assert_eq!(label, "config-2");
    assert_eq!(found["/a, b_ c"], b"odd");
    assert_eq!(found["/openstack/latest/meta_data.json"], large);
    assert_eq!(found.len(), 5);
}

#[test]
fn an_image_without_files_is_one() {
    let image = image(&Tree::default(), "");
    assert!(read(&image).1.is_empty() && read_joliet(&image).1.is_empty());
    assert_eq!(image.len() % SECTOR, 0);
}

#[test]
fn a_label_is_cut_for_joliet_alone() {
    let label = "a label of thirty-two characters";
    let image = image(&tree(&[("a", b"b")]), label);
    assert_eq!(read(&image).0, label);
    assert_eq!(read_joliet(&image).0, "a label of thirt");
}

#[test]
fn a_file_in_place_of_a_directory_is_replaced() {
    let tree = tree(&[("a", b"1"), ("a/b", b"2")]);
    assert_eq!(tree.names().collect::<Vec<_>>(), ["a"]);
    let found = read(&image(&tree, "x")).1;
    assert_eq!(found, BTreeMap::from([("/a/b".to_owned(), b"2".to_vec())]));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_files_are_called_they_are_read_back(
        names in prop::collection::btree_map(
            ("[abc]{0,2}", "[^/\0]{1,60}|[a-z]{1,255}"), prop::collection::vec(any::<u8>(), 0..3000), 0..120
        ),
    ) {
        let mut tree = Tree::default();
        let mut expected = BTreeMap::new();
        for ((directory, name), content) in names {
            // What is a directory is not a file as well.
            let path = match directory.as_str() {
                "" => format!("file-{}", name.chars().take(50).collect::<String>()),
                directory => format!("{directory}/{name}"),
            };
            tree.add(&path, content.clone());
            expected.insert(format!("/{path}"), content);
        }
        let image = image(&tree, "cfgdata");
        prop_assert_eq!(read(&image).1, expected.clone());
        prop_assert_eq!(read_joliet(&image).1.len(), expected.len());
    }
}
