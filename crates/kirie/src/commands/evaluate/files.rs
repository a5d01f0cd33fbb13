//! What `-o` writes.

use std::fmt::Write;
use std::path::Path;

use kirie_data::datasets::Dataset;
use kirie_promptable::evaluate::{EverythingPicture, ObjectScore};
use serde_json::Value;

use super::Run;
use super::page::page;
use crate::args::EvaluatePromptableArgs;
use crate::outputs::save;

/// Writes all files of a folder.
pub(super) fn write(
    folder: &Path,
    args: &EvaluatePromptableArgs,
    dataset: &Dataset,
    runs: &[Run],
    metrics: &Value,
) -> anyhow::Result<()> {
    save(&folder.join("metrics.json"), (serde_json::to_string_pretty(metrics)? + "\n").as_bytes())?;
    let mut objects = String::new();
    let mut pictures = String::new();
    let mut detections = Vec::new();
    for run in runs {
        match run {
            Run::Prompted(run) => {
                let line = |object| object_line(&run.summary.prompt, object);
                objects.extend(run.objects.iter().map(line));
            }
            Run::Everything(run) => pictures.extend(run.pictures.iter().map(picture_line)),
            Run::Detected(run) => detections.extend(run.detections.iter().map(|detection| {
                serde_json::json!({
                    "image_id": detection.image,
                    "category_id": detection.category,
                    "segmentation": detection.region,
                    "score": detection.score,
                })
            })),
        }
    }
    if !objects.is_empty() {
        let head =
            "prompt,picture,split,object,class,crowd,area,x,y,width,height,iou,biou,predicted_iou,clicks\n";
        save(&folder.join("objects.csv"), (head.to_owned() + &objects).as_bytes())?;
    }
    if !pictures.is_empty() {
        let head = "picture,split,objects,masks,average_recall,recall_50,recall_75\n";
        save(&folder.join("pictures.csv"), (head.to_owned() + &pictures).as_bytes())?;
    }
    if !detections.is_empty() {
        save(&folder.join("detections.json"), serde_json::to_string(&detections)?.as_bytes())?;
    }
    page(args, dataset, runs)?.write(folder.join("report.html"))?;
    Ok(())
}

fn object_line(prompt: &str, object: &ObjectScore) -> String {
    let mut line = String::new();
    let [x, y, width, height] = object.bbox;
    let predicted = object.predicted_iou.map(|iou| iou.to_string()).unwrap_or_default();
    let _ = writeln!(
        line,
        "{prompt},{},{},{},{},{},{},{x},{y},{width},{height},{},{},{predicted},{}",
        quoted(&object.picture),
        quoted(object.split.as_deref().unwrap_or_default()),
        object.object,
        quoted(object.class.as_deref().unwrap_or_default()),
        u8::from(object.crowd),
        object.area,
        object.iou,
        object.biou,
        object.clicks,
    );
    line
}

fn picture_line(picture: &EverythingPicture) -> String {
    let number = |value: Option<f64>| value.map(|value| value.to_string()).unwrap_or_default();
    let recall = &picture.recall;
    format!(
        "{},{},{},{},{},{},{}\n",
        quoted(&picture.picture),
        quoted(picture.split.as_deref().unwrap_or_default()),
        picture.objects,
        picture.masks,
        number(recall.average_recall),
        number(recall.recall_50),
        number(recall.recall_75),
    )
}

/// A field of a CSV line.
fn quoted(text: &str) -> String {
    if text.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.to_owned()
    }
}
