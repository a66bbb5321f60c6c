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

use super::helpers::Watched;
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
    } = causes;
    let helper_failure = helpers.ended().await;
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
    let mut verdict = verdict(
        status,
        &ending,
        killed_for_memory,
        said.last().map(String::as_str),
    );
    // Only if it was the shim that ended QEMU for it.
    let killed = status == exit_code::SIGNAL_BASE + 9 && !verdict.out_of_memory;
    if let Some(reason) = helper_failure.filter(|_| killed) {
        verdict.reason = reason;
    }
    if let Some(log) = termination_log {
        let message = verdict.reason.clone();
        let written = blocking(move || log.write(&message).map_err(Fault::failed)).await;
        if let Err(error) = written {
            tracing::warn!(%error, "the termination message was not written");
        }
    }
    verdict
}

fn verdict(status: u32, ending: &Ending, killed_for_memory: bool, said: Option<&str>) -> Verdict {
    let signal = status
        .checked_sub(exit_code::SIGNAL_BASE)
        .filter(|signal| *signal > 0);
    // The counter counts for the whole life of the group: it is the cause only of a SIGKILL.
    let out_of_memory = killed_for_memory && signal == Some(9);
    let because = |text: &str| match said {
        Some(said) => format!("{text}; QEMU's last message: {said}"),
        None => text.to_owned(),
    };
    let (status, reason) = if out_of_memory {
        let advice = "raise the container's memory limit above the guest's memory";
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
            watchdog: None,
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
        for (status, ending, oom, expected, words) in table {
            let verdict = verdict(status, &ending, oom, Some("boom"));
            assert_eq!(verdict.status, expected, "{verdict:?}");
            assert!(verdict.reason.contains(words), "{verdict:?}");
            assert_eq!(verdict.out_of_memory, words == "out of memory");
        }
    }
}
