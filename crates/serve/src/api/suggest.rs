//! What a fine-tuned model would label in a picture.

use std::collections::HashMap;
use std::process::Stdio;
use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::State;
use kirie_mask::{Connectivity, Rle, label};
use serde::{Deserialize, Serialize};
use tokio::process::Command;
use tokio::sync::Semaphore;
use utoipa::ToSchema;

use super::extract::{Body, PathOf};
use crate::app::App;
use crate::error::{ApiError, ApiResult, ErrorBody};
use crate::lane::milliseconds;
use crate::store::Segmentation;

/// One at a time: each is a process with a model of its own.
static SUGGESTIONS: Semaphore = Semaphore::const_new(1);
const PATIENCE: Duration = Duration::from_mins(2);
/// Regions of one answer, the largest first.
const MOST: usize = 300;
/// Smaller regions are specks, pixels.
const SPECK: u64 = 30;
/// What is no object.
const BACKGROUND: &str = "background";

/// Which model is asked.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct AskSuggestions {
    /// A finished run; without it the one that was adopted.
    job: Option<i64>,
}

/// What a fine-tuned model would label.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Suggestions {
    /// The run whose model was asked.
    job: i64,
    /// Regions, each in one piece, the largest first; at most 300.
    regions: Vec<Region>,
    milliseconds: f64,
}

/// A region in one piece.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Region {
    /// Name of its class.
    name: String,
    /// Its class, if there still is one of that name.
    class: Option<i64>,
    #[schema(value_type = Segmentation)]
    segmentation: Rle,
    bbox: [u32; 4],
    area: u64,
}

/// What `kirie segment --semantic` answers, as far as it is of use here.
#[derive(Deserialize)]
struct Answer {
    classes: Vec<AnswerClass>,
}

#[derive(Deserialize)]
struct AnswerClass {
    name: String,
    segmentation: Option<Rle>,
}

/// Asks a fine-tuned model what it would label in a picture.
#[utoipa::path(post, path = "/api/images/{image}/suggest", tag = "jobs",
    params(("image" = String, Path, description = "The picture")), request_body = AskSuggestions, responses(
    (status = 200, body = Suggestions), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
    (status = 404, body = ErrorBody), (status = 408, body = ErrorBody), (status = 409, body = ErrorBody),
    (status = 415, body = ErrorBody), (status = 422, body = ErrorBody), (status = 503, body = ErrorBody)))]
pub(crate) async fn suggest(
    State(app): State<App>,
    PathOf(image): PathOf<String>,
    Body(ask): Body<AskSuggestions>,
) -> ApiResult<Json<Suggestions>> {
    let start = Instant::now();
    let entry = app.library.get(&image)?;
    // Too large or no picture: told in this service's words.
    app.library.size(&entry)?;
    let file = app.library.file(&entry)?;
    let job = match ask.job {
        Some(job) => app.store.job(job).await?.id,
        None => match app.jobs.suggesting().await? {
            Some(job) => job,
            None => return Err(ApiError::Conflict("no fine-tuned model was adopted yet".to_owned())),
        },
    };
    let adapter = app.jobs.adapter(job);
    if !adapter.is_file() {
        return Err(ApiError::Conflict(format!("job {job} has no finished model")));
    }
    let _one = SUGGESTIONS.try_acquire().map_err(|_| ApiError::Busy { retry_after: 2 })?;
    let mut command = Command::new(&app.config.program);
    command.arg("segment").arg(&file).arg("--semantic").arg(&adapter).args(["-o", "-", "--format", "json"]);
    if let Some(weights) = &app.config.base.weights {
        command.arg("--weights").arg(weights);
    }
    command.stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(PATIENCE, command.output()).await.map_err(|_| ApiError::Timeout)??;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr).replace(&*file.to_string_lossy(), &entry.name);
        let last = words.lines().last().unwrap_or_default().trim_start_matches("kirie: ").to_owned();
        return Err(ApiError::Unprocessable(format!("the model of job {job} cannot label it: {last}")));
    }
    let classes: HashMap<String, i64> =
        app.store.classes().await?.into_iter().map(|c| (c.name, c.id)).collect();
    let regions = tokio::task::spawn_blocking(move || regions(&output.stdout, &classes)).await??;
    Ok(Json(Suggestions { job, regions, milliseconds: milliseconds(start) }))
}

fn regions(answer: &[u8], classes: &HashMap<String, i64>) -> ApiResult<Vec<Region>> {
    let bad = |error: serde_json::Error| ApiError::Internal(format!("the model's answer: {error}"));
    let answer: Answer = serde_json::from_slice(answer).map_err(bad)?;
    let mut found = Vec::new();
    for class in answer.classes.into_iter().filter(|class| class.name != BACKGROUND) {
        let Some(rle) = class.segmentation else { continue };
        for piece in pieces(&rle)? {
            found.push(Region {
                name: class.name.clone(),
                class: classes.get(&class.name).copied(),
                bbox: piece.bbox_xywh(),
                area: piece.area(),
                segmentation: piece,
            });
        }
    }
    found.sort_by_key(|region| std::cmp::Reverse(region.area));
    found.truncate(MOST);
    Ok(found)
}

/// The connected parts of a mask that are more than specks, the largest first.
fn pieces(rle: &Rle) -> ApiResult<Vec<Rle>> {
    let [x0, y0, width, height] = rle.bbox_xywh().map(|v| v as usize);
    if width == 0 || height == 0 {
        return Ok(Vec::new());
    }
    let part = rle.crop(x0, y0, width, height)?.to_mask();
    let labels = label(&part, Connectivity::Eight);
    let mut large: Vec<(u64, u32)> = (1_u32..)
        .zip(&labels.areas)
        .map(|(at, area)| (*area, at))
        .filter(|(area, _)| *area >= SPECK)
        .collect();
    large.sort_unstable_by(|a, b| b.cmp(a));
    large.truncate(MOST);
    // Left, top, right and bottom of every part, in one pass: a picture may have very many.
    let mut boxes = vec![[usize::MAX, usize::MAX, 0, 0]; labels.areas.len()];
    for (at, number) in labels.labels.iter().enumerate().filter(|(_, number)| **number > 0) {
        let (x, y) = (at % width, at / width);
        let [left, top, right, bottom] = &mut boxes[*number as usize - 1];
        (*left, *top) = ((*left).min(x), (*top).min(y));
        (*right, *bottom) = ((*right).max(x + 1), (*bottom).max(y + 1));
    }
    large
        .into_iter()
        .map(|(_, number)| {
            let [left, top, right, bottom] = boxes[number as usize - 1];
            let is_part = |x: usize, y: usize| labels.labels[(top + y) * width + left + x] == number;
            let piece = Rle::from_fn(right - left, bottom - top, is_part);
            Ok(piece.paste(x0 + left, y0 + top, rle.width(), rle.height())?)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use kirie_mask::Mask;

    #[test]
    fn regions_come_in_pieces_without_specks() {
        let mask = Mask::from_fn(60, 40, |x, y| {
            (x < 10 && y < 10) || ((30..50).contains(&x) && (20..30).contains(&y)) || (x, y) == (59, 39)
        });
        let rle = Rle::from_mask(&mask);
        let answer = serde_json::json!({ "classes": [
            { "name": "background", "segmentation": rle.clone() },
            { "name": "crack", "segmentation": rle },
            { "name": "dent", "segmentation": null },
        ]});
        let classes = HashMap::from([("crack".to_owned(), 7)]);
        let found = regions(answer.to_string().as_bytes(), &classes).unwrap();
        let shown: Vec<_> = found.iter().map(|r| (r.name.as_str(), r.class, r.bbox, r.area)).collect();
        assert_eq!(
            shown,
            [("crack", Some(7), [30, 20, 20, 10], 200), ("crack", Some(7), [0, 0, 10, 10], 100)]
        );
    }
}
