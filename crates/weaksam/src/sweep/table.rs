//! Runs as a table: one line a run, and one line for repetitions with other seeds.

use std::fmt::Write as _;

use kirie_run::report::Page;
use serde::{Deserialize, Serialize};

use super::{Figures, Outcome, Scored, Sweep};
use crate::WeakError;
use crate::measure::MASK_IOUS;

/// A figure over seeds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// The mean over the seeds that have the figure.
    pub mean: f64,
    /// Standard deviation (of a sample); `None` for a single seed.
    pub deviation: Option<f64>,
}

impl Spread {
    fn of(values: impl Iterator<Item = Option<f64>>) -> Option<Self> {
        let values: Vec<f64> = values.flatten().collect();
        let count = values.len() as f64;
        if values.is_empty() {
            return None;
        }
        let mean = values.iter().sum::<f64>() / count;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        Some(Self { mean, deviation: (values.len() > 1).then(|| (squares / (count - 1.0)).sqrt()) })
    }
}

/// Runs that differ in the seed alone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Group {
    /// Their name.
    pub name: String,
    /// Whose boxes were scored.
    pub scored: Scored,
    /// Seeds.
    pub runs: usize,
    /// Proposals a picture.
    pub proposals: Option<Spread>,
    /// Recall at 0.5, 0.75, 0.9.
    pub recall: [Option<Spread>; 3],
    /// AP at 0.5, all points.
    pub ap50: Option<Spread>,
    /// COCO's AP.
    pub coco_ap: Option<Spread>,
    /// CorLoc.
    pub corloc: Option<Spread>,
    /// COCO's AP of masks.
    pub mask_ap: Option<Spread>,
    /// AP of masks at the IoUs of [`MASK_IOUS`], 101 points.
    pub mask_ap_at: [Option<Spread>; 4],
    /// Mean AP at 0.5 over that of the runs on true boxes.
    pub of_bound: Option<f64>,
}

/// Runs by name, in the order they come in.
pub fn groups(runs: &[Outcome]) -> Vec<Group> {
    let mut names: Vec<&str> = Vec::new();
    for run in runs {
        if !names.contains(&run.name.as_str()) {
            names.push(&run.name);
        }
    }
    let group = |name: &str| {
        let own: Vec<&Outcome> = runs.iter().filter(|run| run.name == name).collect();
        let of =
            |figure: &dyn Fn(&Figures) -> Option<f64>| Spread::of(own.iter().map(|run| figure(&run.figures)));
        let mask_at = |at: usize| of(&|f| f.masks.as_ref().and_then(|masks| masks.ap_at.get(at)?.1));
        Some(Group {
            name: name.to_owned(),
            scored: own.first()?.scored,
            runs: own.len(),
            proposals: of(&|f| f.proposals),
            recall: [0, 1, 2].map(|at| of(&|f| f.recall.map(|recall| recall[at]))),
            ap50: of(&|f| f.ap50),
            coco_ap: of(&|f| f.coco_ap),
            corloc: of(&|f| f.corloc),
            mask_ap: of(&|f| f.masks.as_ref().and_then(|masks| masks.coco.ap)),
            mask_ap_at: [0, 1, 2, 3].map(mask_at),
            of_bound: None,
        })
    };
    let mut groups: Vec<Group> = names.into_iter().filter_map(group).collect();
    let bound = groups.iter().find(|group| group.scored == Scored::TrueBoxes).and_then(|group| group.ap50);
    for group in &mut groups {
        let pair = group.ap50.zip(bound).filter(|(_, bound)| bound.mean > 0.0);
        group.of_bound = pair.map(|(own, bound)| own.mean / bound.mean);
    }
    groups
}

/// A share in percent, with its deviation if there is one.
fn percent(spread: Option<Spread>) -> String {
    match spread {
        None => "-".to_owned(),
        Some(Spread { mean, deviation: None }) => format!("{:.1}", 100.0 * mean),
        Some(Spread { mean, deviation: Some(d) }) => format!("{:.1} ± {:.1}", 100.0 * mean, 100.0 * d),
    }
}

impl Group {
    /// Names of [`Group::cells`].
    pub const HEAD: [&'static str; 11] = [
        "run",
        "seeds",
        "proposals",
        "recall 0.5 %",
        "0.75 %",
        "0.9 %",
        "AP50 %",
        "CorLoc %",
        "COCO AP %",
        "mask AP50 %",
        "AP50 of true boxes' %",
    ];

    /// A line of the table: means, with standard deviations where there are several seeds.
    pub fn cells(&self) -> Vec<String> {
        let [half, three_quarters, nine_tenths] = self.recall;
        let mut cells = vec![
            self.name.clone(),
            self.runs.to_string(),
            self.proposals.map_or_else(|| "-".to_owned(), |count| format!("{:.1}", count.mean)),
        ];
        let spreads = [half, three_quarters, nine_tenths, self.ap50, self.corloc, self.coco_ap];
        cells.extend(spreads.map(percent));
        cells.push(percent(self.mask_ap_at[1]));
        cells.push(self.of_bound.map_or_else(|| "-".to_owned(), |share| format!("{:.1}", 100.0 * share)));
        cells
    }
}

/// A self-contained page.
///
/// # Errors
/// If the figures have no JSON form.
pub fn page(sweep: &Sweep) -> Result<Page, WeakError> {
    let groups = groups(&sweep.runs);
    let mut page = Page::new(&sweep.title);
    page.paragraph(&format!(
        "{} runs are finished, {} failed, {} are still to be done. Recall, AP and masks are those of the part {:?}, CorLoc that of \
         the pictures that were learned from; with several seeds the mean and the standard deviation over them. Proposals are \
         those that the weak detector looks at.",
        sweep.runs.len(),
        sweep.failed.len(),
        sweep.open.len(),
        sweep.part
    ));
    page.table(&Group::HEAD, &groups.iter().map(Group::cells).collect::<Vec<_>>());
    if groups.iter().any(|group| group.mask_ap.is_some()) {
        page.heading("Masks");
        let mut head = vec!["run".to_owned(), "COCO AP %".to_owned()];
        head.extend(MASK_IOUS.map(|iou| format!("AP at {iou} %")));
        let row = |group: &Group| {
            let mut row = vec![group.name.clone(), percent(group.mask_ap)];
            row.extend(group.mask_ap_at.map(percent));
            row
        };
        page.table(&head, &groups.iter().map(row).collect::<Vec<_>>());
    }
    if !sweep.failed.is_empty() {
        page.heading("Failed runs");
        let rows: Vec<Vec<&str>> =
            sweep.failed.iter().map(|(name, reason)| vec![name.as_str(), reason.as_str()]).collect();
        page.table(&["Run", "Reason"], &rows);
    }
    if !sweep.open.is_empty() {
        page.heading("Still to be done").paragraph(&sweep.open.join(", "));
    }
    page.raw_json("sweep", sweep)?;
    Ok(page)
}

/// One line a run, after a line of names. Figures are 0 to 1, empty where there is none.
pub fn csv(runs: &[Outcome]) -> String {
    let mut text =
        "name,seed,proposals,recall_50,recall_75,recall_90,ap50,ap50_11,coco_ap,corloc,mask_ap".to_owned();
    for iou in MASK_IOUS {
        let _ = write!(text, ",mask_ap{:.0}", 100.0 * iou);
    }
    text.push('\n');
    for run in runs {
        let f = &run.figures;
        let recall = |at: usize| f.recall.map(|recall| recall[at]);
        let masks = f.masks.as_ref();
        let mut figures = vec![f.proposals, recall(0), recall(1), recall(2)];
        figures.extend([f.ap50, f.ap50_11, f.coco_ap, f.corloc]);
        figures.push(masks.and_then(|masks| masks.coco.ap));
        figures.extend((0..MASK_IOUS.len()).map(|at| masks.and_then(|masks| masks.ap_at.get(at)?.1)));
        let _ = write!(text, "{},{}", run.name, run.seed);
        for figure in figures {
            let _ = write!(text, ",{}", figure.map_or_else(String::new, |figure| figure.to_string()));
        }
        text.push('\n');
    }
    text
}
