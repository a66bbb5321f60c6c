//! Pictures of a machine's display.

use std::fs::File;
use std::io::{self, Read, Seek, Take};
use std::os::fd::{AsFd, AsRawFd};

use nix::sys::memfd::{MFdFlags, memfd_create};
use qapi::{Command, qmp};
use serde::Serialize;
use tokio::sync::OwnedSemaphorePermit;

use super::{Qmp, QmpError};

/// Pictures that can be read at the same time: their memory is QEMU's, which has not much of its own.
pub(super) const PICTURES: usize = 2;

/// The most bytes of a picture: more than any display has.
const MAX_PICTURE: u64 = 32 << 20;

/// A picture of the display, as a PNG, to be read and dropped.
#[derive(Debug)]
pub struct Picture {
    file: Take<File>,
    _place: OwnedSemaphorePermit,
}

impl Read for Picture {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.file.read(buffer)
    }
}

/// The command `screendump` with the format, which 7.2 knows too.
#[derive(Serialize)]
struct ScreenDump {
    filename: String,
    format: &'static str,
}

impl Command for ScreenDump {
    type Ok = qapi::Empty;
    const NAME: &'static str = "screendump";
    const ALLOW_OOB: bool = false;
}

impl Qmp {
    /// What the machine's display shows.
    ///
    /// # Errors
    /// Also when too many pictures of it are being read.
    pub async fn screenshot(&self) -> Result<Picture, QmpError> {
        // To its end, whoever waits for it: QEMU would keep the descriptor.
        let qmp = self.clone();
        let picture = tokio::spawn(async move { qmp.picture().await });
        let command = ScreenDump::NAME;
        picture.await.map_err(|_| QmpError::Closed { command })?
    }

    async fn picture(&self) -> Result<Picture, QmpError> {
        let place = self.pictures.clone().try_acquire_owned();
        let place = place.map_err(|_| QmpError::Pictures(PICTURES))?;
        let socket = QmpError::Socket;
        let errno = |error: nix::Error| QmpError::Socket(error.into());
        let picture = memfd_create(c"screenshot", MFdFlags::MFD_CLOEXEC).map_err(errno)?;
        let path = format!("/proc/self/fd/{}", picture.as_raw_fd());
        // QEMU takes one of just the access that it wants.
        let writable = std::fs::OpenOptions::new()
            .write(true)
            .open(path)
            .map_err(socket)?;
        let command = qmp::add_fd {
            fdset_id: None,
            opaque: None,
        };
        let descriptor = Some(writable.as_fd());
        let set = self.connection.execute_with(&command, descriptor).await?;
        drop(writable);
        let dump = ScreenDump {
            filename: format!("/dev/fdset/{}", set.fdset_id),
            format: "png",
        };
        let dumped = self.connection.execute(&dump).await;
        let forget = qmp::remove_fd {
            fdset_id: set.fdset_id,
            fd: Some(set.fd),
        };
        // Unless QEMU has closed it by itself.
        drop(self.execute(&forget).await);
        dumped?;
        let mut file = File::from(picture);
        file.rewind().map_err(socket)?;
        Ok(Picture {
            file: file.take(MAX_PICTURE),
            _place: place,
        })
    }
}
