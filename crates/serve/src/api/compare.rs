//! A picture before and after a domain was taught.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use kirie_data::Image;
use kirie_mask::{BBox, Rle};
use kirie_sam::{DecodeMode, Prediction, Predictor, Prompt};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::extract::{Body, PathOf};
use super::info::single_mask;
use crate::app::App;
use crate::error::{ApiError, ApiResult, ErrorBody};
use crate::store::Segmentation;

/// Which run is compared.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct AskComparison {
    /// A finished continual run, adopted or not.
    job: i64,
}

/// What is labelled in a picture, cut out by the box around it: by the model as it is, and by a domain's adapter.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Comparison {
    /// The run.
    job: i64,
    /// Its domain.
    domain: String,
    /// What people labelled, of the domain's class or of all.
    labelled: Cut,
    /// The box around it, which both were asked by: left, top, right, bottom, pixels.
    #[serde(rename = "box")]
    bbox: [f64; 4],
    /// By the model as it is.
    before: Cut,
    /// By the domain's adapter.
    after: Cut,
    /// Whether the picture is recognised as the domain's; otherwise the model as it is would answer it.
    recognised: bool,
}

/// A mask.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Cut {
    #[schema(value_type = Segmentation)]
    segmentation: Rle,
    /// IoU with what people labelled.
    iou: f64,
}

/// Compares a picture before and after a continual run, by what is labelled in it.
#[utoipa::path(post, path = "/api/images/{image}/compare", tag = "jobs",
    params(("image" = String, Path, description = "The picture")), request_body = AskComparison, responses(
    (status = 200, body = Comparison), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
    (status = 404, body = ErrorBody), (status = 409, body = ErrorBody), (status = 413, body = ErrorBody),
    (status = 415, body = ErrorBody), (status = 422, body = ErrorBody), (status = 503, body = ErrorBody)))]
pub(crate) async fn compare(
    State(app): State<App>,
    PathOf(image): PathOf<String>,
    Body(ask): Body<AskComparison>,
) -> ApiResult<Json<Comparison>> {
    let entry = app.library.get(&image)?;
    let (settings, folder) = app.jobs.domain(ask.job).await?;
    let objects = app.store.objects(entry.id.clone()).await?.into_iter();
    let wanted = objects.filter(|object| settings.class.is_none() || object.class == settings.class);
    let masks: Vec<Rle> = wanted.map(|object| object.segmentation).collect();
    let pixels = app.ready.pixels(&entry).await?;
    let shared = app.clone();
    let compared = app.search.run(move || {
        let (labelled, bbox) = union(&masks, &pixels)?;
        let domains = shared.domains.other(&folder).map_err(ApiError::Unprocessable)?;
        let engine = domains.engine(&settings.name).ok_or_else(|| {
            ApiError::Unprocessable(format!(
                "the domain {} cannot be read: {}",
                settings.name,
                domains.left_out().join("; ")
            ))
        })?;
        let base = Predictor::new(Arc::clone(&shared.engine)).with_zoom(shared.config.zoom);
        let single = single_mask(shared.engine.model());
        Ok::<_, ApiError>(Comparison {
            job: ask.job,
            before: cut(base, &pixels, bbox, single, &labelled)?,
            after: cut(Predictor::new(engine), &pixels, bbox, true, &labelled)?,
            recognised: domains.route(&pixels)?.is_some(),
            domain: settings.name,
            bbox: [bbox.x0, bbox.y0, bbox.x1, bbox.y1],
            labelled: Cut { segmentation: labelled, iou: 1.0 },
        })
    });
    Ok(Json(compared.await??))
}

/// All of what is labelled, and the box around it.
fn union(masks: &[Rle], picture: &Image) -> ApiResult<(Rle, BBox)> {
    let size = (picture.width() as usize, picture.height() as usize);
    let masks: Vec<Rle> =
        masks.iter().filter(|mask| (mask.width(), mask.height()) == size).cloned().collect();
    if masks.is_empty() {
        return Err(ApiError::Unprocessable(
            "there is nothing of the domain's class labelled in this picture to ask by; cut it out, or choose another picture"
                .to_owned(),
        ));
    }
    let all = Rle::merge(&masks, false)?;
    let [x, y, width, height] = all.bbox_xywh().map(f64::from);
    Ok((all, BBox::new(x, y, x + width, y + height)))
}

fn cut(mut by: Predictor<'_>, picture: &Image, bbox: BBox, single: bool, labelled: &Rle) -> ApiResult<Cut> {
    by.set_image(picture)?;
    let prompts = [Prompt { bbox: Some(bbox), ..Prompt::default() }];
    let mut found = by.predict(&prompts, DecodeMode { multimask: !single, hq_only: false })?;
    found.iter_mut().for_each(Prediction::keep_best);
    let mask = by.records(&prompts, &found)?.into_iter().next();
    let segmentation = mask.map_or_else(
        || Rle::from_fn(picture.width() as usize, picture.height() as usize, |_, _| false),
        |mask| mask.segmentation,
    );
    let iou = segmentation.iou(labelled, false)?;
    Ok(Cut { segmentation, iou })
}
