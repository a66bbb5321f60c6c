//! Time as the API has it: whole seconds, so that what is written reads back as itself.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

/// Now, in whole seconds.
pub fn now() -> Time {
    whole(Timestamp::now())
}

/// `time`, cut to whole seconds.
pub fn whole(time: Timestamp) -> Time {
    Time(Timestamp::from_second(time.as_second()).unwrap_or(time))
}

/// How long after `earlier` `later` is; zero if it is not.
pub fn between(earlier: &Time, later: &Time) -> Duration {
    Duration::try_from(later.0.duration_since(earlier.0)).unwrap_or(Duration::ZERO)
}

/// What is left at `now` of a pause of `length` that began at `since`. One that begins later than it
/// lasts is over as well: a clock was set back, or two hosts' clocks are that far apart.
pub fn left(since: &Time, length: Duration, now: &Time) -> Option<Duration> {
    if between(now, since) > length {
        return None;
    }
    let left = length.checked_sub(between(since, now))?;
    (!left.is_zero()).then_some(left)
}

/// `time` and `seconds` more.
pub fn after(time: &Time, seconds: u32) -> Time {
    let sum = Timestamp::from_second(time.0.as_second() + i64::from(seconds));
    Time(sum.unwrap_or(time.0))
}

/// `time`, `seconds` earlier.
pub fn before(time: &Time, seconds: u32) -> Time {
    let difference = Timestamp::from_second(time.0.as_second() - i64::from(seconds));
    Time(difference.unwrap_or(time.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_jumps_makes_no_pause_longer() {
        let (now, length) = (now(), Duration::from_secs(5));
        let left = |since: i64| {
            let since = Timestamp::from_second(now.0.as_second() + since).unwrap();
            left(&Time(since), length, &now).map(|left| left.as_secs())
        };
        assert_eq!(left(0), Some(5));
        assert_eq!(left(-3), Some(2));
        assert_eq!(left(-5), None);
        assert_eq!(left(-3600), None, "the clock was set forward");
        assert_eq!(left(2), Some(5), "clocks differ a little");
        assert_eq!(left(3600), None, "the clock was set back");
    }

    #[test]
    fn times_read_back_as_they_were_written() {
        let now = now();
        let text = serde_json::to_string(&now).unwrap();
        assert_eq!(serde_json::from_str::<Time>(&text).unwrap(), now);
        assert_eq!(between(&now, &after(&now, 7)), Duration::from_secs(7));
        assert_eq!(between(&after(&now, 7), &now), Duration::ZERO);
        assert_eq!(before(&after(&now, 7), 7), now);
    }
}
