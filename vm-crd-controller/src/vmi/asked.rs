//! What the status of an instance says that only the machine knows.
//!
//! While the machine has not answered, what the status said before stays: another replica may have
//! asked it.

use vm_api::v1::{Condition, GuestOsInfo, InterfaceStatus, Phase, VirtualMachineInstanceStatus};

use super::decide::Observed;
use crate::ask::{Interface, Os, State};
use crate::conditions::{condition, find, kind, reason};

/// Who told of an interface that the machine has.
pub(super) const DOMAIN: &str = "domain";

/// Who told of an interface that the guest has.
const GUEST_AGENT: &str = "guest-agent";

/// The strategy of a machine that waits for somebody to let it run.
pub(crate) const START_PAUSED: &str = "Paused";

/// That the guest is paused, if it is.
pub(super) fn paused(
    observed: &Observed<'_>,
    old: &VirtualMachineInstanceStatus,
    phase: Phase,
) -> Option<Condition> {
    if phase != Phase::Running {
        return None;
    }
    let paused = |reason, message| condition(kind::PAUSED, true, Some(reason), Some(message));
    let by_user = || paused(reason::PAUSED_BY_USER, "VMI was paused by user");
    let Some(told) = observed.told else {
        let starts_so = observed.instance.spec.start_strategy.as_deref() == Some(START_PAUSED);
        return match old.phase {
            Some(Phase::Running) => find(&old.conditions, kind::PAUSED).cloned(),
            _ => starts_so.then(by_user),
        };
    };
    match told.state {
        State::Running => None,
        State::Paused => Some(by_user()),
        State::IoError => Some(paused(
            reason::PAUSED_IO_ERROR,
            "VMI was paused, low-level IO error detected",
        )),
    }
}

/// That the guest's agent answers, if it does.
pub(super) fn agent_connected(
    observed: &Observed<'_>,
    old: &VirtualMachineInstanceStatus,
) -> Option<Condition> {
    match observed.told {
        Some(told) => {
            let connected = || condition(kind::AGENT_CONNECTED, true, None, None);
            told.agent.as_ref().map(|_| connected())
        }
        None => find(&old.conditions, kind::AGENT_CONNECTED).cloned(),
    }
}

/// Whether the guest has its access credentials, since its agent answers.
pub(super) fn access_credentials(
    observed: &Observed<'_>,
    old: &VirtualMachineInstanceStatus,
) -> Option<Condition> {
    let kind = kind::ACCESS_CREDENTIALS_SYNCHRONIZED;
    let Some(told) = observed.told else {
        return find(&old.conditions, kind).cloned();
    };
    told.agent.as_ref()?;
    let credentials = told.access_credentials.as_ref()?;
    let message = Some(credentials.message.as_str()).filter(|message| !message.is_empty());
    Some(condition(kind, credentials.synchronized, None, message))
}

/// The guest's operating system.
pub(super) fn guest_os_info(
    observed: &Observed<'_>,
    old: &VirtualMachineInstanceStatus,
) -> Option<Box<GuestOsInfo>> {
    match observed.told {
        Some(told) => told
            .agent
            .as_ref()
            .map(|agent| Box::new(os_info(&agent.os))),
        None => old.guest_os_info.clone(),
    }
}

fn os_info(os: &Os) -> GuestOsInfo {
    let known = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
    GuestOsInfo {
        id: known(&os.id),
        name: known(&os.name),
        pretty_name: known(&os.pretty_name),
        version: known(&os.version),
        version_id: known(&os.version_id),
        kernel_release: known(&os.kernel_release),
        kernel_version: known(&os.kernel_version),
        machine: known(&os.machine),
    }
}

/// Adds to the interfaces of the machine what the guest calls them, and those that only the guest has.
/// The addresses of the pod's interface stay the pod's: it is by these that the guest is reached.
pub(super) fn with_guests(
    mut interfaces: Vec<InterfaceStatus>,
    observed: &Observed<'_>,
    old: &VirtualMachineInstanceStatus,
) -> Vec<InterfaceStatus> {
    let Some(told) = observed.told else {
        return carried_over(interfaces, old);
    };
    let guests = told.agent.iter().flat_map(|agent| &agent.interfaces);
    for guest in guests {
        let same = interfaces
            .iter_mut()
            .find(|interface| is_same(interface, guest));
        match same {
            Some(interface) => {
                interface.interface_name = Some(guest.name.clone());
                interface.info_source = Some(format!("{DOMAIN}, {GUEST_AGENT}"));
                interface.mac = interface.mac.take().or_else(|| guest.mac.clone());
                if interface.ip_addresses.is_empty() {
                    interface.ip_address = guest.addresses.first().cloned();
                    interface.ip_addresses.clone_from(&guest.addresses);
                }
            }
            None => interfaces.push(guests_own(guest)),
        }
    }
    interfaces
}

/// By its MAC address; one on a bridge, which has the pod's, by the pod's own address.
fn is_same(interface: &InterfaceStatus, guest: &Interface) -> bool {
    match (&interface.mac, &guest.mac) {
        (Some(mac), Some(guests)) => mac.eq_ignore_ascii_case(guests),
        (Some(_), None) => false,
        (None, _) => interface
            .ip_addresses
            .iter()
            .any(|address| guest.addresses.contains(address)),
    }
}

fn guests_own(guest: &Interface) -> InterfaceStatus {
    InterfaceStatus {
        interface_name: Some(guest.name.clone()),
        mac: guest.mac.clone(),
        ip_address: guest.addresses.first().cloned(),
        ip_addresses: guest.addresses.clone(),
        info_source: Some(GUEST_AGENT.to_owned()),
        ..InterfaceStatus::default()
    }
}

fn carried_over(
    interfaces: Vec<InterfaceStatus>,
    old: &VirtualMachineInstanceStatus,
) -> Vec<InterfaceStatus> {
    let told = |interface: &&InterfaceStatus| {
        let source = interface.info_source.as_deref();
        source.is_some_and(|source| source.contains(GUEST_AGENT))
    };
    let mut known: Vec<_> = old.interfaces.iter().filter(told).cloned().collect();
    let mut all: Vec<_> = interfaces
        .into_iter()
        .map(|mut interface| {
            let same = known.iter().position(|old| old.name == interface.name);
            if let Some(old) = same.map(|index| known.remove(index)) {
                interface.interface_name = old.interface_name;
                interface.info_source = old.info_source;
                interface.mac = interface.mac.take().or(old.mac);
                if interface.ip_addresses.is_empty() {
                    interface.ip_address = old.ip_address;
                    interface.ip_addresses = old.ip_addresses;
                }
            }
            interface
        })
        .collect();
    all.extend(known.into_iter().filter(|old| old.name.is_none()));
    all
}
