//! The network half: one file over HTTP into `<file>.part`, going on where an earlier attempt stopped.
//!
//! Redirects are followed by hand, because Hugging Face announces a file's SHA-256 (`X-Linked-ETag`) and size
//! (`X-Linked-Size`) on the redirect itself, and the storage server behind it does not repeat them.

use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use ureq::http::{Response, Uri};
use ureq::{Agent, Body, Timeout};

use super::{HubError, Integrity, Paths, Progress, PullOptions, RemoteFile, sha256_digits, write_atomically};

const MAX_REDIRECTS: usize = 10;
/// An attempt that brought this much more than any before it resets the count of failures.
const HEADWAY: u64 = 1_000_000;

/// What is remembered about an unfinished download.
#[derive(Default, Serialize, Deserialize)]
struct Sidecar {
    url: String,
    /// Only a strong one: it stands for exactly these bytes.
    etag: Option<String>,
    total: Option<u64>,
    /// The SHA-256 that the hub announced.
    announced: Option<String>,
}

/// A complete `<file>.part`.
pub(super) struct Fetched {
    /// The SHA-256 that the hub announced.
    pub(super) announced: Option<String>,
    /// Whether it was put together from more than one attempt.
    pub(super) pieced: bool,
}

/// The last answer of a chain of redirects, and what was announced along it.
struct Answer {
    response: Response<Body>,
    url: String,
    announced: Option<String>,
    linked_size: Option<u64>,
}

enum Failure {
    /// Trying again would not help.
    Fatal(HubError),
    /// No connection came about.
    Unreachable { host: String, reason: String },
    /// A connection broke or fell silent.
    Dropped { host: String, reason: String },
    /// The server asks to come back later.
    Busy { status: u16, url: String },
}

impl From<HubError> for Failure {
    fn from(error: HubError) -> Self {
        Self::Fatal(error)
    }
}

/// One download with its retries.
pub(super) struct Fetch<'a> {
    remote: &'a RemoteFile,
    options: &'a PullOptions,
    paths: &'a Paths,
    pub(super) progress: &'a mut dyn FnMut(Progress),
    agent: Agent,
    /// Bytes that came over the network.
    pub(super) received: u64,
}

impl<'a> Fetch<'a> {
    pub(super) fn new(
        remote: &'a RemoteFile,
        options: &'a PullOptions,
        paths: &'a Paths,
        progress: &'a mut dyn FnMut(Progress),
    ) -> Self {
        let patience = options.patience;
        let agent = Agent::config_builder()
            .timeout_resolve(Some(patience.connect))
            .timeout_connect(Some(patience.connect))
            .timeout_per_read(Some(patience.silence))
            .timeout_per_write(Some(patience.silence))
            .max_redirects(0)
            .http_status_as_error(false)
            // Offsets and digests are those of the bytes as stored.
            .accept_encoding("identity")
            .user_agent(concat!("kirie/", env!("CARGO_PKG_VERSION")))
            .build()
            .new_agent();
        Self { remote, options, paths, progress, agent, received: 0 }
    }

    /// Attempts until `<file>.part` is complete, or patience runs out.
    pub(super) fn run(&mut self) -> Result<Fetched, HubError> {
        let patience = self.options.patience;
        let mut failures = 0;
        let mut most = self.kept().0;
        loop {
            let failure = match self.attempt() {
                Ok(fetched) => return Ok(fetched),
                Err(failure) => failure,
            };
            let (done, sidecar) = self.kept();
            if done >= most + HEADWAY {
                failures = 0;
            }
            most = most.max(done);
            failures += 1;
            let enough = failures > patience.retries;
            // Who is offline should hear so at once; later on it may be a passing trouble.
            let offline = matches!(failure, Failure::Unreachable { .. }) && self.received == 0;
            let (host, reason) = match failure {
                Failure::Fatal(error) => return Err(error),
                Failure::Busy { status, url } if enough => return Err(self.refused(status, url)),
                Failure::Busy { status, url } => (host_of(&url), format!("HTTP status {status}")),
                Failure::Unreachable { host, reason } | Failure::Dropped { host, reason } => (host, reason),
            };
            if offline || (enough && done == 0 && self.received == 0) {
                return Err(HubError::Offline { host, reason, how: self.by_hand() });
            }
            if enough {
                let total = sidecar.total;
                return Err(HubError::Interrupted { url: self.start_url()?, done, total, failures, reason });
            }
            (self.progress)(Progress::Retrying { failures, retries: patience.retries, reason });
            std::thread::sleep(patience.pause * (1 << (failures - 1).min(4)));
        }
    }

    /// One request and its body.
    fn attempt(&mut self) -> Result<Fetched, Failure> {
        let (have, kept) = self.kept();
        let Answer { response, url, announced, linked_size } = self.request(have, kept.etag.as_deref())?;
        let etag = header(&response, "etag").filter(|etag| etag.starts_with('"')).map(String::from);
        let range = header(&response, "content-range").and_then(content_range);
        // A server that knows no If-Range may send the rest of another file.
        let same = |old: &Option<String>, new: &Option<String>| old.is_none() || new.is_none() || old == new;
        let same = same(&kept.etag, &etag) && same(&kept.announced, &announced);

        let (start, total) = match (response.status().as_u16(), range) {
            (200, _) => (0, header(&response, "content-length").and_then(|text| text.parse().ok())),
            (206, Some((Some(start), total))) if start == have && have > 0 && same => (have, total),
            // Nothing is missing: the last attempt ended between the last byte and the check of the digest.
            (416, range) if same && range.and_then(|(_, total)| total).or(kept.total) == Some(have) => {
                return Ok(Fetched { announced: announced.or(kept.announced), pieced: true });
            }
            (206 | 416, _) if have > 0 => {
                drop(response);
                self.paths.discard_part()?;
                // At most once: without a kept part no range is asked for.
                return self.attempt();
            }
            (status @ (408 | 429 | 500..=599), _) => return Err(Failure::Busy { status, url }),
            (status, _) => return Err(self.refused(status, url).into()),
        };
        let total = total.or(linked_size);
        // Bytes that were kept because of an announcement are measured by it.
        let announced = if start > 0 { announced.or(kept.announced) } else { announced };
        let checkable =
            self.remote.integrity != Integrity::Announced || announced.is_some() || total.is_some();
        if !checkable {
            return Err(HubError::Unverifiable { url }.into());
        }
        if start == 0 {
            // Never a new sidecar beside old bytes.
            self.paths.discard_part()?;
            let sidecar = Sidecar { url: self.remote.url.into(), etag, total, announced: announced.clone() };
            let text =
                serde_json::to_vec(&sidecar).map_err(|e| HubError::io(&self.paths.sidecar, e.into()))?;
            write_atomically(&self.paths.sidecar, &text)?;
        }
        let done = self.append(response, &url, start, total)?;
        if total.is_some_and(|total| total != done) {
            let host = host_of(&url);
            let reason = format!("the server sent {}", super::megabytes(done, total));
            return Err(Failure::Dropped { host, reason });
        }
        Ok(Fetched { announced, pieced: start > 0 })
    }

    /// Appends the body to `<file>.part`, which has `start` bytes; returns its new length.
    fn append(
        &mut self,
        response: Response<Body>,
        url: &str,
        start: u64,
        total: Option<u64>,
    ) -> Result<u64, Failure> {
        let path = &self.paths.part;
        let error = |e| HubError::io(path, e);
        let mut file = OpenOptions::new().create(true).append(true).open(path).map_err(error)?;
        let mut body = response.into_body().into_reader();
        let mut buffer = vec![0; 128 << 10];
        let mut done = start;
        loop {
            (self.progress)(Progress::Downloading { done, total, resumed: start > 0 });
            if total.is_some_and(|total| done > total) {
                return Ok(done);
            }
            match body.read(&mut buffer) {
                Ok(0) => return Ok(done),
                Ok(n) => {
                    file.write_all(&buffer[..n]).map_err(error)?;
                    done += n as u64;
                    self.received += n as u64;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => {
                    return Err(Failure::Dropped { host: host_of(url), reason: self.reason(url, &e.into()) });
                }
            }
        }
    }

    /// Asks for the file from byte `have` on, through all redirects.
    fn request(&self, have: u64, etag: Option<&str>) -> Result<Answer, Failure> {
        let mut url = self.start_url()?;
        let (mut announced, mut linked_size) = (None, None);
        for _ in 0..=MAX_REDIRECTS {
            let mut request = self.agent.get(&url);
            if is_local(&url) {
                request = request.config().proxy(None).build();
            }
            if have > 0 {
                request = request.header("Range", format!("bytes={have}-"));
                if let Some(etag) = etag {
                    request = request.header("If-Range", etag);
                }
            }
            let response = request.call().map_err(|e| self.failure(&url, &e))?;
            announced = announced.or_else(|| {
                header(&response, "x-linked-etag").and_then(|etag| sha256_digits(etag.trim_matches('"')))
            });
            linked_size =
                linked_size.or_else(|| header(&response, "x-linked-size").and_then(|text| text.parse().ok()));
            if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
                return Ok(Answer { response, url, announced, linked_size });
            }
            let next = header(&response, "location").and_then(|location| join(&url, location));
            url = next.ok_or_else(|| bad_url(&url, "redirects to nowhere, or from https to http"))?;
        }
        Err(bad_url(&url, "too many redirects").into())
    }

    /// The address to begin with: the file's own, or the same path at the mirror.
    pub(super) fn start_url(&self) -> Result<String, HubError> {
        let Some(base) = &self.options.base_url else { return Ok(self.remote.url.into()) };
        if !(base.starts_with("http://") || base.starts_with("https://")) {
            return Err(bad_url(base, "the address of a mirror begins with https:// or http://"));
        }
        let uri: Uri = self.remote.url.parse().map_err(|e| bad_url(self.remote.url, e))?;
        Ok(format!(
            "{}{}",
            base.trim_end_matches('/'),
            uri.path_and_query().map_or("/", |path| path.as_str())
        ))
    }

    /// Bytes of an earlier attempt that can be gone on from, and what is known about them.
    fn kept(&self) -> (u64, Sidecar) {
        let sidecar = fs::read(&self.paths.sidecar).ok().and_then(|text| serde_json::from_slice(&text).ok());
        let Some(sidecar): Option<Sidecar> = sidecar else { return (0, Sidecar::default()) };
        let have = fs::metadata(&self.paths.part).map_or(0, |data| data.len());
        // Something must later tell whether old and new bytes belong together.
        let safe = sidecar.etag.is_some()
            || sidecar.announced.is_some()
            || self.remote.integrity != Integrity::Announced;
        let fits = sidecar.total.is_none_or(|total| have <= total);
        if safe && fits && sidecar.url == self.remote.url { (have, sidecar) } else { (0, Sidecar::default()) }
    }

    /// Sorts the errors that end a request before its body.
    fn failure(&self, url: &str, error: &ureq::Error) -> Failure {
        use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
        let (host, reason) = (host_of(url), self.reason(url, error));
        match error {
            ureq::Error::BadUri(_) | ureq::Error::Http(_) => bad_url(url, reason).into(),
            ureq::Error::Io(e)
                if matches!(e.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof) =>
            {
                Failure::Dropped { host, reason }
            }
            // Failed look-ups arrive as Io of no particular kind, refused certificates as Rustls or Io.
            ureq::Error::Io(_)
            | ureq::Error::HostNotFound
            | ureq::Error::ConnectionFailed
            | ureq::Error::ConnectProxyFailed(_)
            | ureq::Error::InvalidProxyUrl
            | ureq::Error::Tls(_)
            | ureq::Error::Rustls(_)
            | ureq::Error::Timeout(Timeout::Resolve | Timeout::Connect) => {
                Failure::Unreachable { host, reason }
            }
            _ => Failure::Dropped { host, reason },
        }
    }

    fn reason(&self, url: &str, error: &ureq::Error) -> String {
        let seconds = |limit: Duration| format!("{} s", limit.as_secs_f32());
        let patience = self.options.patience;
        let reason = match error {
            ureq::Error::Timeout(Timeout::Resolve | Timeout::Connect) => {
                format!("no connection within {}", seconds(patience.connect))
            }
            ureq::Error::Timeout(_) => format!("no data for {}", seconds(patience.silence)),
            ureq::Error::Io(e) => e.to_string(),
            other => other.to_string(),
        };
        match self.agent.config().proxy() {
            Some(proxy) if !is_local(url) => {
                format!("{reason} (the environment names the proxy {})", proxy.host())
            }
            _ => reason,
        }
    }

    /// A status that is no file, with advice.
    fn refused(&self, status: u16, url: String) -> HubError {
        let path = self.paths.file.display();
        let hint = match status {
            401 | 403 | 407 => format!(
                "access refused: the file may be gated (accept its terms in a browser, download it there and put \
                 it at {path}) or a proxy may stand in between"
            ),
            404 | 410 => "there is no such file; it may have moved, or the mirror may lack it".into(),
            429 => "too many requests; try again in a few minutes".into(),
            500..=599 => "the server has trouble; try again later".into(),
            _ => "an unexpected answer".into(),
        };
        HubError::HttpStatus { status, url, hint }
    }

    /// What to do without a network.
    fn by_hand(&self) -> String {
        format!(
            "Without a network: download {} on another machine and put it at {} (or pass it with --weights FILE). \
             Behind a proxy set HTTPS_PROXY; a mirror can be named in KIRIE_HUB.",
            self.remote.url,
            self.paths.file.display()
        )
    }
}

fn bad_url(url: &str, reason: impl ToString) -> HubError {
    HubError::BadUrl { url: url.into(), reason: reason.to_string() }
}

fn header<'r>(response: &'r Response<Body>, name: &str) -> Option<&'r str> {
    response.headers().get(name)?.to_str().ok()
}

fn host_of(url: &str) -> String {
    let uri: Option<Uri> = url.parse().ok();
    uri.as_ref().and_then(Uri::host).unwrap_or(url).into()
}

/// Whether the address is this machine's own, which a proxy elsewhere could not reach.
fn is_local(url: &str) -> bool {
    matches!(host_of(url).as_str(), "localhost" | "127.0.0.1" | "[::1]")
}

/// First byte and size from `bytes 5-9/10`, `bytes 5-9/*` or `bytes */10`.
fn content_range(text: &str) -> Option<(Option<u64>, Option<u64>)> {
    let (range, total) = text.trim().strip_prefix("bytes ")?.split_once('/')?;
    Some((range.split_once('-').and_then(|(first, _)| first.parse().ok()), total.parse().ok()))
}

/// The address that a `Location` header names; none if it leads from https to http.
fn join(from: &str, location: &str) -> Option<String> {
    let base: Uri = from.parse().ok()?;
    let scheme = base.scheme_str()?;
    let origin = format!("{scheme}://{}", base.authority()?);
    if location.starts_with("https://") || (location.starts_with("http://") && scheme == "http") {
        Some(location.into())
    } else if location.starts_with("//") {
        Some(format!("{scheme}:{location}"))
    } else if location.starts_with('/') {
        Some(format!("{origin}{location}"))
    } else if location.contains("://") || location.is_empty() {
        None
    } else {
        let folder = base.path().rsplit_once('/').map_or("", |(folder, _)| folder);
        Some(format!("{origin}{folder}/{location}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations_are_resolved() {
        let from = "https://hub.test/a/b/model.pt?x=1";
        let to = |location| join(from, location);
        assert_eq!(to("https://cdn.test/f?sig=/a").as_deref(), Some("https://cdn.test/f?sig=/a"));
        assert_eq!(to("//cdn.test/f").as_deref(), Some("https://cdn.test/f"));
        assert_eq!(to("/c/model.pt").as_deref(), Some("https://hub.test/c/model.pt"));
        assert_eq!(to("other.pt?u=1").as_deref(), Some("https://hub.test/a/b/other.pt?u=1"));
        assert_eq!(to("http://cdn.test/f"), None);
        assert_eq!(to("ftp://cdn.test/f"), None);
        assert_eq!(join("http://hub.test/f", "http://cdn.test/f").as_deref(), Some("http://cdn.test/f"));
    }

    #[test]
    fn content_ranges_are_read() {
        assert_eq!(content_range("bytes 5-9/10"), Some((Some(5), Some(10))));
        assert_eq!(content_range("bytes 5-9/*"), Some((Some(5), None)));
        assert_eq!(content_range("bytes */10"), Some((None, Some(10))));
        assert_eq!(content_range("pages 1-2/3"), None);
    }
}
