//! The requests that Label Studio makes of a machine-learning backend (`label_studio_ml/api.py` of HumanSignal/label-studio-ml-backend):
//! `/health`, `/setup`, `/predict`.
//!
//! A key point or rectangle drawn with a smart tool comes as the context of `/predict` and is answered by one region of the first
//! `BrushLabels`, `PolygonLabels` or `RectangleLabels` of the labelling configuration. Pictures are never fetched from anywhere: a
//! task's picture is found among those served here by the end of its path, so both programs must know it under the same name.

mod brush;

use std::fmt::Write;

use axum::Json;
use axum::extract::State;
use kirie_data::write::DEFAULT_TOLERANCE;
use kirie_mask::{Mask, Rle, contours, simplify};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use utoipa::ToSchema;

use crate::api::extract::Body;
use crate::api::predict::{AnswerMask, Ask, answer};
use crate::app::App;
use crate::error::{ApiError, ApiResult, ErrorBody};

/// Tasks of one request.
const MOST_TASKS: usize = 64;

/// Says that the backend is there.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct BackendHealth {
    /// `UP`.
    status: &'static str,
    /// What answers.
    model_class: &'static str,
}

/// Whether the backend is there.
#[utoipa::path(get, path = "/health", tag = "label studio", responses((status = 200, body = BackendHealth),
    (status = 401, body = ErrorBody)))]
pub(crate) async fn health() -> Json<BackendHealth> {
    Json(BackendHealth { status: "UP", model_class: "kirie" })
}

/// What Label Studio says when a project is connected. Nothing of it is kept.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct Setup {
    /// The labelling configuration, XML.
    #[serde(default)]
    schema: Option<String>,
}

/// Which model answers.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ModelVersion {
    model_version: String,
}

/// Connects a project.
#[utoipa::path(post, path = "/setup", tag = "label studio", request_body = Setup, responses((status = 200, body = ModelVersion),
    (status = 400, body = ErrorBody), (status = 401, body = ErrorBody), (status = 415, body = ErrorBody),
    (status = 422, body = ErrorBody)))]
pub(crate) async fn setup(State(app): State<App>, Body(setup): Body<Setup>) -> ApiResult<Json<ModelVersion>> {
    if let Some(schema) = setup.schema.filter(|schema| !schema.trim().is_empty()) {
        // Better told when the project is connected than at the first click.
        Control::find(&schema)?;
    }
    Ok(Json(ModelVersion { model_version: version(&app) }))
}

/// What Label Studio asks.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct PredictTasks {
    /// The tasks; each has its picture's address in `data`.
    tasks: Vec<Task>,
    /// The labelling configuration, XML.
    #[serde(default)]
    label_config: Option<String>,
    /// `context.result` holds what was drawn.
    #[serde(default)]
    params: Option<Params>,
}

/// A task.
#[derive(Debug, Deserialize, ToSchema)]
struct Task {
    /// Its fields; those of the labelling configuration's `Image` tag is the picture's address.
    #[serde(default)]
    #[schema(value_type = Object)]
    data: Map<String, Value>,
}

/// Further parameters.
#[derive(Debug, Default, Deserialize, ToSchema)]
struct Params {
    #[serde(default)]
    context: Option<Context>,
}

/// What was drawn.
#[derive(Debug, Default, Deserialize, ToSchema)]
struct Context {
    #[serde(default)]
    result: Vec<Drawn>,
}

/// A key point or rectangle; places and sizes in percent of the picture.
#[derive(Debug, Deserialize, ToSchema)]
struct Drawn {
    /// `keypointlabels` or `rectanglelabels`.
    #[serde(rename = "type")]
    kind: String,
    /// Its place, size and label.
    #[schema(value_type = Object)]
    value: Map<String, Value>,
    /// Whether a key point lies on the object: 1 (default) or 0.
    #[serde(default)]
    #[schema(value_type = Option<i64>)]
    is_positive: Option<Value>,
}

/// One prediction for each task.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Predictions {
    results: Vec<Prediction>,
}

/// What is found for a task.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Prediction {
    model_version: String,
    /// The model's estimate of the mask's IoU.
    score: f64,
    /// Regions as Label Studio keeps them.
    #[schema(value_type = Vec<Object>)]
    result: Vec<Value>,
}

/// The tag of the configuration that regions are of.
#[derive(Debug, PartialEq)]
struct Control {
    kind: Kind,
    from_name: String,
    to_name: String,
    /// The field of a task's data that holds the picture.
    field: Option<String>,
    first_label: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Brush,
    Polygon,
    Rectangle,
}

impl Kind {
    fn tag(self) -> &'static str {
        match self {
            Self::Brush => "BrushLabels",
            Self::Polygon => "PolygonLabels",
            Self::Rectangle => "RectangleLabels",
        }
    }
}

impl Control {
    fn find(config: &str) -> ApiResult<Self> {
        let document = roxmltree::Document::parse(config).map_err(|error| {
            ApiError::Unprocessable(format!("the labelling configuration is no XML: {error}"))
        })?;
        let kinds = [Kind::Brush, Kind::Polygon, Kind::Rectangle];
        let found = kinds.into_iter().find_map(|kind| {
            Some((kind, document.descendants().find(|node| node.has_tag_name(kind.tag()))?))
        });
        let Some((kind, node)) = found else {
            return Err(ApiError::Unprocessable(
                "the labelling configuration has no BrushLabels, PolygonLabels or RectangleLabels".to_owned(),
            ));
        };
        let name = |attribute| {
            let missing = || ApiError::Unprocessable(format!("the {} has no {attribute}", kind.tag()));
            node.attribute(attribute).map(str::to_owned).ok_or_else(missing)
        };
        let (from_name, to_name) = (name("name")?, name("toName")?);
        let image = document
            .descendants()
            .find(|node| node.has_tag_name("Image") && node.attribute("name") == Some(to_name.as_str()));
        let field = image.and_then(|node| node.attribute("value")).and_then(|value| value.strip_prefix('$'));
        let first_label = node.children().find_map(|child| child.attribute("value")).map(str::to_owned);
        Ok(Self { kind, from_name, to_name, field: field.map(str::to_owned), first_label })
    }
}

/// Answers what was drawn with a smart tool; without anything drawn there is nothing to answer.
#[utoipa::path(post, path = "/predict", tag = "label studio", request_body = PredictTasks, responses(
    (status = 200, body = Predictions), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
    (status = 404, body = ErrorBody), (status = 413, body = ErrorBody), (status = 415, body = ErrorBody),
    (status = 422, body = ErrorBody), (status = 503, body = ErrorBody)))]
pub(crate) async fn predict(
    State(app): State<App>,
    Body(asked): Body<PredictTasks>,
) -> ApiResult<Json<Predictions>> {
    if asked.tasks.len() > MOST_TASKS {
        return Err(ApiError::Bad(format!("{} tasks, expected at most {MOST_TASKS}", asked.tasks.len())));
    }
    let drawn = asked.params.unwrap_or_default().context.unwrap_or_default().result;
    let mut results = Vec::new();
    for task in &asked.tasks {
        results.push(if drawn.is_empty() {
            Prediction { model_version: version(&app), score: 0.0, result: Vec::new() }
        } else {
            let config = asked.label_config.as_deref().unwrap_or_default();
            one(&app, task, &drawn, &Control::find(config)?).await?
        });
    }
    Ok(Json(Predictions { results }))
}

async fn one(app: &App, task: &Task, drawn: &[Drawn], control: &Control) -> ApiResult<Prediction> {
    let address = match &control.field {
        Some(field) => task.data.get(field),
        None => task.data.values().find(|value| value.is_string()),
    };
    let address = address.and_then(Value::as_str).ok_or_else(|| {
        ApiError::Unprocessable(
            "the task names no picture in the field that the configuration says".to_owned(),
        )
    })?;
    let name = path_of(address);
    let entry =
        app.library.by_name(&name).ok_or_else(|| ApiError::not_found("picture that ends in", &name))?;
    let (width, height) = app.library.size(&entry)?;
    let (points, bbox, label) = prompt(drawn, f64::from(width), f64::from(height))?;
    let label = label.or_else(|| control.first_label.clone()).unwrap_or_else(|| "object".to_owned());
    let ask = Ask::one(points, bbox);
    let (answers, ..) = answer(app, &entry, &ask).await?;
    let mask = answers.into_iter().next().and_then(|answer| answer.masks.into_iter().next());
    let Some(mask) = mask.filter(|mask| mask.segmentation.area() > 0) else {
        return Ok(Prediction { model_version: version(app), score: 0.0, result: Vec::new() });
    };
    let score = mask.predicted_iou.unwrap_or_default();
    let kind = control.kind;
    let values = tokio::task::spawn_blocking(move || values(kind, &mask, &label)).await?;
    let result = values.into_iter().enumerate().map(|(at, value)| {
        json!({
            "id": region_id(&entry.id, drawn, at),
            "from_name": control.from_name,
            "to_name": control.to_name,
            "type": kind.tag().to_lowercase(),
            "original_width": width,
            "original_height": height,
            "image_rotation": 0,
            "score": score,
            "readonly": false,
            "value": value,
        })
    });
    Ok(Prediction { model_version: version(app), score, result: result.collect() })
}

/// The path in an address: `/data/upload/1/abc-photo.jpg`, `/data/local-files/?d=folder/photo.jpg`, `https://.../photo.jpg?x=y`.
fn path_of(address: &str) -> String {
    let local =
        address.split_once("local-files/?d=").map(|(_, path)| path.split('&').next().unwrap_or_default());
    let after = address.split_once("://").map_or(address, |(_, rest)| rest);
    let path = local.unwrap_or_else(|| after.split(['?', '#']).next().unwrap_or_default());
    let bytes = path.as_bytes();
    let mut plain = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = bytes.get(at + 1..at + 3).and_then(|two| std::str::from_utf8(two).ok());
        let coded = hex.and_then(|two| u8::from_str_radix(two, 16).ok()).filter(|_| bytes[at] == b'%');
        plain.push(coded.unwrap_or(bytes[at]));
        at += if coded.is_some() { 3 } else { 1 };
    }
    String::from_utf8_lossy(&plain).into_owned()
}

type Parts = (Vec<Vec<f64>>, Option<[f64; 4]>, Option<String>);

/// What was drawn, in pixels, and the label it was drawn with.
fn prompt(drawn: &[Drawn], width: f64, height: f64) -> ApiResult<Parts> {
    let (mut points, mut bbox, mut label) = (Vec::new(), None, None);
    for drawn in drawn {
        let number = |name: &str| {
            let value = drawn.value.get(name).and_then(Value::as_f64);
            value.ok_or_else(|| {
                ApiError::Unprocessable(format!("a drawn {} has no number {name}", drawn.kind))
            })
        };
        let labels = drawn.value.get(&drawn.kind).and_then(Value::as_array);
        let first = labels.and_then(|labels| labels.first()).and_then(Value::as_str);
        label = first.map(str::to_owned).or(label);
        let (x, y) = (number("x")? * width / 100.0, number("y")? * height / 100.0);
        match drawn.kind.as_str() {
            "keypointlabels" => {
                let beside = match &drawn.is_positive {
                    Some(Value::Bool(on)) => !on,
                    Some(Value::Number(on)) => on.as_f64() == Some(0.0),
                    _ => false,
                };
                points.push(vec![x, y, if beside { 0.0 } else { 1.0 }]);
            }
            "rectanglelabels" => {
                let (w, h) = (number("width")? * width / 100.0, number("height")? * height / 100.0);
                bbox = Some([x, y, x + w, y + h]);
            }
            // Brush strokes and the like are no prompts.
            _ => {}
        }
    }
    Ok((points, bbox, label))
}

/// The `value` of the region, or of each of its parts.
fn values(kind: Kind, mask: &AnswerMask, label: &str) -> Vec<Value> {
    let rle = &mask.segmentation;
    let (width, height) = (rle.width() as f64, rle.height() as f64);
    let percent = |value: f64, of: f64| (value / of * 1e6).round() / 1e4;
    match kind {
        Kind::Brush => vec![json!({ "format": "rle", "rle": brush::encode(rle), "brushlabels": [label] })],
        Kind::Polygon => outlines(rle)
            .into_iter()
            .map(|ring| {
                let points: Vec<_> =
                    ring.iter().map(|[x, y]| [percent(*x, width), percent(*y, height)]).collect();
                json!({ "points": points, "closed": true, "polygonlabels": [label] })
            })
            .collect(),
        Kind::Rectangle => {
            let [x, y, w, h] = rle.bbox_xywh().map(f64::from);
            vec![json!({
                "x": percent(x, width), "y": percent(y, height), "width": percent(w, width), "height": percent(h, height),
                "rotation": 0, "rectanglelabels": [label],
            })]
        }
    }
}

/// The outer outline of every part, in pixels; Label Studio's polygons have no holes.
fn outlines(rle: &Rle) -> Vec<Vec<[f64; 2]>> {
    let [left, top, width, height] = rle.bbox_xywh().map(|v| v as usize);
    let part = rle.crop(left, top, width, height).map_or_else(|_| Mask::new(0, 0), |part| part.to_mask());
    let regions = contours(&part);
    let rings = regions.iter().map(|region| simplify(&region.exterior, DEFAULT_TOLERANCE));
    let place = |ring: Vec<kirie_mask::Point>| {
        ring.iter().map(|p| [p.x + left as f64, p.y + top as f64]).collect::<Vec<_>>()
    };
    rings.map(place).filter(|ring| ring.len() >= 3).collect()
}

/// The same for the same drawing, so that Label Studio replaces what it had.
fn region_id(image: &str, drawn: &[Drawn], at: usize) -> String {
    let text = format!("{image}\n{drawn:?}\n{at}");
    Sha256::digest(text).iter().take(5).fold(String::new(), |mut id, byte| {
        let _ = write!(id, "{byte:02x}"); // writing to a String cannot fail
        id
    })
}

fn version(app: &App) -> String {
    format!("{} (kirie {})", app.engine.model(), env!("CARGO_PKG_VERSION"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_become_paths() {
        let cases = [
            ("/data/upload/3/0a1b-photo%20one.jpg", "/data/upload/3/0a1b-photo one.jpg"),
            ("/data/local-files/?d=parts/a.png&x=1", "parts/a.png"),
            ("https://host:8080/some/b.jpg?token=1#x", "host:8080/some/b.jpg"),
            ("c%zz%4", "c%zz%4"),
        ];
        for (address, path) in cases {
            assert_eq!(path_of(address), path);
        }
    }

    #[test]
    fn the_control_is_found_in_the_configuration() {
        let config = r#"<View><Image name="img" value="$photo"/><KeyPointLabels name="k" toName="img" smart="true"><Label value="Cat"/>
            </KeyPointLabels><PolygonLabels name="p" toName="img"><Label value="Dog"/></PolygonLabels></View>"#;
        let found = Control::find(config).unwrap();
        assert_eq!(
            (found.kind, found.from_name.as_str(), found.to_name.as_str()),
            (Kind::Polygon, "p", "img")
        );
        assert_eq!((found.field.as_deref(), found.first_label.as_deref()), (Some("photo"), Some("Dog")));
        for bad in ["", "<View>", "<View/>", r#"<View><BrushLabels toName="i"/></View>"#] {
            assert!(Control::find(bad).is_err(), "{bad}");
        }
    }
}
