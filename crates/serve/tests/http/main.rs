//! The service over HTTP, as tools and the page use it. Every answer is held against the service's own description.

#![allow(clippy::unwrap_used, reason = "a test may fail anywhere")]

mod common;
#[cfg(unix)]
mod continual;

use std::io::{Cursor, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use common::{Drawing, Running, config, folders, png, square};
use kirie_serve::{ServeError, ServeLimits, Server};
use serde_json::{Value, json};

fn start(root: &tempfile::TempDir) -> Running {
    Running::start(config(root.path()), Drawing::default())
}

/// From a picture to an object that is there after a restart, and in every export.
#[test]
fn click_keep_correct_undo_export_and_come_back() {
    let root = folders();
    let mut service = start(&root);
    let a = service.picture("a.png");
    assert_eq!(service.ok("POST", &format!("/api/images/{a}/embedding"), &json!({}))["width"], 80);
    let ask = json!({ "prompts": [{ "points": [[40, 30]] }, { "box": [8, 8, 24, 24] }] });
    let found = service.ok("POST", &format!("/api/images/{a}/predict"), &ask);
    let mask = &found["answers"][0]["masks"][0];
    assert!((mask["area"].as_f64().unwrap() - 400.0).abs() < 60.0, "{mask}");
    assert_eq!(found["answers"][1]["masks"].as_array().unwrap().len(), 1);

    // The answer is the next prompt's start, on this picture and no other.
    let again =
        json!({ "prompts": [{ "points": [[40, 30, 1], [10, 10, 0]], "mask_input": mask["logits"] }] });
    service.ok("POST", &format!("/api/images/{a}/predict"), &again);
    let b = service.picture("inner/b.png");
    assert_eq!(service.json("POST", &format!("/api/images/{b}/predict"), &again).0, 422);
    let three = json!({ "prompts": [{ "points": [[40, 30]] }], "multimask": true });
    let found = service.ok("POST", &format!("/api/images/{a}/predict"), &three);
    assert_eq!(found["answers"][0]["masks"].as_array().unwrap().len(), 3);

    let class = service.ok("POST", "/api/classes", &json!({ "name": "<b>crack</b>" }));
    let new = json!({ "objects": [{ "class": class["id"], "segmentation": mask["segmentation"], "points": [[40, 30, 1]] },
        { "segmentation": square(80, 60, 1, 2, 5) }] });
    let made = service.ok("POST", &format!("/api/images/{a}/objects"), &new);
    let (first, second) = (made["objects"][0]["id"].clone(), made["objects"][1]["id"].clone());
    let change = json!({ "class": class["id"], "revision": 1 });
    assert_eq!(service.ok("PATCH", &format!("/api/objects/{second}"), &change)["revision"], 2);
    assert_eq!(service.json("PATCH", &format!("/api/objects/{second}"), &change).0, 409);
    assert_eq!(
        service.ok("PATCH", &format!("/api/objects/{second}"), &json!({ "class": null }))["class"],
        Value::Null
    );
    assert_eq!(service.json("DELETE", &format!("/api/objects/{first}?revision=9"), &Value::Null).0, 409);
    service.ok("DELETE", &format!("/api/objects/{first}?revision=1"), &Value::Null);
    assert_eq!(service.json("GET", &format!("/api/objects/{first}"), &Value::Null).0, 404);
    let undone = service.ok("POST", &format!("/api/images/{a}/undo"), &json!({}));
    assert_eq!(undone["step"]["changed"][0]["id"], first);
    service.ok("POST", &format!("/api/images/{a}/redo"), &json!({}));
    service.ok("POST", &format!("/api/images/{a}/undo"), &json!({}));
    service.ok("PATCH", &format!("/api/images/{b}"), &json!({ "done": true }));
    let colour = json!({ "colour": "#102030", "name": "crack" });
    assert_eq!(service.ok("PATCH", &format!("/api/classes/{}", class["id"]), &colour)["colour"], "#102030");
    assert_eq!(service.json("DELETE", &format!("/api/classes/{}", class["id"]), &Value::Null).0, 409);

    let coco = service.get("/api/export");
    assert_eq!(
        (coco["images"].as_array().unwrap().len(), coco["annotations"].as_array().unwrap().len()),
        (2, 2)
    );
    let names: Vec<&str> =
        coco["categories"].as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["crack", "object"]);
    for (form, wanted) in [
        ("coco&pictures=true", ["annotations.json", "images/a.png"]),
        ("yolo&pictures=true", ["labels/a.txt", "images/a.png"]),
        ("yolo", ["data.yaml", "labels/inner_b.txt"]),
        ("voc", ["classes.txt", "Annotations/a.xml"]),
        ("png", ["classes.txt", "masks/a.png"]),
        ("instances&pictures=true", ["masks/a.png", "images/inner_b.png"]),
        ("geojson", ["a.geojson", "inner_b.geojson"]),
    ] {
        let (status, bytes, _) = service.raw("GET", &format!("/api/export?format={form}"), &[], &[]);
        assert_eq!(status, 200, "{form}: {}", String::from_utf8_lossy(&bytes));
        let mut zip = zip::ZipArchive::new(Cursor::new(bytes)).unwrap();
        for name in wanted {
            assert!(
                zip.by_name(name).is_ok(),
                "{form}: no {name} in {:?}",
                zip.file_names().collect::<Vec<_>>()
            );
        }
        if form.starts_with("coco") {
            let text = std::io::read_to_string(zip.by_name("annotations.json").unwrap()).unwrap();
            let json: Value = serde_json::from_str(&text).unwrap();
            let pictures = json["images"].as_array().unwrap().iter();
            let names: Vec<_> = pictures.map(|i| i["file_name"].as_str().unwrap()).collect();
            assert_eq!(names, ["a.png", "inner_b.png"]);
        }
        if form == "geojson" {
            let text = std::io::read_to_string(zip.by_name("a.geojson").unwrap()).unwrap();
            let json: Value = serde_json::from_str(&text).unwrap();
            assert_eq!(json["features"][0]["properties"]["class"], "crack");
        }
    }

    service.end();
    let service = start(&root);
    let kept = service.get(&format!("/api/images/{a}/objects"));
    assert_eq!(kept["objects"].as_array().unwrap().len(), 2);
    assert_eq!((&kept["can_undo"], &kept["can_redo"]), (&json!(true), &json!(true)));
    assert_eq!(service.get(&format!("/api/images/{b}"))["done"], true);
    assert_eq!(service.get("/api/images?which=open")["total"], 0);
}

#[test]
fn everything_comes_with_progress_and_ends_when_nobody_listens() {
    let root = folders();
    let service = Running::start(
        config(root.path()),
        Drawing { slow: Duration::from_millis(30), ..Drawing::default() },
    );
    let a = service.picture("a.png");
    let path = format!("/api/images/{a}/everything");
    let (status, bytes, _) = service.raw("POST", &path, &[("content-type", "application/json")], b"{}");
    let text = String::from_utf8(bytes).unwrap();
    assert_eq!(status, 200);
    assert!(text.contains("event: progress\n") && text.contains("event: done\n"), "{text}");
    let done = text.split("event: done\n").nth(1).unwrap().trim_start_matches("data: ").trim();
    let found: Value = serde_json::from_str(done).unwrap();
    let masks = found["masks"].as_array().unwrap();
    assert!(masks.len() > 4, "{}", masks.len());

    // A search of 64 x 64 points would take half a minute in all; when its client goes away, the lane is free at once.
    let body = r#"{"points_per_side":64}"#;
    let mut stream = TcpStream::connect(service.address).unwrap();
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    let mut start_of_answer = [0; 600];
    let mut read = 0;
    while !String::from_utf8_lossy(&start_of_answer[..read]).contains("event: progress") {
        read += stream.read(&mut start_of_answer[read..]).unwrap();
    }
    drop(stream);
    let begin = Instant::now();
    service.raw("POST", &path, &[("content-type", "application/json")], b"{}");
    assert!(begin.elapsed() < Duration::from_secs(8), "{:?}", begin.elapsed());
}

#[test]
fn what_makes_no_sense_is_refused_with_a_reason() {
    let root = folders();
    let service = start(&root);
    let a = service.picture("a.png");
    let predict = format!("/api/images/{a}/predict");
    let point = |x: f64, y: f64| json!({ "prompts": [{ "points": [[x, y]] }] });
    let cases = [
        ("POST", predict.clone(), json!({ "prompts": [] }), 400),
        ("POST", predict.clone(), json!({ "prompts": [{}] }), 400),
        ("POST", predict.clone(), point(-1.0, 2.0), 400),
        ("POST", predict.clone(), point(1e300, 2.0), 400),
        ("POST", predict.clone(), json!({ "prompts": [{ "points": [[1]] }] }), 400),
        ("POST", predict.clone(), json!({ "prompts": [{ "points": [[1, 2, 3]] }] }), 400),
        ("POST", predict.clone(), json!({ "prompts": [{ "box": [5, 5, 1, 1] }] }), 400),
        ("POST", predict.clone(), json!({ "prompts": [{ "points": [[1, 2]] }], "zoom": 99 }), 400),
        ("POST", predict.clone(), json!({ "prompts": [{ "points": [[1, 2]] }], "what": 1 }), 400),
        ("POST", predict.clone(), json!({ "prompts": vec![json!({ "points": [[1, 2]] }); 65] }), 400),
        ("POST", predict.clone(), json!({ "prompts": [{ "mask_input": "l999" }] }), 422),
        ("POST", predict, json!([1, 2]), 400),
        ("POST", "/api/images/0/predict".into(), point(1.0, 1.0), 404),
        ("POST", format!("/api/images/{a}/everything"), json!({ "points_per_side": 1000 }), 400),
        ("POST", format!("/api/images/{a}/objects"), json!({ "objects": [] }), 400),
        (
            "POST",
            format!("/api/images/{a}/objects"),
            json!({ "objects": [{ "segmentation": square(10, 10, 1, 1, 3) }] }),
            422,
        ),
        (
            "POST",
            format!("/api/images/{a}/objects"),
            json!({ "objects": [{ "segmentation": square(80, 60, 1, 1, 0) }] }),
            422,
        ),
        (
            "POST",
            format!("/api/images/{a}/objects"),
            json!({ "objects": [{ "segmentation": { "size": [60, 80], "counts": [1] } }] }),
            400,
        ),
        (
            "POST",
            format!("/api/images/{a}/objects"),
            json!({ "objects": [{ "segmentation": { "size": [4_000_000_000_u64, 4_000_000_000_u64], "counts": "0" } }] }),
            400,
        ),
        ("GET", "/api/objects/x".into(), Value::Null, 400),
        ("GET", "/api/objects/77".into(), Value::Null, 404),
        ("GET", "/api/images?limit=0".into(), Value::Null, 400),
        ("GET", "/api/images?limit=-1".into(), Value::Null, 400),
        ("GET", "/api/images?unknown=1".into(), Value::Null, 400),
        ("GET", "/api/export?format=exe".into(), Value::Null, 400),
        ("GET", "/api/export".into(), Value::Null, 422),
        ("POST", "/api/classes".into(), json!({ "name": "" }), 422),
        ("POST", "/api/jobs".into(), json!({}), 422),
        ("POST", "/api/jobs".into(), json!({ "steps": 0 }), 400),
        ("POST", "/api/jobs".into(), json!({ "method": "../../etc" }), 400),
        ("POST", "/api/jobs".into(), json!({ "kind": "continual", "name": "../x" }), 400),
        ("POST", "/api/jobs".into(), json!({ "kind": "continual", "name": "Base" }), 400),
        ("POST", "/api/jobs".into(), json!({ "class": 1 }), 400),
        ("POST", format!("/api/images/{a}/compare"), json!({ "job": 3 }), 404),
        ("POST", "/api/jobs/3/stop".into(), json!({}), 404),
        ("POST", "/api/jobs/3/adopt".into(), json!({}), 404),
        ("GET", "/api/jobs/3/report".into(), Value::Null, 404),
        ("POST", format!("/api/images/{a}/suggest"), json!({}), 409),
    ];
    for (method, path, body, expected) in cases {
        let (status, answer) = service.json(method, &path, &body);
        assert_eq!(status, expected, "{method} {path} {body}: {answer}");
        assert!(answer["message"].as_str().is_some_and(|m| m.len() > 5), "{method} {path}: {answer}");
    }
    for (method, path) in [("PUT", "/api/images"), ("DELETE", "/api/classes"), ("POST", "/api/health")] {
        assert_eq!(service.json(method, path, &json!({})).0, 405);
    }
}

/// No path leads out of what is served, however it is written.
#[test]
fn no_way_out_of_the_folder() {
    let root = folders();
    std::fs::write(root.path().join("secret.png"), png(9, 9, 5)).unwrap();
    let service = start(&root);
    for id in
        ["..", "..%2f..%2fsecret.png", "%2e%2e", "....//", "secret.png", "%00", "a.png", "%2Fetc%2Fpasswd"]
    {
        for rest in ["/picture", "/thumbnail", "", "/objects"] {
            let mut stream = TcpStream::connect(service.address).unwrap();
            write!(
                stream,
                "GET /api/images/{id}{rest} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
            )
            .unwrap();
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).unwrap();
            let head = String::from_utf8_lossy(&answer).lines().next().unwrap_or_default().to_owned();
            assert!(head.contains(" 404 ") || head.contains(" 400 "), "{id}{rest}: {head}");
        }
    }
    for path in ["/assets/../Cargo.toml", "/../../etc/passwd", "/assets/%2e%2e/store/annotations.sqlite"] {
        let mut stream = TcpStream::connect(service.address).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 404 "), "{path}: {answer}");
    }
}

/// Pictures that are cut short, too large, or say they are something else; none stays, none ends the service.
#[test]
fn lying_uploads() {
    let root = folders();
    let limits = ServeLimits { upload_bytes: 100_000, pixels: 100_000, ..ServeLimits::default() };
    let service =
        Running::start(kirie_serve::ServeConfig { limits, ..config(root.path()) }, Drawing::default());
    let good = png(50, 40, 3);
    let (status, made) = service.upload("one.png", &good);
    assert_eq!((status, &made["width"], &made["name"]), (201, &json!(50), &json!("one.png")));
    assert_eq!(service.upload("two.png", &good).1["id"], made["id"], "the same bytes are kept once");
    // The last 12 bytes are the end mark. Cut before it, pixels are missing; of the mark itself nothing is needed to see them all.
    let end = good.len() - 12;
    for length in (0..end).step_by(end / 15).chain([end - 1]) {
        assert_eq!(service.upload("cut.png", &good[..length]).0, 422, "{length} of {}", good.len());
    }
    let (status, whole) = service.upload("unmarked.png", &good[..good.len() - 1]);
    assert_eq!((status, &whole["width"], &whole["height"]), (201, &json!(50), &json!(40)));
    // A header that promises four billion pixels, and one beyond the limit alone.
    let mut huge = good.clone();
    huge[16..24].copy_from_slice(&[0, 1, 0, 0, 0, 1, 0, 0]);
    let crc = crc32(&huge[12..29]);
    huge[29..33].copy_from_slice(&crc.to_be_bytes());
    assert_eq!(service.upload("huge.png", &huge).0, 413);
    // Far beyond the limit, sent whole before the answer is read, as browsers do.
    assert_eq!(service.upload("large.png", &png(500, 300, 4)).0, 413);
    assert_eq!(service.upload("larger.png", &vec![7; 20 << 20]).0, 413);
    for (name, bytes) in [
        ("page.png", &b"<script>alert(1)</script>"[..]),
        ("a.svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>"),
        ("x.gif", b"GIF89a\x01\x00\x01\x00"),
        ("zip.jpg", b"PK\x03\x04"),
        ("null.png", &[0; 100]),
    ] {
        assert_eq!(service.upload(name, bytes).0, 422, "{name}");
    }
    let noise: Vec<u8> = (0..150_000_u32).map(|v| (v.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    assert_eq!(service.upload("long.png", &noise).0, 413);
    assert_eq!(service.upload("", &good).0, 400);
    // Names are shown, never opened.
    let (status, named) = service.upload("..%2F..%2F%3Cimg%20src%3Dx%3E.png", &png(51, 40, 3));
    assert_eq!((status, &named["name"]), (201, &json!("<img src=x>.png")));
    let stored = std::fs::read_dir(root.path().join("store/uploads")).unwrap().count();
    assert_eq!(stored, 3);
    let outside: Vec<_> = std::fs::read_dir(root.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(outside.len(), 2, "{outside:?}");
    // A body that ends before it said it would.
    let mut stream = TcpStream::connect(service.address).unwrap();
    write!(stream, "POST /api/images?name=x.png HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\nContent-Length: 5000\r\n\r\nabc").unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400 "), "{answer}");
    assert_eq!(service.get("/api/health")["status"], "ok");
}

fn crc32(bytes: &[u8]) -> u32 {
    bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(
            crc ^ u32::from(*byte),
            |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 },
        )
    }) ^ u32::MAX
}

#[test]
fn strangers_are_turned_away() {
    let root = folders();
    let service = start(&root);
    let send = |headers: &str, method: &str| {
        let mut stream = TcpStream::connect(service.address).unwrap();
        write!(stream, "{method} /api/classes HTTP/1.1\r\nConnection: close\r\n{headers}\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer.split(' ').nth(1).unwrap_or_default().to_owned()
    };
    let port = service.address.port();
    assert_eq!(send(&format!("Host: localhost:{port}\r\n"), "GET"), "200");
    assert_eq!(send("Host: evil.example\r\n", "GET"), "403");
    assert_eq!(send("", "GET"), "403");
    let body = r#"{"name":"x"}"#;
    let post = |extra: &str, kind: &str| {
        send(
            &format!(
                "Host: localhost\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n{extra}\r\n{body}",
                body.len()
            ),
            "POST",
        )
    };
    assert_eq!(post("Origin: https://evil.example\r\n", "application/json"), "403");
    assert_eq!(post("Origin: null\r\n", "application/json"), "403");
    assert_eq!(post("Sec-Fetch-Site: cross-site\r\n", "application/json"), "403");
    // What a form can send without being asked.
    for kind in ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"] {
        assert_eq!(post("", kind), "415", "{kind}");
    }
    assert_eq!(
        post(
            "Origin: http://localhost\r\nSec-Fetch-Site: same-origin\r\n",
            "application/json; charset=utf-8"
        ),
        "201"
    );
}

#[test]
fn a_token_is_asked_for() {
    let root = folders();
    let token = "a-long-enough-token";
    let with_token = kirie_serve::ServeConfig { token: Some(token.to_owned()), ..config(root.path()) };
    let service = Running::start(with_token, Drawing::default());
    let status = |headers: &[(&str, &str)]| service.raw("GET", "/api/classes", headers, &[]).0;
    assert_eq!(status(&[]), 401);
    assert_eq!(status(&[("authorization", "Bearer a-long-enough-tokex")]), 401);
    assert_eq!(status(&[("authorization", &format!("Bearer {token}"))]), 200);
    // Label Studio knows names and passwords; "x:a-long-enough-token".
    assert_eq!(status(&[("authorization", "Basic eDphLWxvbmctZW5vdWdoLXRva2Vu")]), 200);
    assert_eq!(status(&[("cookie", &format!("kirie_token={token}"))]), 401);
    assert_eq!(service.raw("GET", "/", &[], &[]).0, 200, "the page is no secret");
    assert_eq!(service.json("POST", "/api/session", &json!({ "token": "wrong" })).0, 401);
    assert_eq!(service.json("POST", "/api/session", &json!({ "token": token })).0, 204);
    for path in ["/api/models", "/api/openapi.json", "/health", "/api/export", "/api/jobs"] {
        assert_eq!(service.raw("GET", path, &[], &[]).0, 401, "{path}");
    }

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let bind = |address: &str, token: Option<&str>| {
        let config = kirie_serve::ServeConfig {
            address: address.parse().unwrap(),
            token: token.map(str::to_owned),
            ..config(folders().path())
        };
        runtime.block_on(Server::bind(config, std::sync::Arc::new(Drawing::default()))).err()
    };
    assert!(matches!(bind("0.0.0.0:0", None), Some(ServeError::TokenNeeded { .. })));
    assert!(matches!(bind("0.0.0.0:0", Some("short")), Some(ServeError::WeakToken { .. })));
    let taken = service.address.to_string();
    assert!(matches!(bind(&taken, None), Some(ServeError::Bind { .. })));
}

/// Full queues say so at once, and who is slow holds nobody else.
#[test]
fn overload_and_slow_clients() {
    let root = folders();
    let limits = ServeLimits { queue: 1, seconds: 1, ..ServeLimits::default() };
    let config = kirie_serve::ServeConfig { limits, ..config(root.path()) };
    let service = Running::start(config, Drawing { slow: Duration::from_millis(300), ..Drawing::default() });
    let a = service.picture("a.png");
    service.ok("POST", &format!("/api/images/{a}/embedding"), &json!({}));
    let path = format!("/api/images/{a}/predict");
    let ask = json!({ "prompts": [{ "points": [[40, 30]] }] }).to_string();
    let answers: Vec<(u16, String)> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    let (status, _, retry) =
                        service.raw("POST", &path, &[("content-type", "application/json")], ask.as_bytes());
                    (status, retry)
                })
            })
            .collect();
        clients.into_iter().map(|client| client.join().unwrap()).collect()
    });
    let count = |wanted: u16| answers.iter().filter(|(status, _)| *status == wanted).count();
    assert_eq!(count(200) + count(503), 8, "{answers:?}");
    assert!(count(200) >= 1 && count(503) >= 4, "{answers:?}");
    assert!(answers.iter().all(|(status, retry)| *status == 200 || retry == "1"), "{answers:?}");

    // A head that never ends, and a body that never comes, are given up; others are served meanwhile.
    let mut head = TcpStream::connect(service.address).unwrap();
    head.write_all(b"GET /api/health HTTP/1.1\r\nHost: local").unwrap();
    let mut body = TcpStream::connect(service.address).unwrap();
    body.write_all(b"POST /api/classes HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{").unwrap();
    assert_eq!(service.get("/api/health")["status"], "ok");
    let begin = Instant::now();
    let mut rest = Vec::new();
    head.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    head.read_to_end(&mut rest).unwrap();
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    assert_eq!(service.get("/api/health")["status"], "ok");
}

/// A request that is being answered when the service is asked to stop gets its answer.
#[test]
fn a_stop_loses_nothing() {
    let root = folders();
    let mut service = Running::start(
        config(root.path()),
        Drawing { slow: Duration::from_millis(400), ..Drawing::default() },
    );
    let a = service.picture("a.png");
    let ask = json!({ "prompts": [{ "points": [[40, 30]] }] }).to_string();
    let mut stream = TcpStream::connect(service.address).unwrap();
    write!(stream, "POST /api/images/{a}/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{ask}", ask.len()).unwrap();
    std::thread::sleep(Duration::from_millis(150));
    service.end();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(TcpStream::connect(service.address).is_err());
}

/// The forms that Label Studio sends and reads.
#[test]
fn label_studio_is_answered_in_its_own_forms() {
    let root = folders();
    let service = start(&root);
    assert_eq!(service.get("/health")["status"], "UP");
    let config = r#"<View><Image name="image" value="$image"/><BrushLabels name="tag" toName="image"><Label value="Crack"/></BrushLabels>
        <KeyPointLabels name="k" toName="image" smart="true"><Label value="Crack"/></KeyPointLabels></View>"#;
    let setup = json!({ "project": "1.2", "schema": config, "hostname": "http://localhost:8080", "access_token": "x", "extra_params": {} });
    assert!(service.ok("POST", "/setup", &setup)["model_version"].as_str().unwrap().starts_with("drawing"));
    assert_eq!(service.json("POST", "/setup", &json!({ "schema": "<View/>" })).0, 422);

    let task = json!({ "id": 7, "data": { "image": "/data/local-files/?d=some/inner/b.png" } });
    let key = json!({ "original_width": 64, "original_height": 64, "image_rotation": 0, "id": "abc", "from_name": "k", "to_name": "image",
        "type": "keypointlabels", "is_positive": true, "value": { "x": 50.0, "y": 25.0, "width": 0.5, "keypointlabels": ["Crack"] } });
    let asked = |config: &str, drawn: &Value| {
        json!({ "tasks": [task], "project": "1.2", "label_config": config, "params": { "login": null, "password": null,
            "context": { "annotation_id": 3, "draft_id": 0, "user_id": 1, "result": [drawn] } } })
    };
    let found = service.ok("POST", "/predict", &asked(config, &key));
    let region = &found["results"][0]["result"][0];
    assert_eq!(
        (&region["type"], &region["from_name"], &region["to_name"]),
        (&json!("brushlabels"), &json!("tag"), &json!("image"))
    );
    assert_eq!((&region["original_width"], &region["value"]["format"]), (&json!(64), &json!("rle")));
    assert_eq!(region["value"]["brushlabels"], json!(["Crack"]));
    assert!(region["value"]["rle"].as_array().unwrap().len() > 8);

    let boxes = r#"<View><Image name="image" value="$image"/><RectangleLabels name="r" toName="image"><Label value="A"/></RectangleLabels></View>"#;
    let drawn = json!({ "type": "rectanglelabels", "value": { "x": 25, "y": 25, "width": 50, "height": 25, "rectanglelabels": ["A"] } });
    let found = service.ok("POST", "/predict", &asked(boxes, &drawn));
    let value = &found["results"][0]["result"][0]["value"];
    for (name, expected) in [("x", 25.0), ("y", 25.0), ("width", 50.0), ("height", 25.0)] {
        assert!((value[name].as_f64().unwrap() - expected).abs() < 4.0, "{name}: {value}");
    }
    let polygons = boxes.replace("RectangleLabels", "PolygonLabels");
    let found = service.ok("POST", "/predict", &asked(&polygons, &drawn));
    let points = found["results"][0]["result"][0]["value"]["points"].as_array().unwrap().clone();
    assert!(
        points.len() >= 4
            && points
                .iter()
                .flat_map(|p| p.as_array().unwrap())
                .all(|v| (0.0..=100.0).contains(&v.as_f64().unwrap()))
    );

    // Nothing drawn yet; a picture that is not served here.
    let none = service.ok("POST", "/predict", &json!({ "tasks": [task], "label_config": config }));
    assert_eq!(none["results"][0]["result"], json!([]));
    let mut other = asked(config, &key);
    other["tasks"][0]["data"]["image"] = json!("https://elsewhere.example/secret.png");
    assert_eq!(service.json("POST", "/predict", &other).0, 404);
}

/// What is unlike the labelled pictures is offered first.
#[test]
fn what_to_label_next() {
    let root = folders();
    let one = |value: u8| {
        let image = kirie_data::Image::from_raw(40, 40, vec![value; 3 * 40 * 40]).unwrap();
        kirie_data::write::encode_picture(&image, kirie_data::write::PictureFormat::Png).unwrap()
    };
    std::fs::remove_file(root.path().join("pictures/a.png")).unwrap();
    std::fs::remove_file(root.path().join("pictures/inner/b.png")).unwrap();
    // The drawing engine's embedding is the first pixels, whose mean at length 1 is all that counts: make them differ in sign.
    for (name, value) in [("a", 0), ("b", 200), ("c", 210), ("d", 0)] {
        std::fs::write(root.path().join(format!("pictures/{name}.png")), one(value)).unwrap();
    }
    let service = start(&root);
    let d = service.picture("b.png");
    service.ok("PATCH", &format!("/api/images/{d}"), &json!({ "done": true }));
    let begin = Instant::now();
    let list = loop {
        let list = service.get("/api/images?which=next");
        if list["ranked"] == 3 {
            break list;
        }
        assert!(begin.elapsed() < Duration::from_secs(20), "{list}");
        std::thread::sleep(Duration::from_millis(50));
    };
    let names: Vec<&str> =
        list["images"].as_array().unwrap().iter().map(|i| i["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["a.png", "c.png", "d.png"]);
}

/// The page's files are there, nothing in them comes from elsewhere, and nothing inside the page runs.
#[test]
fn the_page_stands_alone() {
    let root = folders();
    let service = start(&root);
    let (_, page, _) = service.raw("GET", "/", &[], &[]);
    let page = String::from_utf8(page).unwrap();
    assert!(!page.contains("<script>") && !page.contains("style=") && !page.contains(" onclick"));
    let mut seen = 0;
    for part in page.split('"').filter(|part| part.starts_with("/assets/")) {
        let (status, file, _) = service.raw("GET", part, &[], &[]);
        assert_eq!(status, 200, "{part}");
        let text = String::from_utf8(file).unwrap();
        assert!(
            !text.contains("https://") && !text.contains("innerHTML") && !text.contains("eval("),
            "{part}"
        );
        for import in text.lines().filter_map(|line| line.split_once("from \"./")?.1.strip_suffix("\";")) {
            assert_eq!(service.raw("GET", &format!("/assets/{import}"), &[], &[]).0, 200, "{import}");
            seen += 1;
        }
    }
    assert!(seen >= 5);
}

/// Thumbnails and pictures come upright and in forms that browsers show.
#[test]
fn pictures_for_the_browser() {
    let root = folders();
    let service = start(&root);
    let a = service.picture("a.png");
    let (status, bytes, _) = service.raw("GET", &format!("/api/images/{a}/picture"), &[], &[]);
    assert!(status == 200 && bytes.starts_with(b"\x89PNG"));
    let (status, bytes, _) = service.raw("GET", &format!("/api/images/{a}/thumbnail"), &[], &[]);
    assert!(status == 200 && bytes.starts_with(&[0xff, 0xd8]));
    std::fs::write(root.path().join("pictures/broken.jpg"), b"no picture").unwrap();
    std::thread::sleep(Duration::from_millis(2100));
    let broken = service.picture("broken.jpg");
    let shown = service.get(&format!("/api/images/{broken}"));
    let problem = shown["problem"].as_str().unwrap();
    assert!(shown["width"].is_null() && !problem.contains(root.path().to_str().unwrap()), "{problem}");
    assert_eq!(service.raw("GET", &format!("/api/images/{broken}/picture"), &[], &[]).0, 422);
    assert_eq!(service.raw("GET", &format!("/api/images/{broken}/thumbnail"), &[], &[]).0, 422);
    assert_eq!(service.json("POST", &format!("/api/images/{broken}/embedding"), &json!({})).0, 422);
}

/// Tools that make clients or tests of the description stop at a name that it does not explain.
#[test]
fn the_description_explains_every_name_it_uses() {
    let root = folders();
    let service = start(&root);
    let text = service.description.to_string();
    let names: std::collections::BTreeSet<&str> =
        text.split("\"$ref\":\"#").skip(1).filter_map(|rest| rest.split('"').next()).collect();
    assert!(names.len() > 10, "{names:?}");
    for name in names {
        assert!(service.description.pointer(name).is_some(), "#{name}");
    }
}
