//! The tables of a qcow2 image: bounded in size, and within the file.
//!
//! QEMU reads a truncated image without complaint and hands zeros to the guest. So the reference
//! counts are asked how far the image reaches: a download that stopped early is told as such.

use super::{ImageError, read::Source};

/// Where the tables are. Offsets are multiples of the cluster size.
pub(super) struct Tables {
    /// Bytes of a cluster.
    pub(super) cluster: u64,
    pub(super) l1_offset: u64,
    pub(super) l1_entries: u64,
    pub(super) refcount_offset: u64,
    pub(super) refcount_entries: u64,
    /// Bits of one reference count: a power of two up to 64.
    pub(super) refcount_bits: u64,
}

/// The most bytes of the L1 table, all of which QEMU keeps in memory; its own limit is 32 MiB. It
/// holds 4 TiB with clusters of 4 KiB, and [`MAX_VIRTUAL_SIZE`](super::MAX_VIRTUAL_SIZE) from
/// 16 KiB on.
const MAX_L1: u64 = 16 << 20;

/// The most bytes of the table of reference counts, likewise; QEMU's own limit.
const MAX_REFCOUNT_TABLE: u64 = 8 << 20;

/// The bits of an entry that are an offset.
const OFFSET_MASK: u64 = 0x00ff_ffff_ffff_fe00;

pub(super) fn check(source: &Source<'_>, tables: &Tables) -> Result<(), ImageError> {
    let l1 = Table {
        what: "its L1 table",
        offset: tables.l1_offset,
        bytes: tables.l1_entries * 8,
        most: MAX_L1,
    };
    // Each entry names an L2 table of one cluster.
    l1.for_each_entry(source, |entry| {
        source.check(
            entry & OFFSET_MASK,
            if entry == 0 { 0 } else { tables.cluster },
            "an L2 table",
        )
    })?;
    let refcounts = Table {
        what: "its reference counts",
        offset: tables.refcount_offset,
        bytes: tables.refcount_entries * 8,
        most: MAX_REFCOUNT_TABLE,
    };
    let (mut index, mut last) = (0, None);
    refcounts.for_each_entry(source, |entry| {
        if entry & OFFSET_MASK != 0 {
            last = Some((index, entry & OFFSET_MASK));
        }
        index += 1;
        Ok(())
    })?;
    match last {
        Some((index, offset)) => check_reach(source, tables, index, offset),
        None => Ok(()),
    }
}

/// Checks that the file reaches into the last cluster that the reference counts know: `offset` is
/// the last block of them, the `index`th.
fn check_reach(
    source: &Source<'_>,
    tables: &Tables,
    index: u64,
    offset: u64,
) -> Result<(), ImageError> {
    let mut block = vec![0; tables.cluster as usize];
    source.read(offset, &mut block, "a block of its reference counts")?;
    let Some(byte) = block.iter().rposition(|byte| *byte != 0) else {
        return Ok(());
    };
    let clusters_per_block = tables.cluster * 8 / tables.refcount_bits;
    // Counts narrower than a byte: the byte holds several, and the first of them is taken.
    let within = byte as u64 * 8 / tables.refcount_bits;
    let last = index
        .saturating_mul(clusters_per_block)
        .saturating_add(within);
    // The last cluster may be cut short where its data is compressed: one byte of it must be there.
    source.check(last.saturating_mul(tables.cluster), 1, "its data")
}

/// A table of 8-byte entries.
struct Table {
    what: &'static str,
    offset: u64,
    bytes: u64,
    most: u64,
}

impl Table {
    fn for_each_entry(
        &self,
        source: &Source<'_>,
        mut entry: impl FnMut(u64) -> Result<(), ImageError>,
    ) -> Result<(), ImageError> {
        if self.bytes > self.most {
            return Err(ImageError::Header {
                what: self.what,
                value: self.bytes,
            });
        }
        source.check(self.offset, self.bytes, self.what)?;
        let mut buffer = vec![0; self.bytes as usize];
        source.read(self.offset, &mut buffer, self.what)?;
        let (entries, _) = buffer.as_chunks();
        entries
            .iter()
            .try_for_each(|bytes| entry(u64::from_be_bytes(*bytes)))
    }
}
