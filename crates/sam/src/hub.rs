//! Weight files: fetched once, verified, kept in a cache.
//!
//! [`pull`] brings one [`RemoteFile`] into the cache and says what it could verify; [`cached`] is the cheap question
//! whether it is there already. Beside a cache entry `model.pt` these files may lie:
//!
//! | file | what it is |
//! | --- | --- |
//! | `model.pt` | the complete file; the name appears only after its digest was checked |
//! | `model.pt.sha256` | its SHA-256 as `sha256sum -c` reads it |
//! | `model.pt.part`, `model.pt.part.json` | an unfinished download, and what is needed to go on with it |
//! | `model.pt.lock` | empty; locked while a process downloads, left in place because removing it would race |
//! | `model.pt.damaged` | a file that failed its digest, set aside until a good one is in place |
//!
//! A file put under its final name by hand (a machine without a network) is verified and used like any other.
//!
//! When two processes want the same file, the second waits for the first and then finds the file in place: several
//! `kirie` commands started at once on a fresh machine all succeed, with one download.
//!
//! The `hf-hub` crate (1.0) was looked at first: it is asynchronous, brings the Xet storage client and is many times
//! larger, keeps its own cache layout, and does not resume into a file that we control.

mod fetch;
#[cfg(test)]
mod tests;

use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use md5::Md5;
use sha2::{Digest, Sha256};

pub use crate::registry::{Integrity, RemoteFile};
use fetch::{Fetch, Fetched};

/// Where to put files and whom to ask.
#[derive(Debug, Clone)]
pub struct PullOptions {
    /// The cache folder, created when needed.
    pub cache: PathBuf,
    /// Replaces scheme and host of every URL: a mirror such as `https://hub.example.org`.
    pub base_url: Option<String>,
    /// How long to wait, how often to try.
    pub patience: Patience,
}

impl PullOptions {
    /// The given cache folder, no mirror.
    pub fn new(cache: impl Into<PathBuf>) -> Self {
        Self { cache: cache.into(), base_url: None, patience: Patience::default() }
    }

    /// [`cache_dir`] and [`base_url_from_env`].
    pub fn from_env() -> Result<Self, HubError> {
        Ok(Self { base_url: base_url_from_env(), ..Self::new(cache_dir()?) })
    }
}

/// Time limits and retries of a download.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// Longest wait for a name to resolve and, again, for a connection.
    pub connect: Duration,
    /// Longest silence of a connected server.
    pub silence: Duration,
    /// Failures in a row, without a megabyte of headway, that are tried again.
    pub retries: u32,
    /// Pause before the first retry; it doubles each time, up to sixteen-fold.
    pub pause: Duration,
    /// Longest wait for another process that downloads the same file.
    pub other_process: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(15),
            silence: Duration::from_secs(30),
            retries: 5,
            pause: Duration::from_millis(500),
            other_process: Duration::from_hours(1),
        }
    }
}

/// What is going on; the caller decides how to show it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Progress {
    /// Another process downloads this file (reported several times a second while waiting).
    Waiting,
    /// What is on disk failed its digest and is fetched anew.
    Damaged {
        /// The digest it should have.
        expected: String,
        /// The digest it has.
        found: String,
    },
    /// Bytes arrive.
    Downloading {
        /// Bytes of the file on disk, those of earlier attempts included.
        done: u64,
        /// Size of the file, where the server says it.
        total: Option<u64>,
        /// Whether this attempt went on from bytes that were there before.
        resumed: bool,
    },
    /// Something went wrong and is tried again after a pause.
    Retrying {
        /// Failures in a row, this one included.
        failures: u32,
        /// How many are tolerated.
        retries: u32,
        /// What went wrong.
        reason: String,
    },
    /// The digest of the file on disk is computed.
    Verifying {
        /// Bytes read.
        done: u64,
        /// Size of the file.
        total: u64,
    },
}

/// A file in the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pulled {
    /// Where it is.
    pub path: PathBuf,
    /// Its SHA-256, 64 lower-case digits.
    pub sha256: String,
    /// Its size.
    pub bytes: u64,
    /// Bytes that came over the network for it now; 0 when it was in the cache.
    pub received: u64,
    /// What its digest was compared with.
    pub verified: Verified,
}

/// What a file's digest was compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verified {
    /// The digest that kirie knows ([`Integrity`]).
    Pinned,
    /// The digest that the hub announced with this download.
    Announced,
    /// The digest recorded when the file came into the cache.
    Recorded,
    /// Nothing: a file put there by hand, or a server that announced only a size.
    Nothing,
}

/// Why a file could not be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// No server could be asked: name not resolved, connection refused or timed out, TLS refused.
    #[error("cannot reach {host}: {reason}\n{how}")]
    Offline {
        /// The host that was tried.
        host: String,
        /// What happened.
        reason: String,
        /// How to go on without a network.
        how: String,
    },
    /// The server answered, but not with the file.
    #[error("{url}: HTTP status {status}, {hint}")]
    HttpStatus {
        /// The status code.
        status: u16,
        /// The address that answered.
        url: String,
        /// What it usually means and what to do.
        hint: String,
    },
    /// An address that cannot be used.
    #[error("{url}: {reason}")]
    BadUrl {
        /// The address.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The downloaded file is not the expected one; it was deleted.
    #[error("{url}: {what} should be {expected} but is {found}; the download was deleted")]
    DigestMismatch {
        /// Where it came from.
        url: String,
        /// Which digest.
        what: &'static str,
        /// Its expected value.
        expected: String,
        /// Its value over the downloaded file.
        found: String,
    },
    /// There is nothing by which a complete file could be told from a broken one.
    #[error("{url}: the server announces neither a digest nor a size, so the file cannot be checked")]
    Unverifiable {
        /// The address.
        url: String,
    },
    /// The connection broke too often.
    #[error(
        "{url}: interrupted after {failures} failures in a row ({reason}); {} are kept, and running the same \
         command again goes on from there", megabytes(*.done, *.total)
    )]
    Interrupted {
        /// The address.
        url: String,
        /// Bytes on disk.
        done: u64,
        /// Size of the file, where known.
        total: Option<u64>,
        /// Failures in a row.
        failures: u32,
        /// The last failure.
        reason: String,
    },
    /// Another process holds the download for too long.
    #[error("another process is downloading this file (it holds {path}); try again when it is done")]
    Busy {
        /// The lock file.
        path: PathBuf,
    },
    /// The disk or the quota is full.
    #[error("no space left for {path}; free some, or name another folder in KIRIE_CACHE")]
    DiskFull {
        /// The file being written.
        path: PathBuf,
    },
    /// Reading or writing the cache failed.
    #[error("{path}: {source}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The system names no cache folder for this user.
    #[error("no cache folder is known for this user; name one in KIRIE_CACHE")]
    NoCacheFolder,
}

impl HubError {
    /// An [`io::Error`] with the path it happened at.
    fn io(path: &Path, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::DiskFull { path: path.into() },
            _ => Self::Io { path: path.into(), source },
        }
    }
}

/// `"12.3 MB of 45.0 MB"`.
fn megabytes(done: u64, total: Option<u64>) -> String {
    let mb = |bytes: u64| format!("{:.1} MB", bytes as f64 / 1e6);
    total.map_or_else(|| mb(done), |total| format!("{} of {}", mb(done), mb(total)))
}

/// `KIRIE_CACHE` if set, else `kirie/models` in the user's cache folder.
pub fn cache_dir() -> Result<PathBuf, HubError> {
    match std::env::var_os("KIRIE_CACHE").filter(|value| !value.is_empty()) {
        Some(folder) => Ok(folder.into()),
        None => Ok(dirs::cache_dir().ok_or(HubError::NoCacheFolder)?.join("kirie").join("models")),
    }
}

/// `KIRIE_HUB` if set: what [`PullOptions::base_url`] should be.
pub fn base_url_from_env() -> Option<String> {
    std::env::var("KIRIE_HUB").ok().filter(|value| !value.is_empty())
}

/// The file in the cache, if it is there. Its content is not read; [`pull`] verifies it.
pub fn cached(remote: &RemoteFile, cache: &Path) -> Option<PathBuf> {
    let path = cache.join(remote.file);
    fs::metadata(&path).is_ok_and(|data| data.is_file() && data.len() > 0).then_some(path)
}

/// Brings a file into the cache, or verifies the one that is there.
///
/// A broken download goes on where it stopped, within one call and in a later one. `HTTPS_PROXY` and its relatives
/// are obeyed, except for addresses of this machine itself.
pub fn pull(
    remote: &RemoteFile,
    options: &PullOptions,
    progress: &mut dyn FnMut(Progress),
) -> Result<Pulled, HubError> {
    let paths = Paths::new(&options.cache.join(remote.file));
    // First without the lock: a cache on a read-only disk must serve too.
    if let InCache::Good(pulled) = look(remote, options, &paths, progress)? {
        return Ok(pulled);
    }
    let folder = paths.file.parent().unwrap_or(&options.cache);
    fs::create_dir_all(folder).map_err(|e| HubError::io(folder, e))?;
    let _lock = lock(&paths.lock, options.patience.other_process, progress)?;
    // Again: another process may have brought or replaced it meanwhile.
    match look(remote, options, &paths, progress)? {
        InCache::Good(pulled) => return Ok(pulled),
        InCache::Nothing => {}
        InCache::Damaged(Mismatch { expected, found, .. }) => {
            progress(Progress::Damaged { expected, found });
            rename(&paths.file, &paths.damaged)?;
            // Or a good file put there by hand would be measured by it.
            remove(&paths.record)?;
        }
    }
    let pulled = download(remote, options, &paths, progress)?;
    remove(&paths.damaged)?;
    Ok(pulled)
}

/// The files of one cache entry; see the table at the top.
struct Paths {
    file: PathBuf,
    record: PathBuf,
    part: PathBuf,
    sidecar: PathBuf,
    lock: PathBuf,
    damaged: PathBuf,
}

impl Paths {
    fn new(file: &Path) -> Self {
        Self {
            file: file.into(),
            record: with_suffix(file, ".sha256"),
            part: with_suffix(file, ".part"),
            sidecar: with_suffix(file, ".part.json"),
            lock: with_suffix(file, ".lock"),
            damaged: with_suffix(file, ".damaged"),
        }
    }

    /// Forgets an unfinished download.
    fn discard_part(&self) -> Result<(), HubError> {
        remove(&self.sidecar)?;
        remove(&self.part)
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// What the cache holds under the final name.
enum InCache {
    Nothing,
    Good(Pulled),
    Damaged(Mismatch),
}

fn look(
    remote: &RemoteFile,
    options: &PullOptions,
    paths: &Paths,
    progress: &mut dyn FnMut(Progress),
) -> Result<InCache, HubError> {
    if cached(remote, &options.cache).is_none() {
        return Ok(InCache::Nothing);
    }
    let digests = Digests::of(&paths.file, remote.integrity, progress)?;
    let recorded = fs::read_to_string(&paths.record)
        .ok()
        .and_then(|line| line.split_whitespace().next().and_then(sha256_digits));
    let recorded = recorded.as_deref().map(|digest| ("the recorded SHA-256", digest));
    if let Err(mismatch) = digests.check(remote.integrity, recorded) {
        return Ok(InCache::Damaged(mismatch));
    }
    if recorded.is_none() {
        // Put there by hand. The record makes later damage visible, but a read-only cache must serve too.
        let _ = write_record(paths, &digests.sha256);
    }
    let verified = Verified::by(remote.integrity, recorded.map(|_| Verified::Recorded));
    Ok(InCache::Good(digests.into_pulled(paths, 0, verified)))
}

/// Downloads, verifies, and gives the file its final name.
fn download(
    remote: &RemoteFile,
    options: &PullOptions,
    paths: &Paths,
    progress: &mut dyn FnMut(Progress),
) -> Result<Pulled, HubError> {
    let mut fetch = Fetch::new(remote, options, paths, progress);
    let mut again = true;
    let (digests, announced) = loop {
        let Fetched { announced, pieced } = fetch.run()?;
        let digests = Digests::of(&paths.part, remote.integrity, fetch.progress)?;
        let expected = announced.as_deref().map(|digest| ("the announced SHA-256", digest));
        let Err(Mismatch { what, expected, found }) = digests.check(remote.integrity, expected) else {
            break (digests, announced);
        };
        paths.discard_part()?;
        // Bytes of an earlier attempt may be at fault (a crash, a file that changed): once more from the start.
        if !(pieced && again) {
            return Err(HubError::DigestMismatch { url: fetch.start_url()?, what, expected, found });
        }
        again = false;
        (fetch.progress)(Progress::Damaged { expected, found });
    };
    let received = fetch.received;

    // The record goes first: a complete file without one is known to have been put there by hand.
    write_record(paths, &digests.sha256)?;
    let part = OpenOptions::new().write(true).open(&paths.part);
    part.and_then(|part| part.sync_all()).map_err(|e| HubError::io(&paths.part, e))?;
    rename(&paths.part, &paths.file)?;
    remove(&paths.sidecar)?;
    let verified = Verified::by(remote.integrity, announced.map(|_| Verified::Announced));
    Ok(digests.into_pulled(paths, received, verified))
}

impl Verified {
    fn by(integrity: Integrity, otherwise: Option<Self>) -> Self {
        if integrity == Integrity::Announced { otherwise.unwrap_or(Self::Nothing) } else { Self::Pinned }
    }
}

/// Size and digests of a file on disk.
struct Digests {
    bytes: u64,
    sha256: String,
    /// Only where it is pinned: it takes longer than the SHA-256.
    md5: Option<String>,
}

struct Mismatch {
    what: &'static str,
    expected: String,
    found: String,
}

impl Digests {
    fn of(path: &Path, integrity: Integrity, progress: &mut dyn FnMut(Progress)) -> Result<Self, HubError> {
        let error = |e| HubError::io(path, e);
        let mut file = File::open(path).map_err(error)?;
        let total = file.metadata().map_err(error)?.len();
        let mut sha256 = Sha256::new();
        let mut md5 = matches!(integrity, Integrity::Md5(_)).then(Md5::new);
        let mut buffer = vec![0; 1 << 20];
        let mut done = 0;
        loop {
            progress(Progress::Verifying { done, total });
            match file.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => {
                    sha256.update(&buffer[..n]);
                    if let Some(md5) = &mut md5 {
                        md5.update(&buffer[..n]);
                    }
                    done += n as u64;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(error(e)),
            }
        }
        Ok(Self { bytes: done, sha256: hex(&sha256.finalize()), md5: md5.map(|md5| hex(&md5.finalize())) })
    }

    /// Compares with what is pinned, and with one more SHA-256 where there is one.
    fn check(&self, integrity: Integrity, other: Option<(&'static str, &str)>) -> Result<(), Mismatch> {
        let pinned = match integrity {
            Integrity::Sha256(digest) => Some(("the SHA-256", digest, &self.sha256[..])),
            Integrity::Sha256Prefix(digits) => {
                let start = self.sha256.get(..digits.len()).unwrap_or(&self.sha256);
                Some(("the start of the SHA-256", digits, start))
            }
            Integrity::Md5(digest) => Some(("the MD5", digest, self.md5.as_deref().unwrap_or_default())),
            Integrity::Announced => None,
        };
        let other = other.map(|(what, digest)| (what, digest, &self.sha256[..]));
        match pinned
            .into_iter()
            .chain(other)
            .find(|(_, expected, found)| !expected.eq_ignore_ascii_case(found))
        {
            None => Ok(()),
            Some((what, expected, found)) => {
                Err(Mismatch { what, expected: expected.to_ascii_lowercase(), found: found.into() })
            }
        }
    }

    fn into_pulled(self, paths: &Paths, received: u64, verified: Verified) -> Pulled {
        Pulled { path: paths.file.clone(), sha256: self.sha256, bytes: self.bytes, received, verified }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing into a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The text in lower case, if it is a SHA-256.
fn sha256_digits(text: &str) -> Option<String> {
    (text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit())).then(|| text.to_ascii_lowercase())
}

/// Takes the lock of a cache entry; it is held until the returned file is dropped, or the process ends.
fn lock(path: &Path, longest: Duration, progress: &mut dyn FnMut(Progress)) -> Result<File, HubError> {
    let file = OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(false)
        .open(path)
        .map_err(|e| HubError::io(path, e))?;
    let started = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if started.elapsed() < longest => {
                progress(Progress::Waiting);
                std::thread::sleep(Duration::from_millis(100));
            }
            Err(TryLockError::WouldBlock) => return Err(HubError::Busy { path: path.into() }),
            // Some network file systems know no locks. Better unlocked than not at all: the digest decides anyway.
            Err(TryLockError::Error(e)) if e.kind() == io::ErrorKind::Unsupported => return Ok(file),
            Err(TryLockError::Error(e)) => return Err(HubError::io(path, e)),
        }
    }
}

/// The digest as `sha256sum` writes it.
fn write_record(paths: &Paths, sha256: &str) -> Result<(), HubError> {
    let name = paths.file.file_name().unwrap_or_default().to_string_lossy();
    write_atomically(&paths.record, format!("{sha256}  {name}\n").as_bytes())
}

fn write_atomically(path: &Path, content: &[u8]) -> Result<(), HubError> {
    kirie_data::write_atomic(path, |file| file.write_all(content)).map_err(|error| match error {
        kirie_data::DataError::Write { source, .. } => HubError::io(path, source),
        other => HubError::io(path, io::Error::other(other)),
    })
}

fn rename(from: &Path, to: &Path) -> Result<(), HubError> {
    fs::rename(from, to).map_err(|e| HubError::io(to, e))?;
    // Makes the new name survive a power cut where the system allows it; the content is synced already.
    #[cfg(unix)]
    if let Some(folder) = to.parent() {
        let _ = File::open(folder).and_then(|folder| folder.sync_all());
    }
    Ok(())
}

/// Deletes a file that may not exist.
fn remove(path: &Path) -> Result<(), HubError> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(HubError::io(path, e)),
        _ => Ok(()),
    }
}
