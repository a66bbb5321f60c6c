//! The machine's firewall: one nftables table in the pod's network namespace, installed and removed
//! as a whole by netlink. The kernel takes all rules or none.

mod batch;
mod expression;
mod masquerade;
mod rules;

use netlink_socket2::{NetlinkSocket, ReplyError};
use rustix::io::Errno;
use tracing::trace;

use self::batch::Batch;
use self::masquerade::KEPT;
pub(super) use self::masquerade::{Masquerade, TABLE};
use super::{NetworkError, Port, link};

/// Puts the rules into the calling thread's network namespace, in place of those that an earlier
/// machine may have left there.
pub(super) fn install(
    netlink: &mut NetlinkSocket,
    wanted: &Masquerade<'_>,
) -> Result<(), NetworkError> {
    let table = wanted.table();
    trace!(%table, "installing nftables rules");
    let mut batch = Batch::new(table.name);
    batch.replace(&table);
    batch
        .send(netlink)
        .map_err(|source| failed("install", table.name, source))
}

/// Lets `ports` stay with the pod, in the installed table called `name`.
pub(super) fn keep(
    netlink: &mut NetlinkSocket,
    name: &str,
    ports: &[Port],
) -> Result<(), NetworkError> {
    let mut batch = Batch::new(name);
    batch.add_ports(KEPT, None, ports);
    batch
        .send(netlink)
        .map_err(|source| failed("keep ports out of", name, source))
}

/// Removes the table called `name` from the calling thread's network namespace, if it is there.
pub(super) fn remove(netlink: &mut NetlinkSocket, name: &str) -> Result<(), NetworkError> {
    let mut batch = Batch::new(name);
    batch.delete_table();
    match batch.send(netlink) {
        // Without nftables in the kernel, there never was a table.
        Err(error) if link::is(&error, Errno::NOENT) || link::is(&error, Errno::PROTONOSUPPORT) => {
            Ok(())
        }
        result => result.map_err(|source| failed("remove", name, source)),
    }
}

fn failed(action: &'static str, table: &str, source: ReplyError) -> NetworkError {
    NetworkError::Firewall {
        action,
        table: table.to_owned(),
        source,
    }
}
