//! What is told of a run: read from the files that its process keeps.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::Jobs;
use super::settings::{JobKind, JobSettings};
use crate::store::{Job, JobState};

/// Points of a curve that are shown; of more, every so many.
const CURVE: usize = 400;

/// How far a run is, and what came of it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct JobView {
    pub(crate) id: i64,
    name: String,
    state: JobState,
    /// Why it failed.
    message: String,
    /// Semantic: whether its model is the one that suggests. Continual: whether its domain is at work.
    adopted: bool,
    settings: JobSettings,
    /// Steps done, as far as its log says.
    step: u64,
    /// Its log in short.
    curve: Vec<CurvePoint>,
    /// Semantic: mean IoU on pictures held out, before the first step; null without such pictures.
    miou_before: Option<f64>,
    /// And of the best validation.
    miou_best: Option<f64>,
    /// Semantic: IoU of each class before and at best.
    classes: Vec<ClassScore>,
    /// Continual: what came of the domain.
    domain: Option<DomainScore>,
    /// Whether there is a model to be adopted.
    has_model: bool,
    /// Whether there is a report to be opened.
    has_report: bool,
}

impl JobView {
    /// What it does.
    pub(crate) fn kind(&self) -> JobKind {
        self.settings.kind
    }

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

/// How well a domain's pictures are cut out, asked by boxes; IoU from 0 to 1.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DomainScore {
    /// Pictures that it was measured on.
    pictures: u64,
    /// Whether nothing was learned from these; of a single picture there is no other to measure on.
    held_out: bool,
    /// IoU of the model as it was.
    before: Option<f64>,
    /// IoU of the domain's adapter.
    after: Option<f64>,
    /// How many of the pictures are recognised as the domain's; the others would be left to the model as it is.
    recognised: u64,
}

/// How well a class is found, IoU from 0 to 1.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ClassScore {
    name: String,
    before: Option<f64>,
    best: Option<f64>,
}

impl Jobs {
    pub(super) fn describe(&self, job: Job) -> JobView {
        let folder = self.folder(job.id);
        let run = folder.join("run");
        let settings = JobSettings::of(&job);
        let (log, measure) = match settings.kind {
            JobKind::Semantic => (run.join("log.jsonl"), "validation.miou"),
            JobKind::Continual => {
                (domain_step(&folder, &settings).join("training/log.jsonl"), "validation.iou.box")
            }
        };
        let mut curve = Vec::new();
        // A line that is being written right now is left for the next look.
        for line in fs::read_to_string(log).unwrap_or_default().lines() {
            let Ok(record) = serde_json::from_str::<Value>(line) else { continue };
            let step = record["step"].as_u64().unwrap_or_default();
            curve.push(CurvePoint { step, loss: record["loss"].as_f64(), miou: record[measure].as_f64() });
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
            domain: domain_score(&folder, &settings),
            curve,
            has_model: job.state == JobState::Done && has_model(&folder, &settings),
            has_report: run.join("report.html").is_file(),
            settings,
        }
    }
}

impl JobSettings {
    /// What a run was told.
    pub(crate) fn of(job: &Job) -> Self {
        serde_json::from_str(&job.settings).unwrap_or_default()
    }
}

/// Whether a run left what can be adopted.
pub(super) fn has_model(job: &Path, settings: &JobSettings) -> bool {
    match settings.kind {
        JobKind::Semantic => adapter(job).is_file(),
        // The last file that is written of a domain.
        JobKind::Continual => domain_folder(job, settings).join("domain.toml").is_file(),
    }
}

/// The model that a semantic run left.
pub(super) fn adapter(job: &Path) -> PathBuf {
    job.join("run/adapter.safetensors")
}

/// The domain that a continual run left.
pub(super) fn domain_folder(job: &Path, settings: &JobSettings) -> PathBuf {
    domain_step(job, settings).join("domain")
}

/// Where `kirie train continual` keeps the one domain of its one run.
fn domain_step(job: &Path, settings: &JobSettings) -> PathBuf {
    continual_run(job, settings).join("steps").join(format!("00-{}", settings.name))
}

fn continual_run(job: &Path, settings: &JobSettings) -> PathBuf {
    job.join("run/runs").join(format!("moda-given-s{}", settings.seed))
}

/// Whether a run did all its steps.
pub(super) fn is_complete(job: &Path, settings: &JobSettings) -> bool {
    match settings.kind {
        JobKind::Semantic => {
            read_json(&job.join("run/metrics.json")).is_some_and(|metrics| metrics["complete"] == true)
        }
        JobKind::Continual => continual_run(job, settings).join("summary.json").is_file(),
    }
}

fn domain_score(job: &Path, settings: &JobSettings) -> Option<DomainScore> {
    if settings.kind == JobKind::Semantic {
        return None;
    }
    let summary = read_json(&continual_run(job, settings).join("summary.json"))?;
    let (before, after) = (&summary["zero_shot"][0], &summary["rows"][0]["sets"][0]);
    let config = fs::read_to_string(job.join("config.toml")).ok()?.parse::<toml::Table>().ok()?;
    Some(DomainScore {
        pictures: after["pictures"].as_u64()?,
        held_out: config.get("data")?.get("measure_held_out")?.as_bool()?,
        before: before["scores"]["box"]["iou"].as_f64(),
        after: after["oracle"]["box"]["iou"].as_f64(),
        recognised: after["routed"][0].as_u64().unwrap_or_default(),
    })
}

fn read_json(path: &Path) -> Option<Value> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}
