//! Downloads from a scripted server on this machine; nothing here needs a network.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use tempfile::TempDir;

use super::*;

const FILE: &str = "model.pt";
const URL: &str = "https://hub.test/kirie/model.pt";
const ETAG: &str = "\"v1\"";

/// Content that differs everywhere, so that a misplaced piece shows.
fn content(bytes: usize) -> Vec<u8> {
    (0..bytes as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn leak(text: String) -> &'static str {
    Box::leak(text.into_boxed_str())
}

/// A file whose SHA-256 is pinned.
fn pinned(body: &[u8]) -> RemoteFile {
    RemoteFile { url: URL, file: FILE, integrity: Integrity::Sha256(leak(sha256(body))) }
}

fn announced() -> RemoteFile {
    RemoteFile { url: URL, file: FILE, integrity: Integrity::Announced }
}

/// What the server does with one request.
enum Reply {
    /// Sends these bytes and closes.
    Send(Vec<u8>),
    /// Sends these bytes and then nothing, without closing.
    Stall(Vec<u8>),
    /// Waits before sending.
    Late(Duration, Vec<u8>),
}

/// A response head with its body; the body may be shorter than `Content-Length` says.
fn response(status: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut text = format!("HTTP/1.1 {status}\r\nConnection: close\r\n");
    for (name, value) in headers {
        text.extend([name, ": ", value, "\r\n"]);
    }
    text += "\r\n";
    [text.as_bytes(), body].concat()
}

fn send(status: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
    Reply::Send(response(status, headers, body))
}

/// The whole file, of which only `sent` bytes arrive.
fn cut(body: &[u8], sent: usize) -> Reply {
    send("200 OK", &[("ETag", ETAG), ("Content-Length", &body.len().to_string())], &body[..sent])
}

fn whole(body: &[u8]) -> Reply {
    cut(body, body.len())
}

/// The rest of the file from byte `start` on.
fn rest(body: &[u8], start: usize) -> Reply {
    let range = format!("bytes {start}-{}/{}", body.len() - 1, body.len());
    let length = (body.len() - start).to_string();
    let headers = [("ETag", ETAG), ("Content-Range", &range), ("Content-Length", &length)];
    send("206 Partial Content", &headers, &body[start..])
}

/// Answers requests in the order of its script, each on its own connection; 500 when the script is over.
struct Server {
    base: String,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Server {
    fn new(script: impl IntoIterator<Item = Reply>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let mut script: VecDeque<Reply> = script.into_iter().collect();
        let seen = Arc::clone(&requests);
        std::thread::spawn(move || {
            let mut stalled: Vec<TcpStream> = Vec::new();
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let lines = BufReader::new(stream.try_clone().unwrap()).lines();
                let lines: Vec<String> =
                    lines.map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
                seen.lock().unwrap().push(lines.join("\n").to_ascii_lowercase());
                let reply = script.pop_front().unwrap_or_else(|| send("500 Script is over", &[], b""));
                // The client may be gone; its test will say so.
                let _ = match reply {
                    Reply::Send(bytes) => stream.write_all(&bytes),
                    Reply::Stall(bytes) => {
                        stalled.push(stream.try_clone().unwrap());
                        stream.write_all(&bytes)
                    }
                    Reply::Late(pause, bytes) => {
                        std::thread::sleep(pause);
                        stream.write_all(&bytes)
                    }
                };
            }
        });
        Self { base, requests }
    }

    fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }

    fn options(&self, cache: &TempDir) -> PullOptions {
        PullOptions {
            cache: cache.path().into(),
            base_url: Some(self.base.clone()),
            patience: Patience {
                connect: Duration::from_secs(2),
                silence: Duration::from_secs(2),
                retries: 2,
                pause: Duration::from_millis(1),
                other_process: Duration::from_secs(3),
            },
        }
    }

    fn pull(&self, remote: &RemoteFile, cache: &TempDir) -> Result<Pulled, HubError> {
        pull(remote, &self.options(cache), &mut |_| {})
    }
}

/// Names in the cache, sorted, without the lock.
fn names(cache: &TempDir) -> Vec<String> {
    let entries = fs::read_dir(cache.path()).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
    let mut names: Vec<String> = names.filter(|name| name != "model.pt.lock").collect();
    names.sort();
    names
}

/// The cache holds the file and its record, and nothing else.
fn assert_complete(cache: &TempDir, body: &[u8]) {
    assert_eq!(names(cache), ["model.pt", "model.pt.sha256"]);
    assert!(fs::read(cache.path().join(FILE)).unwrap() == body, "the content differs");
    let record = fs::read_to_string(cache.path().join("model.pt.sha256")).unwrap();
    assert_eq!(record, format!("{}  model.pt\n", sha256(body)));
}

/// A broken download as an earlier process left it.
fn leave_part(cache: &TempDir, part: &[u8], sidecar: &str) {
    fs::write(cache.path().join("model.pt.part"), part).unwrap();
    fs::write(cache.path().join("model.pt.part.json"), sidecar).unwrap();
}

#[test]
fn downloads_and_then_asks_no_more() {
    let (cache, body) = (TempDir::new().unwrap(), content(300_000));
    let server = Server::new([whole(&body)]);
    assert_eq!(cached(&pinned(&body), cache.path()), None);
    let mut last = None;
    let pulled = pull(&pinned(&body), &server.options(&cache), &mut |step| {
        if let Progress::Downloading { .. } = step {
            last = Some(step);
        }
    });
    let pulled = pulled.unwrap();
    assert_eq!(last, Some(Progress::Downloading { done: 300_000, total: Some(300_000), resumed: false }));
    assert_eq!((pulled.bytes, pulled.received, pulled.verified), (300_000, 300_000, Verified::Pinned));
    assert_complete(&cache, &body);
    assert_eq!(cached(&pinned(&body), cache.path()), Some(pulled.path.clone()));

    let again = server.pull(&pinned(&body), &cache).unwrap();
    assert_eq!(again, Pulled { received: 0, ..pulled });
    let requests = server.requests();
    assert_eq!(requests.len(), 1);
    assert!(requests[0].starts_with("get /kirie/model.pt http/1.1"), "{requests:?}");
    assert!(!requests[0].contains("\nrange:"), "{requests:?}");
}

#[test]
fn other_digests_are_checked() {
    let body = content(1000);
    let prefix = Integrity::Sha256Prefix(leak(sha256(&body)[..8].to_uppercase()));
    let md5 = Integrity::Md5(leak(hex(&Md5::digest(&body))));
    for integrity in [prefix, md5] {
        let cache = TempDir::new().unwrap();
        let server = Server::new([whole(&body)]);
        let pulled = server.pull(&RemoteFile { integrity, ..announced() }, &cache).unwrap();
        assert_eq!(pulled.verified, Verified::Pinned);
        assert_complete(&cache, &body);
    }
    for integrity in [Integrity::Sha256Prefix("00000000"), Integrity::Md5("d41d8cd98f00b204e9800998ecf8427e")]
    {
        let cache = TempDir::new().unwrap();
        let server = Server::new([whole(&body)]);
        let error = server.pull(&RemoteFile { integrity, ..announced() }, &cache).unwrap_err();
        assert!(matches!(error, HubError::DigestMismatch { .. }), "{error}");
    }
}

#[test]
fn digest_announced_on_a_redirect_is_used() {
    let (cache, body) = (TempDir::new().unwrap(), content(5000));
    // The storage server has an ETag of its own and says no size.
    let storage = Server::new([send("200 OK", &[("ETag", "\"storage\"")], &body)]);
    let target = format!("{}/blob?sig=a%2Fb", storage.base);
    let digest = format!("\"{}\"", sha256(&body));
    let headers = [("Location", &target[..]), ("X-Linked-ETag", &digest), ("X-Linked-Size", "5000")];
    let hub = Server::new([
        send("307 Temporary Redirect", &[("Location", "/renamed/model.pt"), ("Content-Length", "0")], b""),
        send("302 Found", &headers, b"see there"),
    ]);
    let mut totals = Vec::new();
    let pulled = pull(&announced(), &hub.options(&cache), &mut |step| {
        if let Progress::Downloading { total, .. } = step {
            totals.push(total);
        }
    });
    assert_eq!(pulled.unwrap().verified, Verified::Announced);
    assert!(totals.iter().all(|total| *total == Some(5000)), "{totals:?}");
    assert_complete(&cache, &body);
    assert!(hub.requests()[1].starts_with("get /renamed/model.pt "));
    assert!(storage.requests()[0].starts_with("get /blob?sig=a%2fb "));
    assert_eq!(hub.pull(&announced(), &cache).unwrap().verified, Verified::Recorded);
}

#[test]
fn announced_digest_is_enforced() {
    let (cache, body) = (TempDir::new().unwrap(), content(5000));
    let digest = sha256(b"another file");
    let reply = || send("200 OK", &[("X-Linked-ETag", &digest), ("Content-Length", "5000")], &body);
    for remote in [announced(), pinned(&body)] {
        let error = Server::new([reply()]).pull(&remote, &cache).unwrap_err();
        assert!(
            matches!(&error, HubError::DigestMismatch { expected, .. } if *expected == digest),
            "{error}"
        );
        assert!(names(&cache).is_empty());
    }
}

#[test]
fn a_server_without_digest_must_say_the_size() {
    let (cache, body) = (TempDir::new().unwrap(), content(5000));
    let server = Server::new([send("200 OK", &[], &body), whole(&body)]);
    let error = server.pull(&announced(), &cache).unwrap_err();
    assert!(matches!(error, HubError::Unverifiable { .. }), "{error}");
    assert_eq!(server.pull(&announced(), &cache).unwrap().verified, Verified::Nothing);
}

#[test]
fn missing_length_is_no_obstacle_when_a_digest_is_pinned() {
    let (cache, body) = (TempDir::new().unwrap(), content(200_000));
    let server = Server::new([send("200 OK", &[], &body)]);
    server.pull(&pinned(&body), &cache).unwrap();
    assert_complete(&cache, &body);
}

#[test]
fn more_than_announced_is_not_taken() {
    let (cache, body) = (TempDir::new().unwrap(), content(500_000));
    let server = Server::new((0..3).map(|_| send("200 OK", &[("X-Linked-Size", "1000")], &body)));
    let mut most = 0;
    let error = pull(&announced(), &server.options(&cache), &mut |step| {
        if let Progress::Downloading { done, .. } = step {
            most = most.max(done);
        }
    });
    let error = error.unwrap_err();
    assert!(matches!(error, HubError::Interrupted { done: 0, .. }), "{error}");
    assert!(most < 200_000, "{most} bytes were taken");
    assert_eq!(server.requests().len(), 3);
}

#[test]
fn cut_connection_is_resumed_at_once() {
    let (cache, body) = (TempDir::new().unwrap(), content(200_000));
    let server = Server::new([cut(&body, 120_000), rest(&body, 120_000)]);
    let mut resumed = false;
    let pulled = pull(&pinned(&body), &server.options(&cache), &mut |step| {
        resumed |= step == Progress::Downloading { done: 120_000, total: Some(200_000), resumed: true };
    });
    assert_eq!(pulled.unwrap().received, 200_000);
    assert!(resumed);
    assert_complete(&cache, &body);
    let requests = server.requests();
    assert_eq!(requests.len(), 2);
    assert!(requests[1].contains("\nrange: bytes=120000-"), "{requests:?}");
    assert!(requests[1].contains("\nif-range: \"v1\""), "{requests:?}");
}

#[test]
fn interrupted_download_is_resumed_by_the_next_pull() {
    let (cache, body) = (TempDir::new().unwrap(), content(200_000));
    let gone = || Reply::Send(Vec::new());
    let server = Server::new([cut(&body, 150_000), gone(), gone(), rest(&body, 150_000)]);
    let error = server.pull(&pinned(&body), &cache).unwrap_err();
    assert!(
        matches!(error, HubError::Interrupted { done: 150_000, total: Some(200_000), failures: 3, .. }),
        "{error}"
    );
    assert!(error.to_string().contains("0.1 MB of 0.2 MB are kept"), "{error}");
    assert_eq!(names(&cache), ["model.pt.part", "model.pt.part.json"]);
    assert_eq!(cached(&pinned(&body), cache.path()), None);

    assert_eq!(server.pull(&pinned(&body), &cache).unwrap().received, 50_000);
    assert_complete(&cache, &body);
}

#[test]
fn headway_renews_patience() {
    let (cache, body) = (TempDir::new().unwrap(), content(5_500_000));
    let piece = |start: usize| {
        let range = format!("bytes {start}-{}/{}", body.len() - 1, body.len());
        let length = (body.len() - start).to_string();
        let headers = [("Content-Range", &range[..]), ("Content-Length", &length)];
        send("206 Partial Content", &headers, &body[start..(start + 1_100_000).min(body.len())])
    };
    let script =
        [cut(&body, 1_100_000), piece(1_100_000), piece(2_200_000), piece(3_300_000), piece(4_400_000)];
    assert_eq!(Server::new(script).pull(&pinned(&body), &cache).unwrap().received, 5_500_000);
    assert_complete(&cache, &body);
}

#[test]
fn server_that_ignores_range_starts_over() {
    let (cache, body) = (TempDir::new().unwrap(), content(200_000));
    let server = Server::new([cut(&body, 120_000), whole(&body)]);
    assert_eq!(server.pull(&pinned(&body), &cache).unwrap().received, 320_000);
    assert_complete(&cache, &body);
    assert!(server.requests()[1].contains("\nrange: bytes=120000-"));
}

#[test]
fn changed_file_is_not_patched_together() {
    let (cache, body) = (TempDir::new().unwrap(), content(1000));
    // A server that obeys If-Range, then one that does not.
    for honest in [true, false] {
        leave_part(&cache, &[7; 600], &format!(r#"{{"url":"{URL}","etag":"\"v0\"","total":1000}}"#));
        let first = if honest { None } else { Some(rest(&body, 600)) };
        let server = Server::new(first.into_iter().chain([whole(&body)]));
        server.pull(&announced(), &cache).unwrap();
        assert_complete(&cache, &body);
        let requests = server.requests();
        assert!(requests[0].contains("\nif-range: \"v0\""), "{requests:?}");
        assert_eq!(requests.len(), if honest { 1 } else { 2 });
        assert!(honest || !requests[1].contains("\nrange:"), "{requests:?}");
        fs::remove_file(cache.path().join(FILE)).unwrap();
    }
}

#[test]
fn broken_piece_is_fetched_again_before_giving_up() {
    let (cache, body) = (TempDir::new().unwrap(), content(1000));
    leave_part(&cache, &[7; 600], &format!(r#"{{"url":"{URL}"}}"#));
    let server = Server::new([rest(&body, 600), whole(&body)]);
    let mut damaged = 0;
    pull(&pinned(&body), &server.options(&cache), &mut |step| {
        damaged += u32::from(matches!(step, Progress::Damaged { .. }));
    })
    .unwrap();
    assert_eq!(damaged, 1);
    assert_complete(&cache, &body);
}

#[test]
fn kept_bytes_are_measured_by_what_was_announced_with_them() {
    let (cache, body) = (TempDir::new().unwrap(), content(1000));
    let mut wrong = body.clone();
    wrong[0] ^= 1;
    let sidecar = format!(r#"{{"url":"{URL}","total":1000,"announced":"{}"}}"#, sha256(&body));
    // Now the server announces nothing: neither with the rest, nor when nothing is missing.
    let nothing_missing = send("416 Range Not Satisfiable", &[("Content-Range", "bytes */1000")], b"");
    for (kept, reply) in [(600, rest(&body, 600)), (1000, nothing_missing)] {
        leave_part(&cache, &wrong[..kept], &sidecar);
        let server = Server::new([reply, whole(&body)]);
        assert_eq!(server.pull(&announced(), &cache).unwrap().received, 2000 - kept as u64);
        assert_complete(&cache, &body);
        fs::remove_file(cache.path().join(FILE)).unwrap();
    }
}

#[test]
fn unusable_leftovers_are_ignored() {
    let body = content(1000);
    let other = r#"{"url":"https://hub.test/other.pt","etag":"\"v1\""}"#;
    let unknown = format!(r#"{{"url":"{URL}","total":1000}}"#);
    let too_long = format!(r#"{{"url":"{URL}","etag":"\"v1\"","total":500}}"#);
    for sidecar in ["", "{", "[1]", other, &unknown, &too_long] {
        let cache = TempDir::new().unwrap();
        leave_part(&cache, &[7; 600], sidecar);
        let server = Server::new([whole(&body)]);
        server.pull(&announced(), &cache).unwrap();
        assert_complete(&cache, &body);
        assert!(!server.requests()[0].contains("\nrange:"), "{sidecar}");
    }
}

#[test]
fn part_longer_than_the_file_starts_over() {
    let (cache, body) = (TempDir::new().unwrap(), content(1000));
    leave_part(&cache, &[7; 1200], &format!(r#"{{"url":"{URL}","etag":"\"v1\""}}"#));
    let refusal = send("416 Range Not Satisfiable", &[("Content-Range", "bytes */1000")], b"");
    let server = Server::new([refusal, whole(&body)]);
    server.pull(&pinned(&body), &cache).unwrap();
    assert_complete(&cache, &body);
    assert_eq!(server.requests().len(), 2);
}

#[test]
fn complete_part_needs_only_its_check() {
    let body = content(1000);
    for range in [&[("Content-Range", "bytes */1000")][..], &[]] {
        let cache = TempDir::new().unwrap();
        leave_part(&cache, &body, &format!(r#"{{"url":"{URL}","etag":"\"v1\"","total":1000}}"#));
        let server = Server::new([send("416 Range Not Satisfiable", range, b"")]);
        assert_eq!(server.pull(&pinned(&body), &cache).unwrap().received, 0);
        assert_complete(&cache, &body);
    }
}

#[test]
fn wrong_content_is_deleted() {
    let (cache, body) = (TempDir::new().unwrap(), content(1000));
    let wrong = content(999);
    let server = Server::new([whole(&wrong)]);
    let error = server.pull(&pinned(&body), &cache).unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, HubError::DigestMismatch { .. }), "{text}");
    assert!(text.contains(&sha256(&body)) && text.contains(&sha256(&wrong)), "{text}");
    assert!(names(&cache).is_empty());
}

#[test]
fn refusals_name_the_address() {
    let cases = [
        ("404 Not Found", 404, "no such file", 1),
        ("401 Unauthorized", 401, "gated", 1),
        ("403 Forbidden", 403, "gated", 1),
        ("429 Too Many Requests", 429, "few minutes", 3),
        ("503 Service Unavailable", 503, "later", 3),
        ("206 Partial Content", 206, "unexpected", 1),
    ];
    for (line, code, words, requests) in cases {
        let cache = TempDir::new().unwrap();
        let server = Server::new((0..3).map(|_| send(line, &[("Content-Length", "3")], b"sad")));
        let error = server.pull(&announced(), &cache).unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, HubError::HttpStatus { status, .. } if status == code), "{text}");
        assert!(text.contains(words) && text.contains("/kirie/model.pt"), "{text}");
        assert_eq!(server.requests().len(), requests, "{line}");
        assert!(names(&cache).is_empty());
    }
}

#[test]
fn passing_trouble_is_survived() {
    let (cache, body) = (TempDir::new().unwrap(), content(1000));
    let server = Server::new([send("503 Service Unavailable", &[], b""), whole(&body)]);
    server.pull(&pinned(&body), &cache).unwrap();
    assert_complete(&cache, &body);
}

#[test]
fn without_a_network_the_way_out_is_named() {
    let cache = TempDir::new().unwrap();
    let mut options = Server::new([]).options(&cache);
    // A port that was free a moment ago.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    for scheme in ["http", "https"] {
        options.base_url = Some(format!("{scheme}://127.0.0.1:{port}/"));
        let error = pull(&announced(), &options, &mut |_| {}).unwrap_err();
        let text = error.to_string();
        assert!(matches!(&error, HubError::Offline { host, .. } if host == "127.0.0.1"), "{text}");
        let place = cache.path().join(FILE).display().to_string();
        assert!(text.contains(URL) && text.contains(&place) && text.contains("--weights"), "{text}");
    }
}

#[test]
fn refused_encryption_counts_as_unreachable() {
    let cache = TempDir::new().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let base_url = Some(format!("https://{}", listener.local_addr().unwrap()));
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap();
        // Closing with unread bytes would reset the connection.
        let _ = io::copy(&mut stream, &mut io::sink());
    });
    let options = PullOptions { base_url, ..PullOptions::new(cache.path()) };
    let error = pull(&announced(), &options, &mut |step| panic!("{step:?}")).unwrap_err();
    assert!(matches!(error, HubError::Offline { .. }), "{error}");
}

#[test]
fn silent_server_is_given_up() {
    let (cache, body) = (TempDir::new().unwrap(), content(1000));
    let head = response("200 OK", &[("ETag", ETAG), ("Content-Length", "1000")], &body[..400]);
    let server = Server::new([Reply::Stall(head), Reply::Stall(Vec::new()), Reply::Stall(Vec::new())]);
    let mut options = server.options(&cache);
    options.patience.silence = Duration::from_millis(100);
    let mut reasons = Vec::new();
    let started = Instant::now();
    let error = pull(&pinned(&body), &options, &mut |step| {
        if let Progress::Retrying { reason, .. } = step {
            reasons.push(reason);
        }
    });
    let error = error.unwrap_err();
    assert!(matches!(error, HubError::Interrupted { done: 400, .. }), "{error}");
    assert!(reasons.iter().all(|reason| reason.starts_with("no data for 0.1 s")), "{reasons:?}");
    assert_eq!(server.requests().len(), 3);
    assert!(started.elapsed() < Duration::from_millis(1500));

    let server = Server::new((0..3).map(|_| Reply::Stall(Vec::new())));
    options = PullOptions { base_url: Some(server.base.clone()), cache: cache.path().join("new"), ..options };
    let error = pull(&announced(), &options, &mut |_| {}).unwrap_err();
    assert!(matches!(error, HubError::Offline { .. }), "{error}");
}

#[test]
fn redirects_that_lead_nowhere() {
    let cache = TempDir::new().unwrap();
    let round = || send("302 Found", &[("Location", "model.pt")], b"");
    for (script, words) in [
        ((0..20).map(|_| round()).collect(), "too many redirects"),
        (vec![send("302 Found", &[], b"")], "redirects to nowhere"),
        (vec![send("302 Found", &[("Location", "file:///etc/passwd")], b"")], "redirects to nowhere"),
    ] {
        let script: Vec<Reply> = script;
        let error = Server::new(script).pull(&announced(), &cache).unwrap_err();
        assert!(matches!(error, HubError::BadUrl { .. }) && error.to_string().contains(words), "{error}");
    }
    let options = PullOptions { base_url: Some("hub.test".into()), ..PullOptions::new(cache.path()) };
    let error = pull(&announced(), &options, &mut |_| {}).unwrap_err();
    assert!(matches!(error, HubError::BadUrl { .. }), "{error}");
}

#[test]
fn damaged_file_is_fetched_anew() {
    let (cache, body) = (TempDir::new().unwrap(), content(1000));
    for remote in [pinned(&body), announced()] {
        let server = Server::new([whole(&body), whole(&body)]);
        server.pull(&remote, &cache).unwrap();
        let mut damaged = body.clone();
        damaged[500] ^= 1;
        fs::write(cache.path().join(FILE), &damaged).unwrap();
        let mut told = Vec::new();
        let pulled = pull(&remote, &server.options(&cache), &mut |step| {
            if let Progress::Damaged { .. } = step {
                told.push(step);
            }
        });
        assert_eq!(pulled.unwrap().received, 1000);
        assert_eq!(told, [Progress::Damaged { expected: sha256(&body), found: sha256(&damaged) }]);
        assert_complete(&cache, &body);
        fs::remove_file(cache.path().join(FILE)).unwrap();
    }
}

#[test]
fn damaged_file_is_set_aside_when_nothing_replaces_it() {
    let (cache, body) = (TempDir::new().unwrap(), content(1000));
    fs::write(cache.path().join(FILE), b"half a file").unwrap();
    let server = Server::new([send("404 Not Found", &[], b"")]);
    server.pull(&pinned(&body), &cache).unwrap_err();
    assert_eq!(cached(&pinned(&body), cache.path()), None);
    assert_eq!(names(&cache), ["model.pt.damaged"]);
}

#[test]
fn damaged_file_can_be_replaced_by_hand() {
    let (cache, body) = (TempDir::new().unwrap(), content(1000));
    let server = Server::new([whole(&body), send("404 Not Found", &[], b"")]);
    server.pull(&announced(), &cache).unwrap();
    fs::write(cache.path().join(FILE), b"half a file").unwrap();
    server.pull(&announced(), &cache).unwrap_err();
    // Not the bytes that were recorded before, but the ones somebody chose.
    fs::write(cache.path().join(FILE), content(900)).unwrap();
    assert_eq!(server.pull(&announced(), &cache).unwrap().bytes, 900);
}

#[test]
fn file_put_there_by_hand_is_used() {
    let body = content(1000);
    for (remote, verified) in [(pinned(&body), Verified::Pinned), (announced(), Verified::Nothing)] {
        let cache = TempDir::new().unwrap();
        fs::write(cache.path().join(FILE), &body).unwrap();
        let server = Server::new([]);
        let pulled = server.pull(&remote, &cache).unwrap();
        assert_eq!((pulled.received, pulled.verified), (0, verified));
        assert_complete(&cache, &body);
        assert!(server.requests().is_empty());
    }
}

#[test]
fn two_pulls_at_once_download_once() {
    let (cache, body) = (TempDir::new().unwrap(), content(300_000));
    let head = [("ETag", ETAG), ("Content-Length", "300000")];
    let server = Server::new([Reply::Late(Duration::from_millis(300), response("200 OK", &head, &body))]);
    let received = std::thread::scope(|scope| {
        let pulls = [(); 2].map(|()| scope.spawn(|| server.pull(&pinned(&body), &cache).unwrap().received));
        pulls.map(|pull| pull.join().unwrap())
    });
    assert_eq!(received.iter().sum::<u64>(), 300_000);
    assert_eq!(server.requests().len(), 1);
    assert_complete(&cache, &body);
}

#[test]
fn waiting_for_another_process_ends() {
    let (cache, body) = (TempDir::new().unwrap(), content(1000));
    let server = Server::new([whole(&body)]);
    let held = lock(&cache.path().join("model.pt.lock"), Duration::ZERO, &mut |_| {}).unwrap();
    let mut options = server.options(&cache);
    options.patience.other_process = Duration::from_millis(50);
    let mut waited = false;
    let error = pull(&pinned(&body), &options, &mut |step| waited |= step == Progress::Waiting).unwrap_err();
    assert!(matches!(error, HubError::Busy { .. }) && waited, "{error}");
    drop(held);
    server.pull(&pinned(&body), &cache).unwrap();
}

#[test]
fn unwritable_cache_is_named() {
    let cache = TempDir::new().unwrap();
    let in_the_way = cache.path().join("file");
    fs::write(&in_the_way, b"").unwrap();
    let error = pull(&announced(), &PullOptions::new(&in_the_way), &mut |_| {}).unwrap_err();
    assert!(matches!(&error, HubError::Io { path, .. } if *path == in_the_way), "{error}");
}
