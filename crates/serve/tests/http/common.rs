//! A service on a free port with an engine that draws, and a client that holds every answer against the service's own description.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use kirie_data::Image;
use kirie_data::write::{PictureFormat, encode_picture};
use kirie_sam::engine::{LowResMasks, PromptBatch};
use kirie_sam::prompt_encoder::TokenLabel;
use kirie_sam::registry::{EverythingDefaults, Preprocess};
use kirie_sam::{DecodeMode, Embedding, Engine, HostTensor, SamError};
use kirie_serve::{BaseModel, Engines, ServeConfig, ServeLimits, Server};
use serde_json::{Value, json};
use tokio::sync::oneshot;
use ureq::Agent;
use ureq::http::Response;

/// Side of the drawing engine's masks, and of its frame.
const SIDE: usize = 32;
const FRAME: u32 = 64;

/// Answers a point with the square of 16 frame pixels around it, and a box with the box.
#[derive(Debug, Default)]
pub(crate) struct Drawing {
    /// How long a decoder call takes.
    pub(crate) slow: Duration,
    /// By how much what it answers is larger on every side, frame pixels.
    pub(crate) grow: f32,
}

impl Engine for Drawing {
    fn model(&self) -> &'static str {
        "drawing"
    }

    fn preprocess(&self) -> Preprocess {
        Preprocess { size: 16, frame: FRAME, mean: [0.0; 3], std: [1.0; 3] }
    }

    fn mask_side(&self) -> usize {
        SIDE
    }

    fn encode(&self, pixels: HostTensor) -> Result<Embedding, SamError> {
        Ok(Embedding {
            image: HostTensor::new(vec![1, 1, 1, 4], pixels.values[..4].to_vec())?,
            hq_features: None,
        })
    }

    fn decode(
        &self,
        _: &Embedding,
        prompts: &PromptBatch,
        mode: DecodeMode,
    ) -> Result<LowResMasks, SamError> {
        std::thread::sleep(self.slow);
        let masks = if mode.multimask { 3 } else { 1 };
        let (tokens, cell) = (prompts.sparse.tokens, FRAME as f32 / SIDE as f32);
        let (mut logits, mut iou) = (Vec::new(), Vec::new());
        for prompt in 0..prompts.count {
            let of_prompt = prompt * tokens..(prompt + 1) * tokens;
            let labels = &prompts.sparse.labels[of_prompt.clone()];
            let coords = &prompts.sparse.coords[of_prompt];
            let corner = labels.iter().position(|label| matches!(label, TokenLabel::BoxTopLeft));
            let [x0, y0, x1, y1] = match (corner, coords.first()) {
                (Some(at), _) => [coords[at][0], coords[at][1], coords[at + 1][0], coords[at + 1][1]],
                (None, Some([x, y])) => [x - 8.0, y - 8.0, x + 8.0, y + 8.0],
                (None, None) => [0.0, 0.0, 16.0, 16.0],
            };
            for mask in 0..masks {
                let [x0, y0, x1, y1] = [x0 - self.grow, y0 - self.grow, x1 + self.grow, y1 + self.grow];
                for y in 0..SIDE {
                    for x in 0..SIDE {
                        let (fx, fy) = ((x as f32 + 0.5) * cell, (y as f32 + 0.5) * cell);
                        let inside = fx >= x0 && fx < x1 && fy >= y0 && fy < y1;
                        logits.push(if inside { 6.0 } else { -6.0 });
                    }
                }
                iou.push(0.9 - 0.1 * mask as f32);
            }
        }
        Ok(LowResMasks {
            logits: HostTensor::new(vec![prompts.count, masks, SIDE, SIDE], logits)?,
            iou: HostTensor::new(vec![prompts.count, masks], iou)?,
        })
    }
}

/// A picture as PNG, unlike others of another `seed`.
pub(crate) fn png(width: u32, height: u32, seed: u32) -> Vec<u8> {
    let pixels = (0..3 * width * height).map(|v| ((v * 7 + seed * 31) % 251) as u8).collect();
    encode_picture(&Image::from_raw(width, height, pixels).unwrap(), PictureFormat::Png).unwrap()
}

/// A folder `pictures` with two pictures, and one for the store.
pub(crate) fn folders() -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(root.path().join("pictures/inner")).unwrap();
    std::fs::write(root.path().join("pictures/a.png"), png(80, 60, 1)).unwrap();
    std::fs::write(root.path().join("pictures/inner/b.png"), png(64, 64, 2)).unwrap();
    root
}

/// How the tests serve a folder.
pub(crate) fn config(root: &Path) -> ServeConfig {
    ServeConfig {
        address: "127.0.0.1:0".parse().unwrap(),
        token: None,
        folder: Some(root.join("pictures")),
        store: root.join("store"),
        zoom: None,
        everything: EverythingDefaults {
            input: None,
            points_per_side: 4,
            pred_iou_thresh: 0.5,
            stability_score_thresh: 0.5,
        },
        threads: 1,
        program: PathBuf::from("/nonexistent/kirie"),
        base: BaseModel::default(),
        limits: ServeLimits::default(),
    }
}

/// A service that runs until it is dropped.
pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    pub(crate) description: Value,
    agent: Agent,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    /// What was asked, as the description has it.
    pub(crate) asked: Mutex<BTreeSet<String>>,
}

impl Running {
    pub(crate) fn start(config: ServeConfig, engine: Drawing) -> Self {
        Self::with(config, Arc::new(engine))
    }

    /// The same with more than one model.
    pub(crate) fn with(config: ServeConfig, engines: impl Into<Engines> + Send + 'static) -> Self {
        let (sender, receiver) = channel();
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
            runtime.block_on(async {
                let server = Server::bind(config, engines).await.unwrap();
                sender.send((server.address(), server.openapi())).unwrap();
                server.run(async { drop(stopped.await) }).await.unwrap();
            });
        });
        let (address, description) = receiver.recv().unwrap();
        let agent = Agent::config_builder().http_status_as_error(false).build().new_agent();
        Self {
            address,
            description: serde_json::from_str(&description).unwrap(),
            agent,
            stop: Some(stop),
            thread: Some(thread),
            asked: Mutex::default(),
        }
    }

    /// Asks it to end, and waits until it did.
    pub(crate) fn end(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// A request with whatever body and headers; status, answer's bytes, and `Retry-After`.
    pub(crate) fn raw(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> (u16, Vec<u8>, String) {
        let mut request = ureq::http::Request::builder().method(method).uri(self.url(path));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut answer: Response<ureq::Body> = if body.is_empty() && matches!(method, "GET" | "DELETE") {
            self.agent.run(request.body(()).unwrap()).unwrap()
        } else {
            self.agent.run(request.body(body).unwrap()).unwrap()
        };
        let status = answer.status().as_u16();
        let header = |name: &str| {
            answer.headers().get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned()
        };
        let (kind, retry) = (header("content-type"), header("retry-after"));
        for (name, expected) in [("x-content-type-options", "nosniff"), ("x-frame-options", "DENY")] {
            assert_eq!(header(name), expected, "{method} {path}");
        }
        assert!(header("content-security-policy").contains("default-src 'none'"));
        let bytes = answer.body_mut().with_config().limit(1 << 30).read_to_vec().unwrap();
        self.check(method, path, status, &kind, &bytes);
        (status, bytes, retry)
    }

    /// A request with JSON.
    pub(crate) fn json(&self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let text = if body.is_null() { String::new() } else { body.to_string() };
        let (status, bytes, _) =
            self.raw(method, path, &[("content-type", "application/json")], text.as_bytes());
        (status, if bytes.is_empty() { Value::Null } else { serde_json::from_slice(&bytes).unwrap() })
    }

    /// The same, which must succeed.
    pub(crate) fn ok(&self, method: &str, path: &str, body: &Value) -> Value {
        let (status, value) = self.json(method, path, body);
        assert!((200..300).contains(&status), "{method} {path}: {status} {value}");
        value
    }

    pub(crate) fn get(&self, path: &str) -> Value {
        self.ok("GET", path, &Value::Null)
    }

    pub(crate) fn upload(&self, name: &str, bytes: &[u8]) -> (u16, Value) {
        let path = format!("/api/images?name={name}");
        let (status, bytes, _) =
            self.raw("POST", &path, &[("content-type", "application/octet-stream")], bytes);
        (status, serde_json::from_slice(&bytes).unwrap())
    }

    /// The id of the picture of a name.
    pub(crate) fn picture(&self, name: &str) -> String {
        let all = self.get("/api/images");
        let found = all["images"].as_array().unwrap().iter().find(|image| image["name"] == name);
        found.unwrap_or_else(|| panic!("no {name} in {all}"))["id"].as_str().unwrap().to_owned()
    }

    /// Holds an answer against the description.
    fn check(&self, method: &str, path: &str, status: u16, kind: &str, bytes: &[u8]) {
        let plain = path.split('?').next().unwrap();
        let parts: Vec<&str> = plain.split('/').collect();
        let paths = self.description["paths"].as_object().unwrap();
        let fits = |template: &&String| {
            let wanted: Vec<&str> = template.split('/').collect();
            wanted.len() == parts.len()
                && wanted.iter().zip(&parts).all(|(w, p)| w.starts_with('{') || w == p)
        };
        let Some(template) = paths.keys().find(fits) else { return };
        let operation = &paths[template][method.to_lowercase()];
        if operation.is_null() {
            return;
        }
        // The guard answers before any request is known, 403 for strangers.
        if status == 403 {
            return;
        }
        self.asked.lock().unwrap().insert(format!("{method} {template}"));
        let answer = &operation["responses"][status.to_string()];
        assert!(
            !answer.is_null(),
            "{method} {template} answered {status}, which its description does not know: {}",
            String::from_utf8_lossy(bytes)
        );
        let Some(content) = answer["content"].as_object() else {
            assert!(bytes.is_empty(), "{method} {template}: {status} has a body");
            return;
        };
        let kind = kind.split(';').next().unwrap();
        let Some(described) = content.get(kind) else {
            panic!("{method} {template}: {status} is {kind}, described are {:?}", content.keys());
        };
        if kind == "application/json" && described["schema"].get("$ref").is_some() {
            let mut schema = described["schema"].clone();
            schema["components"] = self.description["components"].clone();
            let value: Value = serde_json::from_slice(bytes).unwrap();
            let problems: Vec<String> = jsonschema::validator_for(&schema)
                .unwrap()
                .iter_errors(&value)
                .map(|error| format!("{}: {error}", error.instance_path()))
                .collect();
            assert!(problems.is_empty(), "{method} {template} {status}: {problems:?} in {value}");
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            // A failing test has its own words.
            let _ = thread.join();
        }
    }
}

/// A square mask in a frame, as a request has it.
pub(crate) fn square(width: usize, height: usize, x0: usize, y0: usize, side: usize) -> Value {
    let inside = |x: usize, y: usize| (x0..x0 + side).contains(&x) && (y0..y0 + side).contains(&y);
    let rle = kirie_mask::Rle::from_mask(&kirie_mask::Mask::from_fn(width, height, inside));
    json!({ "size": [height, width], "counts": rle.counts() })
}
