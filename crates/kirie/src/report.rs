//! All that is printed goes through here: results to standard output, everything else to standard error.

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use indicatif::{ProgressBar, ProgressStyle};
use kirie_data::DataError;
use kirie_sam::SamError;
use kirie_sam::checkpoint::CheckpointError;
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
pub(crate) fn error(error: &anyhow::Error) {
    note(&chain(error));
}

/// Tells something in passing.
pub(crate) fn note(message: &str) {
    // Not `eprintln`, which panics when nobody reads any more (`2>&1 | head`).
    let _ = writeln!(io::stderr(), "kirie: {message}");
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
    let end: &[u8] = if text.ends_with('\n') { b"" } else { b"\n" };
    out.write_all(text.as_bytes())
        .and_then(|()| out.write_all(end))
        .and_then(|()| out.flush())
        .context("cannot write to standard output")
}

/// A table: columns as wide as they need be, numbers to the right.
pub(crate) struct Table {
    /// The head, then the rows.
    pub(crate) rows: Vec<Vec<String>>,
    /// Columns of words.
    left: usize,
}

impl Table {
    /// The first `left` columns are words.
    pub(crate) fn new(left: usize, head: &[&str]) -> Self {
        Self { rows: vec![head.iter().map(|&word| word.to_owned()).collect()], left }
    }

    /// A row below the others.
    pub(crate) fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    /// Writes it behind a text, each line so many spaces to the right.
    pub(crate) fn write(&self, text: &mut String, indent: usize) {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        for row in &self.rows {
            let mut line = " ".repeat(indent);
            for (column, (cell, &width)) in row.iter().zip(&widths).enumerate() {
                let gap = if column > 0 { "  " } else { "" };
                // Writing to a String cannot fail.
                let _ = if column < self.left {
                    fmt::Write::write_fmt(&mut line, format_args!("{gap}{cell:<width$}"))
                } else {
                    fmt::Write::write_fmt(&mut line, format_args!("{gap}{cell:>width$}"))
                };
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
    }
}

/// Columns side by side: the first to the left, the others to the right.
pub(crate) fn columns(head: &[&str], rows: &[Vec<String>]) -> String {
    let head: Vec<String> = head.iter().map(|cell| (*cell).to_owned()).collect();
    let all = || std::iter::once(&head).chain(rows);
    let count = all().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..count)
        .map(|at| all().filter_map(|row| row.get(at)).map(|cell| cell.chars().count()).max().unwrap_or(0))
        .collect();
    let mut text = String::new();
    for row in all() {
        let mut line = String::new();
        for (at, (cell, width)) in row.iter().zip(&widths).enumerate() {
            let _ = match at {
                0 => fmt::Write::write_fmt(&mut line, format_args!("{cell:<width$}")),
                _ => fmt::Write::write_fmt(&mut line, format_args!("  {cell:>width$}")),
            };
        }
        text += line.trim_end();
        text.push('\n');
    }
    text
}

/// Tells what a person may want to read while a command runs, as it stands.
pub(crate) fn tell(text: &str) {
    // As with notes, nobody may be reading.
    let _ = writeln!(io::stderr(), "{}", text.trim_end_matches('\n'));
}

/// Whether the error is a closed pipe at standard output.
pub(crate) fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|e| e.kind() == io::ErrorKind::BrokenPipe)
}

/// Whether the disk or its permissions are in the way: the next picture would fail just so.
pub(crate) fn is_disk_trouble(error: &anyhow::Error) -> bool {
    use io::ErrorKind::{PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    error.chain().filter_map(data_error).any(|e| {
        matches!(e, DataError::Write { source, .. }
            if matches!(source.kind(), PermissionDenied | QuotaExceeded | ReadOnlyFilesystem | StorageFull))
    })
}

/// The data error that a cause is or holds: transparent errors leave what they hold out of the chain.
fn data_error<'a>(cause: &'a (dyn std::error::Error + 'static)) -> Option<&'a DataError> {
    let checkpoint = match cause.downcast_ref() {
        Some(SamError::Data(error)) => return Some(error),
        Some(SamError::Checkpoint(error)) => Some(error),
        _ => cause.downcast_ref(),
    };
    match checkpoint {
        Some(CheckpointError::Write(error)) => Some(error),
        _ => cause.downcast_ref(),
    }
}

/// The error with the picture it is about, unless it names the picture itself.
pub(crate) fn about(error: anyhow::Error, picture: &Path) -> anyhow::Error {
    let path = picture.display().to_string();
    let named = error.chain().any(|cause| cause.to_string().contains(&path));
    if named { error } else { error.context(path) }
}

/// Progress over pictures: one bar on a terminal, otherwise a line a picture where there are several.
pub(crate) struct PictureProgress {
    bar: ProgressBar,
    total: usize,
    current: usize,
    name: String,
}

impl PictureProgress {
    /// Before the first picture.
    pub(crate) fn new(total: usize) -> Self {
        Self { bar: progress_bar(total as u64, "pictures"), total, current: 0, name: String::new() }
    }

    /// A picture begins.
    pub(crate) fn start(&mut self, name: &str) {
        self.current += 1;
        name.clone_into(&mut self.name);
        self.bar.set_message(name.to_owned());
    }

    /// How far the picture is.
    pub(crate) fn inside(&self, done: usize, total: usize, unit: &str) {
        self.bar.set_message(format!("{}, {done} of {total} {unit}", self.name));
    }

    /// The picture is done.
    pub(crate) fn done(&self, what: &str) {
        if self.bar.is_hidden() && self.total > 1 {
            note(&format!("{}/{} {}: {what}", self.current, self.total, self.name));
        }
        self.bar.inc(1);
    }

    /// The picture failed.
    pub(crate) fn failed(&self, reason: &anyhow::Error) {
        self.bar.suspend(|| error(reason));
        self.bar.inc(1);
    }

    /// After the last picture.
    pub(crate) fn finish(&self) {
        self.bar.finish_and_clear();
    }
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
