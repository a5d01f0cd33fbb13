//! The log of a run: one JSON object a line, each with its `step`.

use std::fs::{self, File};
use std::io::{ErrorKind, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use kirie_data::write_atomic;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::RunError;

/// A line of the log: an object whose `step` is a whole number. A figure that was infinite or NaN is `null`.
pub type Record = Map<String, Value>;

/// The step of a record.
pub fn step(record: &Record) -> Option<u64> {
    record.get("step").and_then(Value::as_u64)
}

/// A log that is being written.
#[derive(Debug)]
pub struct Log {
    path: PathBuf,
    file: File,
    /// Up to where the file holds whole lines.
    length: u64,
}

impl Log {
    /// Opens the log for appending.
    ///
    /// A run that goes on from a checkpoint says at which step; records of later steps, which it will write again, and
    /// a last line that was cut short are taken off, in one step. `None` begins anew: a file that is there is emptied.
    ///
    /// # Errors
    /// [`RunError::LogLine`] if a line is no record, or the system's reason.
    pub fn open(path: impl AsRef<Path>, resume_after: Option<u64>) -> Result<Self, RunError> {
        let path = path.as_ref();
        let mut kept = String::new();
        if let Some(last) = resume_after {
            for (line, record) in records_with_lines(path)? {
                if step(&record).is_some_and(|step| step <= last) {
                    kept.push_str(&line);
                    kept.push('\n');
                }
            }
        }
        let unchanged = fs::read(path).is_ok_and(|bytes| bytes == kept.as_bytes());
        if !unchanged {
            write_atomic(path, |w| w.write_all(kept.as_bytes()))?;
        }
        let mut file = File::options().write(true).open(path).map_err(RunError::files(path, "opened"))?;
        let length = file.seek(SeekFrom::End(0)).map_err(RunError::files(path, "opened"))?;
        Ok(Self { path: path.to_owned(), file, length })
    }

    /// Appends a record: the step, then the fields of `fields`, which must serialise as an object (a struct, a map,
    /// `json!({...})`). The line is handed to the system whole; if that fails, no part of it stays.
    ///
    /// # Errors
    /// [`RunError::NoTextForm`] if the fields are no object, or the system's reason.
    pub fn write(&mut self, step: u64, fields: &impl Serialize) -> Result<(), RunError> {
        let no_form = |reason: String| RunError::NoTextForm { what: "a record of the log", reason };
        let fields = serde_json::to_value(fields).map_err(|error| no_form(error.to_string()))?;
        let Value::Object(fields) = fields else {
            return Err(no_form(format!("expected named fields, found {fields}")));
        };
        let mut record = Record::with_capacity(fields.len() + 1);
        record.insert("step".to_owned(), step.into());
        record.extend(fields.into_iter().filter(|(name, _)| name != "step"));
        let mut line = Value::Object(record).to_string();
        line.push('\n');

        if let Err(error) = self.file.write_all(line.as_bytes()) {
            // The disk may be full only for now: the next line must not continue half of this one.
            let _ = self.file.set_len(self.length).and_then(|()| self.file.seek(SeekFrom::End(0)));
            return Err(RunError::files(&self.path, "written")(error));
        }
        self.length += line.len() as u64;
        Ok(())
    }

    /// Brings everything to the disk, so that a power failure cannot take it: for the moments of a checkpoint.
    ///
    /// # Errors
    /// The system's reason.
    pub fn sync(&self) -> Result<(), RunError> {
        self.file.sync_data().map_err(RunError::files(&self.path, "brought to the disk"))
    }
}

/// The records of a log. A last line that was cut short is passed over; a missing file holds none.
///
/// # Errors
/// [`RunError::LogLine`] if any other line is no record, or the system's reason.
pub fn read(path: impl AsRef<Path>) -> Result<Vec<Record>, RunError> {
    Ok(records_with_lines(path.as_ref())?.into_iter().map(|(_, record)| record).collect())
}

fn records_with_lines(path: &Path) -> Result<Vec<(String, Record)>, RunError> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(RunError::files(path, "read")(error)),
    };
    let mut records = Vec::new();
    for (i, line) in bytes.split_inclusive(|byte| *byte == b'\n').enumerate() {
        let whole = line.ends_with(b"\n");
        match record(line) {
            Ok(record) => records.push(record),
            Err(_) if !whole => {}
            Err(reason) => return Err(RunError::LogLine { path: path.to_owned(), line: i + 1, reason }),
        }
    }
    Ok(records)
}

fn record(line: &[u8]) -> Result<(String, Record), String> {
    let text = std::str::from_utf8(line).map_err(|error| error.to_string())?.trim_end();
    let record: Record =
        serde_json::from_str(text).map_err(|error| format!("expected a JSON object: {error}"))?;
    step(&record).ok_or("expected a whole number as `step`")?;
    Ok((text.to_owned(), record))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn steps(path: &Path) -> Vec<u64> {
        read(path).unwrap().iter().filter_map(step).collect()
    }

    #[test]
    fn records_come_back_as_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.jsonl");
        assert!(read(&path).unwrap().is_empty());
        let mut log = Log::open(&path, None).unwrap();
        log.write(1, &json!({ "loss": 0.5, "note": "a\nb", "step": 9 })).unwrap();
        log.write(2, &json!({ "loss": f64::NAN })).unwrap();
        log.sync().unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text, "{\"step\":1,\"loss\":0.5,\"note\":\"a\\nb\"}\n{\"step\":2,\"loss\":null}\n");
        assert_eq!(read(&path).unwrap()[0]["loss"], 0.5);
        assert!(
            log.write(3, &[1, 2]).unwrap_err().to_string().contains("expected named fields, found [1,2]")
        );
        assert_eq!(steps(&path), [1, 2]);
    }

    #[test]
    fn resuming_takes_off_what_will_come_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.jsonl");
        let mut log = Log::open(&path, None).unwrap();
        for step in 0..=10 {
            log.write(step, &json!({ "loss": 1.0 / step as f64 })).unwrap();
        }
        drop(log);
        let mut file = File::options().append(true).open(&path).unwrap();
        file.write_all(b"{\"step\":11,\"lo").unwrap();
        assert_eq!(steps(&path), (0..=10).collect::<Vec<_>>(), "the half line is passed over");

        let mut log = Log::open(&path, Some(6)).unwrap();
        log.write(7, &json!({})).unwrap();
        assert_eq!(steps(&path), (0..=7).collect::<Vec<_>>());
        drop(log);
        assert!(fs::read(&path).unwrap().ends_with(b"\n{\"step\":7}\n"));

        // Cut off just before the line's end: the record is whole, and the next must not continue its line.
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text.trim_end()).unwrap();
        Log::open(&path, Some(7)).unwrap().write(8, &json!({})).unwrap();
        assert_eq!(steps(&path), (0..=8).collect::<Vec<_>>());

        Log::open(&path, None).unwrap();
        assert!(steps(&path).is_empty(), "no checkpoint: the run begins anew");
        Log::open(folder.path().join("new.jsonl"), Some(3)).unwrap();
    }

    #[test]
    fn a_bad_line_in_the_middle_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.jsonl");
        for bad in ["{\"step\":1", "{\"loss\":1}", "[1]", "", "{\"step\":-1}", "\0\0"] {
            fs::write(&path, format!("{{\"step\":0}}\n{bad}\n{{\"step\":2}}\n")).unwrap();
            let error = read(&path).unwrap_err().to_string();
            assert!(error.contains("log.jsonl, line 2: expected"), "{error}");
            assert!(Log::open(&path, Some(5)).is_err());
        }
        fs::write(&path, "{\"step\":0}\n\0\0\0\0").unwrap();
        assert_eq!(steps(&path), [0], "blocks that a power failure left empty");
    }
}
