//! Block sizes of a disk as the guest sees them.

use std::ops::RangeInclusive;

use crate::field::FieldError;
use crate::v1::Disk;

/// Bytes that a block can have; a power of two.
pub const BLOCK_BYTES: RangeInclusive<u32> = 512..=2 << 20;

/// Block sizes of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockSize {
    /// These, in bytes.
    Custom {
        /// The unit in which the guest addresses the disk.
        logical: u32,
        /// The unit in which the medium writes; at least the logical one.
        physical: u32,
        /// The smallest piece that can be discarded: a multiple of the logical size, or 0 if nothing
        /// can.
        discard_granularity: Option<u32>,
    },
    /// Those of what the volume lies on.
    OfVolume,
}

/// The block sizes that `disk` asks for; `path` is the disk's.
pub(super) fn block_size(disk: &Disk, path: &str) -> Result<Option<BlockSize>, FieldError> {
    let Some(wish) = &disk.block_size else {
        return Ok(None);
    };
    let path = format!("{path}.blockSize");
    let matched = wish
        .match_volume
        .as_ref()
        .is_some_and(|state| state.enabled != Some(false));
    let custom = match (&wish.custom, matched) {
        (None, true) => return Ok(Some(BlockSize::OfVolume)),
        (None, false) => return Ok(None),
        (Some(_), true) => {
            return Err(FieldError::new(
                path,
                "choose either custom sizes or those of the volume (matchVolume)",
            ));
        }
        (Some(custom), false) => custom,
    };
    let path = |field: &str| format!("{path}.custom.{field}");
    let (logical, physical) = (
        custom.logical.unwrap_or_default(),
        custom.physical.unwrap_or_default(),
    );
    if logical > physical {
        let message = format!("{logical} bytes are more than the physical size of {physical}");
        return Err(FieldError::new(path("logical"), message));
    }
    for (field, size) in [("logical", logical), ("physical", physical)] {
        if !size.is_power_of_two() || !BLOCK_BYTES.contains(&size) {
            let message = format!(
                "{size} bytes: choose a power of two from {} to {}",
                BLOCK_BYTES.start(),
                BLOCK_BYTES.end()
            );
            return Err(FieldError::new(path(field), message));
        }
    }
    if let Some(granularity) = custom.discard_granularity
        && !granularity.is_multiple_of(logical)
    {
        let message = format!("{granularity} bytes are no multiple of the logical size, {logical}");
        return Err(FieldError::new(path("discardGranularity"), message));
    }
    Ok(Some(BlockSize::Custom {
        logical,
        physical,
        discard_granularity: custom.discard_granularity,
    }))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(wish: Value) -> Result<Option<BlockSize>, String> {
        let disk = serde_json::from_value(json!({ "name": "a", "blockSize": wish })).unwrap();
        block_size(&disk, "d").map_err(|error| error.path)
    }

    #[test]
    fn sizes_are_those_of_the_spec_or_of_the_volume() {
        let custom =
            json!({ "custom": { "logical": 512, "physical": 4096, "discardGranularity": 1024 } });
        let expected = BlockSize::Custom {
            logical: 512,
            physical: 4096,
            discard_granularity: Some(1024),
        };
        assert_eq!(read(custom), Ok(Some(expected)));
        assert_eq!(
            read(json!({ "matchVolume": {} })),
            Ok(Some(BlockSize::OfVolume))
        );
        assert_eq!(
            read(json!({ "matchVolume": { "enabled": false } })),
            Ok(None)
        );
        assert_eq!(read(json!({})), Ok(None));
    }

    #[test]
    fn what_is_no_size_is_named() {
        let custom = |logical: u32, physical: u32, discard: u32| json!({ "custom": { "logical": logical, "physical": physical, "discardGranularity": discard } });
        for (wish, path) in [
            (custom(0, 0, 0), "d.blockSize.custom.logical"),
            (custom(4096, 512, 0), "d.blockSize.custom.logical"),
            (custom(256, 512, 0), "d.blockSize.custom.logical"),
            (custom(512, 1000, 0), "d.blockSize.custom.physical"),
            (custom(512, 4 << 20, 0), "d.blockSize.custom.physical"),
            (
                custom(512, 512, 700),
                "d.blockSize.custom.discardGranularity",
            ),
            (
                json!({ "custom": { "logical": 512, "physical": 512 }, "matchVolume": {} }),
                "d.blockSize",
            ),
        ] {
            assert_eq!(read(wish), Err(path.to_owned()));
        }
    }
}
