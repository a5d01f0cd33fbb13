//! Fine-tuning on the annotations: `kirie train semantic` as a child process, so that it can be watched, stopped and resumed, and
//! takes nothing down with it.
//!
//! A job's folder holds `set/` (the pictures and labels as they were when it began), `config.toml`, `output.txt` and `run/`, the run
//! folder that training itself keeps.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kirie_data::write_atomic;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::process::{Child, Command};
use tokio::sync::watch;
use utoipa::ToSchema;

use crate::ServeConfig;
use crate::error::{ApiError, ApiResult};
use crate::export::{COCO_FILE, Labels};
use crate::library::Library;
use crate::store::{Job, JobState, Store};

/// How long a run that was asked to stop may take to finish its step and save.
const PATIENCE: Duration = Duration::from_mins(1);
/// Points of a curve that are shown; of more, every so many.
const CURVE: usize = 400;
/// Bytes of a run's last words that are looked at.
const LAST_WORDS: usize = 4000;

/// How to fine-tune.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct JobSettings {
    /// What it is called.
    pub(crate) name: String,
    /// Optimiser steps, 1 to 100,000.
    #[schema(minimum = 1, maximum = 100_000)]
    pub(crate) steps: u64,
    /// How: `gsam`, `lora`, `adapt-former`, `decoder-only` or `full`.
    pub(crate) method: Method,
    /// Side of the random crops that are learned from, pixels, 32 to 2048.
    #[schema(minimum = 32, maximum = 2048)]
    pub(crate) crop: u32,
    /// Crops in a step, 1 to 64.
    #[schema(minimum = 1, maximum = 64)]
    pub(crate) batch: u32,
    /// Learning rate, above 0, at most 1.
    #[schema(exclusive_minimum = 0, maximum = 1)]
    pub(crate) learning_rate: f64,
    /// Everything random follows from it.
    pub(crate) seed: u32,
}

/// A way to fine-tune; docs/semantic.md describes them.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Method {
    /// Multi-scale bottlenecks and position generators.
    Gsam,
    /// Low-rank additions to weights.
    Lora,
    /// Bottlenecks.
    AdaptFormer,
    /// The class decoder alone.
    DecoderOnly,
    /// Everything.
    Full,
}

impl Default for JobSettings {
    fn default() -> Self {
        Self {
            name: String::new(),
            steps: 300,
            method: Method::Gsam,
            crop: 256,
            batch: 4,
            learning_rate: 1e-3,
            seed: 0,
        }
    }
}

impl JobSettings {
    fn check(&self) -> ApiResult<()> {
        let bad = |words: String| Err(ApiError::Bad(words));
        if self.name.chars().count() > 100 || self.name.chars().any(char::is_control) {
            return bad("a job's name has at most 100 characters, and no line breaks".to_owned());
        }
        if !(1..=100_000).contains(&self.steps) {
            return bad(format!("steps is {}, expected 1 to 100000", self.steps));
        }
        if !(32..=2048).contains(&self.crop) {
            return bad(format!("crop is {}, expected 32 to 2048", self.crop));
        }
        if !(1..=64).contains(&self.batch) {
            return bad(format!("batch is {}, expected 1 to 64", self.batch));
        }
        if !(self.learning_rate > 0.0 && self.learning_rate <= 1.0) {
            return bad(format!("learning_rate is {}, expected above 0 and at most 1", self.learning_rate));
        }
        Ok(())
    }

    /// The configuration of the run on a set of so many pictures.
    fn config(&self, base: &crate::BaseModel, pictures: usize) -> ApiResult<String> {
        use toml::{Table, Value as Toml};
        let table = |pairs: Vec<(&str, Toml)>| {
            Toml::Table(pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect::<Table>())
        };
        let method = serde_json::to_value(self.method).map_err(|e| ApiError::Internal(e.to_string()))?;
        let method = method.as_str().unwrap_or("gsam").to_owned();
        let mut model =
            vec![("base", base.name.clone().into()), ("method", table(vec![("name", method.into())]))];
        if let Some(weights) = &base.weights {
            let weights = std::path::absolute(weights)?;
            model.push(("weights", weights.to_string_lossy().into_owned().into()));
        }
        let hold_out = if pictures > 1 {
            table(vec![
                ("kind", "folds".into()),
                ("folds", (pictures.min(5) as i64).into()),
                ("fold", 0.into()),
            ])
        } else {
            table(vec![("kind", "none".into())])
        };
        let set = table(vec![("path", format!("set/{COCO_FILE}").into())]);
        let data = vec![
            ("sets", Toml::Array(vec![set])),
            ("batch", i64::from(self.batch).into()),
            ("hold_out", hold_out),
            ("validate_pictures", 32.into()),
        ];
        let steps = self.steps as i64;
        let crop = Toml::Array(vec![i64::from(self.crop).into(), i64::from(self.crop).into()]);
        let every = (steps / 10).clamp(1, 100);
        let plan = vec![
            ("steps", steps.into()),
            ("log_every", (steps / 100).clamp(1, 20).into()),
            ("checkpoint_every", every.into()),
            ("validate_every", (steps / 5).max(1).into()),
            (
                "optimizer",
                table(vec![
                    ("lr", self.learning_rate.into()),
                    ("weight_decay", 0.01.into()),
                    ("rule", table(vec![("kind", "adamw".into())])),
                    ("clip", table(vec![("kind", "norm".into()), ("limit", 1.0.into())])),
                ]),
            ),
            (
                "schedule",
                table(vec![
                    ("warmup", (steps / 20).into()),
                    ("decay", table(vec![("kind", "cosine".into()), ("end", 0.01.into())])),
                ]),
            ),
        ];
        let config = table(vec![
            ("seed", i64::from(self.seed).into()),
            ("model", table(model)),
            ("data", table(data)),
            // Where one class covers nearly everything, crops that show others are the ones to learn from, but there may be few.
            ("input", table(vec![("crop", crop), ("category_max_ratio", 0.95.into()), ("flip", 0.5.into())])),
            ("loss", table(vec![("cross_entropy", 1.0.into()), ("dice", 1.0.into())])),
            ("plan", table(plan)),
        ]);
        toml::to_string(&config).map_err(|error| ApiError::Internal(error.to_string()))
    }
}

/// How far a run is, and what came of it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct JobView {
    pub(crate) id: i64,
    name: String,
    state: JobState,
    /// Why it failed.
    message: String,
    /// Whether its model is the one that suggests.
    adopted: bool,
    settings: JobSettings,
    /// Steps done, as far as its log says.
    step: u64,
    /// Its log in short.
    curve: Vec<CurvePoint>,
    /// Mean IoU on pictures held out, before the first step; null without such pictures.
    miou_before: Option<f64>,
    /// And of the best validation.
    miou_best: Option<f64>,
    /// IoU of each class before and at best.
    classes: Vec<ClassScore>,
    /// Whether there is a model to be adopted.
    has_model: bool,
    /// Whether there is a report to be opened.
    has_report: bool,
}

impl JobView {
    /// Whether its process is there.
    pub(crate) fn is_running(&self) -> bool {
        self.state == JobState::Running
    }
}

/// A line of the log.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct CurvePoint {
    step: u64,
    loss: Option<f64>,
    /// Mean IoU on pictures held out, where it was measured.
    miou: Option<f64>,
}

/// How well a class is found, IoU from 0 to 1.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ClassScore {
    name: String,
    before: Option<f64>,
    best: Option<f64>,
}

/// Starts, watches and ends runs.
#[derive(Clone)]
pub(crate) struct Jobs {
    shared: Arc<Shared>,
}

struct Shared {
    config: Arc<ServeConfig>,
    store: Store,
    library: Arc<Library>,
    folder: PathBuf,
    running: Mutex<Option<Running>>,
    /// One start at a time.
    starting: tokio::sync::Mutex<()>,
}

/// A run whose process is there.
struct Running {
    id: i64,
    stop: watch::Sender<bool>,
    ended: watch::Receiver<bool>,
}

impl Jobs {
    /// Runs that an earlier service left are marked as stopped: they can go on.
    pub(crate) async fn new(
        config: Arc<ServeConfig>,
        store: Store,
        library: Arc<Library>,
    ) -> ApiResult<Self> {
        let folder = std::path::absolute(&config.store)?.join("jobs");
        for job in store.jobs().await?.into_iter().filter(|job| job.state == JobState::Running) {
            store.set_job(job.id, JobState::Stopped, "the service ended".to_owned()).await?;
        }
        let (running, starting) = (Mutex::default(), tokio::sync::Mutex::default());
        Ok(Self { shared: Arc::new(Shared { config, store, library, folder, running, starting }) })
    }

    /// A job's folder.
    pub(crate) fn folder(&self, id: i64) -> PathBuf {
        self.shared.folder.join(id.to_string())
    }

    fn running(&self) -> MutexGuard<'_, Option<Running>> {
        self.shared.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check_idle(&self) -> ApiResult<()> {
        match &*self.running() {
            Some(other) => {
                Err(ApiError::Conflict(format!("job {} is running; one runs at a time", other.id)))
            }
            None => Ok(()),
        }
    }

    /// Starts a run on what is labelled now.
    pub(crate) async fn start(&self, settings: JobSettings) -> ApiResult<JobView> {
        settings.check()?;
        let _one = self.shared.starting.lock().await;
        self.check_idle()?;
        let mut labels = Labels::collect(&self.shared.store, &self.shared.library).await?;
        if labels.classes() == 0 {
            return Err(ApiError::Unprocessable(
                "there is nothing to learn from yet: cut out objects in a few pictures first".to_owned(),
            ));
        }
        let config = settings.config(&self.shared.config.base, labels.pictures())?;
        let json = serde_json::to_string(&settings).map_err(|error| ApiError::Internal(error.to_string()))?;
        let id = self.shared.store.add_job(settings.name.clone(), json).await?;
        let (folder, library) = (self.folder(id), Arc::clone(&self.shared.library));
        let staged = tokio::task::spawn_blocking(move || {
            // An id is never given twice, but a folder of that name may be left of a store that was deleted.
            let _ = fs::remove_dir_all(&folder);
            labels.stage(&library, &folder.join("set"))?;
            write_atomic(folder.join("config.toml"), |file| file.write_all(config.as_bytes()))?;
            Ok::<_, ApiError>(())
        });
        let begun = match staged.await? {
            Ok(()) => self.launch(id, &["--config", "config.toml", "-o", "run"]),
            Err(error) => Err(error),
        };
        if let Err(error) = begun {
            self.shared.store.set_job(id, JobState::Failed, error.to_string()).await?;
            return Err(error);
        }
        self.view(id).await
    }

    /// Goes on with a run that was stopped, or that failed for a reason that is gone.
    pub(crate) async fn resume(&self, id: i64) -> ApiResult<JobView> {
        let _one = self.shared.starting.lock().await;
        self.check_idle()?;
        let job = self.shared.store.job(id).await?;
        if job.state == JobState::Done {
            return Err(ApiError::Conflict(format!("job {id} is done")));
        }
        // One that was stopped before its first checkpoint begins anew.
        let run = self.folder(id).join("run");
        let has_run = run.join("config.toml").exists();
        if !has_run {
            let _ = fs::remove_dir_all(run);
        }
        let arguments: &[&str] =
            if has_run { &["--resume", "run"] } else { &["--config", "config.toml", "-o", "run"] };
        self.shared.store.set_job(id, JobState::Running, String::new()).await?;
        if let Err(error) = self.launch(id, arguments) {
            self.shared.store.set_job(id, JobState::Failed, error.to_string()).await?;
            return Err(error);
        }
        self.view(id).await
    }

    fn launch(&self, id: i64, arguments: &[&str]) -> ApiResult<()> {
        let folder = self.folder(id);
        let output = File::options().create(true).append(true).open(folder.join("output.txt"))?;
        let mut command = Command::new(&self.shared.config.program);
        command
            .args(["train", "semantic"])
            .args(arguments)
            .current_dir(&folder)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .kill_on_drop(true);
        // Ctrl-C at a terminal goes to the whole group, and a second one would end the run before it saved.
        #[cfg(unix)]
        command.process_group(0);
        let child = command.spawn()?;
        step_back(&child);
        let (stop, asked) = watch::channel(false);
        let (end, ended) = watch::channel(false);
        *self.running() = Some(Running { id, stop, ended });
        let jobs = self.clone();
        tokio::spawn(async move {
            let ended = attend(child, asked).await;
            let (state, message) = jobs.outcome(id, ended);
            // Where this fails the next start of the service says that the run was stopped.
            let _ = jobs.shared.store.set_job(id, state, message).await;
            *jobs.running() = None;
            let _ = end.send(true);
        });
        Ok(())
    }

    fn outcome(&self, id: i64, ended: Ended) -> (JobState, String) {
        let folder = self.folder(id);
        if ended == Ended::Badly {
            let output = fs::read(folder.join("output.txt")).unwrap_or_default();
            let words =
                String::from_utf8_lossy(&output[output.len().saturating_sub(LAST_WORDS)..]).into_owned();
            let last = words.lines().rev().find_map(|line| line.strip_prefix("kirie: ").map(str::to_owned));
            let message = last.unwrap_or_else(|| "its process was killed".to_owned());
            return (JobState::Failed, message.replace(&*folder.to_string_lossy(), ""));
        }
        let complete = read_json(&folder.join("run/metrics.json")).and_then(|m| m["complete"].as_bool());
        let state = if complete == Some(true) { JobState::Done } else { JobState::Stopped };
        (state, String::new())
    }

    /// Asks a run to finish its step, save and end; waits until it did.
    pub(crate) async fn stop(&self, id: i64) -> ApiResult<()> {
        let ended = match &*self.running() {
            Some(running) if running.id == id => {
                let _ = running.stop.send(true);
                Some(running.ended.clone())
            }
            _ => None,
        };
        let Some(mut ended) = ended else {
            self.shared.store.job(id).await?;
            return Err(ApiError::Conflict(format!("job {id} is not running")));
        };
        // An error says that the sender is gone, and with it the process.
        let _ = ended.wait_for(|ended| *ended).await;
        Ok(())
    }

    /// Ends whatever runs.
    pub(crate) async fn stop_all(&self) {
        let id = self.running().as_ref().map(|running| running.id);
        if let Some(id) = id {
            let _ = self.stop(id).await;
        }
    }

    /// Makes a run's model the one that suggests.
    pub(crate) async fn adopt(&self, id: i64) -> ApiResult<JobView> {
        let job = self.shared.store.job(id).await?;
        if job.state != JobState::Done || !self.adapter(id).is_file() {
            return Err(ApiError::Conflict(format!("job {id} has no finished model")));
        }
        self.shared.store.adopt(Some(id)).await?;
        self.view(id).await
    }

    /// Removes a run and all it left.
    pub(crate) async fn discard(&self, id: i64) -> ApiResult<()> {
        self.shared.store.job(id).await?;
        if self.running().as_ref().is_some_and(|running| running.id == id) {
            return Err(ApiError::Conflict(format!("job {id} is running; stop it first")));
        }
        self.shared.store.remove_job(id).await?;
        let folder = self.folder(id);
        tokio::task::spawn_blocking(move || {
            // What cannot be removed is in nobody's way.
            let _ = fs::remove_dir_all(folder);
        })
        .await?;
        Ok(())
    }

    /// The model that a run left.
    pub(crate) fn adapter(&self, id: i64) -> PathBuf {
        self.folder(id).join("run/adapter.safetensors")
    }

    /// All runs, the latest first.
    pub(crate) async fn list(&self) -> ApiResult<Vec<JobView>> {
        let jobs = self.shared.store.jobs().await?;
        let shared = self.clone();
        Ok(tokio::task::spawn_blocking(move || jobs.into_iter().map(|job| shared.describe(job)).collect())
            .await?)
    }

    /// One run.
    pub(crate) async fn view(&self, id: i64) -> ApiResult<JobView> {
        let job = self.shared.store.job(id).await?;
        let shared = self.clone();
        Ok(tokio::task::spawn_blocking(move || shared.describe(job)).await?)
    }

    fn describe(&self, job: Job) -> JobView {
        let run = self.folder(job.id).join("run");
        let settings: JobSettings = serde_json::from_str(&job.settings).unwrap_or_default();
        let mut curve = Vec::new();
        // A line that is being written right now is left for the next look.
        for line in fs::read_to_string(run.join("log.jsonl")).unwrap_or_default().lines() {
            let Ok(record) = serde_json::from_str::<Value>(line) else { continue };
            let step = record["step"].as_u64().unwrap_or_default();
            curve.push(CurvePoint {
                step,
                loss: record["loss"].as_f64(),
                miou: record["validation.miou"].as_f64(),
            });
        }
        let step = curve.last().map_or(0, |point| point.step);
        let miou = |points: &mut dyn Iterator<Item = &CurvePoint>| {
            points.filter_map(|point| point.miou).reduce(f64::max)
        };
        let miou_before = miou(&mut curve.iter().filter(|point| point.step == 0));
        let miou_best = miou(&mut curve.iter().filter(|point| point.step > 0));
        let thin = curve.len().div_ceil(CURVE).max(1);
        let last = curve.len().saturating_sub(1);
        let mut at = 0..;
        curve.retain(|point| {
            let at = at.next().unwrap_or(0_usize);
            at % thin == 0 || at == last || point.miou.is_some()
        });
        let metrics = read_json(&run.join("metrics.json")).unwrap_or_default();
        let classes = metrics["best"].as_object().into_iter().flatten().filter_map(|(key, best)| {
            let name = key.strip_prefix("iou.")?.to_owned();
            Some(ClassScore { before: metrics["before"][key].as_f64(), best: best.as_f64(), name })
        });
        JobView {
            id: job.id,
            name: job.name,
            state: job.state,
            message: job.message,
            adopted: job.adopted,
            step,
            miou_before,
            miou_best,
            classes: classes.collect(),
            curve,
            has_model: job.state == JobState::Done && self.adapter(job.id).is_file(),
            has_report: run.join("report.html").is_file(),
            settings,
        }
    }
}

fn read_json(path: &std::path::Path) -> Option<Value> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Ended {
    /// By itself, or as it was asked to.
    Well,
    /// With an error, or killed by somebody else.
    Badly,
}

/// Waits for the process, and passes on that it should stop.
async fn attend(mut child: Child, mut asked: watch::Receiver<bool>) -> Ended {
    tokio::select! {
        ended = child.wait() => {
            return if ended.is_ok_and(|status| status.success()) { Ended::Well } else { Ended::Badly };
        }
        _ = asked.wait_for(|asked| *asked) => {}
    }
    interrupt(&child);
    // Whatever it takes and says, it was asked to end; what it saved before is whole.
    if tokio::time::timeout(PATIENCE, child.wait()).await.is_err() {
        let _ = child.kill().await;
    }
    Ended::Well
}

#[cfg(unix)]
fn process(child: &Child) -> Option<rustix::process::Pid> {
    rustix::process::Pid::from_raw(child.id()?.try_into().ok()?)
}

/// Asks it to finish its step, save and end.
#[cfg(unix)]
fn interrupt(child: &Child) {
    if let Some(pid) = process(child) {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::INT);
    }
}

/// Clicks go before training.
#[cfg(unix)]
fn step_back(child: &Child) {
    if let Some(pid) = process(child) {
        let _ = rustix::process::setpriority_process(Some(pid), 10);
    }
}

// Elsewhere a run is killed, and goes on from its last checkpoint.
#[cfg(not(unix))]
fn interrupt(_: &Child) {}

#[cfg(not(unix))]
fn step_back(_: &Child) {}
