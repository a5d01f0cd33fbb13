//! The one error type of this crate.

use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};

use kirie_data::DataError;

/// What went wrong around a run. Every message names the file or argument, what was found there and what was expected.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// A file that is written whole could not be, or a picture could not be read.
    #[error(transparent)]
    Data(#[from] DataError),

    /// A file or folder of the run cannot be read, opened, listed, moved or the like.
    #[error("{}: cannot be {action}: {source}", path.display())]
    Files {
        /// The file or folder.
        path: PathBuf,
        /// What was tried: "read", "opened" ...
        action: &'static str,
        /// The system's reason.
        source: io::Error,
    },

    /// A configuration that cannot be used.
    #[error("{place}: {reason}")]
    Config {
        /// The file and line, or the `--set` argument.
        place: String,
        /// What was expected and what was found.
        reason: String,
    },

    /// A new run was to be made in a folder that holds one.
    #[error(
        "{}: holds a run already ({found} is there); --resume continues it, another folder starts anew",
        path.display()
    )]
    HoldsRun {
        /// The folder.
        path: PathBuf,
        /// What tells that there is a run.
        found: String,
    },

    /// A run was to be continued in a folder that holds none.
    #[error("{}: holds no run (there is no config.toml)", path.display())]
    NoRun {
        /// The folder.
        path: PathBuf,
    },

    /// Another process works on this run.
    #[error("{}: another process{} is working on this run", path.display(), in_brackets(holder))]
    Locked {
        /// The folder.
        path: PathBuf,
        /// What the process wrote about itself ("process 1234"); may be empty.
        holder: String,
    },

    /// A checkpoint could not be saved. Earlier checkpoints are untouched, and nothing of the new one is left.
    #[error("{}: the checkpoint cannot be saved: {source}{}", path.display(), space(source, *written, *needed))]
    Save {
        /// The file that could not be written.
        path: PathBuf,
        /// Bytes of this checkpoint that were written before.
        written: u64,
        /// Bytes that a checkpoint of this run takes, where an earlier one tells.
        needed: Option<u64>,
        /// The system's reason.
        source: io::Error,
    },

    /// A checkpoint's part has a name that cannot be a file's name, or that another part has.
    #[error("{name:?} cannot name a part of a checkpoint: {reason}")]
    PartName {
        /// The name.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },

    /// A checkpoint does not hold what its manifest says.
    #[error("{}: the checkpoint is damaged: {reason}", path.display())]
    Damaged {
        /// The checkpoint's folder.
        path: PathBuf,
        /// Which file, what was expected and what was found.
        reason: String,
    },

    /// There are checkpoints, but none can be used. Starting over is for the user to decide.
    #[error("{}: none of the checkpoints is intact:{}", path.display(), listed(skipped))]
    NoneIntact {
        /// The folder of checkpoints.
        path: PathBuf,
        /// Each checkpoint, and what is wrong with it.
        skipped: Vec<(PathBuf, String)>,
    },

    /// A checkpoint has no part of this name.
    #[error("{}: the checkpoint has no part {name:?}, only {found}", path.display())]
    NoPart {
        /// The checkpoint's folder.
        path: PathBuf,
        /// The part asked for.
        name: String,
        /// The parts there are.
        found: String,
    },

    /// A line of the log is no record.
    #[error("{}, line {line}: {reason}", path.display())]
    LogLine {
        /// The log.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What was expected and what was found.
        reason: String,
    },

    /// A run that does not fit a sweep's folder.
    #[error("{name}: {reason}")]
    Sweep {
        /// The run, or its file.
        name: String,
        /// What was expected and what was found.
        reason: String,
    },

    /// A value that was to be written as JSON, or as TOML, has no such form.
    #[error("{what} cannot be written: {reason}")]
    NoTextForm {
        /// The value.
        what: &'static str,
        /// Why not.
        reason: String,
    },

    /// The handlers of SIGINT and SIGTERM cannot be set.
    #[error("cannot watch for Ctrl-C and termination: {source}")]
    Signals {
        /// The system's reason.
        source: io::Error,
    },
}

impl RunError {
    /// For `map_err`: a [`RunError::Files`] about this path.
    pub(crate) fn files(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Files { path: path.to_owned(), action, source }
    }
}

fn in_brackets(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!(" ({text})") }
}

fn listed(skipped: &[(PathBuf, String)]) -> String {
    skipped.iter().fold(String::new(), |mut all, (path, reason)| {
        let _ = write!(all, "\n  {}: {reason}", path.display());
        all
    })
}

/// What to make room for, where room was the trouble.
fn space(source: &io::Error, written: u64, needed: Option<u64>) -> String {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    if !matches!(source.kind(), StorageFull | QuotaExceeded | FileTooLarge) {
        return String::new();
    }
    let needed = needed.map_or(String::new(), |bytes| format!(" of about {}", in_units(bytes)));
    format!(" after {}{needed}; earlier checkpoints are untouched", in_units(written))
}

/// A number of bytes to be read by a person.
pub fn in_units(bytes: u64) -> String {
    match bytes {
        0..10_000 => format!("{bytes} bytes"),
        10_000..10_000_000 => format!("{:.0} kB", bytes as f64 / 1e3),
        10_000_000..10_000_000_000 => format!("{:.0} MB", bytes as f64 / 1e6),
        _ => format!("{:.1} GB", bytes as f64 / 1e9),
    }
}
