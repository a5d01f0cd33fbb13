//! The pictures that are served: those of a folder, and those that were uploaded. They are asked for by ids that the service gives
//! out, never by paths.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant, UNIX_EPOCH};

use kirie_data::{EXTENSIONS, Image, Limits, decode_image, read_image, read_size, write_atomic};
use sha2::{Digest, Sha256};

use crate::error::{ApiError, ApiResult};
use crate::{ServeError, ServeLimits};

/// How long a look at the folder is good for.
const FRESH: Duration = Duration::from_secs(2);
/// More files than this are not listed.
const MOST_PICTURES: usize = 200_000;
/// Longest name of an uploaded picture, characters.
const LONGEST_NAME: usize = 200;

/// Where a picture comes from.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize, utoipa::ToSchema,
)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Origin {
    /// The served folder.
    Folder,
    /// Somebody sent it.
    Upload,
}

/// A picture.
#[derive(Debug)]
pub(crate) struct Entry {
    /// What it is asked for by: hexadecimal digits.
    pub(crate) id: String,
    /// Its path below the folder, with `/`, or the name it was uploaded under.
    pub(crate) name: String,
    pub(crate) origin: Origin,
    path: PathBuf,
    size: Mutex<Option<(Stamp, Size)>>,
}

/// Width and height, or why they cannot be read.
type Size = Result<(u32, u32), String>;

/// Tells whether a file is still the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Stamp {
    pub(crate) bytes: u64,
    modified: u128,
}

impl Stamp {
    /// In a file name.
    pub(crate) fn text(self) -> String {
        format!("{:x}-{:x}", self.bytes, self.modified)
    }
}

/// The pictures that are served.
#[derive(Debug)]
pub(crate) struct Library {
    root: Option<PathBuf>,
    uploads: PathBuf,
    /// Not searched for pictures: what this service writes.
    store: PathBuf,
    decode: Limits,
    all_uploads_bytes: u64,
    index: RwLock<Index>,
    /// One upload is stored at a time, or two could pass the limit together.
    storing: Mutex<()>,
}

#[derive(Debug, Default)]
struct Index {
    /// Those of the folder by name, then uploads in the order they came.
    order: Vec<Arc<Entry>>,
    by_id: HashMap<String, Arc<Entry>>,
    looked: Option<Instant>,
    uploaded: Vec<(String, String, PathBuf)>,
}

impl Library {
    /// `uploaded` are id and name of the pictures that were uploaded before, in order.
    pub(crate) fn new(
        folder: Option<&Path>,
        store: &Path,
        limits: &ServeLimits,
        uploaded: &[(String, String)],
    ) -> Result<Self, ServeError> {
        let real = |path: &Path| {
            path.canonicalize().map_err(|source| ServeError::Folder { path: path.to_owned(), source })
        };
        let root = folder.map(real).transpose()?;
        if let Some(root) = &root {
            // A folder that cannot be listed is better told now.
            fs::read_dir(root).map_err(|source| ServeError::Folder { path: root.clone(), source })?;
        }
        let store = real(store)?;
        let uploads = store.join("uploads");
        fs::create_dir_all(&uploads)
            .map_err(|source| ServeError::Folder { path: uploads.clone(), source })?;
        let decode = Limits { max_pixels: limits.pixels, ..Limits::default() };
        let mut index = Index::default();
        for (id, name) in uploaded {
            index.uploaded.push((id.clone(), name.clone(), uploads.join(id)));
        }
        let library = Self {
            root,
            uploads,
            store,
            decode,
            all_uploads_bytes: limits.all_uploads_bytes,
            index: RwLock::new(index),
            storing: Mutex::new(()),
        };
        library.look();
        Ok(library)
    }

    /// All pictures, after a look at the folder if the last was some time ago.
    pub(crate) fn all(&self) -> Vec<Arc<Entry>> {
        let looked = self.read(|index| index.looked);
        if looked.is_none_or(|at| at.elapsed() > FRESH) {
            self.look();
        }
        self.read(|index| index.order.clone())
    }

    /// The picture of an id.
    pub(crate) fn get(&self, id: &str) -> ApiResult<Arc<Entry>> {
        let found = self.read(|index| index.by_id.get(id).cloned());
        found.ok_or_else(|| ApiError::not_found("picture", short(id)))
    }

    /// The pictures whose name ends as this one does, folder by folder: for programs that know a picture by another path.
    pub(crate) fn by_name(&self, name: &str) -> Option<Arc<Entry>> {
        let wanted: Vec<&str> = name.split('/').rev().filter(|part| !part.is_empty()).collect();
        let shared = |entry: &Arc<Entry>| {
            let parts = entry.name.rsplit('/');
            let all = entry.name.split('/').count();
            let same = parts.zip(&wanted).take_while(|(a, b)| a == *b).count();
            (same > 0 && (same == all || same == wanted.len())).then_some(same)
        };
        let all = self.all();
        let best = all.iter().filter_map(|entry| Some((shared(entry)?, entry))).max_by_key(|(same, _)| *same);
        best.map(|(_, entry)| Arc::clone(entry))
    }

    /// Looks at the folder again.
    fn look(&self) {
        let mut found = Vec::new();
        if let Some(root) = &self.root {
            self.scan(root, root, &mut found);
            found.sort();
        }
        let mut index = self.index.write().unwrap_or_else(PoisonError::into_inner);
        let mut order = Vec::with_capacity(found.len() + index.uploaded.len());
        for (name, path) in found {
            let id = digest(format!("folder\n{name}").as_bytes());
            order.push(index.entry(id, name, Origin::Folder, path));
        }
        for (id, name, path) in index.uploaded.clone() {
            order.push(index.entry(id, name, Origin::Upload, path));
        }
        index.by_id = order.iter().map(|entry| (entry.id.clone(), Arc::clone(entry))).collect();
        index.order = order;
        index.looked = Some(Instant::now());
    }

    fn scan(&self, root: &Path, folder: &Path, found: &mut Vec<(String, PathBuf)>) {
        let Ok(entries) = fs::read_dir(folder) else { return };
        for entry in entries.flatten() {
            let path = entry.path();
            if found.len() >= MOST_PICTURES || entry.file_name().to_string_lossy().starts_with('.') {
                continue;
            }
            let Ok(kind) = entry.file_type() else { continue };
            if kind.is_dir() {
                if path != self.store {
                    self.scan(root, &path, found);
                }
            } else if is_picture(&path)
                && (kind.is_file() || (kind.is_symlink() && self.inside(&path).is_some()))
                && let Ok(below) = path.strip_prefix(root)
            {
                let name: Vec<_> = below.iter().map(|part| part.to_string_lossy()).collect();
                found.push((name.join("/"), path));
            }
        }
    }

    /// Where a path really leads, if that is a file below the folder or an upload.
    fn inside(&self, path: &Path) -> Option<PathBuf> {
        let real = path.canonicalize().ok()?;
        let below = |folder: &Path| real.starts_with(folder);
        let allowed = self.root.as_deref().is_some_and(below) || below(&self.uploads);
        (allowed && real.is_file()).then_some(real)
    }

    /// The file of a picture, now.
    pub(crate) fn file(&self, entry: &Entry) -> ApiResult<PathBuf> {
        self.inside(&entry.path).ok_or_else(|| ApiError::not_found("file of the picture", &entry.name))
    }

    /// What tells whether it is still the same file.
    pub(crate) fn stamp(&self, entry: &Entry) -> ApiResult<Stamp> {
        let data = fs::metadata(self.file(entry)?)?;
        let modified = data.modified().ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok());
        Ok(Stamp { bytes: data.len(), modified: modified.map_or(0, |at| at.as_nanos()) })
    }

    /// Width and height, upright. Only the header is read, and only once.
    pub(crate) fn size(&self, entry: &Entry) -> ApiResult<(u32, u32)> {
        let stamp = self.stamp(entry)?;
        let known = lock(&entry.size).clone();
        let size = match known {
            Some((of, size)) if of == stamp => size,
            _ => {
                let read = read_size(self.file(entry)?, &self.decode);
                let size = read.map_err(|error| self.without_path(entry, &error.to_string()));
                *lock(&entry.size) = Some((stamp, size.clone()));
                size
            }
        };
        size.map_err(ApiError::Unprocessable)
    }

    /// The pixels, upright.
    pub(crate) fn read_image(&self, entry: &Entry) -> ApiResult<Image> {
        let image = read_image(self.file(entry)?, &self.decode);
        image.map_err(|error| match ApiError::from(error) {
            ApiError::TooLarge(words) => ApiError::TooLarge(self.without_path(entry, &words)),
            ApiError::Unprocessable(words) => ApiError::Unprocessable(self.without_path(entry, &words)),
            other => other,
        })
    }

    /// The bytes of the file.
    pub(crate) fn bytes(&self, entry: &Entry) -> ApiResult<Vec<u8>> {
        Ok(fs::read(self.file(entry)?)?)
    }

    /// Who asks need not know where the folder lies.
    fn without_path(&self, entry: &Entry, words: &str) -> String {
        match self.inside(&entry.path) {
            Some(path) => words.replace(&*path.to_string_lossy(), &entry.name),
            None => words.to_owned(),
        }
    }

    /// Checks an upload down to its last pixel and stores it; `record` keeps its id and name before it is listed. The same bytes
    /// are stored once.
    pub(crate) fn store(
        &self,
        name: &str,
        bytes: &[u8],
        record: impl FnOnce(&str, &str) -> ApiResult<()>,
    ) -> ApiResult<Arc<Entry>> {
        let name = clean_name(name)?;
        decode_image(bytes, &name, &self.decode)?;
        let id = format!("u{}", digest(bytes));
        let _one = lock(&self.storing);
        if let Ok(known) = self.get(&id) {
            return Ok(known);
        }
        let used: u64 =
            fs::read_dir(&self.uploads)?.flatten().filter_map(|e| Some(e.metadata().ok()?.len())).sum();
        if used + bytes.len() as u64 > self.all_uploads_bytes {
            return Err(ApiError::TooLarge(format!(
                "uploads may take {} bytes in all, and {used} are taken",
                self.all_uploads_bytes
            )));
        }
        // No ending: what it is says its content, and nothing made of the sender's words becomes a path.
        let path = self.uploads.join(&id);
        write_atomic(&path, |file| file.write_all(bytes))?;
        record(&id, &name)?;
        let mut index = self.index.write().unwrap_or_else(PoisonError::into_inner);
        index.uploaded.push((id.clone(), name.clone(), path.clone()));
        let entry = index.entry(id.clone(), name, Origin::Upload, path);
        index.by_id.insert(id, Arc::clone(&entry));
        index.order.push(Arc::clone(&entry));
        Ok(entry)
    }

    fn read<T>(&self, look: impl FnOnce(&Index) -> T) -> T {
        look(&self.index.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Index {
    /// The entry as it was, so that its size need not be read again, or a new one.
    fn entry(&self, id: String, name: String, origin: Origin, path: PathBuf) -> Arc<Entry> {
        match self.by_id.get(&id) {
            Some(old) => Arc::clone(old),
            None => Arc::new(Entry { id, name, origin, path, size: Mutex::new(None) }),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn is_picture(path: &Path) -> bool {
    let ending = path.extension().map(|e| e.to_string_lossy().to_lowercase());
    ending.is_some_and(|e| EXTENSIONS.contains(&e.as_str()))
}

/// Sixteen hexadecimal digits.
fn digest(bytes: &[u8]) -> String {
    use std::fmt::Write;
    Sha256::digest(bytes).iter().take(8).fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}"); // writing to a String cannot fail
        text
    })
}

/// An id in an error message: whatever was sent, not more than this of it comes back.
fn short(id: &str) -> String {
    id.chars().filter(|c| !c.is_control()).take(40).collect()
}

/// The last part of a name, as people may see it.
fn clean_name(name: &str) -> ApiResult<String> {
    let last = name.rsplit(['/', '\\']).next().unwrap_or_default().trim();
    let clean: String = last.chars().filter(|c| !c.is_control()).take(LONGEST_NAME).collect();
    if clean.is_empty() || clean == "." || clean == ".." {
        return Err(ApiError::Bad("the picture needs a name, `?name=photo.jpg`".to_owned()));
    }
    Ok(clean)
}

#[cfg(test)]
mod tests {
    use super::*;
    use kirie_data::write::{PictureFormat, encode_picture};

    fn png(width: u32, height: u32) -> Vec<u8> {
        let pixels = (0..3 * width * height).map(|v| (v % 251) as u8).collect();
        encode_picture(&Image::from_raw(width, height, pixels).unwrap(), PictureFormat::Png).unwrap()
    }

    fn library(root: &Path) -> Library {
        let store = root.join("store");
        fs::create_dir_all(&store).unwrap();
        let pictures = root.join("pictures");
        Library::new(Some(&pictures), &store, &ServeLimits::default(), &[]).unwrap()
    }

    #[cfg(unix)]
    #[test]
    fn links_lead_nowhere_outside() {
        let root = tempfile::tempdir().unwrap();
        let pictures = root.path().join("pictures");
        fs::create_dir_all(pictures.join("inner")).unwrap();
        fs::write(pictures.join("inner/a.png"), png(8, 6)).unwrap();
        fs::write(pictures.join(".hidden.png"), png(8, 6)).unwrap();
        fs::write(root.path().join("secret.png"), png(8, 6)).unwrap();
        let link = |to: &str, name: &str| std::os::unix::fs::symlink(to, pictures.join(name)).unwrap();
        link("../secret.png", "out.png");
        link("inner/a.png", "in.png");
        link("..", "up");
        link("/etc/passwd", "passwd.png");
        let library = library(root.path());
        let names: Vec<String> = library.all().iter().map(|e| e.name.clone()).collect();
        assert_eq!(names, ["in.png", "inner/a.png"]);
        let entry = library.by_name("some/where/inner/a.png").unwrap();
        assert_eq!((entry.name.as_str(), library.size(&entry).unwrap()), ("inner/a.png", (8, 6)));
        assert!(library.by_name("b.png").is_none());

        // A file that becomes a link later is no way out either.
        fs::remove_file(pictures.join("inner/a.png")).unwrap();
        link("../../secret.png", "inner/a.png");
        assert!(matches!(library.read_image(&entry), Err(ApiError::NotFound { .. })));
    }

    #[test]
    fn uploads_are_looked_at_whole_and_their_names_are_only_shown() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("pictures")).unwrap();
        let library = library(root.path());
        let good = png(20, 10);
        let entry = library.store("../../etc/<b>x</b>.png", &good, |_, _| Ok(())).unwrap();
        assert_eq!((entry.name.as_str(), entry.origin), ("b>.png", Origin::Upload));
        assert!(
            library
                .file(&entry)
                .unwrap()
                .starts_with(root.path().canonicalize().unwrap().join("store/uploads"))
        );
        let again = library.store("other.png", &good, |_, _| panic!("stored twice")).unwrap();
        assert_eq!(again.id, entry.id);
        for length in [0, 1, 20, good.len() / 2, good.len() - 13] {
            let error = library.store("cut.png", &good[..length], |_, _| Ok(())).unwrap_err();
            assert!(matches!(error, ApiError::Unprocessable(_)), "{length}: {error}");
        }
        assert!(library.store("..", &good, |_, _| Ok(())).is_err());
        assert_eq!(fs::read_dir(root.path().join("store/uploads")).unwrap().count(), 1);
    }
}
