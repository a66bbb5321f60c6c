//! The machine's firewall: one nftables table of each family in the pod's network namespace, installed
//! and removed as a whole by netlink. The kernel takes all rules of a table or none.

mod antispoof;
mod batch;
mod bridge;
mod expression;
mod masquerade;
mod rules;

use netlink_socket2::{NetlinkSocket, ReplyError};
use rustix::io::Errno;
use tracing::trace;

use self::batch::Batch;
pub(super) use self::bridge::{Bridge, Local};
use self::masquerade::KEPT;
pub(super) use self::masquerade::{Link, Masquerade};
use self::rules::{Family, Table};
use super::{DEFAULT_INTERFACE, NetworkError, Port, link};

const TABLE: &str = "kubevirt";

/// Name of the tables that hold all our rules for the pod's interface `interface`. Other tables of
/// the namespace are not ours to touch.
pub(super) fn table_for(interface: &str) -> String {
    if interface == DEFAULT_INTERFACE {
        TABLE.to_owned()
    } else {
        format!("{TABLE}-{interface}")
    }
}

/// Puts a table into the calling thread's network namespace, in place of those that an earlier
/// machine may have left there.
pub(super) fn install(netlink: &mut NetlinkSocket, table: &Table) -> Result<(), NetworkError> {
    trace!(%table, "installing nftables rules");
    let mut batch = Batch::new(table.family, &table.name);
    batch.replace(table);
    batch
        .send(netlink)
        .map_err(|source| failed("install", table.family, &table.name, source))
}

/// Lets `ports` stay with the pod, in the installed tables called `name`.
pub(super) fn keep(
    netlink: &mut NetlinkSocket,
    name: &str,
    ports: &[Port],
) -> Result<(), NetworkError> {
    let mut missing = None;
    let mut kept = false;
    for family in Family::ALL {
        let mut batch = Batch::new(family, name);
        batch.add_ports(KEPT, None, ports);
        match batch.send(netlink) {
            Ok(()) => kept = true,
            // A pod need not have addresses of both families.
            Err(error) if is_missing(&error) => missing = Some((family, error)),
            Err(error) => return Err(failed("keep ports out of", family, name, error)),
        }
    }
    match missing {
        Some((family, error)) if !kept => Err(failed("keep ports out of", family, name, error)),
        _ => Ok(()),
    }
}

/// Removes the tables called `name` from the calling thread's network namespace, those that are
/// there, and returns what failed.
pub(super) fn remove(netlink: &mut NetlinkSocket, name: &str) -> Vec<NetworkError> {
    let remove = |family| {
        let mut batch = Batch::new(family, name);
        batch.delete_table();
        match batch.send(netlink) {
            Err(error) if !is_missing(&error) => Some(failed("remove", family, name, error)),
            _ => None,
        }
    };
    Family::ALL.into_iter().filter_map(remove).collect()
}

/// Whether there is no such table. Without nftables in the kernel, there never was one.
fn is_missing(error: &ReplyError) -> bool {
    link::is(error, Errno::NOENT)
        || link::is(error, Errno::PROTONOSUPPORT)
        || link::is(error, Errno::AFNOSUPPORT)
        || link::is(error, Errno::OPNOTSUPP)
}

fn failed(action: &'static str, family: Family, table: &str, source: ReplyError) -> NetworkError {
    NetworkError::Firewall {
        action,
        table: format!("{family} {table}"),
        source,
    }
}
