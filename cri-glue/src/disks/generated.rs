//! Disks that are made for this start: seeds and settings, as an ISO 9660 file system in memory.

use vm_api::machine::{DiskBus, DiskKind, MachineDisk, VolumeSource};

use super::memory::{self, Access};
use super::{DiskError, Opened, Sources, raw, settings};
use crate::iso::{self, Tree};
use crate::seed::{self, Form};

/// Bytes of all such disks of a machine at most: they are in memory, which the pod's overhead counts
/// little for.
const MAX_BYTES: usize = 8 << 20;

/// Label of settings whose volume names none, as in KubeVirt.
const SETTINGS_LABEL: &str = "cfgdata";

/// Label of answers for the set-up of Windows, as in KubeVirt.
const SYSPREP_LABEL: &str = "unattendCD";

/// Makes the disk of a volume whose source [`is generated`](VolumeSource::is_generated).
pub(super) fn open(
    disk: &MachineDisk<'_>,
    source: VolumeSource<'_>,
    sources: &mut Sources<'_>,
) -> Result<Opened, DiskError> {
    let (tree, label) = content(disk.name, source, sources)?;
    let image = iso::image(&tree, label);
    sources.generated_bytes += image.len();
    if sources.generated_bytes > MAX_BYTES {
        return Err(DiskError::TooMuchGenerated {
            name: disk.name.to_owned(),
            most: MAX_BYTES >> 20,
        });
    }
    // ATA has no disk that is only read: there the guest writes into memory, which is gone with it.
    let writable = disk.bus == DiskBus::Sata && disk.kind == DiskKind::Disk && !disk.read_only;
    let access = if writable {
        Access::ReadWrite
    } else {
        Access::ReadOnly
    };
    let made = memory::make(&image, access);
    let file = made.map_err(|source| DiskError::Memory {
        name: disk.name.to_owned(),
        source,
    })?;
    Ok(Opened::cached(raw(file.into())?))
}

/// The files of the disk, and its label.
fn content<'a>(
    name: &str,
    source: VolumeSource<'a>,
    sources: &Sources<'_>,
) -> Result<(Tree, &'a str), DiskError> {
    let labelled = |label: &'a Option<String>| {
        let label = label.as_deref().filter(|label| !label.is_empty());
        label.unwrap_or(SETTINGS_LABEL)
    };
    let seed = |source, form: Form| {
        let tree = seed::make(
            name,
            source,
            form,
            &sources.identification,
            sources.mounts,
            sources.identity,
        )?;
        Ok((tree, form.label()))
    };
    let settings = || settings::read(name, sources);
    match source {
        VolumeSource::CloudInitNoCloud(source) => seed(source, Form::NoCloud),
        VolumeSource::CloudInitConfigDrive(source) => seed(source, Form::ConfigDrive),
        VolumeSource::ConfigMap(map) => Ok((settings()?, labelled(&map.volume_label))),
        VolumeSource::Secret(secret) => Ok((settings()?, labelled(&secret.volume_label))),
        VolumeSource::DownwardApi(api) => Ok((settings()?, labelled(&api.volume_label))),
        VolumeSource::ServiceAccount(_) => Ok((settings()?, SETTINGS_LABEL)),
        VolumeSource::Sysprep(_) => {
            let tree = settings()?;
            settings::check_answers(name, &tree)?;
            Ok((tree, SYSPREP_LABEL))
        }
        other => Err(DiskError::Unsupported {
            name: name.to_owned(),
            source_name: other.name(),
        }),
    }
}
