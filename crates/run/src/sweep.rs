//! Many runs, each in a folder of its own, done one after the other and gone on with where they were left.
//!
//! ```text
//! FOLDER/NAME/result.json   a finished run: what it was and what came out
//! FOLDER/sweep.json         all of them
//! ```
//!
//! What a run is and what comes out of it is the caller's business, and so is how it is started.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use kirie_data::{create_parent, write_atomic};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::{RunError, Stop};

/// A finished run's file in its folder.
pub const RESULT_FILE: &str = "result.json";

/// What a run is, its settings included: a result made with other settings is not taken for this run's.
pub trait Spec: Clone + PartialEq + Serialize + DeserializeOwned {
    /// Its name, and its folder's: letters, digits, `-`, `_` and `.`.
    fn name(&self) -> &str;
    /// What it is, in words, for a message about a folder that holds another.
    fn about(&self) -> String;
}

/// A finished run. In JSON the fields of both stand side by side, so none may have the same name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunResult<S, F> {
    /// What it was.
    #[serde(flatten)]
    pub spec: S,
    /// What came out.
    #[serde(flatten)]
    pub figures: F,
}

/// A run that did not work out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedRun {
    /// Its name.
    pub name: String,
    /// Why.
    pub reason: String,
}

/// How far a sweep is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sweep<S, F> {
    /// Finished runs, in the order they were asked for.
    pub runs: Vec<RunResult<S, F>>,
    /// Runs that failed this time.
    pub failed: Vec<FailedRun>,
    /// Names of the runs that are still to be done.
    pub open: Vec<String>,
}

impl<S, F> Sweep<S, F> {
    /// Whether every run is finished.
    pub fn is_complete(&self) -> bool {
        self.failed.is_empty() && self.open.is_empty()
    }
}

/// An error of a run.
pub type RunFailure = Box<dyn std::error::Error + Send + Sync>;

/// Does the runs that are not done yet, one after the other, and brings `sweep.json` up to date after each.
///
/// `start` does a run, in the run's own folder, and gives its figures; that folder may hold what an interrupted try left, to be
/// gone on with. A run that fails is noted and the others go on. A stop ends the sweep after the current run. `write` is called
/// whenever `sweep.json` was written, for tables and pages beside it.
///
/// # Errors
/// Names that no folder can have or that come twice; results in the folder that belong to other settings, or are damaged; files
/// that cannot be written; what `write` gives.
pub fn sweep<S: Spec, F: Clone + Serialize + DeserializeOwned, E: From<RunError>>(
    folder: &Path,
    specs: &[S],
    stop: &Stop,
    mut start: impl FnMut(&S, &Path) -> Result<F, RunFailure>,
    write: impl Fn(&Sweep<S, F>) -> Result<(), E>,
) -> Result<Sweep<S, F>, E> {
    check_names(specs)?;
    // All of them before hours are spent on the first.
    let mut done: Vec<Option<RunResult<S, F>>> = Vec::new();
    for spec in specs {
        done.push(finished(folder, spec)?);
    }
    let keep = |sweep: &Sweep<S, F>| -> Result<(), E> {
        write_json(&folder.join("sweep.json"), sweep)?;
        write(sweep)
    };
    let mut failed = Vec::new();
    for (at, spec) in specs.iter().enumerate() {
        if done[at].is_some() || stop.requested() {
            continue;
        }
        let place = folder.join(spec.name());
        create_parent(place.join(RESULT_FILE)).map_err(RunError::from)?;
        match start(spec, &place) {
            // Asked to stop in the middle, a run may come back without having ended.
            Ok(_) if stop.requested() => {}
            Ok(figures) => {
                let result = RunResult { spec: spec.clone(), figures };
                write_json(&place.join(RESULT_FILE), &result)?;
                done[at] = Some(result);
            }
            Err(error) => {
                failed.push(FailedRun { name: spec.name().to_owned(), reason: error.to_string() });
            }
        }
        keep(&state(specs, &done, &failed))?;
    }
    let sweep = state(specs, &done, &failed);
    create_parent(folder.join("sweep.json")).map_err(RunError::from)?;
    keep(&sweep)?;
    Ok(sweep)
}

fn state<S: Spec, F: Clone>(
    specs: &[S],
    done: &[Option<RunResult<S, F>>],
    failed: &[FailedRun],
) -> Sweep<S, F> {
    let is_open = |(spec, done): &(&S, &Option<RunResult<S, F>>)| {
        done.is_none() && failed.iter().all(|failed| failed.name != spec.name())
    };
    let open = specs.iter().zip(done).filter(is_open);
    Sweep {
        runs: done.iter().flatten().cloned().collect(),
        failed: failed.to_vec(),
        open: open.map(|(spec, _)| spec.name().to_owned()).collect(),
    }
}

/// The finished runs of a folder, by name.
///
/// # Errors
/// If the folder cannot be read, or a result is damaged.
pub fn collect<S: Spec, F: DeserializeOwned>(folder: &Path) -> Result<Vec<RunResult<S, F>>, RunError> {
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(folder).map_err(RunError::files(folder, "read"))? {
        names.insert(entry.map_err(RunError::files(folder, "read"))?.path());
    }
    let mut results = Vec::new();
    for path in names {
        results.extend(read(&path.join(RESULT_FILE))?);
    }
    Ok(results)
}

/// The result of a run, if it is finished.
fn finished<S: Spec, F: DeserializeOwned>(
    folder: &Path,
    spec: &S,
) -> Result<Option<RunResult<S, F>>, RunError> {
    let path = folder.join(spec.name()).join(RESULT_FILE);
    let Some(result) = read::<RunResult<S, F>>(&path)? else { return Ok(None) };
    // As it would be read back: reading a number may change its last bit, but always in the same way.
    let no_form = |error: serde_json::Error| RunError::Sweep {
        name: format!("{:?}", spec.name()),
        reason: format!("its settings have no JSON form: {error}"),
    };
    let asked: S =
        serde_json::to_vec(spec).and_then(|text| serde_json::from_slice(&text)).map_err(no_form)?;
    if result.spec == asked {
        return Ok(Some(result));
    }
    let reason = format!(
        "holds the result of {} with other settings than those asked for; take another folder, or remove it to run it anew",
        result.spec.about()
    );
    Err(RunError::Sweep { name: path.display().to_string(), reason })
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, RunError> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(source) => return Err(RunError::files(path, "read")(source)),
    };
    let damaged = |error: serde_json::Error| RunError::Sweep {
        name: path.display().to_string(),
        reason: format!("expected the result of a run: {error}"),
    };
    serde_json::from_slice(&bytes).map(Some).map_err(damaged)
}

fn check_names<S: Spec>(specs: &[S]) -> Result<(), RunError> {
    let mut seen = BTreeSet::new();
    for spec in specs {
        let name = spec.name();
        let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        let usable = !name.is_empty() && !name.starts_with('.') && name.chars().all(allowed);
        let reason = match usable {
            true if seen.insert(name) => continue,
            true => "two runs have this name",
            false => "a run's name may have letters, digits, - and _, and a . that is not its first",
        };
        return Err(RunError::Sweep { name: format!("{name:?}"), reason: reason.to_owned() });
    }
    Ok(())
}

fn write_json(path: &Path, value: &impl Serialize) -> Result<(), RunError> {
    let no_form = |error: serde_json::Error| RunError::NoTextForm {
        what: "the result of a run",
        reason: error.to_string(),
    };
    let text = serde_json::to_string_pretty(value).map_err(no_form)? + "\n";
    Ok(write_atomic(path, |file| file.write_all(text.as_bytes()))?)
}

/// A line of a CSV file: cells with commas, quotes or line ends in quotes (RFC 4180).
pub fn csv_line(cells: &[impl AsRef<str>]) -> String {
    let cell = |cell: &str| {
        if cell.contains([',', '"', '\n', '\r']) {
            format!("\"{}\"", cell.replace('"', "\"\""))
        } else {
            cell.to_owned()
        }
    };
    cells.iter().map(|text| cell(text.as_ref())).collect::<Vec<_>>().join(",") + "\n"
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    struct Plain {
        name: String,
        rate: f64,
    }

    impl Spec for Plain {
        fn name(&self) -> &str {
            &self.name
        }
        fn about(&self) -> String {
            format!("a run at {}", self.rate)
        }
    }

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    struct Score {
        score: f64,
    }

    fn plain(name: &str) -> Plain {
        Plain { name: name.to_owned(), rate: 0.1 }
    }

    #[expect(clippy::unnecessary_wraps, reason = "what is called after each run may fail")]
    fn nothing(_: &Sweep<Plain, Score>) -> Result<(), RunError> {
        Ok(())
    }

    #[test]
    fn a_sweep_goes_on_where_it_was_left() {
        let place = tempfile::tempdir().unwrap();
        let specs = [plain("a"), plain("b"), plain("c")];
        let written = Cell::new(0);
        let count = |_: &Sweep<Plain, Score>| -> Result<(), RunError> {
            written.set(written.get() + 1);
            Ok(())
        };
        let first = sweep(
            place.path(),
            &specs,
            &Stop::never(),
            |spec, folder| {
                assert!(folder.is_dir() && folder == place.path().join(&spec.name));
                if spec.name == "b" { Err("out of memory".into()) } else { Ok(Score { score: 0.25 }) }
            },
            count,
        )
        .unwrap();
        assert_eq!((first.runs.len(), first.open.len(), first.is_complete()), (2, 0, false));
        assert_eq!(first.failed, [FailedRun { name: "b".to_owned(), reason: "out of memory".to_owned() }]);
        assert_eq!(written.get(), 4, "after each run and at the end");
        let mut started = Vec::new();
        let start = |spec: &Plain, _: &Path| {
            started.push(spec.name.clone());
            Ok(Score { score: 0.5 })
        };
        let second = sweep(place.path(), &specs, &Stop::never(), start, nothing).unwrap();
        assert_eq!(started, ["b"]);
        assert!(second.is_complete());
        assert_eq!(second.runs.iter().map(|run| run.figures.score).collect::<Vec<_>>(), [0.25, 0.5, 0.25]);
        assert_eq!(collect::<Plain, Score>(place.path()).unwrap(), second.runs);
        let stored = fs::read(place.path().join("sweep.json")).unwrap();
        assert_eq!(serde_json::from_slice::<Sweep<Plain, Score>>(&stored).unwrap(), second);

        let other = [Plain { rate: 0.2, ..plain("a") }];
        let start = |_: &Plain, _: &Path| Ok(Score { score: 1.0 });
        let error = sweep(place.path(), &other, &Stop::never(), start, nothing).unwrap_err().to_string();
        assert!(error.contains("holds the result of a run at 0.1 with other settings"), "{error}");
        fs::write(place.path().join("a/result.json"), "{").unwrap();
        let error = sweep(place.path(), &specs, &Stop::never(), start, nothing).unwrap_err().to_string();
        assert!(error.contains("result.json: expected the result of a run"), "{error}");
    }

    #[test]
    fn a_stop_leaves_the_rest_open() {
        let place = tempfile::tempdir().unwrap();
        let stop = Stop::never();
        let start = |spec: &Plain, _: &Path| {
            if spec.name == "b" {
                stop.request();
            }
            Ok(Score { score: 0.5 })
        };
        let specs = [plain("a"), plain("b"), plain("c")];
        let stopped = sweep(place.path(), &specs, &stop, start, nothing).unwrap();
        // The one that was stopped may not have ended.
        assert_eq!(stopped.open, ["b", "c"]);
        assert_eq!(stopped.runs.len(), 1);
    }

    #[test]
    fn names_that_no_folder_can_have() {
        let place = tempfile::tempdir().unwrap();
        let said = |specs: &[Plain]| {
            let start = |_: &Plain, _: &Path| Ok(Score { score: 1.0 });
            sweep(place.path(), specs, &Stop::never(), start, nothing).unwrap_err().to_string()
        };
        for name in ["", "../up", "a/b", ".hidden", "a b"] {
            let error = said(&[plain(name)]);
            assert!(error.contains("a run's name may have"), "{error}");
        }
        assert!(said(&[plain("a"), plain("a")]).contains("two runs have this name"));
    }

    #[test]
    fn cells_that_need_quotes_get_them() {
        assert_eq!(csv_line(&["a", "b c", "d, e", "\"f\"", ""]), "a,b c,\"d, e\",\"\"\"f\"\"\",\n");
        assert_eq!(csv_line(&["x\ny"]), "\"x\ny\"\n");
    }
}
