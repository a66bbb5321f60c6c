//! How the processors of an instance type are arranged.

use crate::field::FieldError;
use crate::instancetype::{PreferenceSpec, PreferredCpuTopology, SpreadAcross};
use crate::machine::Topology;

/// How many of the inner part go to one of the outer, where the preference does not say.
const RATIO: u32 = 2;

/// Threads of a core where processors are spread over all three parts.
const THREADS: u32 = 2;

/// What `preference` says of the arrangement; sockets where it says nothing or none of the words.
pub(super) fn preferred(preference: Option<&PreferenceSpec>) -> PreferredCpuTopology {
    preference
        .and_then(|preference| preference.cpu.as_ref())
        .and_then(|cpu| cpu.preferred_cpu_topology.as_deref())
        .and_then(|word| word.parse().ok())
        .unwrap_or(PreferredCpuTopology::Sockets)
}

/// How `preference` spreads: the ratio, and over what.
pub(crate) fn spread(preference: &PreferenceSpec) -> (u32, SpreadAcross) {
    let options = preference
        .cpu
        .as_ref()
        .and_then(|cpu| cpu.spread_options.as_ref());
    let old = preference
        .prefer_spread_socket_to_core_ratio
        .filter(|ratio| *ratio > 0);
    let ratio = options
        .and_then(|options| options.ratio)
        .or(old)
        .unwrap_or(RATIO);
    let across = options
        .and_then(|options| options.across.as_deref())
        .and_then(|word| word.parse().ok())
        .unwrap_or(SpreadAcross::SocketsCores);
    (ratio, across)
}

/// The arrangement of `guest` processors. The error, relative to the instance type's spec, is that
/// they cannot be spread.
pub(super) fn arrange(
    guest: u32,
    preference: Option<&PreferenceSpec>,
) -> Result<Topology, FieldError> {
    use PreferredCpuTopology as Word;
    let mut topology = Topology {
        sockets: 1,
        cores: 1,
        threads: 1,
    };
    match preferred(preference) {
        Word::Sockets | Word::PreferSockets | Word::Any | Word::PreferAny => {
            topology.sockets = guest;
        }
        Word::Cores | Word::PreferCores => topology.cores = guest,
        Word::Threads | Word::PreferThreads => topology.threads = guest,
        Word::Spread | Word::PreferSpread => {
            let (ratio, across) = preference.map_or((RATIO, SpreadAcross::SocketsCores), spread);
            return spread_over(guest, ratio, across);
        }
    }
    Ok(topology)
}

fn spread_over(guest: u32, ratio: u32, across: SpreadAcross) -> Result<Topology, FieldError> {
    let (cores, threads, what) = match across {
        SpreadAcross::SocketsCores => (ratio, 1, "cores of a socket"),
        SpreadAcross::CoresThreads => (1, ratio, "threads of a core"),
        SpreadAcross::SocketsCoresThreads => {
            (ratio, THREADS, "threads of a socket, of two to a core")
        }
    };
    let one = cores.saturating_mul(threads);
    if one == 0 || !guest.is_multiple_of(one) {
        let message =
            format!("{guest} processors cannot be divided by the {one} {what} of the preference");
        return Err(FieldError::new("cpu.guest", message));
    }
    let many = guest / one;
    Ok(match across {
        SpreadAcross::CoresThreads => Topology {
            sockets: 1,
            cores: many,
            threads,
        },
        _ => Topology {
            sockets: many,
            cores,
            threads,
        },
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn arranged(guest: u32, cpu: Value) -> Result<[u32; 3], String> {
        let preference: PreferenceSpec = serde_json::from_value(json!({ "cpu": cpu })).unwrap();
        arrange(guest, Some(&preference))
            .map(|it| [it.sockets, it.cores, it.threads])
            .map_err(|error| error.to_string())
    }

    #[test]
    fn processors_are_arranged_by_every_word() {
        for (word, expected) in [
            ("sockets", [8, 1, 1]),
            ("preferSockets", [8, 1, 1]),
            ("cores", [1, 8, 1]),
            ("preferCores", [1, 8, 1]),
            ("threads", [1, 1, 8]),
            ("preferThreads", [1, 1, 8]),
            ("any", [8, 1, 1]),
            ("preferAny", [8, 1, 1]),
            ("spread", [4, 2, 1]),
            ("preferSpread", [4, 2, 1]),
        ] {
            let cpu = json!({ "preferredCPUTopology": word });
            assert_eq!(arranged(8, cpu), Ok(expected), "{word}");
        }
        let none = arrange(3, None).map(|it| it.sockets);
        assert_eq!(none, Ok(3), "sockets by default");
    }

    #[test]
    fn a_spread_is_over_what_it_says() {
        for (across, ratio, guest, expected) in [
            ("SocketsCores", 2, 6, Some([3, 2, 1])),
            ("SocketsCores", 4, 8, Some([2, 4, 1])),
            ("SocketsCores", 4, 6, None),
            ("SocketsCores", 2, 1, None),
            ("CoresThreads", 2, 6, Some([1, 3, 2])),
            ("CoresThreads", 2, 3, None),
            ("SocketsCoresThreads", 2, 8, Some([2, 2, 2])),
            ("SocketsCoresThreads", 4, 16, Some([2, 4, 2])),
            ("SocketsCoresThreads", 2, 6, None),
        ] {
            let options = json!({ "across": across, "ratio": ratio });
            let cpu = json!({ "preferredCPUTopology": "spread", "spreadOptions": options });
            let found = arranged(guest, cpu);
            assert_eq!(found.clone().ok(), expected, "{across} {ratio} {guest}");
            if let Err(error) = found {
                assert!(error.starts_with("cpu.guest: "), "{error}");
            }
        }
    }

    #[test]
    fn the_old_ratio_counts_where_the_new_is_not_set() {
        let mut preference: PreferenceSpec = serde_json::from_value(json!({
            "cpu": { "preferredCPUTopology": "preferSpread" }, "preferSpreadSocketToCoreRatio": 3,
        }))
        .unwrap();
        assert_eq!(arrange(6, Some(&preference)).map(|it| it.cores), Ok(3));
        let cpu = preference.cpu.get_or_insert_default();
        cpu.spread_options.get_or_insert_default().ratio = Some(6);
        assert_eq!(arrange(6, Some(&preference)).map(|it| it.cores), Ok(6));
    }
}
