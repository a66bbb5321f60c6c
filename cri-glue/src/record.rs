//! The record of what was set up for a container, from which anybody can undo it.
//!
//! Each step is written to the bundle, and on the disk, before it is done; undoing takes nothing
//! but the bundle's directory, can be repeated, goes on after an error and reports all of them.
//! One JSON value a line: the version first, then the steps. A last line that was cut off by a
//! crash belongs to a step that was not begun.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::mount::{UnmountFlags, unmount};
use serde::{Deserialize, Serialize};

use crate::cgroup::{Cgroup, CgroupError};
use crate::network::{self, NetworkUndo};
use crate::orphans;
use crate::runtime::Runtime;

/// Name of the record in the bundle.
pub const FILE: &str = "kubevirt-record.jsonl";

/// Version of the record's form. A reader takes any version and undoes the steps that it knows.
const VERSION: u32 = 1;

/// The record of one container.
#[derive(Debug)]
pub struct Record {
    path: PathBuf,
    file: File,
    stop: Arc<Stop>,
    /// The step that may still be under way.
    last: Option<Step>,
}

/// Tells work that it was given up.
#[derive(Debug, Default)]
pub struct Stop(Mutex<bool>);

impl Stop {
    /// Gives the work up: what it noted is on the disk now, and it notes nothing more.
    pub fn set(&self) {
        *self.lock() = true;
    }

    fn lock(&self) -> MutexGuard<'_, bool> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Something that was set up.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "kebab-case")]
pub enum Step {
    /// A file that was made.
    File {
        /// Where.
        path: PathBuf,
    },
    /// A directory that was made, with all that is in it.
    Directory {
        /// Where.
        path: PathBuf,
    },
    /// Something was mounted.
    Mount {
        /// Where.
        path: PathBuf,
    },
    /// A uid of the node's range.
    Uid {
        /// The link that stands for it.
        path: PathBuf,
        /// The container that took it.
        owner: String,
    },
    /// A control group, whose processes end with it. The OCI runtime removes what it knows of;
    /// this is for what it forgot.
    Cgroup {
        /// Its path in the OCI spec.
        path: PathBuf,
    },
    /// An OCI container with its processes and control groups.
    Container {
        /// Its id.
        id: String,
        /// The runtime that made it.
        runtime: Runtime,
    },
    /// The machine's network.
    Network {
        /// What its module needs to know.
        undo: NetworkUndo,
    },
}

#[derive(Serialize, Deserialize)]
struct Header {
    version: u32,
}

/// Something that could not be undone.
#[derive(Debug, thiserror::Error)]
#[expect(
    missing_docs,
    reason = "the messages say it, the fields are named in them"
)]
pub enum UndoError {
    #[error("cannot read the record {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("the record {} has a step that this version does not know: {line}", path.display())]
    UnknownStep { path: PathBuf, line: String },
    #[error("cannot remove {}: {source}", path.display())]
    Remove { path: PathBuf, source: io::Error },
    #[error("cannot unmount {}: {source}", path.display())]
    Unmount { path: PathBuf, source: io::Error },
    #[error("{0}")]
    Cgroup(#[from] CgroupError),
    #[error("{0}")]
    Container(#[from] crate::runtime::RuntimeError),
    #[error("{0}")]
    Network(#[from] network::NetworkError),
}

/// All that could not be undone, at least one thing.
#[derive(Debug)]
pub struct UndoErrors(pub Vec<UndoError>);

impl std::fmt::Display for UndoErrors {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            write!(f, "{separator}{error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for UndoErrors {}

impl Record {
    /// Opens the record in `bundle`, or begins it.
    pub fn open(bundle: &Path) -> io::Result<Self> {
        let path = bundle.join(FILE);
        let mut options = OpenOptions::new();
        options.append(true).create(true).mode(0o600);
        options.custom_flags(rustix::fs::OFlags::NOFOLLOW.bits() as i32);
        let mut file = options.open(&path)?;
        if file.metadata()?.len() == 0 {
            append(&mut file, &Header { version: VERSION })?;
            File::open(bundle)?.sync_all()?;
        }
        let (stop, last) = (Arc::default(), None);
        Ok(Self {
            path,
            file,
            stop,
            last,
        })
    }

    /// Takes no more steps once `stop` is set: work that was given up, but still runs, must not set
    /// up anything after the undoing. The one step that it may be doing then is undone once more
    /// when the record is dropped, so that must be after the work.
    pub fn until(mut self, stop: Arc<Stop>) -> Self {
        self.stop = stop;
        self
    }

    /// Writes down a step that is about to be done.
    pub fn note(&mut self, step: &Step) -> io::Result<()> {
        let given_up = self.stop.lock();
        if *given_up {
            return Err(io::Error::other("it was given up"));
        }
        self.last = Some(step.clone());
        append(&mut self.file, step)
    }

    /// Where the record is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        if !*self.stop.lock() {
            return;
        }
        let mut errors = Vec::new();
        if let Some(step) = self.last.take() {
            undo_step(step, &mut errors);
        }
        if !errors.is_empty() {
            let errors = UndoErrors(errors);
            tracing::error!(%errors, "what was given up left something behind");
        }
    }
}

fn append(file: &mut File, value: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    file.write_all(&line)?;
    file.sync_data()
}

/// Undoes what the record in `bundle` tells, last step first, and removes the record once nothing
/// is left. Without a record there is nothing to undo. Blocks for as long as the OCI runtime takes
/// to end a container.
pub fn undo(bundle: &Path) -> Result<(), UndoErrors> {
    let path = bundle.join(FILE);
    let (steps, mut errors) = match read(&path) {
        Ok(read) => read,
        Err(source) if source.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(UndoErrors(vec![UndoError::Read { path, source }])),
    };
    for step in steps.into_iter().rev() {
        undo_step(step, &mut errors);
    }
    orphans::reap();
    if errors.is_empty() {
        remove(std::fs::remove_file(&path), &path, &mut errors);
    }
    if errors.is_empty() {
        Ok(())
    } else {
        Err(UndoErrors(errors))
    }
}

/// The steps of a record, and errors about lines that are none.
fn read(path: &Path) -> io::Result<(Vec<Step>, Vec<UndoError>)> {
    let mut reader = BufReader::new(File::open(path)?);
    let (mut steps, mut errors) = (Vec::new(), Vec::new());
    let mut line = String::new();
    while reader.read_line(&mut line)? > 0 && line.ends_with('\n') {
        match serde_json::from_str(&line) {
            Ok(step) => steps.push(step),
            Err(_) if serde_json::from_str::<Header>(&line).is_ok() => {}
            Err(_) => {
                let (path, line) = (path.to_owned(), line.trim_end().to_owned());
                errors.push(UndoError::UnknownStep { path, line });
            }
        }
        line.clear();
    }
    Ok((steps, errors))
}

fn undo_step(step: Step, errors: &mut Vec<UndoError>) {
    match step {
        Step::File { path } => remove(std::fs::remove_file(&path), &path, errors),
        Step::Directory { path } => remove(std::fs::remove_dir_all(&path), &path, errors),
        Step::Mount { path } => {
            if let Err(source) = unmount_all(&path) {
                errors.push(UndoError::Unmount { path, source });
            }
        }
        Step::Uid { path, owner } => {
            remove(crate::uid::give_back(&path, &owner), &path, errors);
        }
        Step::Cgroup { path } => {
            if let Err(error) = Cgroup::of_spec(&path).remove() {
                errors.push(error.into());
            }
        }
        Step::Container { id, runtime } => {
            if let Err(error) = runtime.delete(&id) {
                errors.push(error.into());
            }
        }
        Step::Network { undo } => {
            if let Err(all) = network::undo(&undo) {
                errors.extend(all.into_iter().map(UndoError::from));
            }
        }
    }
}

fn remove(result: io::Result<()>, path: &Path, errors: &mut Vec<UndoError>) {
    match result {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            errors.push(UndoError::Remove {
                path: path.to_owned(),
                source,
            });
        }
        _ => {}
    }
}

/// Unmounts everything that is stacked on `path`. Lazily, because a file in it may still be held
/// by somebody who dies at the same time.
pub(crate) fn unmount_all(path: &Path) -> io::Result<()> {
    loop {
        match unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            Ok(()) => {}
            // Nothing is mounted there, or there is nothing at all.
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_made_is_removed_last_first() {
        let bundle = tempfile::tempdir().unwrap();
        let directory = bundle.path().join("jail");
        let file = bundle.path().join("file");
        let mut record = Record::open(bundle.path()).unwrap();
        record
            .note(&Step::Directory {
                path: directory.clone(),
            })
            .unwrap();
        std::fs::create_dir_all(directory.join("rootfs")).unwrap();
        drop(record);
        let mut record = Record::open(bundle.path()).unwrap();
        record.note(&Step::File { path: file.clone() }).unwrap();
        std::fs::write(&file, "").unwrap();
        record
            .note(&Step::Mount {
                path: bundle.path().join("never"),
            })
            .unwrap();
        undo(bundle.path()).unwrap();
        assert_eq!(std::fs::read_dir(bundle.path()).unwrap().count(), 0);
        undo(bundle.path()).unwrap();
    }

    #[test]
    fn a_line_cut_off_was_not_begun() {
        let bundle = tempfile::tempdir().unwrap();
        let mut record = Record::open(bundle.path()).unwrap();
        record
            .note(&Step::File {
                path: "/nonexistent".into(),
            })
            .unwrap();
        record.file.write_all(b"{\"step\":\"file\",\"pa").unwrap();
        let (steps, errors) = read(record.path()).unwrap();
        assert_eq!(
            steps,
            [Step::File {
                path: "/nonexistent".into()
            }]
        );
        assert!(errors.is_empty());
    }

    #[test]
    fn what_was_given_up_does_nothing_more() {
        let bundle = tempfile::tempdir().unwrap();
        let stop = Arc::new(Stop::default());
        let record = Record::open(bundle.path()).unwrap();
        let mut record = record.until(Arc::clone(&stop));
        let (early, late) = (bundle.path().join("early"), bundle.path().join("late"));
        for path in [&early, &late] {
            record.note(&Step::File { path: path.clone() }).unwrap();
        }
        std::fs::write(&early, "").unwrap();
        stop.set();
        undo(bundle.path()).unwrap();
        assert!(!early.exists());
        // It was just doing the second step, and knows nothing of all that.
        std::fs::write(&late, "").unwrap();
        let step = Step::File { path: early };
        assert!(record.note(&step).is_err());
        drop(record);
        assert_eq!(std::fs::read_dir(bundle.path()).unwrap().count(), 0);
    }

    proptest::proptest! {
        #[test]
        fn no_record_makes_the_reader_panic(bytes: Vec<u8>) {
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), bytes).unwrap();
            let _ = read(file.path());
        }
    }

    #[test]
    fn what_is_unknown_is_told_and_the_rest_undone() {
        let bundle = tempfile::tempdir().unwrap();
        let file = bundle.path().join("file");
        std::fs::write(&file, "").unwrap();
        let mut record = Record::open(bundle.path()).unwrap();
        record.note(&Step::File { path: file.clone() }).unwrap();
        record
            .file
            .write_all(b"{\"step\":\"teleport\",\"to\":\"mars\"}\n")
            .unwrap();
        let errors = undo(bundle.path()).unwrap_err();
        assert_eq!(errors.0.len(), 1);
        assert!(errors.to_string().contains("teleport"), "{errors}");
        assert!(!file.exists());
        assert!(bundle.path().join(FILE).exists(), "kept for the next try");
    }
}
