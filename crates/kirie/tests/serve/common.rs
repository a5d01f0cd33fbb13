//! A folder of drawn pictures, and the service as a process.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use kirie_data::Image;
use kirie_data::write::write_picture;
use serde_json::Value;
use tempfile::TempDir;
use ureq::Agent;

/// Width and height of the drawn pictures.
pub(crate) const SIZE: [u32; 2] = [320, 240];

/// Where the disc of a drawn picture is: x, y, radius, pixels.
pub(crate) fn disc(number: u32) -> [f64; 3] {
    let number = f64::from(number);
    [90.0 + 35.0 * (number % 4.0), 100.0 + 12.0 * (number % 3.0), 38.0 + 4.0 * (number % 2.0)]
}

/// A folder with `pictures/0.png`, `1.png`, ...: a bright disc on a dark ground with a faint grain.
pub(crate) fn pictures(count: u32) -> TempDir {
    let root = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    fs::create_dir(root.path().join("pictures")).unwrap();
    for number in 0..count {
        let [cx, cy, radius] = disc(number);
        let mut pixels = Vec::new();
        for y in 0..SIZE[1] {
            for x in 0..SIZE[0] {
                let grain = ((x * 7 + y * 13 + number * 5) % 11) as u8;
                let far = (f64::from(x) - cx).hypot(f64::from(y) - cy);
                pixels.extend(if far < radius {
                    [235, 180 + grain, 40]
                } else {
                    [40 + grain, 60, 90 + grain]
                });
            }
        }
        let image = Image::from_raw(SIZE[0], SIZE[1], pixels).unwrap();
        write_picture(root.path().join(format!("pictures/{number}.png")), &image).unwrap();
    }
    root
}

/// The service; killed when dropped.
pub(crate) struct Service {
    pub(crate) child: Child,
    pub(crate) url: String,
    agent: Agent,
}

impl Service {
    /// Starts it on a folder made by [`pictures`], and waits until it listens.
    pub(crate) fn start(root: &Path, port: u16) -> Self {
        let mut child = Command::new(program())
            .args(["serve", "pictures", "--store", "store", "--threads", "2", "--port", &port.to_string()])
            .current_dir(root)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut url = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut url).unwrap();
        assert!(url.starts_with("http://"), "{url:?}");
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(Duration::from_mins(1)))
            .build()
            .new_agent();
        Self { child, url: url.trim().trim_end_matches('/').to_owned(), agent }
    }

    /// A request; `None` when the service is gone.
    pub(crate) fn try_json(&self, method: &str, path: &str, body: &Value) -> Option<(u16, Value)> {
        let request = ureq::http::Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.url))
            .header("content-type", "application/json");
        let sent = if body.is_null() {
            self.agent.run(request.body(()).unwrap())
        } else {
            self.agent.run(request.body(body.to_string()).unwrap())
        };
        let mut answer = sent.ok()?;
        let text = answer.body_mut().read_to_string().ok()?;
        let value = if text.is_empty() { Value::Null } else { serde_json::from_str(&text).ok()? };
        Some((answer.status().as_u16(), value))
    }

    pub(crate) fn ok(&self, method: &str, path: &str, body: &Value) -> Value {
        let (status, value) = self.try_json(method, path, body).unwrap();
        assert!((200..300).contains(&status), "{method} {path}: {status} {value}");
        value
    }

    pub(crate) fn get(&self, path: &str) -> Value {
        self.ok("GET", path, &Value::Null)
    }

    /// The id of the picture of a name.
    pub(crate) fn picture(&self, name: &str) -> String {
        let all = self.get("/api/images");
        let found = all["images"].as_array().unwrap().iter().find(|image| image["name"] == name);
        found.unwrap()["id"].as_str().unwrap().to_owned()
    }

    /// Waits until a run is no longer running.
    pub(crate) fn wait_for_job(&self, job: i64) -> Value {
        let begin = Instant::now();
        loop {
            let view = self.get(&format!("/api/jobs/{job}"));
            if view["state"] != "running" {
                return view;
            }
            assert!(begin.elapsed() < Duration::from_mins(5), "{view}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The program under test.
pub(crate) fn program() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_kirie"))
}

/// A mask of the picture's disc, as a request has it.
pub(crate) fn disc_mask(number: u32) -> Value {
    let [cx, cy, radius] = disc(number);
    let inside = |x: usize, y: usize| (x as f64 - cx).hypot(y as f64 - cy) < radius;
    let rle = kirie_mask::Rle::from_fn(SIZE[0] as usize, SIZE[1] as usize, inside);
    serde_json::to_value(rle).unwrap()
}
