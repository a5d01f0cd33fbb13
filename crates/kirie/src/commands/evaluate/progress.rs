//! How far an evaluation is.

use std::time::{Duration, Instant};

use indicatif::ProgressBar;
use kirie_promptable::evaluate::Progress;

use crate::report;

/// Without a terminal a line so often.
const EVERY: Duration = Duration::from_secs(10);

/// A bar on a terminal, otherwise a line now and then; with rate and time left.
pub(super) struct Bar {
    what: &'static str,
    shown: Option<ProgressBar>,
    start: Instant,
    told: Instant,
}

impl Bar {
    pub(super) fn new(what: &'static str) -> Self {
        let now = Instant::now();
        Self { what, shown: None, start: now, told: now }
    }

    /// After every picture; one that failed is named.
    pub(super) fn tell(&mut self, progress: &Progress, unit: &str, figure: Option<&str>) {
        let bar = self.shown.get_or_insert_with(|| report::progress_bar(progress.total as u64, "pictures"));
        if let Some(error) = progress.failed {
            let (text, path) = (error.to_string(), progress.sample.image.display().to_string());
            let text = if text.contains(&path) { text } else { format!("{path}: {text}") };
            bar.suspend(|| report::note(&text));
        }
        let mut state = format!("{} {unit}", progress.objects);
        if let (Some(name), Some(value)) = (figure, progress.figure) {
            state = format!("{state}, {name} {value:.4} so far");
        }
        bar.set_message(format!("{}: {state}", self.what));
        bar.inc(1);
        if bar.is_hidden() && self.told.elapsed() >= EVERY && progress.done < progress.total {
            self.told = Instant::now();
            let rate = progress.done as f64 / self.start.elapsed().as_secs_f64();
            let left = (progress.total - progress.done) as f64 / rate;
            report::note(&format!(
                "{}: {}/{} pictures, {rate:.2}/s, {left:.0} s left, {state}",
                self.what, progress.done, progress.total
            ));
        }
    }

    pub(super) fn finish(&self) {
        if let Some(bar) = &self.shown {
            bar.finish_and_clear();
        }
    }
}
