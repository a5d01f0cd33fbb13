//! How far a run is: a bar on a terminal, a line now and then anywhere else.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Where progress is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ProgressMode {
    /// A bar if standard error is a terminal, plain lines if not.
    #[default]
    Auto,
    /// Plain lines.
    Plain,
    /// Nowhere. [`Progress::line`] is silent too.
    Silent,
}

/// The progress of a run, on standard error.
///
/// ```text
/// step 120/4000  3 %  1.2 step/s  54 min left  loss 0.312
/// ```
pub struct Progress {
    what: String,
    total: u64,
    start_at: u64,
    position: u64,
    message: String,
    begun: Instant,
    every: Duration,
    shown: Option<Instant>,
    output: Output,
}

enum Output {
    Bar(ProgressBar),
    Plain(Box<dyn Write + Send>),
    Silent,
}

impl Progress {
    /// Begins to show progress. `what` is counted ("step", "picture"), up to `total`; a run that was resumed has done
    /// `start_at` of them before, which do not count for the rate.
    pub fn new(what: &str, total: u64, start_at: u64, mode: ProgressMode) -> Self {
        let output = match mode {
            ProgressMode::Silent => Output::Silent,
            ProgressMode::Auto if io::stderr().is_terminal() => Output::Bar(bar(total, start_at)),
            _ => Output::Plain(Box::new(io::stderr())),
        };
        Self {
            what: what.to_owned(),
            total,
            start_at,
            position: start_at,
            message: String::new(),
            begun: Instant::now(),
            every: Duration::from_secs(10),
            shown: None,
            output,
        }
    }

    /// How long plain lines are apart at least, 10 seconds unless told.
    pub fn every(mut self, every: Duration) -> Self {
        self.every = every;
        self
    }

    /// The run has come to `position` (steps done). The message, such as `loss 0.312`, stands at the end of the line.
    pub fn set(&mut self, position: u64, message: &str) {
        self.position = position;
        message.clone_into(&mut self.message);
        let elapsed = self.begun.elapsed();
        if let Output::Bar(bar) = &self.output {
            bar.set_position(position);
            bar.set_message(self.line_after(elapsed));
        } else if self.shown.is_none_or(|shown| shown.elapsed() >= self.every) {
            self.print(elapsed);
        }
    }

    /// Prints a line of its own, above the bar if there is one.
    pub fn line(&mut self, text: &str) {
        match &mut self.output {
            Output::Bar(bar) => bar.println(text),
            // Nobody reads a closed standard error; that is no reason to end a run.
            Output::Plain(output) => drop(writeln!(output, "{text}")),
            Output::Silent => {}
        }
    }

    /// The end: the last state stays on the screen.
    pub fn finish(mut self) {
        let elapsed = self.begun.elapsed();
        if let Output::Bar(bar) = &self.output {
            bar.abandon_with_message(self.line_after(elapsed));
        } else {
            self.print(elapsed);
        }
    }

    fn print(&mut self, elapsed: Duration) {
        let line = self.line_after(elapsed);
        if let Output::Plain(output) = &mut self.output {
            let _ = writeln!(output, "{line}");
        }
        self.shown = Some(Instant::now());
    }

    fn line_after(&self, elapsed: Duration) -> String {
        let Self { what, total, position, message, .. } = self;
        let mut parts = vec![format!("{what} {position}/{total}")];
        if let Some(percent) = position.saturating_mul(100).checked_div(*total) {
            parts.push(format!("{percent} %"));
        }
        // The mean of this session: it includes the evaluations on the way, as the time that is left will.
        let (done, seconds) = (position.saturating_sub(self.start_at), elapsed.as_secs_f64());
        if done > 0 && seconds > 0.0 {
            let rate = done as f64 / seconds;
            parts.push(rate_text(rate, what));
            if *total > *position {
                parts.push(format!("{} left", time_text((total - position) as f64 / rate)));
            } else {
                parts.push(time_text(seconds));
            }
        }
        if !message.is_empty() {
            parts.push(message.clone());
        }
        parts.join("  ")
    }
}

fn bar(total: u64, start_at: u64) -> ProgressBar {
    let bar =
        ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr()).with_position(start_at);
    // Rate and time left are in the message: indicatif's would count the steps before a resume. The template is
    // constant, so the plain style is never needed.
    let style = ProgressStyle::with_template("{spinner} [{bar:16}] {wide_msg}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> "));
    // A step may take a minute: something should move.
    bar.enable_steady_tick(Duration::from_millis(500));
    bar
}

fn rate_text(rate: f64, what: &str) -> String {
    match rate {
        100.0.. => format!("{rate:.0} {what}/s"),
        1.0.. => format!("{rate:.1} {what}/s"),
        _ => format!("{} per {what}", time_text(1.0 / rate)),
    }
}

fn time_text(seconds: f64) -> String {
    match seconds {
        ..10.0 => format!("{seconds:.1} s"),
        ..99.5 => format!("{seconds:.0} s"),
        ..5970.0 => format!("{:.0} min", seconds / 60.0),
        ..172_800.0 => {
            let minutes = (seconds / 60.0).round() as u64;
            format!("{} h {:02} min", minutes / 60, minutes % 60)
        }
        _ => format!("{:.1} days", seconds / 86_400.0),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn plain(total: u64, start_at: u64) -> (Progress, impl Fn() -> String) {
        let shown = Shared::default();
        let mut progress = Progress::new("step", total, start_at, ProgressMode::Plain);
        progress.output = Output::Plain(Box::new(shown.clone()));
        (progress, move || String::from_utf8(shown.0.lock().unwrap().clone()).unwrap())
    }

    #[test]
    fn a_line_tells_rate_and_time_left() {
        let (mut progress, _) = plain(4000, 0);
        progress.set(120, "loss 0.312");
        let line = progress.line_after(Duration::from_secs(100));
        assert_eq!(line, "step 120/4000  3 %  1.2 step/s  54 min left  loss 0.312");
        progress.set(4000, "");
        assert_eq!(progress.line_after(Duration::from_secs(20)), "step 4000/4000  100 %  200 step/s  20 s");
    }

    #[test]
    fn steps_before_a_resume_do_not_count_for_the_rate() {
        let (mut progress, _) = plain(4000, 2000);
        assert_eq!(progress.line_after(Duration::from_secs(5)), "step 2000/4000  50 %");
        progress.set(2010, "");
        let line = progress.line_after(Duration::from_secs(200));
        assert_eq!(line, "step 2010/4000  50 %  20 s per step  11 h 03 min left");
    }

    #[test]
    fn plain_lines_keep_their_distance() {
        let (progress, shown) = plain(3, 0);
        let mut progress = progress.every(Duration::from_hours(1));
        progress.set(1, "first");
        progress.set(2, "second");
        progress.line("a remark");
        progress.set(3, "third");
        progress.finish();
        let shown = shown();
        let ends: Vec<_> = shown.lines().map(|line| line.rsplit("  ").next().unwrap()).collect();
        assert_eq!(ends, ["first", "a remark", "third"]);

        let (progress, shown) = plain(0, 0);
        let mut progress = progress.every(Duration::ZERO);
        progress.set(1, "");
        progress.set(2, "");
        assert_eq!(shown().lines().count(), 2);
    }

    #[test]
    fn times_are_readable() {
        let texts = [0.25, 42.0, 99.4, 3240.0, 5000.0, 7260.0, 400_000.0].map(time_text);
        assert_eq!(texts, ["0.2 s", "42 s", "99 s", "54 min", "83 min", "2 h 01 min", "4.6 days"]);
        assert_eq!(rate_text(0.1, "step"), "10 s per step");
    }
}
