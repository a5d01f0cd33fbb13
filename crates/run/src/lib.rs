//! Everything about a training or evaluation *run* that is not tensors.
//!
//! - [`config`]: a TOML file with `--set key=value` on top, misspelt keys refused;
//! - [`RunFolder`]: the files of a run, locked against a second process;
//! - [`FolderLock`]: one process at a time in a folder;
//! - [`entry`]: files written and read against their size and hash;
//! - [`Checkpoints`]: saved so that a crash, a kill or a full disk never costs the last good one;
//! - [`Stop`]: Ctrl-C and termination ask for a clean end;
//! - [`Progress`]: a bar on a terminal, a line now and then elsewhere;
//! - [`log`]: one JSON record a line, cut to the checkpoint on resume;
//! - [`report`]: self-contained HTML pages with charts;
//! - [`mod@sweep`]: many runs in one folder, gone on with where they were left.

mod checkpoint;
pub mod config;
pub mod entry;
mod error;
mod folder;
mod lock;
pub mod log;
mod manifest;
mod measure;
mod progress;
pub mod report;
mod stop;
pub mod sweep;

pub use checkpoint::{Checkpoint, Checkpoints, Part};
pub use config::Config;
pub use entry::FileEntry;
pub use error::{RunError, in_units};
pub use folder::RunFolder;
pub use lock::FolderLock;
pub use log::{Log, Record};
pub use measure::{cpu_seconds, peak_memory};
pub use progress::{Progress, ProgressMode};
pub use stop::Stop;
