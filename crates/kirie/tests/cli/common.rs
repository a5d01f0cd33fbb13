//! A folder to run in, the program, pictures, and weights by formula.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::SystemTime;

use burn::tensor::Device;
use kirie_data::write_atomic;
use kirie_sam::checkpoint::{StateDict, module_keys, write_safetensors};
use kirie_sam::{HostTensor, registry};
use serde_json::Value;
use tempfile::TempDir;

use crate::torch;

pub(crate) const MODEL: &str = "efficientvit-sam-l0";

/// A folder of its own, which is the program's working folder and home; its cache of weights is empty.
pub(crate) struct Place {
    folder: TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        // Beside the shared weights, so that these can be linked into it.
        Self { folder: tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap() }
    }

    /// With the example picture as `coffee.png` (640x427) and the weights as `w.safetensors`.
    pub(crate) fn with_weights() -> Self {
        let place = Self::new();
        fs::copy(coffee(), place.path("coffee.png")).unwrap();
        fs::hard_link(weights(), place.path("w.safetensors")).unwrap();
        place
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    pub(crate) fn json(&self, name: &str) -> Value {
        serde_json::from_slice(&fs::read(self.path(name)).unwrap()).unwrap()
    }

    /// All files below the folder, hidden ones too, with size and time of the last change.
    pub(crate) fn files(&self) -> BTreeMap<String, (u64, SystemTime)> {
        fn scan(root: &Path, folder: &Path, files: &mut BTreeMap<String, (u64, SystemTime)>) {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    scan(root, &path, files);
                    // A temporary file of a running program may be gone by now.
                } else if let Ok(data) = fs::metadata(&path) {
                    let name = path.strip_prefix(root).unwrap().to_string_lossy().replace('\\', "/");
                    files.insert(name, (data.len(), data.modified().unwrap()));
                }
            }
        }
        let mut files = BTreeMap::new();
        scan(self.folder.path(), self.folder.path(), &mut files);
        files
    }

    /// The names of all files below a folder.
    pub(crate) fn names(&self, folder: &str) -> Vec<String> {
        let prefix = format!("{folder}/");
        self.files().keys().filter_map(|name| Some(name.strip_prefix(&prefix)?.to_owned())).collect()
    }

    /// The program with the words of a command line.
    pub(crate) fn command(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kirie"));
        command.args(line.split_whitespace()).current_dir(self.folder.path()).stdin(Stdio::null());
        command.env("KIRIE_CACHE", self.path("cache")).env("HOME", self.folder.path());
        for variable in ["KIRIE_HUB", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "XDG_CACHE_HOME"] {
            command.env_remove(variable).env_remove(variable.to_lowercase());
        }
        command
    }

    pub(crate) fn run(&self, line: &str) -> Answer {
        Answer::of(&mut self.command(line))
    }

    /// Runs a command line that must fail: with this exit code, all of these words on standard error, nothing on
    /// standard output, and every file as it was before.
    #[track_caller]
    pub(crate) fn refuses(&self, line: &str, code: i32, words: &[&str]) -> Answer {
        let before = self.files();
        let answer = self.run(line);
        answer.expect(code, words);
        assert_eq!(answer.stdout, "", "{line}");
        assert_eq!(self.files(), before, "{line} left or changed files");
        answer
    }
}

/// What came of a run.
#[derive(Debug)]
pub(crate) struct Answer {
    line: String,
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Answer {
    pub(crate) fn of(command: &mut Command) -> Self {
        let output = command.output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        let words: Vec<&OsStr> = command.get_args().collect();
        Self {
            line: words.join(OsStr::new(" ")).to_string_lossy().into_owned(),
            code: output.status.code(),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        }
    }

    /// The exit code, words that standard error must hold, and no panic.
    #[track_caller]
    pub(crate) fn expect(&self, code: i32, words: &[&str]) {
        let Self { line, stderr, .. } = self;
        assert_eq!(self.code, Some(code), "kirie {line}\n{stderr}");
        assert!(!stderr.contains("panicked"), "kirie {line}\n{stderr}");
        for word in words {
            assert!(stderr.contains(word), "kirie {line}\nlacks `{word}`:\n{stderr}");
        }
    }

    #[track_caller]
    pub(crate) fn done(self) -> Self {
        self.expect(0, &[]);
        self
    }

    /// Standard output, which must be one JSON value.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("{}: {e}\n{}", self.line, self.stdout))
    }
}

/// The names of an object's fields, in their order.
#[track_caller]
pub(crate) fn fields(value: &Value) -> Vec<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

/// Largest absolute difference.
#[track_caller]
pub(crate) fn difference(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    assert!(found.iter().all(|v| v.is_finite()));
    found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

pub(crate) fn read_tensor(path: impl AsRef<Path>, name: &str) -> HostTensor {
    StateDict::open(path).unwrap().read(name).unwrap()
}

/// The example picture, 640x427.
pub(crate) fn coffee() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/coffee.png")
}

/// A tensor of the reference's answers for [`MODEL`] with weights by formula.
pub(crate) fn golden(name: &str) -> Vec<f32> {
    let file = format!("../sam/tests/data/golden_{MODEL}.safetensors");
    read_tensor(Path::new(env!("CARGO_MANIFEST_DIR")).join(file), name).values
}

/// Weights by formula as `.safetensors`.
pub(crate) fn weights() -> PathBuf {
    shared(&format!("{MODEL}.safetensors"), |path| {
        write_safetensors(path, &tensors(), &BTreeMap::new()).unwrap();
    })
}

/// The same weights as `torch.save(model.state_dict(), path)` writes them.
pub(crate) fn torch_weights() -> PathBuf {
    shared(&format!("{MODEL}.pt"), |path| {
        write_atomic(path, |file| file.write_all(&torch::state_dict(&tensors()))).unwrap();
    })
}

fn tensors() -> Vec<(String, HostTensor)> {
    let keys = module_keys(&registry::variant(MODEL).unwrap().config().init(&Device::flex()));
    let formula = StateDict::by_formula(keys);
    formula.keys().map(|key| (key.to_owned(), formula.read(key).unwrap())).collect()
}

/// A large file that all tests share: every test is a process, the first one makes it, the others wait.
/// `make` must write it whole or not at all.
fn shared(name: &str, make: impl FnOnce(&Path)) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let lock = File::create(path.with_added_extension("lock")).unwrap();
    lock.lock().unwrap();
    let changed = |path: &Path| fs::metadata(path).and_then(|data| data.modified()).ok();
    // One of an older build may follow another formula.
    if changed(&path) < changed(&std::env::current_exe().unwrap()) {
        make(&path);
    }
    path
}
