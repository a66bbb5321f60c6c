//! An inner shim that nobody has a note of: its start failed, or was given up, when it was on its way.
//!
//! It is known by its working directory, which it inherits and which no other process has.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use rustix::process::Signal;

use super::leftover::remove_socket;
use crate::task::Process;

/// Looks for strays until there are none, so many times: one may start another before it ends.
const LOOKS: u32 = 50;

/// Time between two looks.
const PAUSE: Duration = Duration::from_millis(20);

/// Where a shim tells its socket, in its working directory.
const ADDRESS: &str = "address";

/// Ends all processes whose working directory is `home`, and removes their socket. Blocks.
pub(super) fn end(home: &Path) {
    let Ok(place) = fs::metadata(home) else {
        return;
    };
    let place = (place.dev(), place.ino());
    for look in 0..LOOKS {
        if look > 0 {
            std::thread::sleep(PAUSE);
        }
        let mut found = false;
        for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let is_there = || {
                let cwd = fs::metadata(process.path().join("cwd"));
                cwd.is_ok_and(|cwd| (cwd.dev(), cwd.ino()) == place)
            };
            let name = process.file_name();
            let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else {
                continue;
            };
            // Asked again of the process that is held now: the number may be another's.
            if is_there()
                && let Ok(stray) = Process::open(pid)
                && is_there()
            {
                found = true;
                tracing::warn!(
                    pid,
                    "ending a shim of the node's that was too slow to start"
                );
                // It may end by itself between the two calls.
                let _ = stray.signal(Signal::KILL);
            }
        }
        if !found {
            break;
        }
    }
    if let Ok(address) = fs::read_to_string(home.join(ADDRESS)) {
        remove_socket(&address);
    }
}
