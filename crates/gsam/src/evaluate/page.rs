//! An evaluation as a page.

use kirie_data::Image;
use kirie_run::report::{BarSeries, Bars, Page, Picture};

use super::{Case, Evaluation};
use crate::config::{Blend, Resize, TestConfig, TestMode};
use crate::data::ClassList;
use crate::error::SemanticError;

/// Pictures listed one by one, from the worst.
const LISTED: usize = 50;
/// Side of a class's patch of colour, pixels.
const SWATCH: u32 = 24;

/// A self-contained page: the figures, every class's, the worst and best pictures. `about` says, in names and values, what was
/// evaluated.
///
/// # Errors
/// If the figures have no JSON form.
pub fn page(
    title: &str,
    evaluation: &Evaluation,
    classes: &ClassList,
    about: &[(String, String)],
) -> Result<Page, SemanticError> {
    let report = &evaluation.report;
    let mut page = Page::new(title);
    let mut entries = about.to_vec();
    let mut add = |name: &str, value: String| entries.push((name.to_owned(), value));
    add("mIoU (classes that occur)", percent(report.miou));
    add("mIoU (all classes)", percent(report.miou_all));
    add("Pixels labelled right", percent(report.pixel_accuracy));
    add("Mean accuracy of the classes", percent(report.mean_accuracy));
    add("Pictures", evaluation.pictures.len().to_string());
    add("Pixels scored", format!("{}, at the pictures' own resolution", report.pixels));
    add("Pixels ignored", report.ignored.to_string());
    add("Seconds a picture", format!("{:.3}", evaluation.seconds_per_picture()));
    add("Segmented", describe(&evaluation.test));
    page.key_values(&entries);

    page.heading("Classes");
    let rows: Vec<Vec<String>> = report
        .classes
        .iter()
        .map(|class| {
            vec![
                class.name.clone(),
                percent(class.iou),
                percent(class.dice),
                percent(class.accuracy),
                class.truth_pixels.to_string(),
                class.predicted_pixels.to_string(),
            ]
        })
        .collect();
    page.table(&["Class", "IoU %", "Dice %", "Accuracy %", "True pixels", "Found pixels"], &rows);
    page.bars(&Bars {
        title: "IoU by class".to_owned(),
        labels: report.classes.iter().map(|class| class.name.clone()).collect(),
        series: vec![BarSeries {
            name: "IoU %".to_owned(),
            values: report.classes.iter().map(|class| 100.0 * class.iou.unwrap_or(f64::NAN)).collect(),
        }],
        full: Some(100.0),
    });
    cases(&mut page, "Worst pictures", &evaluation.worst);
    cases(&mut page, "Best pictures", &evaluation.best);
    if !(evaluation.worst.is_empty() && evaluation.best.is_empty()) {
        page.paragraph("Side by side: the picture, the true labels, the labels found. White counts nowhere.");
        legend(&mut page, classes)?;
    }

    let mut order: Vec<_> = evaluation.pictures.iter().collect();
    order.sort_by(|a, b| a.miou.unwrap_or(2.0).total_cmp(&b.miou.unwrap_or(2.0)));
    page.heading(&format!(
        "Pictures, from the worst{}",
        if order.len() > LISTED { " (the first 50)" } else { "" }
    ));
    let rows: Vec<Vec<String>> = order
        .iter()
        .take(LISTED)
        .map(|score| {
            let [width, height] = score.size;
            vec![
                score.id.clone(),
                format!("{width}x{height}"),
                percent(score.miou),
                percent(score.pixel_accuracy),
                format!("{:.3}", score.seconds),
            ]
        })
        .collect();
    page.table(&["Picture", "Size", "mIoU %", "Pixels right %", "Seconds"], &rows);
    page.raw_json("evaluation", evaluation)?;
    Ok(page)
}

/// How pictures were segmented, in words.
pub(crate) fn describe(test: &TestConfig) -> String {
    let mut parts = vec![match test.mode {
        TestMode::Whole => "in one piece".to_owned(),
        TestMode::Slide { window: [height, width], stride: [down, right], blend } => {
            let tapered = if blend == Blend::Tapered { ", tapered" } else { "" };
            format!("by windows of {width}x{height} every {right}x{down} pixels{tapered}")
        }
    }];
    let how = if test.keep_aspect { "" } else { ", stretched" };
    match test.resize {
        Resize::None => {}
        Resize::Longest { side: [side, _] } => parts.push(format!("resized to {side} pixels{how}")),
        Resize::Scale { factor: [factor, _] } => parts.push(format!("resized by {factor}")),
        Resize::Exact { size: [height, width] } => {
            parts.push(format!("resized to {width}x{height} pixels{how}"));
        }
    }
    if test.scales != [1.0] {
        parts.push(format!("at scales {:?}", test.scales));
    }
    if test.flip || test.flip_vertical {
        parts.push("with mirrored answers".to_owned());
    }
    parts.join(", ")
}

fn cases(page: &mut Page, heading: &str, cases: &[Case]) {
    if cases.is_empty() {
        return;
    }
    let captions: Vec<String> =
        cases.iter().map(|case| format!("{}: mIoU {} %", case.score.id, percent(case.score.miou))).collect();
    let pictures: Vec<Picture<'_>> = captions
        .iter()
        .zip(cases)
        .map(|(caption, case)| Picture { caption, image: case.image.rgb() })
        .collect();
    page.heading(heading).pictures(&pictures);
}

fn legend(page: &mut Page, classes: &ClassList) -> Result<(), SemanticError> {
    let mut swatches = Vec::new();
    for class in classes.iter() {
        let raw = class.colour.repeat((SWATCH * SWATCH) as usize);
        swatches.push((class.name.as_str(), Image::from_raw(SWATCH, SWATCH, raw)?));
    }
    let pictures: Vec<Picture<'_>> =
        swatches.iter().map(|(caption, image)| Picture { caption, image: image.rgb() }).collect();
    page.pictures(&pictures);
    Ok(())
}

/// A share of 1 in percent, or a dash.
pub(crate) fn percent(share: Option<f64>) -> String {
    share.map_or_else(|| "-".to_owned(), |share| format!("{:.2}", 100.0 * share))
}
