//! Runs as tables: one line a run, and one line for repetitions with other seeds.

use kirie_run::sweep::csv_line;
use serde::{Deserialize, Serialize};

use super::{RunResult, RunSpec};

/// Runs that differ in the seed alone. Figures are means over those that have them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Group {
    /// The data.
    pub set: String,
    /// The method.
    pub method: String,
    /// The input policy.
    pub input: String,
    /// The augmentation.
    pub augmentation: String,
    /// Seeds.
    pub runs: usize,
    /// mIoU before the first step, 0 to 1.
    pub miou_before: Option<f64>,
    /// mIoU, 0 to 1.
    pub miou: Option<f64>,
    /// Its standard deviation over seeds (of a sample); `None` for a single run.
    pub miou_deviation: Option<f64>,
    /// IoU by class, 0 to 1.
    pub classes: Vec<(String, Option<f64>)>,
    /// Parameters that training changes.
    pub trained_parameters: u64,
    /// Parameters that a file of the result must hold.
    pub stored_parameters: u64,
    /// Multiply-accumulates for one training picture.
    pub macs_per_picture: u64,
    /// Bytes.
    pub peak_memory_bytes: Option<f64>,
    /// Seconds.
    pub seconds_per_step: Option<f64>,
    /// Seconds.
    pub seconds_per_inference: Option<f64>,
    /// Seconds.
    pub cpu_seconds: Option<f64>,
    /// mIoU over that of the same method and augmentation on the same data at the input of most MACs.
    pub of_largest_miou: Option<f64>,
    /// MACs over that input's.
    pub of_largest_macs: Option<f64>,
}

impl Group {
    fn has(&self, spec: &RunSpec) -> bool {
        self.set == spec.set
            && self.method == spec.method
            && self.input == spec.input
            && self.augmentation == spec.augmentation
    }
}

/// Runs by data, method, input and augmentation, in the order they come in.
pub fn groups(runs: &[RunResult]) -> Vec<Group> {
    let mut members: Vec<Vec<&RunResult>> = Vec::new();
    let mut groups: Vec<Group> = Vec::new();
    for run in runs {
        if let Some(at) = groups.iter().position(|group| group.has(&run.spec)) {
            members[at].push(run);
        } else {
            groups.push(empty(run));
            members.push(vec![run]);
        }
    }
    for (group, members) in groups.iter_mut().zip(&members) {
        let mean = |of: &dyn Fn(&RunResult) -> Option<f64>| {
            let values: Vec<f64> = members.iter().filter_map(|run| of(run)).collect();
            (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
        };
        group.runs = members.len();
        group.miou_before = mean(&|run| run.figures.miou_before);
        group.miou = mean(&|run| run.figures.miou);
        let scores: Vec<f64> = members.iter().filter_map(|run| run.figures.miou).collect();
        group.miou_deviation = group.miou.filter(|_| scores.len() > 1).map(|mean| {
            let squares: f64 = scores.iter().map(|score| (score - mean).powi(2)).sum();
            (squares / (scores.len() - 1) as f64).sqrt()
        });
        for (name, iou) in &mut group.classes {
            *iou = mean(&|run| run.figures.classes.iter().find(|class| class.name == *name)?.iou);
        }
        group.peak_memory_bytes = mean(&|run| run.figures.peak_memory_bytes.map(|bytes| bytes as f64));
        group.seconds_per_step = mean(&|run| run.figures.seconds_per_step);
        group.seconds_per_inference = mean(&|run| run.figures.seconds_per_inference);
        group.cpu_seconds = mean(&|run| run.figures.cpu_seconds);
    }
    let all = groups.clone();
    for group in &mut groups {
        let same = all.iter().filter(|other| {
            other.set == group.set && other.method == group.method && other.augmentation == group.augmentation
        });
        let Some(largest) = same.max_by_key(|other| other.macs_per_picture) else { continue };
        let ratio = |a: f64, b: f64| (b > 0.0).then(|| a / b);
        group.of_largest_miou = group.miou.zip(largest.miou).and_then(|(own, largest)| ratio(own, largest));
        group.of_largest_macs = ratio(group.macs_per_picture as f64, largest.macs_per_picture as f64);
    }
    groups
}

/// A group with what its first run says of all.
fn empty(run: &RunResult) -> Group {
    let (spec, figures) = (&run.spec, &run.figures);
    Group {
        set: spec.set.clone(),
        method: spec.method.clone(),
        input: spec.input.clone(),
        augmentation: spec.augmentation.clone(),
        runs: 0,
        miou_before: None,
        miou: None,
        miou_deviation: None,
        classes: figures.classes.iter().map(|class| (class.name.clone(), None)).collect(),
        trained_parameters: figures.trained_parameters,
        stored_parameters: figures.stored_parameters,
        macs_per_picture: figures.macs_per_picture,
        peak_memory_bytes: None,
        seconds_per_step: None,
        seconds_per_inference: None,
        cpu_seconds: None,
        of_largest_miou: None,
        of_largest_macs: None,
    }
}

/// One line a run, after a line of names; classes of all sets have a column each, empty where a set has no such class.
pub fn csv(runs: &[RunResult]) -> String {
    let mut classes: Vec<&str> = Vec::new();
    for class in runs.iter().flat_map(|run| &run.figures.classes) {
        if !classes.contains(&class.name.as_str()) {
            classes.push(&class.name);
        }
    }
    let mut header: Vec<String> = [
        "name",
        "set",
        "method",
        "input",
        "augmentation",
        "seed",
        "miou_before",
        "miou",
        "pixel_accuracy",
        "trained_parameters",
        "stored_parameters",
        "macs_per_picture",
        "peak_memory_bytes",
        "seconds_per_step",
        "seconds_per_inference",
        "cpu_seconds",
        "steps",
        "pictures_seen",
    ]
    .map(str::to_owned)
    .to_vec();
    header.extend(classes.iter().map(|class| format!("iou.{class}")));
    let mut text = csv_line(&header);
    for run in runs {
        let (spec, figures) = (&run.spec, &run.figures);
        let number = |value: Option<f64>| value.map_or_else(String::new, |value| value.to_string());
        let mut cells = vec![
            spec.name.clone(),
            spec.set.clone(),
            spec.method.clone(),
            spec.input.clone(),
            spec.augmentation.clone(),
            spec.seed.to_string(),
            number(figures.miou_before),
            number(figures.miou),
            number(figures.pixel_accuracy),
            figures.trained_parameters.to_string(),
            figures.stored_parameters.to_string(),
            figures.macs_per_picture.to_string(),
            figures.peak_memory_bytes.map_or_else(String::new, |bytes| bytes.to_string()),
            number(figures.seconds_per_step),
            number(figures.seconds_per_inference),
            number(figures.cpu_seconds),
            figures.steps.to_string(),
            figures.pictures_seen.to_string(),
        ];
        let iou = |name: &&str| figures.classes.iter().find(|class| class.name == **name)?.iou;
        cells.extend(classes.iter().map(|class| number(iou(class))));
        text += &csv_line(&cells);
    }
    text
}
