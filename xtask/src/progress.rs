//! What the user sees while something long runs: a bar or a spinner on a terminal, one plain line
//! at the beginning and at the end elsewhere (a CI log).

use std::io::IsTerminal;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

/// The bars of steps that run side by side.
static BARS: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);

/// One long step. Dropped without [`Step::done`], it vanishes: the error speaks then.
pub(crate) struct Step {
    what: String,
    bar: Option<ProgressBar>,
    begin: Instant,
}

impl Step {
    /// Shows that `what` has begun.
    pub(crate) fn begin(what: impl Into<String>) -> Self {
        let what = what.into();
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = BARS.add(ProgressBar::new_spinner().with_message(what.clone()));
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        if bar.is_none() {
            eprintln!("{what} ...");
        }
        Self {
            what,
            bar,
            begin: Instant::now(),
        }
    }

    /// Turns the spinner into a bar of `total` parts.
    pub(crate) fn total(&self, total: u64) {
        if let Some(bar) = &self.bar {
            if let Ok(style) =
                ProgressStyle::with_template("{msg} [{bar:30}] {pos}/{len} {elapsed} {prefix}")
            {
                bar.set_style(style.progress_chars("=> "));
            }
            bar.set_length(total);
        }
    }

    /// One part of the whole is done.
    pub(crate) fn part(&self, name: &str) {
        if let Some(bar) = &self.bar {
            bar.set_prefix(name.to_owned());
            bar.inc(1);
        }
    }

    /// Says something that stays, above the bars.
    pub(crate) fn say(&self, line: &str) {
        BARS.suspend(|| eprintln!("{line}"));
    }

    /// Shows that the step has ended well, and how long it took.
    pub(crate) fn done(self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        let took = self.begin.elapsed().as_secs_f32();
        BARS.suspend(|| eprintln!("{}: {took:.1} s", self.what));
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Calls `ready` every 100 ms until it says yes; false when `limit` has passed.
pub(crate) fn wait(limit: Duration, mut ready: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + limit;
    loop {
        if ready() {
            return true;
        }
        if Instant::now() >= end {
            return false;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}
