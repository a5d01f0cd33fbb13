//! All that is printed goes through here: results to standard output, everything else to standard error.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use thiserror::Error;

/// Errors that the exit code tells apart.
#[derive(Debug, Error)]
pub(crate) enum Failure {
    /// The command line cannot be meant as it stands.
    #[error("{0}")]
    Usage(String),
    /// Some inputs failed; each was named when it did.
    #[error("{failed} of {total} pictures failed")]
    Inputs {
        /// How many failed.
        failed: usize,
        /// How many there were.
        total: usize,
    },
}

/// A usage error.
pub(crate) fn usage(message: impl Into<String>) -> anyhow::Error {
    Failure::Usage(message.into()).into()
}

/// Prints an error with its causes.
#[allow(clippy::print_stderr, reason = "the one place errors are printed")]
pub(crate) fn error(error: &anyhow::Error) {
    eprintln!("kirie: {}", chain(error));
}

/// Tells something in passing.
#[allow(clippy::print_stderr, reason = "the one place notes are printed")]
pub(crate) fn note(message: &str) {
    eprintln!("kirie: {message}");
}

/// The error and its causes in one line, without what a cause repeats.
fn chain(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

/// Writes a result to standard output.
pub(crate) fn print(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    if !text.ends_with('\n') {
        out.write_all(b"\n")?;
    }
    out.flush()?;
    Ok(())
}

/// Whether the error is a closed pipe at standard output.
pub(crate) fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|e| e.kind() == io::ErrorKind::BrokenPipe)
}

/// A progress bar on standard error; hidden unless that is a terminal.
pub(crate) fn progress_bar(total: u64, unit: &str) -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(total);
    let template = match unit {
        "bytes" => "{msg} [{bar:30}] {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec}, {eta} left"
            .to_owned(),
        _ => format!("{{msg}} [{{bar:30}}] {{pos}}/{{len}} {unit}, {{per_sec}}, {{eta}} left"),
    };
    if let Ok(style) = ProgressStyle::with_template(&template) {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}
