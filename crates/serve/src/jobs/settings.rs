//! What a run is told, and the configuration that its process reads.

use serde::{Deserialize, Serialize};
use toml::{Table, Value as Toml};
use utoipa::ToSchema;

use crate::BaseModel;
use crate::error::{ApiError, ApiResult};
use crate::export::{COCO_FILE, Labels};

/// Of so many pictures one is held out, to be measured on.
const FOLDS: usize = 5;
/// Pictures of which features are kept for the router; with so many it tells domains apart best (docs/continual.md).
const EXEMPLARS: i64 = 50;

/// What a run does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum JobKind {
    /// `kirie train semantic`: the model learns to give every pixel one of the classes. Adopted, it suggests labels.
    #[default]
    Semantic,
    /// `kirie train continual`: an adapter is learned for a new kind of pictures, beside those learned before. Adopted, it answers
    /// clicks and boxes on pictures that are like them.
    Continual,
}

/// How to fine-tune.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct JobSettings {
    /// What it does.
    pub(crate) kind: JobKind,
    /// What it is called. A continual run's is the domain's, of letters, digits, `-` and `_`; without one it is `domain-N`.
    pub(crate) name: String,
    /// Continual: the class that is to be cut out; without it all objects are.
    pub(crate) class: Option<i64>,
    /// Optimiser steps, 1 to 100,000.
    #[schema(minimum = 1, maximum = 100_000)]
    pub(crate) steps: u64,
    /// Semantic: how. `gsam`, `lora`, `adapt-former`, `decoder-only` or `full`.
    pub(crate) method: Method,
    /// Semantic: side of the random crops that are learned from, pixels, 32 to 2048.
    #[schema(minimum = 32, maximum = 2048)]
    pub(crate) crop: u32,
    /// Crops, or pictures, in a step, 1 to 64.
    #[schema(minimum = 1, maximum = 64)]
    pub(crate) batch: u32,
    /// Learning rate, above 0, at most 1; without it 0.001, continual 0.0005.
    #[schema(exclusive_minimum = 0, maximum = 1)]
    pub(crate) learning_rate: Option<f64>,
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
            kind: JobKind::Semantic,
            name: String::new(),
            class: None,
            steps: 300,
            method: Method::Gsam,
            crop: 256,
            batch: 4,
            learning_rate: None,
            seed: 0,
        }
    }
}

impl JobSettings {
    /// Checks the numbers and the name.
    pub(super) fn check(&self) -> ApiResult<()> {
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
        if let Some(rate) = self.learning_rate.filter(|rate| !(*rate > 0.0 && *rate <= 1.0)) {
            return bad(format!("learning_rate is {rate}, expected above 0 and at most 1"));
        }
        match self.kind {
            JobKind::Semantic if self.class.is_some() => {
                bad("`class` is for continual runs; a semantic one learns all classes".to_owned())
            }
            // Empty is given a name later.
            JobKind::Continual if !self.name.is_empty() && !is_domain_name(&self.name) => bad(format!(
                "a domain's name is {:?}, expected letters, digits, `-` and `_`, at most 60, and not `base`",
                self.name
            )),
            _ => Ok(()),
        }
    }

    /// The configuration of the run, number `id`, on what is labelled.
    pub(super) fn config(&self, base: &BaseModel, labels: &Labels) -> ApiResult<String> {
        let config = match self.kind {
            JobKind::Semantic => self.semantic(base, labels)?,
            JobKind::Continual => self.continual(base, labels)?,
        };
        toml::to_string(&config).map_err(|error| ApiError::Internal(error.to_string()))
    }

    fn semantic(&self, base: &BaseModel, labels: &Labels) -> ApiResult<Toml> {
        let method = serde_json::to_value(self.method).map_err(|e| ApiError::Internal(e.to_string()))?;
        let method = method.as_str().unwrap_or("gsam").to_owned();
        let mut model =
            vec![("base", base.name.clone().into()), ("method", table(vec![("name", method.into())]))];
        model.extend(weights(base)?);
        let pictures = labels.pictures();
        let hold_out = if pictures > 1 {
            table(vec![
                ("kind", "folds".into()),
                ("folds", (pictures.min(FOLDS) as i64).into()),
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
        let crop = Toml::Array(vec![i64::from(self.crop).into(), i64::from(self.crop).into()]);
        Ok(table(vec![
            ("seed", i64::from(self.seed).into()),
            ("model", table(model)),
            ("data", table(data)),
            // Where one class covers nearly everything, crops that show others are the ones to learn from, but there may be few.
            ("input", table(vec![("crop", crop), ("category_max_ratio", 0.95.into()), ("flip", 0.5.into())])),
            ("loss", table(vec![("cross_entropy", 1.0.into()), ("dice", 1.0.into())])),
            ("plan", self.plan(1e-3, vec![("kind", "adamw".into())], 0.01)),
        ]))
    }

    fn continual(&self, base: &BaseModel, labels: &Labels) -> ApiResult<Toml> {
        let (foreground, pictures) = match self.class {
            None => ("all".into(), labels.with_objects(None)),
            Some(id) => {
                let missing = || ApiError::Unprocessable(format!("there is no class {id}"));
                let name = labels.class_name(id).ok_or_else(missing)?;
                (Toml::Array(vec![name.into()]), labels.with_objects(Some(id)))
            }
        };
        if pictures == 0 {
            return Err(ApiError::Unprocessable(
                "no picture has an object of that class: cut out some first".to_owned(),
            ));
        }
        let mut model: Vec<(&str, Toml)> = vec![("name", base.name.clone().into())];
        model.extend(weights(base)?);
        model.extend(base.input.map(|input| ("input", i64::from(input).into())));
        let domain = table(vec![
            ("name", self.name.clone().into()),
            ("path", format!("set/{COCO_FILE}").into()),
            // The set has no parts: it is measured on those held out of it, or, of a single picture, on that.
            ("test", "train".into()),
            ("foreground", foreground),
        ]);
        let held_out = pictures > 1;
        let data = vec![
            ("hold_out", (if held_out { FOLDS as i64 } else { 0 }).into()),
            ("measure_held_out", held_out.into()),
            ("domains", Toml::Array(vec![domain])),
        ];
        Ok(table(vec![
            ("seeds", Toml::Array(vec![i64::from(self.seed).into()])),
            ("model", table(model)),
            ("data", table(data)),
            ("train", table(vec![("batch", i64::from(self.batch).into())])),
            ("exemplars", table(vec![("count", EXEMPLARS.into())])),
            ("plan", self.plan(5e-4, vec![("kind", "adam".into())], 0.0)),
        ]))
    }

    fn plan(&self, rate: f64, rule: Vec<(&str, Toml)>, weight_decay: f64) -> Toml {
        let steps = self.steps as i64;
        let optimizer = vec![
            ("lr", self.learning_rate.unwrap_or(rate).into()),
            ("weight_decay", weight_decay.into()),
            ("rule", table(rule)),
            ("clip", table(vec![("kind", "norm".into()), ("limit", 1.0.into())])),
        ];
        let decay = table(vec![("kind", "cosine".into()), ("end", 0.01.into())]);
        table(vec![
            ("steps", steps.into()),
            ("log_every", (steps / 100).clamp(1, 20).into()),
            ("checkpoint_every", (steps / 10).clamp(1, 100).into()),
            ("validate_every", (steps / 5).max(1).into()),
            ("optimizer", table(optimizer)),
            ("schedule", table(vec![("warmup", (steps / 20).into()), ("decay", decay)])),
        ])
    }
}

fn table(pairs: Vec<(&str, Toml)>) -> Toml {
    Toml::Table(pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect::<Table>())
}

fn weights(base: &BaseModel) -> ApiResult<Option<(&'static str, Toml)>> {
    let Some(weights) = &base.weights else { return Ok(None) };
    let weights = std::path::absolute(weights)?;
    Ok(Some(("weights", weights.to_string_lossy().into_owned().into())))
}

/// Whether training, the registry and paths take it.
fn is_domain_name(name: &str) -> bool {
    (1..=60).contains(&name.len())
        && !name.eq_ignore_ascii_case("base")
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
}
