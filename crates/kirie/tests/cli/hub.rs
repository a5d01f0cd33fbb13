//! `models pull` against a server on this machine. The finer points of downloads are tested in `kirie-sam`.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::thread::{JoinHandle, spawn};

use sha2::{Digest, Sha256};

use crate::common::{Answer, Place};

/// No digest of it is known beforehand; the hub announces one.
const MODEL: &str = "hq-sam-vit-tiny";
const FILE: &str = "sam_hq_vit_tiny.pth";

/// Answers as many requests as it has replies, each on its own connection, and gives back the requests' heads.
fn serve(replies: Vec<Vec<u8>>) -> (String, JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let thread = spawn(move || {
        let answer = |reply: Vec<u8>| {
            let (mut stream, _) = listener.accept().unwrap();
            let lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
            let head: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
            stream.write_all(&reply).unwrap();
            head.join("\n").to_lowercase()
        };
        replies.into_iter().map(answer).collect()
    });
    (address, thread)
}

fn reply(status: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let headers = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n"));
    let head = format!("HTTP/1.1 {status}\r\nConnection: close\r\n{}\r\n", headers.collect::<String>());
    [head.as_bytes(), body].concat()
}

fn digest(body: &[u8]) -> String {
    Sha256::digest(body).iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat()
}

/// Content that differs everywhere, so that a misplaced piece shows.
fn content() -> Vec<u8> {
    (0..300_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

fn pull(place: &Place, hub: &str, line: &str) -> Answer {
    Answer::of(place.command(line).env("KIRIE_HUB", hub))
}

#[test]
fn downloads_once() {
    let (place, body) = (Place::new(), content());
    let sha256 = digest(&body);
    let length = body.len().to_string();
    let headers = [("Content-Length", &length[..]), ("X-Linked-ETag", &sha256)];
    let (hub, server) = serve(vec![reply("200 OK", &headers, &body)]);
    let answer = pull(&place, &hub, &format!("models pull {MODEL}")).done();
    for words in [MODEL, "fetched, digest as announced", FILE, &sha256] {
        assert!(answer.stdout.contains(words), "{words}: {}", answer.stdout);
    }
    assert!(
        server.join().unwrap()[0].starts_with("get /lkeab/hq-sam/resolve/main/sam_hq_vit_tiny.pth http/1.1")
    );
    assert!(std::fs::read(place.path("cache").join(FILE)).unwrap() == body);

    // The server is gone; nothing is asked of it any more.
    let again = pull(&place, &hub, &format!("models pull {MODEL} --json")).done().json();
    assert_eq!(again[0]["sha256"], sha256);
    assert_eq!((&again[0]["bytes"], &again[0]["received"]), (&body.len().into(), &0.into()));
    assert!(place.run(&format!("models info {MODEL} --json")).done().json()["cached"].is_string());
}

#[test]
fn goes_on_after_a_broken_connection() {
    let (place, body) = (Place::new(), content());
    let sha256 = digest(&body);
    let (length, left) = (body.len().to_string(), (body.len() - 100_000).to_string());
    let range = format!("bytes 100000-{}/{}", body.len() - 1, body.len());
    let announced = [("X-Linked-ETag", &sha256[..]), ("ETag", "\"v1\"")];
    let first = [announced[0], announced[1], ("Content-Length", &length)];
    let second = [announced[0], announced[1], ("Content-Length", &left), ("Content-Range", &range)];
    let (hub, server) = serve(vec![
        reply("200 OK", &first, &body[..100_000]),
        reply("206 Partial Content", &second, &body[100_000..]),
    ]);
    let answer = pull(&place, &hub, &format!("models pull {MODEL}")).done();
    assert!(answer.stderr.contains("attempt 1 of 5 failed"), "{}", answer.stderr);
    assert!(server.join().unwrap()[1].contains("\nrange: bytes=100000-"));
    assert!(std::fs::read(place.path("cache").join(FILE)).unwrap() == body);
    assert_eq!(
        place.names("cache"),
        [FILE.to_owned(), format!("{FILE}.lock"), format!("{FILE}.sha256")],
        "nothing unfinished is left"
    );
}

#[test]
fn refuses_another_file() {
    let (place, body) = (Place::new(), content());
    let length = body.len().to_string();
    let (hub, server) = serve(vec![reply("200 OK", &[("Content-Length", &length)], &body)]);
    let answer = pull(&place, &hub, "models pull efficientvit-sam-l0");
    let found = &digest(&body)[..12];
    answer.expect(1, &["SHA-256 should be c4f994b01a16", found, "the download was deleted"]);
    assert_eq!(answer.stdout, "");
    server.join().unwrap();
    assert_eq!(place.names("cache"), ["efficientvit_sam_l0.pt.lock"]);
}

#[test]
fn says_what_to_do_offline() {
    let place = Place::new();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let answer = pull(&place, &format!("http://127.0.0.1:{port}"), "models pull mobile-sam --json");
    let goes_to = place.path("cache").join("mobile_sam.pt").display().to_string();
    let words = [
        "cannot reach 127.0.0.1",
        "Without a network: download https://",
        &goes_to,
        "--weights FILE",
        "KIRIE_HUB",
    ];
    answer.expect(1, &words);
    assert_eq!(answer.stdout, "");
    assert_eq!(place.names("cache"), ["mobile_sam.pt.lock"]);
}
