//! The folder of a run, which one process at a time works in.

use std::fs;
use std::path::{Path, PathBuf};

use kirie_data::write_atomic;
use serde::Serialize;

use crate::{Checkpoints, FolderLock, RunError};

const CONFIG: &str = "config.toml";
const LOG: &str = "log.jsonl";
const CHECKPOINTS: &str = "checkpoints";

/// The folder of a run, locked for as long as this value lives.
///
/// | file | content |
/// | --- | --- |
/// | `config.toml` | the resolved configuration |
/// | `log.jsonl` | one record a line ([`crate::log`]) |
/// | `metrics.json` | the figures at the end |
/// | `report.html` | the report ([`crate::report`]) |
/// | `samples/` | pictures for the report |
/// | `checkpoints/` | [`Checkpoints`] |
/// | `.lock` | the lock; it may stay behind, the system frees it with the process that held it |
#[derive(Debug)]
pub struct RunFolder {
    path: PathBuf,
    /// Held until it is dropped.
    _lock: FolderLock,
}

impl RunFolder {
    /// Makes the folder of a new run. It may exist, but may not hold a run.
    ///
    /// # Errors
    /// [`RunError::HoldsRun`], [`RunError::Locked`], or the system's reason.
    pub fn create(path: impl AsRef<Path>) -> Result<Self, RunError> {
        let path = path.as_ref();
        fs::create_dir_all(path).map_err(RunError::files(path, "created"))?;
        let folder = Self::locked(path)?;
        let checkpoints = folder.checkpoints().list()?;
        let found = [CONFIG, LOG].into_iter().find(|name| path.join(name).exists()).map(str::to_owned);
        let found = found.or(checkpoints.last().map(|step| format!("{CHECKPOINTS}/step-{step}")));
        match found {
            Some(found) => Err(RunError::HoldsRun { path: path.to_owned(), found }),
            None => Ok(folder),
        }
    }

    /// Takes back what [`Self::create`] and [`Self::write_config`] made, if nothing was logged or saved since: a run that
    /// failed before its first step is none, and must not be in the way of the next try. What cannot be removed stays.
    pub fn discard_unused(self) {
        let logged = fs::metadata(self.log_path()).is_ok_and(|log| log.len() > 0);
        if logged || self.checkpoints().list().is_ok_and(|steps| !steps.is_empty()) {
            return;
        }
        for file in [self.config_path(), self.log_path(), self.path.join(".lock")] {
            let _ = fs::remove_file(file);
        }
        // Only if it is empty.
        let _ = fs::remove_dir(self.path.join(CHECKPOINTS));
        let _ = fs::remove_dir(&self.path);
    }

    /// Opens the folder of a run to continue it.
    ///
    /// # Errors
    /// [`RunError::NoRun`], [`RunError::Locked`], or the system's reason.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, RunError> {
        let path = path.as_ref();
        if !path.join(CONFIG).is_file() {
            return Err(RunError::NoRun { path: path.to_owned() });
        }
        Self::locked(path)
    }

    fn locked(path: &Path) -> Result<Self, RunError> {
        Ok(Self { path: path.to_owned(), _lock: FolderLock::acquire(path)? })
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// `log.jsonl`, for [`Log::open`](crate::log::Log::open).
    pub fn log_path(&self) -> PathBuf {
        self.path.join(LOG)
    }

    /// `metrics.json`.
    pub fn metrics_path(&self) -> PathBuf {
        self.path.join("metrics.json")
    }

    /// `report.html`.
    pub fn report_path(&self) -> PathBuf {
        self.path.join("report.html")
    }

    /// `samples/`, whose JPEG pictures the report shows. It is not made before there is something to put into it.
    pub fn samples_path(&self) -> PathBuf {
        self.path.join("samples")
    }

    /// The checkpoints of this run.
    pub fn checkpoints(&self) -> Checkpoints {
        Checkpoints::at(self.path.join(CHECKPOINTS))
    }

    /// Writes `config.toml`; see [`Config::to_toml`](crate::Config::to_toml).
    pub fn write_config(&self, toml: &str) -> Result<(), RunError> {
        Ok(write_atomic(self.path.join(CONFIG), |w| w.write_all(toml.as_bytes()))?)
    }

    /// The content of `config.toml`.
    pub fn read_config(&self) -> Result<String, RunError> {
        let path = self.config_path();
        fs::read_to_string(&path).map_err(RunError::files(&path, "read"))
    }

    /// `config.toml`, for [`config::load`](crate::config::load).
    pub fn config_path(&self) -> PathBuf {
        self.path.join(CONFIG)
    }

    /// Writes `metrics.json`. Infinite numbers and NaN become `null`.
    pub fn write_metrics(&self, metrics: &impl Serialize) -> Result<(), RunError> {
        let mut text = serde_json::to_string_pretty(metrics)
            .map_err(|error| RunError::NoTextForm { what: "the metrics", reason: error.to_string() })?;
        text.push('\n');
        Ok(write_atomic(self.metrics_path(), |w| w.write_all(text.as_bytes()))?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_created_once_and_opened_again() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("runs/first");
        assert!(matches!(RunFolder::open(&path), Err(RunError::NoRun { .. })));

        let folder = RunFolder::create(&path).unwrap();
        let error = RunFolder::create(&path).unwrap_err().to_string();
        let process = std::process::id();
        assert!(
            error.ends_with(&format!("another process (process {process}) is working on this run")),
            "{error}"
        );
        drop(folder);

        // Killed before anything was written: no run yet.
        let folder = RunFolder::create(&path).unwrap();
        folder.write_config("seed = 1\n").unwrap();
        folder.write_metrics(&serde_json::json!({ "iou": 0.5 })).unwrap();
        assert_eq!(fs::read_to_string(folder.metrics_path()).unwrap(), "{\n  \"iou\": 0.5\n}\n");
        assert!(matches!(RunFolder::open(&path), Err(RunError::Locked { .. })));
        drop(folder);

        let error = RunFolder::create(&path).unwrap_err().to_string();
        assert!(error.contains("config.toml is there); --resume continues it"), "{error}");
        let folder = RunFolder::open(&path).unwrap();
        assert_eq!(folder.read_config().unwrap(), "seed = 1\n");
    }

    #[test]
    fn a_log_or_a_checkpoint_is_a_run_too() {
        let place = tempfile::tempdir().unwrap();
        fs::create_dir_all(place.path().join("a/checkpoints/step-30")).unwrap();
        fs::create_dir_all(place.path().join("b")).unwrap();
        fs::write(place.path().join("b/log.jsonl"), "").unwrap();
        fs::write(place.path().join("c"), "a file").unwrap();
        let said = |name: &str| RunFolder::create(place.path().join(name)).unwrap_err().to_string();
        assert!(said("a").contains("(checkpoints/step-30 is there)"), "{}", said("a"));
        assert!(said("b").contains("(log.jsonl is there)"), "{}", said("b"));
        assert!(said("c").contains("cannot be created"), "{}", said("c"));
    }
}
