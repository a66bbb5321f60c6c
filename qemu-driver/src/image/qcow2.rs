//! The header of a qcow2 image: what is refused, and how an empty one is made.
//!
//! Source of the layout and its limits: QEMU, `docs/interop/qcow2.txt`.

use super::tables::{self, Tables};
use super::{ImageError, MAX_VIRTUAL_SIZE, SECTOR, read::Source};

/// The first bytes of every qcow2 image.
pub(super) const MAGIC: [u8; 4] = *b"QFI\xfb";

/// Bytes of a version 2 header, and of the least version 3 header.
const HEADER_2: usize = 72;
const HEADER_3: usize = 104;

/// Incompatible features: a reader that does not know one must refuse the image.
mod incompatible {
    /// Reference counts may be behind. Reading does not use them.
    pub(super) const DIRTY: u64 = 1 << 0;
    pub(super) const CORRUPT: u64 = 1 << 1;
    pub(super) const DATA_FILE: u64 = 1 << 2;
    pub(super) const COMPRESSION: u64 = 1 << 3;
    pub(super) const EXTENDED_L2: u64 = 1 << 4;
    pub(super) const KNOWN: u64 = DIRTY | CORRUPT | DATA_FILE | COMPRESSION | EXTENDED_L2;
}

/// Header extensions that are refused.
mod extension {
    pub(super) const END: u32 = 0;
    pub(super) const DATA_FILE: u32 = 0x4441_5441;
    pub(super) const BITMAPS: u32 = 0x2385_2875;
    pub(super) const ENCRYPTION: u32 = 0x0537_be77;
}

/// The fields of the header that matter, as they stand in it.
struct Header {
    version: u32,
    backing_file_offset: u64,
    cluster_bits: u32,
    size: u64,
    crypt_method: u32,
    l1_size: u32,
    l1_offset: u64,
    refcount_table_offset: u64,
    refcount_table_clusters: u32,
    snapshots: u32,
    incompatible: u64,
    refcount_order: u32,
    length: u32,
}

/// The size of the disk in the qcow2 image, if nothing speaks against it.
pub(super) fn inspect(source: &Source<'_>) -> Result<u64, ImageError> {
    let header = read_header(source)?;
    check_features(&header)?;
    check_shape(&header)?;
    let cluster = 1 << header.cluster_bits;
    check_extensions(source, &header, cluster)?;
    tables::check(
        source,
        &Tables {
            cluster,
            l1_offset: header.l1_offset,
            l1_entries: header.l1_size.into(),
            refcount_offset: header.refcount_table_offset,
            refcount_entries: u64::from(header.refcount_table_clusters) * cluster / 8,
            refcount_bits: 1 << header.refcount_order,
        },
    )?;
    Ok(header.size)
}

fn read_header(source: &Source<'_>) -> Result<Header, ImageError> {
    let mut bytes = [0; HEADER_3];
    source.read(0, &mut bytes[..HEADER_2], "its header")?;
    let version = u32_at(&bytes, 4);
    match version {
        2 => {}
        3 => source.read(0, &mut bytes, "its header")?,
        _ => {
            return Err(ImageError::Header {
                what: "the version",
                value: version.into(),
            });
        }
    }
    let later = version == 3;
    Ok(Header {
        version,
        backing_file_offset: u64_at(&bytes, 8),
        cluster_bits: u32_at(&bytes, 20),
        size: u64_at(&bytes, 24),
        crypt_method: u32_at(&bytes, 32),
        l1_size: u32_at(&bytes, 36),
        l1_offset: u64_at(&bytes, 40),
        refcount_table_offset: u64_at(&bytes, 48),
        refcount_table_clusters: u32_at(&bytes, 56),
        snapshots: u32_at(&bytes, 60),
        incompatible: if later { u64_at(&bytes, 72) } else { 0 },
        refcount_order: if later { u32_at(&bytes, 96) } else { 4 },
        length: if later {
            u32_at(&bytes, 100)
        } else {
            HEADER_2 as u32
        },
    })
}

fn check_features(header: &Header) -> Result<(), ImageError> {
    if header.backing_file_offset != 0 {
        return Err(ImageError::BackingFile);
    }
    if header.incompatible & incompatible::DATA_FILE != 0 {
        return Err(ImageError::DataFile);
    }
    if header.crypt_method != 0 {
        return Err(ImageError::Encrypted);
    }
    if header.incompatible & incompatible::CORRUPT != 0 {
        return Err(ImageError::Corrupt);
    }
    let bits = header.incompatible & !incompatible::KNOWN;
    if bits != 0 {
        return Err(ImageError::Features { bits });
    }
    if header.snapshots != 0 {
        return Err(ImageError::Burden {
            what: "internal snapshots",
        });
    }
    Ok(())
}

fn check_shape(header: &Header) -> Result<(), ImageError> {
    let refuse = |what, value| Err(ImageError::Header { what, value });
    if !(9..=21).contains(&header.cluster_bits) {
        return refuse(
            "the logarithm of its cluster size",
            header.cluster_bits.into(),
        );
    }
    let cluster = 1u64 << header.cluster_bits;
    let extended = header.incompatible & incompatible::EXTENDED_L2 != 0;
    if extended && header.cluster_bits < 14 {
        return refuse(
            "the logarithm of its cluster size",
            header.cluster_bits.into(),
        );
    }
    let length = u64::from(header.length);
    if header.version == 3 && (length < HEADER_3 as u64 || length > cluster || length % 8 != 0) {
        return refuse("the length of its header", length);
    }
    if header.refcount_order > 6 {
        return refuse(
            "the order of its reference counts",
            header.refcount_order.into(),
        );
    }
    if header.size == 0 {
        return Err(ImageError::Empty);
    }
    if header.size > MAX_VIRTUAL_SIZE {
        return Err(ImageError::TooLarge { size: header.size });
    }
    if !header.size.is_multiple_of(SECTOR) {
        return Err(ImageError::Unaligned { size: header.size });
    }
    // What one entry of the L1 table covers: a cluster full of L2 entries.
    let covered = cluster * (cluster / if extended { 16 } else { 8 });
    if u64::from(header.l1_size) < header.size.div_ceil(covered) {
        return refuse("the number of its L1 entries", header.l1_size.into());
    }
    for (what, offset) in [
        ("the offset of its L1 table", header.l1_offset),
        (
            "the offset of its reference counts",
            header.refcount_table_offset,
        ),
    ] {
        if offset == 0 || !offset.is_multiple_of(cluster) {
            return refuse(what, offset);
        }
    }
    if header.refcount_table_clusters == 0 {
        return refuse("the size of its reference counts", 0);
    }
    Ok(())
}

/// Walks the extensions that follow the header in its cluster.
fn check_extensions(source: &Source<'_>, header: &Header, cluster: u64) -> Result<(), ImageError> {
    let mut offset = u64::from(header.length);
    // An image can be shorter than a cluster only if its tables are missing.
    while offset + 8 <= cluster {
        let mut start = [0; 8];
        source.read(offset, &mut start, "its header extensions")?;
        let (kind, length) = (u32_at(&start, 0), u64::from(u32_at(&start, 4)));
        match kind {
            extension::END => return Ok(()),
            extension::DATA_FILE => return Err(ImageError::DataFile),
            extension::ENCRYPTION => return Err(ImageError::Encrypted),
            extension::BITMAPS => {
                return Err(ImageError::Burden {
                    what: "dirty bitmaps",
                });
            }
            _ => {}
        }
        offset += 8 + length.next_multiple_of(8);
        if offset > cluster {
            return Err(ImageError::Header {
                what: "the length of an extension",
                value: length,
            });
        }
    }
    Ok(())
}

fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    bytes[offset..offset + 4]
        .iter()
        .fold(0, |value, byte| value << 8 | u32::from(*byte))
}

fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    u64::from(u32_at(bytes, offset)) << 32 | u64::from(u32_at(bytes, offset + 4))
}

/// Cluster size of the images we make: QEMU's default.
const CLUSTER_BITS: u32 = 16;

/// The parts of an empty image of `size` bytes, each with its offset, and the length of the file.
///
/// Cluster 0 is the header, 1 the table of reference counts, 2 its one block, and from 3 on lies
/// the L1 table, all zero.
pub(super) fn empty(size: u64) -> ([(u64, Vec<u8>); 3], u64) {
    let cluster = 1u64 << CLUSTER_BITS;
    // An L2 table fills a cluster with entries of 8 bytes, each for one cluster.
    let l1_entries = size.div_ceil(cluster * (cluster / 8));
    let clusters = 3 + (l1_entries * 8).div_ceil(cluster);
    let mut header = Vec::with_capacity(HEADER_3 + 8);
    header.extend(MAGIC);
    let mut put = |bytes: &[u8]| header.extend(bytes);
    put(&3u32.to_be_bytes()); // version
    put(&[0; 12]); // no backing file
    put(&CLUSTER_BITS.to_be_bytes());
    put(&size.to_be_bytes());
    put(&0u32.to_be_bytes()); // no encryption
    // At most 64 TiB / 512 MiB.
    put(&(l1_entries as u32).to_be_bytes());
    put(&(3 * cluster).to_be_bytes()); // the L1 table
    put(&cluster.to_be_bytes()); // the table of reference counts
    put(&1u32.to_be_bytes()); // its clusters
    put(&[0; 12]); // no snapshots
    put(&[0; 24]); // no features of any kind
    put(&4u32.to_be_bytes()); // reference counts of 2^4 bits
    put(&(HEADER_3 as u32).to_be_bytes());
    put(&[0; 8]); // no extensions
    let table = (2 * cluster).to_be_bytes().to_vec();
    let block = 1u16.to_be_bytes().repeat(clusters as usize);
    (
        [(0, header), (cluster, table), (2 * cluster, block)],
        clusters * cluster,
    )
}
