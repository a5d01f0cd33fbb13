//! Checkpoints that a crash, a kill or a full disk cannot spoil.
//!
//! A checkpoint is a folder `step-N` of files and a manifest with their sizes and SHA-256. It is written as
//! `step-N.tmp`, brought to the disk file by file, the manifest last, and then takes its name in one step: a folder
//! without `.tmp` is complete, unless the disk itself lost something, which the hashes tell.

use std::fs;
use std::io::{self, ErrorKind, Write};
use std::path::PathBuf;

use kirie_data::write_atomic;

use crate::RunError;
use crate::entry::{FileEntry, is_plain, sync_folder};
use crate::manifest::{MANIFEST, Manifest, is_complete, read_manifest, write_manifest};

const UNFINISHED: &str = ".tmp";

/// One file of a checkpoint that is to be saved.
pub struct Part<'a> {
    /// The file's name, such as `model.safetensors`.
    pub name: &'a str,
    /// Writes the content. The writer is buffered.
    pub write: &'a mut dyn FnMut(&mut dyn Write) -> io::Result<()>,
}

/// The checkpoints of a run, in its folder `checkpoints`.
///
/// Beside the folders `step-N` stand the text files `latest` and `best`, which hold the name of one of them.
#[derive(Clone, Debug)]
pub struct Checkpoints {
    folder: PathBuf,
}

/// A checkpoint whose files have all been found to be as they were written.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    /// How many steps the run had done.
    pub step: u64,
    /// The checkpoint's folder.
    pub path: PathBuf,
    /// Newer checkpoints that [`Checkpoints::latest`] had to pass over, and what is wrong with each.
    pub skipped: Vec<(PathBuf, String)>,
    files: Vec<FileEntry>,
}

impl Checkpoints {
    /// The checkpoints in this folder, which need not exist before the first is saved. Whoever saves should hold the
    /// lock of the [`RunFolder`](crate::RunFolder); reading needs none.
    pub fn at(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into() }
    }

    /// Saves a checkpoint and gives its folder.
    ///
    /// A checkpoint of the same step is replaced (a run that was resumed from an earlier one comes by again); killed
    /// between the two renamings that takes, the run goes on from the checkpoint before. Whatever
    /// fails, no half checkpoint stays and earlier ones are as they were. Only if the very last action fails, writing
    /// `latest`, the new checkpoint stays although an error is returned: it is complete, and [`Self::latest`] finds it.
    ///
    /// # Errors
    /// [`RunError::Save`] with the file, the reason, and on a full disk how much a checkpoint takes;
    /// [`RunError::PartName`]; or the system's reason.
    pub fn save(&self, step: u64, parts: &mut [Part<'_>]) -> Result<PathBuf, RunError> {
        check_names(parts)?;
        fs::create_dir_all(&self.folder).map_err(RunError::files(&self.folder, "created"))?;
        self.remove_unfinished()?;

        let path = self.path(step);
        let unfinished = Unfinished(self.folder.join(format!("step-{step}{UNFINISHED}")));
        let mut files = Vec::with_capacity(parts.len());
        let failed = |file: PathBuf, files: &[FileEntry], part: u64| {
            let (written, needed) =
                (part + files.iter().map(|file| file.size).sum::<u64>(), self.usual_size());
            move |source| RunError::Save { path: file, written, needed, source }
        };
        fs::create_dir(&unfinished.0).map_err(|e| failed(unfinished.0.clone(), &[], 0)(e))?;
        for part in parts {
            match FileEntry::write(&unfinished.0, part.name, part.write) {
                Ok(file) => files.push(file),
                Err((written, source)) => {
                    return Err(failed(unfinished.0.join(part.name), &files, written)(source));
                }
            }
        }
        let manifest = Manifest::new(step, files);
        let manifest_path = unfinished.0.join(MANIFEST);
        write_manifest(&manifest_path, &manifest)
            .and_then(|()| sync_folder(&unfinished.0))
            .map_err(|e| failed(manifest_path, &manifest.files, 0)(e))?;

        // Held until the new one has the name; then it goes.
        let replaced = Unfinished(self.folder.join(format!("step-{step}.replaced{UNFINISHED}")));
        let replaces = path.exists();
        if replaces {
            fs::rename(&path, &replaced.0).map_err(RunError::files(&path, "moved away"))?;
        }
        if let Err(error) = fs::rename(&unfinished.0, &path) {
            if replaces {
                let _ = fs::rename(&replaced.0, &path);
            }
            return Err(RunError::files(&unfinished.0, "renamed")(error));
        }
        sync_folder(&self.folder).map_err(RunError::files(&self.folder, "brought to the disk"))?;
        self.point("latest", step)?;
        Ok(path)
    }

    /// The newest checkpoint that is intact, or nothing if there is no checkpoint yet. Reads all of its files.
    ///
    /// # Errors
    /// [`RunError::NoneIntact`] if there are checkpoints, but all are damaged; or the system's reason.
    pub fn latest(&self) -> Result<Option<Checkpoint>, RunError> {
        let steps = self.list()?;
        let mut skipped = Vec::new();
        if let Some(named) =
            self.named("latest")?.filter(|named| steps.last().is_none_or(|last| named > last))
        {
            skipped.push((self.path(named), "is missing, although `latest` names it".to_owned()));
        }
        for step in steps.into_iter().rev() {
            match self.verified(step) {
                Ok(checkpoint) => return Ok(Some(Checkpoint { skipped, ..checkpoint })),
                Err(reason) => skipped.push((self.path(step), reason)),
            }
        }
        if skipped.is_empty() {
            return Ok(None);
        }
        Err(RunError::NoneIntact { path: self.folder.clone(), skipped })
    }

    /// The checkpoint of this step. Reads all of its files.
    ///
    /// # Errors
    /// [`RunError::Damaged`], also if it is missing.
    pub fn open(&self, step: u64) -> Result<Checkpoint, RunError> {
        self.verified(step).map_err(|reason| RunError::Damaged { path: self.path(step), reason })
    }

    /// Names this checkpoint the best so far.
    ///
    /// # Errors
    /// [`RunError::Damaged`] if there is no such checkpoint, or `best` cannot be written.
    pub fn mark_best(&self, step: u64) -> Result<(), RunError> {
        let path = self.path(step);
        read_manifest(&path, step).map_err(|reason| RunError::Damaged { path, reason })?;
        self.point("best", step)
    }

    /// The checkpoint that was named the best, if one was. Reads all of its files.
    ///
    /// # Errors
    /// [`RunError::Damaged`] if it is.
    pub fn best(&self) -> Result<Option<Checkpoint>, RunError> {
        self.named("best")?.map(|step| self.open(step)).transpose()
    }

    /// Removes checkpoints, except the last `keep_last` (at least one) and the best. Damaged ones neither count nor
    /// go: someone may want to look at them. Hashes are not read.
    ///
    /// # Errors
    /// If a checkpoint cannot be removed.
    pub fn prune(&self, keep_last: usize) -> Result<(), RunError> {
        let best = self.named("best")?;
        let mut steps = self.list()?;
        steps.retain(|step| is_complete(&self.path(*step), *step));
        steps.truncate(steps.len().saturating_sub(keep_last.max(1)));
        for step in steps.into_iter().filter(|step| Some(*step) != best) {
            let path = self.path(step);
            // Killed in between, this leaves what the next save clears away, never half a checkpoint.
            let going = self.folder.join(format!("step-{step}.pruned{UNFINISHED}"));
            fs::rename(&path, &going).map_err(RunError::files(&path, "removed"))?;
            fs::remove_dir_all(&going).map_err(RunError::files(&going, "removed"))?;
        }
        Ok(())
    }

    /// The steps there are folders of, the earliest first; whether they are intact is not looked at.
    ///
    /// # Errors
    /// If the folder cannot be read. A missing folder holds none.
    pub fn list(&self) -> Result<Vec<u64>, RunError> {
        let mut steps: Vec<u64> = self.names()?.iter().filter_map(|name| step_of(name)).collect();
        steps.sort_unstable();
        Ok(steps)
    }

    fn path(&self, step: u64) -> PathBuf {
        self.folder.join(format!("step-{step}"))
    }

    fn names(&self) -> Result<Vec<String>, RunError> {
        let entries = match fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(RunError::files(&self.folder, "read")(error)),
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(RunError::files(&self.folder, "read"))?;
            // A name that is no UTF-8 is none of ours.
            names.extend(entry.file_name().into_string());
        }
        Ok(names)
    }

    /// What killed processes left behind.
    fn remove_unfinished(&self) -> Result<(), RunError> {
        for name in self.names()? {
            if name.starts_with("step-") && name.ends_with(UNFINISHED) {
                let path = self.folder.join(name);
                fs::remove_dir_all(&path).map_err(RunError::files(&path, "removed"))?;
            }
        }
        Ok(())
    }

    /// The step that `latest` or `best` names. Anything else in the file is no step.
    fn named(&self, pointer: &str) -> Result<Option<u64>, RunError> {
        let path = self.folder.join(pointer);
        match fs::read(&path) {
            Ok(bytes) => Ok(std::str::from_utf8(&bytes).ok().and_then(|text| step_of(text.trim()))),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(RunError::files(&path, "read")(error)),
        }
    }

    fn point(&self, pointer: &str, step: u64) -> Result<(), RunError> {
        Ok(write_atomic(self.folder.join(pointer), |w| writeln!(w, "step-{step}"))?)
    }

    /// What the newest checkpoint takes, if there is one.
    fn usual_size(&self) -> Option<u64> {
        let step = self.list().ok()?.pop()?;
        let manifest = read_manifest(&self.path(step), step).ok()?;
        Some(manifest.files.iter().map(|file| file.size).sum())
    }

    fn verified(&self, step: u64) -> Result<Checkpoint, String> {
        let path = self.path(step);
        let files = read_manifest(&path, step)?.files;
        files.iter().try_for_each(|file| file.verify(&path))?;
        Ok(Checkpoint { step, path, skipped: Vec::new(), files })
    }
}

impl Checkpoint {
    /// The content of a part, compared with the manifest once more.
    ///
    /// # Errors
    /// [`RunError::NoPart`], [`RunError::Damaged`].
    pub fn read(&self, name: &str) -> Result<Vec<u8>, RunError> {
        let (_, file) = self.part(name)?;
        file.content(&self.path).map_err(|reason| RunError::Damaged { path: self.path.clone(), reason })
    }

    /// The path of a part, for a reader that wants the file itself.
    ///
    /// # Errors
    /// [`RunError::NoPart`].
    pub fn file(&self, name: &str) -> Result<PathBuf, RunError> {
        Ok(self.part(name)?.0)
    }

    /// The names of the parts, in the order they were saved in.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.files.iter().map(|file| file.name.as_str())
    }

    fn part(&self, name: &str) -> Result<(PathBuf, &FileEntry), RunError> {
        let file = self.files.iter().find(|file| file.name == name);
        let file = file.ok_or_else(|| RunError::NoPart {
            path: self.path.clone(),
            name: name.to_owned(),
            found: self.names().collect::<Vec<_>>().join(", "),
        })?;
        Ok((self.path.join(name), file))
    }
}

/// A folder that goes when the saving ends, by success, failure or panic. After success it has another name.
struct Unfinished(PathBuf);

impl Drop for Unfinished {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn check_names(parts: &[Part<'_>]) -> Result<(), RunError> {
    for (i, part) in parts.iter().enumerate() {
        let reason = if !is_plain(part.name) {
            "letters, digits and ._- are allowed, the first is no dot"
        } else if part.name.eq_ignore_ascii_case(MANIFEST) {
            "the list of parts has this name"
        } else if parts[..i].iter().any(|other| other.name.eq_ignore_ascii_case(part.name)) {
            "another part has this name"
        } else {
            continue;
        };
        return Err(RunError::PartName { name: part.name.to_owned(), reason });
    }
    Ok(())
}

/// `step-12` is 12; any other name, and any other way to write the number, is no step.
fn step_of(name: &str) -> Option<u64> {
    let step = name.strip_prefix("step-")?.parse().ok()?;
    (name == format!("step-{step}")).then_some(step)
}
