//! Why a machine ended: the exit status, and the sentence that kubelet shows.
//!
//! QEMU's process is the source of truth for that it ended; QEMU's last words, its control group
//! and its standard error tell why.

use std::time::Duration;

use cri_glue::cgroup::Cgroup;
use cri_glue::diagnostics::Diagnostics;
use cri_glue::termination::TerminationLog;
use qemu_driver::machine::WatchdogAction;
use qemu_driver::qmp::{Ending, Qmp};
use tokio::time::timeout;
use vm_api::contract::exit_code;

use super::helpers::{Lost, Watched};
use crate::task::{Fault, blocking};

/// Longest time for QEMU's last words; its end closes their channels.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Where the reason of the end is found, and where it goes.
pub(super) struct Causes {
    pub(super) qmp: Qmp,
    pub(super) cgroup: Option<Cgroup>,
    pub(super) diagnostics: Diagnostics,
    pub(super) termination_log: Option<TerminationLog>,
    /// The programs beside QEMU, for want of which the shim may have ended it.
    pub(super) helpers: Watched,
    /// Whether the guest's memory is in huge pages, and no part of the container's memory limit.
    pub(super) hugepages: bool,
}

/// What is known of an end beside what QEMU said.
#[derive(Clone, Debug, Default)]
struct Circumstances {
    /// The kernel has killed a process of the machine's for want of memory.
    killed_for_memory: bool,
    /// The guest's memory is in huge pages.
    hugepages: bool,
    /// The shim has ended QEMU for want of this program.
    lost: Option<Lost>,
}

/// What the end was.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    /// The container's exit status.
    pub(super) status: u32,
    /// One sentence.
    pub(super) reason: String,
    /// Whether the kernel ended QEMU for want of memory.
    pub(super) out_of_memory: bool,
}

/// Finds out why QEMU, which exited with `status`, ended, and writes it to the termination log.
pub(super) async fn judge(causes: Causes, status: u32) -> Verdict {
    let Causes {
        qmp,
        cgroup,
        mut diagnostics,
        termination_log,
        helpers,
        hugepages,
    } = causes;
    let lost = helpers.ended().await;
    let ending = timeout(LAST_WORDS, qmp.ended())
        .await
        .unwrap_or_else(|_| qmp.ending());
    let said = timeout(LAST_WORDS, diagnostics.at_end()).await;
    let said = said.unwrap_or_else(|_| diagnostics.tail());
    let killed_for_memory = blocking(move || {
        cgroup
            .map_or(Ok(0), |cgroup| cgroup.oom_kills())
            .map_err(Fault::failed)
    })
    .await
    .inspect_err(|error| tracing::warn!(%error, "whether memory was short is unknown"))
    .is_ok_and(|kills| kills > 0);
    let circumstances = Circumstances {
        killed_for_memory,
        hugepages,
        lost,
    };
    let said = said.last().map(String::as_str);
    let verdict = verdict(status, &ending, circumstances, said);
    if let Some(log) = termination_log {
        let message = verdict.reason.clone();
        let written = blocking(move || log.write(&message).map_err(Fault::failed)).await;
        if let Err(error) = written {
            tracing::warn!(%error, "the termination message was not written");
        }
    }
    verdict
}

fn verdict(
    status: u32,
    ending: &Ending,
    circumstances: Circumstances,
    said: Option<&str>,
) -> Verdict {
    let signal = status
        .checked_sub(exit_code::SIGNAL_BASE)
        .filter(|signal| *signal > 0);
    // It was the shim that ended QEMU only if QEMU was killed.
    let lost = circumstances.lost.filter(|_| signal == Some(9));
    // The counter counts for the whole life of the group: it is the cause only of a SIGKILL, and not
    // of QEMU's where that has another.
    let killed = lost.as_ref().map_or(signal == Some(9), |lost| lost.killed);
    let out_of_memory = circumstances.killed_for_memory && killed;
    let advice = match circumstances.hugepages {
        false => "raise the container's memory limit above the guest's memory",
        true => {
            "raise the container's memory limit, which is for QEMU beside the guest's huge pages"
        }
    };
    let because = |text: &str| match said {
        Some(said) => format!("{text}; QEMU's last message: {said}"),
        None => text.to_owned(),
    };
    let (status, reason) = if let Some(Lost { reason, .. }) = lost {
        let reason = match out_of_memory {
            false => reason,
            true => format!("{reason}; the kernel was out of memory for it: {advice}"),
        };
        (status, reason)
    } else if out_of_memory {
        (
            status,
            format!("the machine was ended by the kernel, out of memory: {advice}"),
        )
    } else if let Some(signal) = signal {
        (
            status,
            because(&format!("QEMU was ended by signal {signal}")),
        )
    } else if ending.panicked {
        (
            exit_code::GUEST_CRASHED,
            "the guest crashed: it reported a kernel panic".to_owned(),
        )
    } else if status != 0 {
        (
            status,
            because(&format!("QEMU failed with status {status}")),
        )
    } else if ending.watchdog == Some(WatchdogAction::Poweroff) {
        (
            exit_code::GUEST_CRASHED,
            "the machine was ended by its watchdog, which the guest had not reset in time"
                .to_owned(),
        )
    } else if ending.powered_off() {
        let reason = match ending.watchdog {
            None => "the guest powered itself off",
            Some(_) => "the guest powered itself off after its watchdog pressed the power button",
        };
        (exit_code::POWERED_OFF, reason.to_owned())
    } else {
        match &ending.shutdown {
            // Somebody on the node told QEMU to end: not the guest's doing, not a success.
            Some((_, cause)) => (
                exit_code::GUEST_CRASHED,
                because(&format!("the machine was ended ({cause})")),
            ),
            None => (
                exit_code::GUEST_CRASHED,
                because("QEMU ended without a reason"),
            ),
        }
    };
    Verdict {
        status,
        reason,
        out_of_memory,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ending(panicked: bool, shutdown: Option<(bool, &str)>) -> Ending {
        let shutdown = shutdown.map(|(guest, reason)| (guest, reason.to_owned()));
        Ending {
            panicked,
            shutdown,
            ..Ending::default()
        }
    }

    fn barked(ending: Ending, action: WatchdogAction) -> Ending {
        let watchdog = Some(action);
        Ending { watchdog, ..ending }
    }

    #[test]
    fn each_end_has_its_status_and_its_words() {
        let off = ending(false, Some((true, "guest-shutdown")));
        let table = [
            (0, off.clone(), false, 0, "powered itself off"),
            (
                0,
                ending(true, Some((true, "guest-panic"))),
                false,
                1,
                "kernel panic",
            ),
            (
                1,
                ending(true, Some((true, "guest-panic"))),
                false,
                1,
                "kernel panic",
            ),
            (
                1,
                ending(false, None),
                false,
                1,
                "status 1; QEMU's last message: boom",
            ),
            (137, ending(false, None), false, 137, "signal 9"),
            (137, ending(false, None), true, 137, "out of memory"),
            (139, ending(false, None), true, 139, "signal 11"),
            (
                0,
                ending(false, Some((false, "host-signal"))),
                false,
                1,
                "ended (host-signal)",
            ),
            (0, ending(false, None), false, 1, "without a reason"),
            (
                0,
                barked(ending(false, None), WatchdogAction::Poweroff),
                false,
                1,
                "ended by its watchdog",
            ),
            (
                0,
                barked(off.clone(), WatchdogAction::Shutdown),
                false,
                0,
                "after its watchdog pressed",
            ),
            (
                137,
                barked(ending(false, None), WatchdogAction::Poweroff),
                false,
                137,
                "signal 9",
            ),
        ];
        for (status, ending, killed_for_memory, expected, words) in table {
            let circumstances = Circumstances {
                killed_for_memory,
                ..Circumstances::default()
            };
            let verdict = verdict(status, &ending, circumstances, Some("boom"));
            assert_eq!(verdict.status, expected, "{verdict:?}");
            assert!(verdict.reason.contains(words), "{verdict:?}");
            assert_eq!(verdict.out_of_memory, words == "out of memory");
        }
    }
    #[test]
    fn a_lost_program_is_the_reason_and_memory_only_if_it_was_killed() {
        let of = |status, killed_for_memory, killed| {
            let reason = "because virtiofsd ended".to_owned();
            let circumstances = Circumstances {
                killed_for_memory,
                lost: Some(Lost { reason, killed }),
                ..Circumstances::default()
            };
            let verdict = verdict(status, &ending(false, None), circumstances, None);
            (verdict.reason, verdict.out_of_memory)
        };
        let alone = ("because virtiofsd ended".to_owned(), false);
        assert_eq!(of(137, false, true), alone);
        assert_eq!(of(137, true, false), alone);
        let (reason, out_of_memory) = of(137, true, true);
        assert!(reason.starts_with("because virtiofsd ended; the kernel was out of memory for it"));
        assert!(out_of_memory);
        // QEMU was not ended by the shim.
        assert_eq!(of(139, true, true).0, "QEMU was ended by signal 11");
    }

    #[test]
    fn huge_pages_are_no_part_of_the_limit() {
        for (hugepages, words) in [
            (false, "above the guest's memory"),
            (true, "which is for QEMU beside the guest's huge pages"),
        ] {
            let circumstances = Circumstances {
                killed_for_memory: true,
                hugepages,
                lost: None,
            };
            let verdict = verdict(137, &ending(false, None), circumstances, None);
            assert!(verdict.reason.ends_with(words), "{verdict:?}");
        }
    }
}
