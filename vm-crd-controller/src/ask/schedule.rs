//! When each machine is asked: pure, by the time that it is given.
//!
//! Promises that at most one ask begins in each [`SPACING`], and that a machine that is being asked is
//! not asked a second time.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use crate::machine::digest;

/// From a machine's start until it is asked first. Its guest is hardly up then, but who paused it, or
/// started it paused, wants to see that.
const SOON: Duration = Duration::from_secs(3);

/// Between two asks of a machine whose agent has answered, and the most between two asks of one
/// whose agent has not.
const USUAL: Duration = Duration::from_secs(300);

/// Between the beginnings of two asks, of whichever machines: the API server and kubelet carry each.
const SPACING: Duration = Duration::from_millis(50);

/// The share of an interval that asks of many machines may take: 10,000 machines, [`SPACING`] each,
/// would need 500 s.
const SHARE: u32 = 2;

/// When each machine is asked.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    due: BTreeSet<(Instant, String)>,
    machines: HashMap<String, Machine>,
    /// No ask begins before that.
    free: Option<Instant>,
}

#[derive(Debug)]
struct Machine {
    /// None while it is being asked.
    due: Option<Instant>,
    /// The pause after the next ask, if the agent does not answer.
    pause: Duration,
    /// Something hinted at a change while it was being asked.
    again: bool,
}

impl Schedule {
    /// A machine that has run for `seconds`.
    pub(super) fn add(&mut self, uid: &str, seconds: u64, now: Instant) {
        let fresh = Duration::from_secs(seconds) < USUAL;
        let first = if fresh { SOON } else { self.spread(uid) };
        let machine = Machine {
            due: None,
            pause: if fresh { SOON } else { USUAL },
            again: false,
        };
        self.machines.insert(uid.to_owned(), machine);
        self.plan(uid, now + first);
    }

    /// A machine is not asked any more.
    pub(super) fn remove(&mut self, uid: &str) {
        if let Some(due) = self.machines.remove(uid).and_then(|machine| machine.due) {
            self.due.remove(&(due, uid.to_owned()));
        }
    }

    /// A machine is to be asked at once.
    pub(super) fn hurry(&mut self, uid: &str, now: Instant) {
        match self.machines.get_mut(uid) {
            Some(machine) if machine.due.is_none() => machine.again = true,
            Some(_) => self.plan(uid, now),
            None => {}
        }
    }

    /// The machine that is to be asked now, or else when to look again.
    pub(super) fn next(&mut self, now: Instant) -> Result<String, Option<Instant>> {
        let Some((due, uid)) = self.due.first().cloned() else {
            return Err(None);
        };
        let from = self.free.map_or(due, |free| free.max(due));
        if from > now {
            return Err(Some(from));
        }
        self.due.pop_first();
        if let Some(machine) = self.machines.get_mut(&uid) {
            machine.due = None;
        }
        self.free = Some(now + SPACING);
        Ok(uid)
    }

    /// A machine was asked; `settled`: it told all that it tells after its start.
    pub(super) fn asked(&mut self, uid: &str, settled: bool, now: Instant) {
        let least = self.interval();
        let Some(machine) = self.machines.get_mut(uid) else {
            return;
        };
        let pause = if settled { USUAL } else { machine.pause };
        machine.pause = if settled {
            SOON
        } else {
            (pause * 2).min(USUAL)
        };
        let pause = if pause < USUAL { pause } else { least };
        let pause = if std::mem::take(&mut machine.again) {
            Duration::ZERO
        } else {
            pause
        };
        self.plan(uid, now + pause);
    }

    fn plan(&mut self, uid: &str, when: Instant) {
        let Some(machine) = self.machines.get_mut(uid) else {
            return;
        };
        if let Some(due) = machine.due.replace(when) {
            self.due.remove(&(due, uid.to_owned()));
        }
        self.due.insert((when, uid.to_owned()));
    }

    /// Between two asks of one machine in the long run.
    fn interval(&self) -> Duration {
        let count = u32::try_from(self.machines.len()).unwrap_or(u32::MAX);
        USUAL.max(SPACING.saturating_mul(count).saturating_mul(SHARE))
    }

    /// A part of the interval that differs from machine to machine.
    fn spread(&self, uid: &str) -> Duration {
        let thousandths = u32::try_from(digest(&[uid]) % 1000).unwrap_or(0);
        self.interval().max(USUAL) / 1000 * thousandths
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The seconds, from `begin` on, at which `uid` is asked when it answers so.
    fn asked(schedule: &mut Schedule, begin: Instant, answers: &[bool]) -> Vec<u64> {
        let mut now = begin;
        let mut times = Vec::new();
        for &connected in answers {
            let uid = loop {
                match schedule.next(now) {
                    Ok(uid) => break uid,
                    Err(wait) => now = wait.unwrap(),
                }
            };
            times.push(now.duration_since(begin).as_secs());
            assert_eq!(schedule.next(now), Err(None), "it is being asked");
            schedule.asked(&uid, connected, now);
        }
        times
    }

    #[test]
    fn pauses_grow_until_the_agent_answers_and_are_long_then() {
        let now = Instant::now();
        let mut schedule = Schedule::default();
        schedule.add("a", 0, now);
        let answers = [false, false, false, true, true, false, false];
        let times = asked(&mut schedule, now, &answers);
        assert_eq!(times, [3, 6, 12, 24, 324, 624, 627]);
    }

    #[test]
    fn a_machine_without_an_agent_is_left_alone_soon() {
        let now = Instant::now();
        let mut schedule = Schedule::default();
        schedule.add("a", 0, now);
        let times = asked(&mut schedule, now, &[false; 12]);
        let last: Vec<_> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert_eq!(last[7..], [300; 4], "{times:?}");
    }

    #[test]
    fn a_hint_hurries_and_counts_once() {
        let now = Instant::now();
        let mut schedule = Schedule::default();
        schedule.add("a", 0, now);
        schedule.hurry("a", now);
        assert_eq!(schedule.next(now), Ok("a".to_owned()));
        // While it is being asked: once more afterwards.
        schedule.hurry("a", now);
        let later = now + SPACING;
        assert_eq!(schedule.next(later), Err(None));
        schedule.asked("a", true, later);
        assert_eq!(schedule.next(later), Ok("a".to_owned()));
        schedule.asked("a", true, later);
        assert_eq!(schedule.next(later), Err(Some(later + USUAL)));
        schedule.hurry("b", now);
        schedule.remove("a");
        assert_eq!(schedule.next(later + USUAL), Err(None), "it is gone");
    }

    #[test]
    fn many_machines_are_asked_more_seldom_and_spread() {
        let now = Instant::now();
        let mut schedule = Schedule::default();
        for number in 0..10_000 {
            schedule.add(&number.to_string(), 3600, now);
        }
        assert_eq!(schedule.interval(), Duration::from_secs(1000));
        schedule.add("fresh", 0, now);
        let mut order = 0;
        let mut at = now;
        loop {
            match schedule.next(at) {
                Ok(uid) if uid == "fresh" => break,
                Ok(_) => order += 1,
                Err(wait) => at = wait.unwrap(),
            }
        }
        assert!(order < 200, "a new machine waits for {order} old ones");
        assert!(at - now < SOON * 2);
    }
}
