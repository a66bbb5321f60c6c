//! A disk in a file of the node: which directory its pod mounts, and which file of it is the disk.

use super::volumes::VolumeSource;
use crate::field::{FieldError, word};
use crate::v1::HostDisk;
use crate::words::words;

/// Bytes that no path reaches (`linux/limits.h`).
const PATH_MAX: usize = 4096;

words! {
    /// Whether the file may be made.
    HostDiskType {
        /// It is there.
        Disk = "Disk",
        /// It is made where it is not there.
        DiskOrCreate = "DiskOrCreate",
    }
}

/// A disk in a file of the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostDiskFile<'a> {
    /// The directory that the pod mounts (a `hostPath` volume), never the node's root.
    pub directory: &'a str,
    /// The name of the file in it.
    pub file: &'a str,
    /// Bytes of the disk that is made where there is none.
    pub create: Option<u64>,
}

/// What `source` means; `path` is the volume's.
pub fn host_disk<'a>(source: &'a HostDisk, path: &str) -> Result<HostDiskFile<'a>, FieldError> {
    let path = format!("{path}.{}", VolumeSource::HostDisk(source).name());
    let kind = word(|| format!("{path}.type"), Some(&source.r#type))?;
    let Some(kind) = kind else {
        let message = "choose Disk, or DiskOrCreate to have it made";
        return Err(FieldError::new(format!("{path}.type"), message));
    };
    let Some((directory, file)) = parts(&source.path) else {
        let message = format!(
            "`{}` is not the absolute path of a file in a directory of the node, such as \
             /var/lib/disks/data.img",
            source.path
        );
        return Err(FieldError::new(format!("{path}.path"), message));
    };
    let capacity = source.capacity.as_ref().map(crate::Quantity::bytes);
    let capacity = capacity.transpose();
    let capacity = capacity.map_err(|error| FieldError::new(format!("{path}.capacity"), error))?;
    let create = match (kind, capacity) {
        (HostDiskType::Disk, _) => None,
        (HostDiskType::DiskOrCreate, Some(bytes)) if bytes > 0 => Some(bytes),
        (HostDiskType::DiskOrCreate, _) => {
            let message = "a disk that is made needs a size above zero, such as 10Gi";
            return Err(FieldError::new(format!("{path}.capacity"), message));
        }
    };
    Ok(HostDiskFile {
        directory,
        file,
        create,
    })
}

/// Directory and name of a file.
fn parts(path: &str) -> Option<(&str, &str)> {
    let (directory, file) = path.rsplit_once('/')?;
    let plain = |part: &str| !matches!(part, "" | "." | "..");
    let fits = path.len() < PATH_MAX
        && !path.contains(char::is_control)
        && plain(file)
        && directory.strip_prefix('/')?.split('/').all(plain);
    fits.then_some((directory, file))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(disk: Value) -> Result<(String, String, Option<u64>), String> {
        let disk: HostDisk = serde_json::from_value(disk).unwrap();
        let read = host_disk(&disk, "volumes[0]");
        read.map(|it| (it.directory.to_owned(), it.file.to_owned(), it.create))
            .map_err(|error| error.path)
    }

    #[test]
    fn a_file_has_a_directory_and_a_name() {
        let disk = |path: &str| json!({ "path": path, "type": "Disk", "capacity": "1Gi" });
        let found = |directory: &str, file: &str| Ok((directory.to_owned(), file.to_owned(), None));
        assert_eq!(read(disk("/data/a,b.img")), found("/data", "a,b.img"));
        assert_eq!(read(disk("/a/b/c")), found("/a/b", "c"));
        let made = json!({ "path": "/a/b", "type": "DiskOrCreate", "capacity": "1Ki" });
        assert_eq!(read(made).unwrap().2, Some(1024));
    }

    #[test]
    fn what_is_no_disk_is_named() {
        let long = format!("/a/{}", "b".repeat(PATH_MAX));
        for path in [
            "", "a", "/a", "a/b", "/a/", "/a/../b", "/a/..", "//b", "/a//b", "/a/\n", &long,
        ] {
            let read = read(json!({ "path": path, "type": "Disk" }));
            assert_eq!(read, Err("volumes[0].hostDisk.path".to_owned()), "{path:?}");
        }
        for (disk, field) in [
            (json!({ "path": "/a/b", "type": "" }), "type"),
            (json!({ "path": "/a/b", "type": "File" }), "type"),
            (
                json!({ "path": "/a/b", "type": "DiskOrCreate" }),
                "capacity",
            ),
            (
                json!({ "path": "/a/b", "type": "DiskOrCreate", "capacity": "0" }),
                "capacity",
            ),
            (
                json!({ "path": "/a/b", "type": "Disk", "capacity": "-1" }),
                "capacity",
            ),
        ] {
            assert_eq!(read(disk), Err(format!("volumes[0].hostDisk.{field}")));
        }
    }
}
