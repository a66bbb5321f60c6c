//! Images that QEMU's own tools judge too, and images made to deceive.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use proptest::prelude::*;
use tempfile::{NamedTempFile, TempDir, tempfile};

use super::*;

/// A file of these bytes.
fn file(bytes: &[u8]) -> File {
    let file = tempfile().unwrap();
    file.write_all_at(bytes, 0).unwrap();
    file
}

/// A file with an empty qcow2 image of 1 GiB, changed by `change`.
fn qcow2(change: impl FnOnce(&File)) -> File {
    let file = tempfile().unwrap();
    create_overlay(&file, 1 << 30).unwrap();
    change(&file);
    file
}

fn qemu_img(args: &[&str]) -> String {
    let output = Command::new("qemu-img")
        .args(args)
        .output()
        .expect("qemu-img is installed");
    assert!(
        output.status.success(),
        "qemu-img {args:?}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn an_empty_overlay_is_what_qemu_makes() {
    for size in [
        SECTOR,
        1 << 20,
        (10 << 30) + SECTOR,
        1 << 40,
        MAX_VIRTUAL_SIZE,
    ] {
        let file = NamedTempFile::new().unwrap();
        create_overlay(file.as_file(), size).unwrap();
        qemu_img(&["check", "-f", "qcow2", text(file.path())]);
        let info = qemu_img(&["info", "--output=json", text(file.path())]);
        let info: serde_json::Value = serde_json::from_str(&info).unwrap();
        assert_eq!(info["virtual-size"], size);
        assert_eq!(info["format"], "qcow2");
        assert_eq!(info.get("backing-filename"), None);
        assert_eq!(
            inspect(file.as_file()).unwrap(),
            ImageInfo {
                format: Format::Qcow2,
                virtual_size: size
            }
        );
    }
}

#[test]
fn what_qemu_makes_is_accepted() {
    let directory = TempDir::new().unwrap();
    let raw = directory.path().join("raw");
    let data: Vec<u8> = (0..3u32 << 20)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    std::fs::write(&raw, data).unwrap();
    for options in [
        "compat=0.10",
        "compat=1.1",
        "cluster_size=512",
        "cluster_size=2M",
        "extended_l2=on,cluster_size=16k",
        "lazy_refcounts=on",
        "preallocation=metadata",
        "refcount_bits=1",
        "refcount_bits=64",
        "compression_type=zstd",
    ] {
        for compress in [&[][..], &["-c"]] {
            let image = directory.path().join("image");
            let mut args = vec!["convert", "-f", "raw", "-O", "qcow2", "-o", options];
            // QEMU knows no compression in such images.
            if !options.contains("extended") && !options.contains("preallocation") {
                args.extend(compress);
            }
            args.extend([text(&raw), text(&image)]);
            qemu_img(&args);
            let info = inspect(File::open(&image).unwrap()).unwrap_or_else(|error| {
                panic!("{options} {compress:?}: {error}");
            });
            assert_eq!(
                info,
                ImageInfo {
                    format: Format::Qcow2,
                    virtual_size: 3 << 20
                }
            );
        }
    }
}

#[test]
fn a_download_that_stopped_is_told() {
    let directory = TempDir::new().unwrap();
    let (raw, image) = (directory.path().join("raw"), directory.path().join("image"));
    std::fs::write(&raw, vec![7; 3 << 20]).unwrap();
    qemu_img(&[
        "convert",
        "-f",
        "raw",
        "-O",
        "qcow2",
        text(&raw),
        text(&image),
    ]);
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(&image)
        .unwrap();
    let whole = file.metadata().unwrap().len();
    assert!(inspect(&file).is_ok());
    for length in [
        whole - (64 << 10),
        whole / 2,
        1 << 18,
        1 << 16,
        100,
        72,
        50,
        4,
    ] {
        file.set_len(length).unwrap();
        let error = inspect(&file).unwrap_err();
        assert!(
            matches!(error, ImageError::Truncated { .. }),
            "{length}: {error}"
        );
    }
}

#[test]
fn other_files_and_other_formats_are_refused_by_name() {
    let directory = TempDir::new().unwrap();
    let other = directory.path().join("other");
    qemu_img(&["create", "-q", "-f", "qcow2", text(&other), "1M"]);
    let image = directory.path().join("image");
    let refuse = |args: &[&str]| {
        let mut all = vec!["create", "-q", "-f", "qcow2"];
        all.extend(args);
        all.extend([text(&image), "1M"]);
        qemu_img(&all);
        inspect(File::open(&image).unwrap()).unwrap_err()
    };
    assert!(matches!(
        refuse(&["-b", text(&other), "-F", "qcow2"]),
        ImageError::BackingFile
    ));
    let data_file = format!("data_file={}/data", text(directory.path()));
    assert!(matches!(refuse(&["-o", &data_file]), ImageError::DataFile));
    // Not LUKS: for that qemu-img measures the processor first, and fails where it is busy.
    let secret = [
        "--object",
        "secret,id=s,data=x",
        "-o",
        "encrypt.format=aes,encrypt.key-secret=s",
    ];
    assert!(matches!(refuse(&secret), ImageError::Encrypted));
    qemu_img(&["create", "-q", "-f", "qcow2", text(&image), "1M"]);
    qemu_img(&["snapshot", "-c", "s", text(&image)]);
    assert!(matches!(
        inspect(File::open(&image).unwrap()),
        Err(ImageError::Burden { .. })
    ));
    qemu_img(&["create", "-q", "-f", "qcow2", text(&image), "1M"]);
    qemu_img(&["bitmap", "--add", text(&image), "b"]);
    assert!(matches!(
        inspect(File::open(&image).unwrap()),
        Err(ImageError::Burden { .. })
    ));
    for format in ["vmdk", "vhdx", "vdi"] {
        qemu_img(&["create", "-q", "-f", format, text(&image), "1M"]);
        let error = inspect(File::open(&image).unwrap()).unwrap_err();
        assert!(
            matches!(error, ImageError::ForeignFormat(_)),
            "{format}: {error}"
        );
    }
}

#[test]
fn headers_made_to_deceive_are_refused() {
    for (why, offset, bytes) in [
        ("version 1", 4, &[0, 0, 0, 1][..]),
        ("version 4", 4, &[0, 0, 0, 4]),
        ("backing file", 8, &[0, 0, 0, 0, 0, 0, 1, 0]),
        ("backing file far away", 8, &[0xff; 8]),
        ("clusters of 256 bytes", 20, &[0, 0, 0, 8]),
        ("clusters of 4 MiB", 20, &[0, 0, 0, 22]),
        ("clusters beyond all", 20, &[0xff; 4]),
        ("size 0", 24, &[0; 8]),
        ("size without end", 24, &[0xff; 8]),
        ("size with half a sector", 30, &[1, 1]),
        ("AES", 32, &[0, 0, 0, 1]),
        ("LUKS", 32, &[0, 0, 0, 2]),
        ("L1 table too small", 36, &[0, 0, 0, 1]),
        ("L1 table too large", 36, &[0xff; 4]),
        ("L1 table nowhere", 40, &[0; 8]),
        ("L1 table askew", 46, &[1, 0]),
        ("L1 table beyond the file", 40, &[0xff, 0, 0, 0, 0, 0, 0, 0]),
        ("reference counts nowhere", 48, &[0; 8]),
        (
            "reference counts beyond the file",
            48,
            &[0xff, 0, 0, 0, 0, 0, 0, 0],
        ),
        ("no reference counts", 56, &[0; 4]),
        ("too many reference counts", 56, &[0xff; 4]),
        ("snapshots", 60, &[0xff; 4]),
        ("corrupt", 79, &[2]),
        ("data file", 79, &[4]),
        ("unknown feature", 72, &[0x80]),
        ("unknown feature", 79, &[0x20]),
        ("reference counts of 128 bits", 96, &[0, 0, 0, 7]),
        ("short header", 100, &[0, 0, 0, 72]),
        ("header of uneven length", 100, &[0, 0, 0, 105]),
        ("endless header", 100, &[0xff; 4]),
        ("data file extension", 104, b"DATA\0\0\0\x04/etc"),
        (
            "endless extension",
            104,
            &[1, 2, 3, 4, 0xff, 0xff, 0xff, 0xff],
        ),
        (
            "L2 table beyond the file",
            3 << 16,
            &[0x80, 0, 0, 0xff, 0, 0, 0, 0],
        ),
    ] {
        let file = qcow2(|file| file.write_all_at(bytes, offset).unwrap());
        assert!(inspect(&file).is_err(), "{why}");
    }
    let dirty = qcow2(|file| file.write_all_at(&[1], 79).unwrap());
    assert!(inspect(&dirty).is_ok(), "a dirty image can be read");
}

#[test]
fn raw_disks_are_whole_sectors() {
    assert_eq!(
        inspect(file(&[0; 1024])).unwrap(),
        ImageInfo {
            format: Format::Raw,
            virtual_size: 1024
        }
    );
    assert!(matches!(inspect(file(b"")), Err(ImageError::Empty)));
    assert!(matches!(
        inspect(file(&[0; 513])),
        Err(ImageError::Unaligned { size: 513 })
    ));
    assert!(matches!(
        inspect(file(b"\x1f\x8b\x08")),
        Err(ImageError::ForeignFormat(_))
    ));
    assert!(matches!(
        inspect(File::open("/").unwrap()),
        Err(ImageError::Kind(_))
    ));
    assert!(matches!(
        inspect(File::open("/dev/zero").unwrap()),
        Err(ImageError::Kind(_))
    ));
}

#[test]
fn a_guest_cannot_turn_its_raw_disk_into_another_format() {
    let disk = qcow2(|_| {});
    assert_eq!(raw_size(&disk).unwrap(), disk.metadata().unwrap().len());
}

#[test]
fn new_disks_take_no_space_and_no_place() {
    use std::os::unix::fs::MetadataExt;
    let file = tempfile().unwrap();
    create_raw(&file, 1 << 40).unwrap();
    let metadata = file.metadata().unwrap();
    assert_eq!((metadata.len(), metadata.blocks()), (1 << 40, 0));
    assert!(matches!(
        create_raw(&file, 512),
        Err(ImageError::NotEmpty { .. })
    ));
    assert!(matches!(
        create_overlay(&file, 512),
        Err(ImageError::NotEmpty { .. })
    ));
    assert!(matches!(
        create_raw(&tempfile().unwrap(), 100),
        Err(ImageError::Unaligned { .. })
    ));
    assert!(matches!(
        create_overlay(&tempfile().unwrap(), 0),
        Err(ImageError::Empty)
    ));
}

/// Fields of the header that say what its tables are.
const CLUSTER_BITS: (u64, usize) = (20, 4);
const SIZE: (u64, usize) = (24, 8);
const L1: (u64, usize) = (36, 4);
const L1_OFFSET: (u64, usize) = (40, 8);
const REFCOUNT_OFFSET: (u64, usize) = (48, 8);
const REFCOUNTS: (u64, usize) = (56, 4);
const ORDER: (u64, usize) = (96, 4);

/// A file of 1 TiB, none of which takes space, with the header of a small image, changed by `fields`:
/// what it says can be large and still within the file.
fn sparse(fields: &[((u64, usize), u64)]) -> File {
    qcow2(|file| {
        file.set_len(1 << 40).unwrap();
        for ((offset, length), value) in fields {
            let value = value.to_be_bytes();
            file.write_all_at(&value[8 - length..], *offset).unwrap();
        }
    })
}

#[test]
fn tables_that_would_fill_memory_are_refused() {
    let far = 1 << 39;
    for (fields, good) in [
        (&[(L1, 2 << 20), (L1_OFFSET, far)][..], true),
        (&[(L1, (2 << 20) + 1), (L1_OFFSET, far)], false),
        (&[(L1, u64::from(u32::MAX)), (L1_OFFSET, far)], false),
        // 8 MiB in clusters of 64 KiB.
        (&[(REFCOUNTS, 128), (REFCOUNT_OFFSET, far)], true),
        (&[(REFCOUNTS, 129), (REFCOUNT_OFFSET, far)], false),
        (
            &[(REFCOUNTS, u64::from(u32::MAX)), (REFCOUNT_OFFSET, far)],
            false,
        ),
        // The same in clusters of 2 MiB, which the header's extensions then fill too.
        (
            &[
                (CLUSTER_BITS, 21),
                (L1_OFFSET, far),
                (REFCOUNTS, 4),
                (REFCOUNT_OFFSET, far),
            ],
            true,
        ),
        (
            &[
                (CLUSTER_BITS, 21),
                (L1_OFFSET, far),
                (REFCOUNTS, 5),
                (REFCOUNT_OFFSET, far),
            ],
            false,
        ),
        // 2^37 clusters of 512 bytes need more than an L1 table can hold.
        (
            &[
                (CLUSTER_BITS, 9),
                (SIZE, 64 << 40),
                (L1, u64::from(u32::MAX)),
            ],
            false,
        ),
        // At the end of what numbers can say.
        (&[(L1_OFFSET, u64::MAX << 16)], false),
        (&[(REFCOUNT_OFFSET, u64::MAX << 16)], false),
        (&[(L1_OFFSET, (1 << 40) - 8), (L1, 2)], false),
        (
            &[(ORDER, 6), (REFCOUNTS, 128), (REFCOUNT_OFFSET, far)],
            true,
        ),
    ] {
        let begun = std::time::Instant::now();
        let verdict = inspect(sparse(fields));
        assert_eq!(verdict.is_ok(), good, "{fields:?}: {verdict:?}");
        assert!(
            begun.elapsed() < std::time::Duration::from_secs(5),
            "{fields:?}"
        );
    }
}

#[test]
fn reference_counts_that_reach_beyond_all_numbers_are_refused() {
    // The last entry of the largest table names a block whose last count is set.
    let far: u64 = 1 << 39;
    let image = sparse(&[(REFCOUNTS, 128), (REFCOUNT_OFFSET, far), (ORDER, 0)]);
    image
        .write_all_at(&(2_u64 << 16).to_be_bytes(), far + (8 << 20) - 8)
        .unwrap();
    image.write_all_at(&[1], (3 << 16) - 1).unwrap();
    let error = inspect(&image).unwrap_err();
    assert!(matches!(error, ImageError::Truncated { .. }), "{error}");
}

/// Where the fields of the header stand.
const FIELDS: [(u64, usize); 14] = [
    (4, 4),
    (8, 8),
    (16, 4),
    (20, 4),
    (24, 8),
    (32, 4),
    (36, 4),
    (40, 8),
    (48, 8),
    (56, 4),
    (60, 4),
    (72, 8),
    (96, 4),
    (100, 4),
];

proptest! {
    #[test]
    fn no_bytes_cause_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..600), magic: bool) {
        let mut bytes = bytes;
        if magic && bytes.len() > 8 {
            bytes[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
        }
        let _ = inspect(file(&bytes));
    }

    #[test]
    fn nothing_with_another_file_is_accepted(
        fields in prop::collection::vec(
            (prop::sample::select(&FIELDS[..]), prop_oneof![any::<u64>(), 0u64..1 << 20]), 0..4
        ),
    ) {
        let image = qcow2(|file| for ((offset, length), value) in fields {
            file.write_all_at(&value.to_be_bytes()[8 - length..], offset).unwrap();
        });
        let mut header = [0; 104];
        image.read_exact_at(&mut header, 0).unwrap();
        if let Ok(info) = inspect(&image) {
            prop_assert_eq!(info.format, Format::Qcow2);
            prop_assert_eq!(&header[8..16], &[0; 8]);
            prop_assert_eq!(&header[32..36], &[0; 4]);
            if header[7] == 3 {
                prop_assert_eq!(header[79] & !1 & !8 & !16, 0);
            }
            prop_assert!(info.virtual_size <= MAX_VIRTUAL_SIZE);
        }
    }

    #[test]
    fn the_tables_of_what_is_accepted_are_bounded_and_within_the_file(
        fields in prop::collection::vec(
            (
                prop::sample::select(
                    &[CLUSTER_BITS, SIZE, L1, L1_OFFSET, REFCOUNT_OFFSET, REFCOUNTS, ORDER][..]
                ),
                prop_oneof![
                    2 => (0..48_u32).prop_map(|bits| 1 << bits),
                    1 => (0..1_u64 << 24).prop_map(|clusters| clusters << 16),
                    1 => 0..1000_u64,
                ],
            ),
            0..4,
        ),
    ) {
        let image = sparse(&fields);
        let mut header = [0; 104];
        image.read_exact_at(&mut header, 0).unwrap();
        let number = |at: usize, length: usize| {
            header[at..at + length].iter().fold(0_u128, |sum, byte| sum << 8 | u128::from(*byte))
        };
        if let Ok(info) = inspect(&image) {
            let cluster = 1_u128 << number(20, 4);
            prop_assert!((512..=2 << 20).contains(&cluster));
            let (l1, refcounts) = (number(36, 4) * 8, number(56, 4) * cluster);
            prop_assert!(l1 <= 16 << 20 && refcounts <= 8 << 20);
            for end in [number(40, 8) + l1, number(48, 8) + refcounts] {
                prop_assert!(end <= 1 << 40);
            }
            prop_assert!(u128::from(info.virtual_size) <= l1 / 8 * cluster * (cluster / 8));
        }
    }
}
