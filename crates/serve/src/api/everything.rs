//! Everything in a picture, with progress, until it is found or nobody listens any more.

use std::convert::Infallible;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;

use axum::extract::State;
use axum::response::sse::{Event, KeepAlive, Sse};
use futures_util::Stream;
use kirie_mask::Rle;
use kirie_sam::{MaskGeneratorOptions, PointGrid, mask_generator};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use utoipa::ToSchema;

use super::extract::{Body, PathOf};
use crate::app::App;
use crate::domains::routed;
use crate::error::{ApiError, ApiResult, ErrorBody};
use crate::lane::milliseconds;
use crate::store::Segmentation;

/// How to look; what is not said is as the model was made for.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct AskEverything {
    /// Points along a side of the grid, 1 to 64.
    #[schema(minimum = 1, maximum = 64)]
    points_per_side: Option<u32>,
    /// Drop masks the model itself rates at or below this.
    pred_iou_thresh: Option<f32>,
    /// Drop masks that change too much with the threshold.
    stability_score_thresh: Option<f64>,
    /// Also look at crops: 1 adds 4, 2 adds 16 more.
    #[schema(maximum = 2)]
    crop_n_layers: u32,
    /// Remove holes and islands of fewer pixels.
    min_mask_region_area: u64,
}

/// `event: progress`.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Progress {
    /// Points answered.
    done: usize,
    /// Points in all.
    total: usize,
    /// Masks so far.
    masks: usize,
}

/// `event: done`.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Found {
    /// The masks, those the model rates best first.
    masks: Vec<FoundMask>,
    /// The domain whose adapter answered; null: the model as it is.
    domain: Option<String>,
    milliseconds: f64,
}

/// A mask that was found.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct FoundMask {
    #[schema(value_type = Segmentation)]
    segmentation: Rle,
    bbox: [f64; 4],
    area: u64,
    predicted_iou: Option<f64>,
    stability_score: Option<f64>,
    point_coords: Vec<[f64; 2]>,
}

impl AskEverything {
    fn options(&self, app: &App) -> ApiResult<MaskGeneratorOptions> {
        let model = app.config.everything;
        let side = self.points_per_side.unwrap_or(model.points_per_side);
        if !(1..=64).contains(&side) {
            return Err(ApiError::Bad(format!("points_per_side is {side}, expected 1 to 64")));
        }
        if self.crop_n_layers > 2 {
            return Err(ApiError::Bad(format!(
                "crop_n_layers is {}, expected at most 2",
                self.crop_n_layers
            )));
        }
        let options = MaskGeneratorOptions {
            grid: PointGrid::PerSide(side),
            pred_iou_thresh: self.pred_iou_thresh.unwrap_or(model.pred_iou_thresh),
            stability_score_thresh: self.stability_score_thresh.unwrap_or(model.stability_score_thresh),
            crop_n_layers: self.crop_n_layers,
            min_mask_region_area: self.min_mask_region_area,
            ..MaskGeneratorOptions::default()
        };
        options.check()?;
        Ok(options)
    }
}

/// Finds everything in a picture. The answer is a stream of server-sent events: `progress`, then `done` or `failed`. Closing the
/// connection ends the search.
#[utoipa::path(post, path = "/api/images/{image}/everything", tag = "masks",
    params(("image" = String, Path, description = "The picture")), request_body = AskEverything, responses(
    (status = 200, description = "Events: progress (Progress), done (Found), failed (ErrorBody)", body = String,
        content_type = "text/event-stream"),
    (status = 400, body = ErrorBody), (status = 401, body = ErrorBody), (status = 404, body = ErrorBody),
    (status = 413, body = ErrorBody), (status = 415, body = ErrorBody), (status = 422, body = ErrorBody),
    (status = 503, body = ErrorBody)))]
pub(crate) async fn everything(
    State(app): State<App>,
    PathOf(image): PathOf<String>,
    Body(ask): Body<AskEverything>,
) -> ApiResult<Sse<impl Stream<Item = Result<Event, Infallible>>>> {
    let start = Instant::now();
    let entry = app.library.get(&image)?;
    let options = ask.options(&app)?;
    let pixels = app.ready.pixels(&entry).await?;
    let (events, listener) = mpsc::channel(8);
    let (shared, heard, domains) = (app.clone(), events.clone(), app.domains.get().1);
    let search = app.search.start(move || {
        let routed = routed(domains.as_ref(), &pixels)?;
        let (domain, engine) = routed
            .map_or_else(|| (None, Arc::clone(&shared.everything)), |(name, engine)| (Some(name), engine));
        let found = mask_generator::generate(&*engine, &pixels, &options, &mut |state| {
            if heard.is_closed() || shared.stopping() {
                return ControlFlow::Break(());
            }
            let progress = Progress { done: state.done, total: state.total, masks: state.masks };
            // Who reads slowly misses some; the end is sent for sure.
            let _ = heard.try_send(event("progress", &progress));
            ControlFlow::Continue(())
        })?;
        Ok::<_, ApiError>((found, domain))
    })?;
    tokio::spawn(async move {
        // Before its turn came, the client may be gone: then the search is dropped before it begins.
        let found = tokio::select! {
            found = search => found,
            () = events.closed() => return,
        };
        let last = match found.flatten() {
            Ok((masks, domain)) => {
                let masks = masks.into_iter().map(|mask| FoundMask {
                    segmentation: mask.segmentation,
                    bbox: mask.bbox,
                    area: mask.area,
                    predicted_iou: Some(mask.predicted_iou).filter(|v| v.is_finite()),
                    stability_score: Some(mask.stability_score).filter(|v| v.is_finite()),
                    point_coords: mask.point_coords,
                });
                event("done", &Found { masks: masks.collect(), domain, milliseconds: milliseconds(start) })
            }
            Err(error) => event("failed", &error.body()),
        };
        let _ = events.send(last).await;
    });
    let stream = futures_util::StreamExt::map(ReceiverStream::new(listener), Ok);
    Ok(Sse::new(stream).keep_alive(KeepAlive::default()))
}

/// An event with JSON in it.
pub(crate) fn event(name: &str, data: &impl Serialize) -> Event {
    let text = serde_json::to_string(data)
        .unwrap_or_else(|error| format!(r#"{{"code":"internal","message":"{error}"}}"#).replace('\n', " "));
    Event::default().event(name).data(text)
}
