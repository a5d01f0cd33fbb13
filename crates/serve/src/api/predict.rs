//! Masks by points, boxes and earlier masks.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use axum::Json;
use axum::extract::State;
use kirie_mask::{BBox, Rle};
use kirie_sam::{DecodeMode, Prediction, Prompt, SamError};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::extract::{Body, Nothing, PathOf};
use super::info::single_mask;
use crate::app::{App, Logits};
use crate::error::{ApiError, ApiResult, ErrorBody};
use crate::lane::milliseconds;
use crate::library::Entry;
use crate::ready::Ready;
use crate::store::Segmentation;

/// Prompts in one request.
const MOST_PROMPTS: usize = 64;
/// Points of one prompt.
const MOST_POINTS: usize = 256;

/// A picture is ready.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct Embedded {
    width: u32,
    height: u32,
    /// The domain whose adapter answers this picture; null: the model as it is.
    domain: Option<String>,
    /// How long it took, from nothing if it was ready before.
    milliseconds: f64,
}

/// Makes a picture ready for clicks. Prompts do so too; asked for beforehand, the first click need not wait.
#[utoipa::path(post, path = "/api/images/{image}/embedding", tag = "masks",
    params(("image" = String, Path, description = "The picture")), request_body = Nothing, responses(
    (status = 200, body = Embedded), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
    (status = 404, body = ErrorBody), (status = 413, body = ErrorBody), (status = 415, body = ErrorBody),
    (status = 422, body = ErrorBody), (status = 503, body = ErrorBody)))]
pub(crate) async fn embedding(
    State(app): State<App>,
    PathOf(image): PathOf<String>,
    Body(Nothing {}): Body<Nothing>,
) -> ApiResult<Json<Embedded>> {
    let start = Instant::now();
    let entry = app.library.get(&image)?;
    let ready = app.ready.get(&entry, false).await?;
    let encoded = ready.predictor.image()?;
    let (width, height, domain) = (encoded.width, encoded.height, ready.domain.clone());
    Ok(Json(Embedded { width, height, domain, milliseconds: milliseconds(start) }))
}

/// What to look for.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Ask {
    /// One prompt for each object, at most 64.
    prompts: Vec<AskPrompt>,
    /// Three masks for each prompt (whole, part, subpart) instead of one.
    #[serde(default)]
    multimask: bool,
    /// Which mask to give where one is wanted and a single point leaves open what is meant: the one of three that the model rates
    /// best, or its own single mask. Without it, what the model was made for.
    #[serde(default)]
    best: Option<bool>,
    /// From how close boxes are answered.
    #[serde(default)]
    zoom: Zoom,
}

/// One object to look for.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct AskPrompt {
    /// Points in pixels: `[x, y]` or `[x, y, 1]` on the object, `[x, y, 0]` beside it.
    #[serde(default)]
    points: Vec<Vec<f64>>,
    /// Left, top, right, bottom, pixels.
    #[serde(default, rename = "box")]
    bbox: Option<[f64; 4]>,
    /// `logits` of an earlier answer on this picture.
    #[serde(default)]
    mask_input: Option<String>,
}

/// From how close boxes are answered.
#[derive(Clone, Copy, Debug, Default, Deserialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum Zoom {
    /// As the service was started; also `"auto"`.
    #[default]
    #[serde(skip)]
    Started,
    /// `"auto"` or `"off"`.
    Word(ZoomWord),
    /// A window so many times as large as the box, 1 to 10.
    Context(f64),
}

/// In words.
#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ZoomWord {
    /// As the service was started.
    Auto,
    /// From the whole picture.
    Off,
}

/// The masks of all prompts.
#[derive(Debug, Serialize, ToSchema)]
#[allow(clippy::struct_field_names, reason = "the names of the answer")]
pub(crate) struct Answers {
    /// The model that answered.
    model: String,
    /// The domain whose adapter answered; null: the model as it is.
    domain: Option<String>,
    /// One for each prompt.
    answers: Vec<Answer>,
    /// Milliseconds of the whole request in the service.
    milliseconds: f64,
    /// Milliseconds of making the picture ready, which is no part of an answer on a picture that is.
    embedding_milliseconds: f64,
}

/// The masks of one prompt.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Answer {
    pub(crate) masks: Vec<AnswerMask>,
}

/// A mask, with the fields of SAM's own mask generator.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AnswerMask {
    #[schema(value_type = Segmentation)]
    pub(crate) segmentation: Rle,
    /// x, y, width, height from the first to the last pixel, as SAM counts: one less than the number of pixels.
    bbox: [f64; 4],
    area: u64,
    pub(crate) predicted_iou: Option<f64>,
    stability_score: Option<f64>,
    point_coords: Vec<[f64; 2]>,
    /// The part of the picture that the model saw: x, y, width, height.
    crop_box: [f64; 4],
    /// Names the mask's logits, to be the `mask_input` of a later prompt on this picture; kept for a while. Null where the model
    /// looked at a part of the picture only.
    logits: Option<String>,
}

impl Ask {
    /// The prompts, if they make sense, without their mask inputs.
    fn prompts(&self) -> ApiResult<Vec<Prompt>> {
        if self.prompts.is_empty() || self.prompts.len() > MOST_PROMPTS {
            return Err(ApiError::Bad(format!(
                "{} prompts, expected 1 to {MOST_PROMPTS}",
                self.prompts.len()
            )));
        }
        self.prompts.iter().enumerate().map(|(at, prompt)| prompt.read(at)).collect()
    }

    /// Gives prompts their mask inputs: what was answered on this picture before, by what answers now.
    fn add_masks(&self, prompts: &mut [Prompt], app: &App, entry: &Entry, ready: &Ready) -> ApiResult<()> {
        for (at, (asked, prompt)) in self.prompts.iter().zip(prompts).enumerate() {
            let Some(name) = &asked.mask_input else { continue };
            let kept =
                app.logits.get(name).filter(|kept| kept.image == entry.id && kept.domain == ready.domain);
            let kept = kept.ok_or_else(|| {
                ApiError::Unprocessable(format!(
                    "prompt {at}: its mask_input is no longer kept, or of another picture; ask again without it"
                ))
            })?;
            prompt.mask_input = Some(kept.values.clone());
        }
        Ok(())
    }

    fn zoom(&self, app: &App) -> ApiResult<Option<f64>> {
        match self.zoom {
            Zoom::Started | Zoom::Word(ZoomWord::Auto) => Ok(app.config.zoom),
            Zoom::Word(ZoomWord::Off) => Ok(None),
            Zoom::Context(context) if (1.0..=10.0).contains(&context) => Ok(Some(context)),
            Zoom::Context(context) => {
                Err(ApiError::Bad(format!("zoom is {context}, expected \"auto\", \"off\", or 1 to 10")))
            }
        }
    }
}

impl AskPrompt {
    fn read(&self, at: usize) -> ApiResult<Prompt> {
        if self.points.len() > MOST_POINTS {
            return Err(ApiError::Bad(format!("prompt {at}: more than {MOST_POINTS} points")));
        }
        let mut prompt = Prompt::default();
        for point in &self.points {
            prompt = match point[..] {
                [x, y] => prompt.with_point(x, y, true),
                [x, y, label] if label == 0.0 || label == 1.0 => prompt.with_point(x, y, label == 1.0),
                _ => {
                    return Err(ApiError::Bad(format!(
                        "prompt {at}: a point is [x, y], [x, y, 0] or [x, y, 1], found {point:?}"
                    )));
                }
            };
        }
        prompt.bbox = self.bbox.map(|[x0, y0, x1, y1]| BBox::new(x0, y0, x1, y1));
        Ok(prompt)
    }
}

/// Cuts objects out by points, boxes and earlier masks.
#[utoipa::path(post, path = "/api/images/{image}/predict", tag = "masks",
    params(("image" = String, Path, description = "The picture")), request_body = Ask, responses(
    (status = 200, body = Answers), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
    (status = 404, body = ErrorBody), (status = 413, body = ErrorBody), (status = 415, body = ErrorBody),
    (status = 422, body = ErrorBody), (status = 503, body = ErrorBody)))]
pub(crate) async fn predict(
    State(app): State<App>,
    PathOf(image): PathOf<String>,
    Body(ask): Body<Ask>,
) -> ApiResult<Json<Answers>> {
    let start = Instant::now();
    let entry = app.library.get(&image)?;
    let (answers, domain, embedding_milliseconds) = answer(&app, &entry, &ask).await?;
    let model = app.engine.model().to_owned();
    Ok(Json(Answers { model, domain, answers, milliseconds: milliseconds(start), embedding_milliseconds }))
}

/// The answers, the domain that gave them, and how long the picture took to be ready.
pub(crate) async fn answer(
    app: &App,
    entry: &Arc<Entry>,
    ask: &Ask,
) -> ApiResult<(Vec<Answer>, Option<String>, f64)> {
    let mut prompts = ask.prompts()?;
    let zoom = ask.zoom(app)?;
    let close = zoom.is_some() && ask.prompts.iter().any(|p| p.bbox.is_some() && p.mask_input.is_none());
    let start = Instant::now();
    let ready = match app.ready.at_hand(entry, close)? {
        Some(ready) => ready,
        None => app.ready.get(entry, close).await?,
    };
    let made_ready = milliseconds(start);
    ask.add_masks(&mut prompts, app, entry, &ready)?;
    // Asked for one mask, a model made for three gives the best of them; adapters are trained on the single one.
    let best = ask.best.unwrap_or(ready.domain.is_none() && !single_mask(app.engine.model()));
    let mode = DecodeMode { multimask: ask.multimask || best, hq_only: false };
    let (keep_best, shared, id) = (best && !ask.multimask, app.clone(), entry.id.clone());
    let domain = ready.domain.clone();
    let answers =
        app.clicks.run(move || look(&shared, &ready, &id, &prompts, mode, zoom, keep_best)).await??;
    Ok((answers, domain, made_ready))
}

/// The model's part; runs in a lane.
fn look(
    app: &App,
    ready: &Ready,
    image: &str,
    prompts: &[Prompt],
    mode: DecodeMode,
    zoom: Option<f64>,
    keep_best: bool,
) -> Result<Vec<Answer>, SamError> {
    let mut predictions = ready.predictor.predict_zoomed(prompts, mode, zoom)?;
    if keep_best {
        predictions.iter_mut().for_each(Prediction::keep_best);
    }
    prompts
        .iter()
        .zip(predictions)
        .map(|(prompt, prediction)| {
            let records =
                ready.predictor.records(std::slice::from_ref(prompt), std::slice::from_ref(&prediction))?;
            let whole = prediction.window.is_none();
            let masks = records.into_iter().zip(prediction.low_res).map(|(record, low)| AnswerMask {
                segmentation: record.segmentation,
                bbox: record.bbox,
                area: record.area,
                predicted_iou: Some(record.predicted_iou).filter(|v| v.is_finite()),
                stability_score: Some(record.stability_score).filter(|v| v.is_finite()),
                point_coords: record.point_coords,
                crop_box: record.crop_box,
                logits: whole.then(|| keep(app, image, ready.domain.clone(), low)),
            });
            Ok(Answer { masks: masks.collect() })
        })
        .collect()
}

/// Keeps logits, and names them.
fn keep(app: &App, image: &str, domain: Option<String>, values: Vec<f32>) -> String {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let name = format!("l{}", NEXT.fetch_add(1, Ordering::Relaxed));
    app.logits.put(name.clone(), Logits { image: image.to_owned(), domain, values });
    name
}

impl Ask {
    /// One prompt, answered with one mask.
    pub(crate) fn one(points: Vec<Vec<f64>>, bbox: Option<[f64; 4]>) -> Self {
        let prompts = vec![AskPrompt { points, bbox, mask_input: None }];
        Self { prompts, multimask: false, best: None, zoom: Zoom::Started }
    }
}
