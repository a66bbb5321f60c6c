//! Switching the forwarding of IPv6 packets on, which the kernel knows for a network namespace as a
//! whole only (Documentation/networking/ip-sysctl.rst, `conf/all/forwarding`), and back.
//!
//! It makes a router of the pod on all of its interfaces. What follows from that and is not wanted
//! is taken back: routes and addresses that the pod has from routers stay, and the firewall drops
//! what does not concern the guest.

use std::{fs, io};

use super::{NetworkError, sysctl::Sysctl};

/// Kernel parameters of IPv6, a directory for each interface.
const INTERFACES: &str = "ipv6/conf";

/// What is to be changed, and what it was.
#[derive(Debug)]
pub(super) struct Forwarding6 {
    changes: Vec<Sysctl>,
    before: Vec<Sysctl>,
}

impl Forwarding6 {
    /// Looks at the calling thread's network namespace; none if it forwards already.
    pub(super) fn plan() -> Result<Option<Self>, NetworkError> {
        let all = Sysctl::new(format!("{INTERFACES}/all/forwarding"), "1");
        let all_before = all.current()?;
        if all_before.value() != "0" {
            return Ok(None);
        }
        let (mut changes, mut before) = (vec![], vec![all_before]);
        let (mut forwarding, mut advertisements) = (vec![], vec![]);
        for interface in interfaces()? {
            let key = |name: &str| format!("{INTERFACES}/{interface}/{name}");
            // Written along with that of all.
            forwarding.push(Sysctl::new(key("forwarding"), "0").current()?);
            // A router takes advertisements of others only when it is told so.
            let accept = Sysctl::new(key("accept_ra"), "2");
            let accept_before = accept.current()?;
            if accept_before.value() == "1" {
                changes.push(accept);
                advertisements.push(accept_before);
            }
        }
        changes.push(all);
        before.extend(forwarding);
        before.extend(advertisements);
        Ok(Some(Self { changes, before }))
    }

    /// What was there before, to be written in this order.
    pub(super) fn before(&self) -> &[Sysctl] {
        &self.before
    }

    pub(super) fn switch_on(&self) -> Result<(), NetworkError> {
        self.changes.iter().try_for_each(Sysctl::write_if_there)
    }
}

/// All interfaces, with `default`, of which later ones are made.
fn interfaces() -> Result<Vec<String>, NetworkError> {
    let key = INTERFACES.to_owned();
    let list = || -> io::Result<Vec<String>> {
        let mut names = vec![];
        for entry in fs::read_dir(Sysctl::path_of(INTERFACES))? {
            names.extend(entry?.file_name().into_string().ok());
        }
        names.retain(|name| name != "all");
        Ok(names)
    };
    list().map_err(|source| NetworkError::Sysctl {
        action: "read",
        key,
        source,
    })
}
