//! How much memory a guest sees.

use super::processors::GROWTH;
use crate::field::FieldError;
use crate::quantity::Quantity;
use crate::v1::{ResourceRequirements, VirtualMachineInstanceSpec};

impl ResourceRequirements {
    /// The limit of a resource, or else the request of it, with its path in the spec.
    pub fn amount(&self, resource: &str) -> Option<(String, &Quantity)> {
        [("limits", &self.limits), ("requests", &self.requests)]
            .into_iter()
            .find_map(|(name, amounts)| {
                Some((
                    format!("domain.resources.{name}[{resource}]"),
                    amounts.get(resource)?,
                ))
            })
    }
}

/// Bytes of memory that the guest sees: `memory.guest`, or else the spec's memory limit or request,
/// or else `limit`, the pod's own memory limit in bytes.
pub fn guest_memory_bytes(
    spec: &VirtualMachineInstanceSpec,
    limit: Option<u64>,
) -> Result<u64, FieldError> {
    let guest = spec
        .domain
        .memory
        .as_ref()
        .and_then(|memory| memory.guest.as_ref());
    let given = guest.map(|quantity| ("domain.memory.guest".to_owned(), quantity));
    let amount = || {
        spec.domain
            .resources
            .as_ref()
            .and_then(|resources| resources.amount("memory"))
    };
    match (given.or_else(amount), limit) {
        (Some((path, quantity)), _) => quantity
            .bytes()
            .map_err(|error| FieldError::new(path, error)),
        (None, Some(bytes)) => Ok(bytes),
        (None, None) => Err(FieldError::new(
            "domain.memory.guest",
            "no memory is given: set it, or a memory request or limit in domain.resources",
        )),
    }
}

/// Bytes of memory to which the guest can grow while it runs, where the spec says so.
pub fn max_guest_memory_bytes(
    spec: &VirtualMachineInstanceSpec,
) -> Result<Option<u64>, FieldError> {
    let max_guest = spec
        .domain
        .memory
        .as_ref()
        .and_then(|memory| memory.max_guest.as_ref());
    max_guest
        .map(|quantity| quantity.bytes())
        .transpose()
        .map_err(|error| FieldError::new("domain.memory.maxGuest", error))
}

/// Bytes of guest memory from which a machine gets room to grow without being asked: below, the room
/// itself costs its guest too much.
pub const MIN_FOR_ROOM: u64 = 2 << 30;

/// Bytes to which the memory of a guest that starts with `guest` bytes can grow, as far as its spec
/// says: `memory.maxGuest`, or else [`GROWTH`] times as much from [`MIN_FOR_ROOM`] on, or no more.
pub fn room_for_memory(spec: &VirtualMachineInstanceSpec, guest: u64) -> Result<u64, FieldError> {
    let most = match max_guest_memory_bytes(spec)? {
        Some(most) => most,
        None if guest >= MIN_FOR_ROOM => guest.saturating_mul(GROWTH.into()),
        None => guest,
    };
    Ok(most.max(guest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v1::Memory;

    #[test]
    fn the_guests_own_amount_wins_then_limit_then_request_then_the_pods() {
        let mut spec = VirtualMachineInstanceSpec::default();
        assert_eq!(
            guest_memory_bytes(&spec, None).unwrap_err().path,
            "domain.memory.guest"
        );
        assert_eq!(guest_memory_bytes(&spec, Some(7)), Ok(7));
        let requests = [("memory".to_owned(), "1Mi".into())].into();
        let mut resources = ResourceRequirements {
            requests,
            ..Default::default()
        };
        spec.domain.resources = Some(resources.clone());
        assert_eq!(guest_memory_bytes(&spec, Some(7)), Ok(1 << 20));
        resources.limits = [("memory".to_owned(), "2Mi".into())].into();
        spec.domain.resources = Some(resources);
        assert_eq!(guest_memory_bytes(&spec, Some(7)), Ok(2 << 20));
        spec.domain.memory = Some(Memory {
            guest: Some("3Mi".into()),
            ..Default::default()
        });
        assert_eq!(guest_memory_bytes(&spec, Some(7)), Ok(3 << 20));
    }
}
