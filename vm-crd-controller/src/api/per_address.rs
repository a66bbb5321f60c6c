//! Places by address, so that one peer cannot take those of all.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// So many places for each address; a clone counts the same.
#[derive(Clone)]
pub(super) struct PerAddress {
    most: usize,
    taken: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

/// A place, given back when dropped.
pub(super) struct Place {
    address: IpAddr,
    of: PerAddress,
}

impl PerAddress {
    pub(super) fn new(most: usize) -> Self {
        Self {
            most,
            taken: Arc::default(),
        }
    }

    /// A place for `address`, if it has one left.
    pub(super) fn enter(&self, address: IpAddr) -> Option<Place> {
        let mut taken = self.taken();
        let count = taken.entry(address).or_default();
        if *count >= self.most {
            return None;
        }
        *count += 1;
        Some(Place {
            address,
            of: self.clone(),
        })
    }

    fn taken(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.of.taken();
        if let Some(count) = taken.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_places_of_its_own_and_gives_them_back() {
        let places = PerAddress::new(2);
        let [one, other] = ["10.0.0.1", "fd00::1"].map(|text| text.parse::<IpAddr>().unwrap());
        let held = [places.enter(one), places.enter(one)];
        assert!(held.iter().all(Option::is_some));
        assert!(places.enter(one).is_none());
        assert!(places.enter(other).is_some());
        drop(held);
        assert!(places.taken().is_empty());
        assert!(places.enter(one).is_some());
    }
}
