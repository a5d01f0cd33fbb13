//! Writes a page with one of everything, to look at: `cargo run -p kirie-run --example report -- page.html`.

use std::path::PathBuf;

use image::{Rgb, RgbImage};
use kirie_run::RunError;
use kirie_run::report::{
    BarSeries, Bars, Better, LineChart, Matrix, Page, Picture, Scatter, ScatterPoint, Series,
};

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// A falling curve with noise that comes again.
fn falling(name: &str, steps: u32, height: f64, noise: f64) -> Series {
    let wobble = |i: f64| ((i * 12.9898).sin() * 43758.5453).fract();
    let value = |i: f64| height * ((-i / 900.0).exp() + 0.12) * (1.0 + noise * wobble(i));
    let points = (0..steps).map(|i| (f64::from(i), value(f64::from(i)))).collect();
    Series { name: name.to_owned(), points }
}

fn page() -> Result<Page, RunError> {
    let mut page = Page::new("Semantic fine-tuning at 512 pixels");
    page.paragraph("Every figure on this page is made up: it shows what a report can hold.");
    page.key_values(&[("model", "efficientvit-sam-l0"), ("data", "412 pictures, 7 classes"), ("seed", "17")]);

    page.heading("Course of the training");
    let mut gap = falling("loss_focal", 4000, 0.9, 0.6);
    gap.points[1800..2200].iter_mut().for_each(|point| point.1 = f64::NAN);
    let steps = || "step".to_owned();
    page.line_chart(&LineChart {
        title: "Loss".to_owned(),
        x_label: steps(),
        series: vec![falling("loss", 4000, 2.0, 0.5), gap, falling("loss_dice", 4000, 0.4, 0.7)],
        log_y: true,
        smooth: true,
        ..LineChart::default()
    });
    let rise = |name: &str, to: f64| {
        let points =
            (1..=20).map(|i| (f64::from(i) * 200.0, to * (1.0 - (-f64::from(i) / 5.0).exp()))).collect();
        Series { name: name.to_owned(), points }
    };
    page.line_chart(&LineChart {
        title: "Mean IoU on the validation part".to_owned(),
        x_label: steps(),
        y_label: "IoU".to_owned(),
        series: ["lora", "adaptformer", "decoder only", "full", "bitfit", "ssf", "vpt", "none"]
            .iter()
            .enumerate()
            .map(|(i, name)| rise(name, 0.82 - 0.07 * i as f64))
            .collect(),
        ..LineChart::default()
    });

    page.heading("Methods");
    let point = |label: &str, group: &str, x: f64, y: f64| ScatterPoint {
        label: label.to_owned(),
        group: group.to_owned(),
        x,
        y,
    };
    page.scatter(&Scatter {
        title: "Quality and time".to_owned(),
        x_label: "ms a picture (log)".to_owned(),
        y_label: "mean IoU".to_owned(),
        points: vec![
            point("L0 256", "EfficientViT", 41.0, 0.641),
            point("L0 512", "EfficientViT", 120.0, 0.702),
            point("L0 1024", "EfficientViT", 480.0, 0.741),
            point("L1 512", "EfficientViT", 171.0, 0.704),
            point("L2 512", "EfficientViT", 180.0, 0.709),
            point("ViT-B 512", "ViT", 900.0, 0.722),
            point("ViT-B 1024", "ViT", 4100.0, 0.764),
            point("TinyViT 512", "TinyViT", 131.0, 0.698),
        ],
        log_x: true,
        better: Some((Better::Lower, Better::Higher)),
    });
    page.bars(&Bars {
        title: "IoU of each class".to_owned(),
        labels: names(&["crack", "dent", "scratch", "stain", "missing screw"]),
        series: vec![
            BarSeries { name: "512".to_owned(), values: vec![0.71, 0.64, 0.52, f64::NAN, 0.88] },
            BarSeries { name: "1024".to_owned(), values: vec![0.78, 0.66, 0.67, 0.43, 0.87] },
        ],
        full: Some(1.0),
    });
    page.bars(&Bars {
        title: "Change against the start".to_owned(),
        labels: names(&["site A", "site B", "site C"]),
        series: vec![BarSeries { name: String::new(), values: vec![0.12, -0.04, 0.31] }],
        full: None,
    });
    page.matrix(&Matrix {
        title: "After each domain".to_owned(),
        row_label: "trained on".to_owned(),
        column_label: "evaluated on".to_owned(),
        rows: names(&["day", "night", "fog", "snow"]),
        columns: names(&["day", "night", "fog", "snow"]),
        values: vec![vec![0.81], vec![0.78, 0.66], vec![0.77, 0.63, 0.71], vec![0.76, 0.62, 0.69, 0.73]],
        decimals: 2,
        range: None,
    });
    page.table(
        &["method", "trained parameters", "mean IoU", "time"],
        &[
            vec!["LoRA, rank 8", "294,912", "0.802 ± 0.004", "41 min"],
            vec!["decoder only", "4,058,340", "0.661 ± 0.012", "29 min"],
            vec!["full", "34,791,012", "0.815 ± 0.009", "122 min"],
        ],
    );

    page.heading("Samples");
    let picture = |k: u32| {
        RgbImage::from_fn(320, 240, |x, y| {
            let inside = (i64::from(x) - 160).pow(2) + (i64::from(y) - 120).pow(2) < 1500 * i64::from(k + 1);
            if inside {
                Rgb([230, 120, 40])
            } else {
                Rgb([(x / 2) as u8, (y / 2 + 60) as u8, (40 * k) as u8])
            }
        })
    };
    let images: Vec<_> = (0..4).map(picture).collect();
    let pictures: Vec<_> =
        images.iter().map(|image| Picture { caption: "step-4000, prediction", image }).collect();
    page.pictures(&pictures);
    page.raw_json("figures", &serde_json::json!({ "miou": 0.815 }))?;
    Ok(page)
}

fn main() -> Result<(), RunError> {
    let path = std::env::args_os().nth(1).map_or_else(|| "page.html".into(), PathBuf::from);
    page()?.write(path)
}
