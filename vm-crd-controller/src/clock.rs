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

/// `time` and `seconds` more.
pub fn after(time: &Time, seconds: u32) -> Time {
    let sum = Timestamp::from_second(time.0.as_second() + i64::from(seconds));
    Time(sum.unwrap_or(time.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_read_back_as_they_were_written() {
        let now = now();
        let text = serde_json::to_string(&now).unwrap();
        assert_eq!(serde_json::from_str::<Time>(&text).unwrap(), now);
        assert_eq!(between(&now, &after(&now, 7)), Duration::from_secs(7));
        assert_eq!(between(&after(&now, 7), &now), Duration::ZERO);
    }
}
