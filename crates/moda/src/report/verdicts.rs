//! What MoDA is held to, and whether a study reached it.
//!
//! | target | measured, over seeds and orders |
//! | --- | --- |
//! | forgetting | mean FF-IoU (`forgetting_max`) |
//! | near joint | mean of joint's Last-IoU less MoDA's, of runs of the same order and seed |
//! | above others | the least mean lead of its Last-IoU over another strategy, of runs of the same order and seed; joint is the bound, every other counts |
//! | retention | mean loss of IoU on natural pictures against the base, all together and set by set |
//! | routing | mean share of the domains' test pictures that their own domain answered |

use std::fmt;

use serde::Serialize;

use super::Sheet;
use super::compared::retention;
use super::spread::Spread;
use crate::config::StudyConfig;
use crate::run::{Figures, Summary};
use crate::strategy::Strategy;
use crate::views::PromptKind;

/// FF-IoU, at most, points.
const FORGETTING: f64 = 0.5;
/// Last-IoU below joint's, at most, points.
const BELOW_JOINT: f64 = 2.0;
/// IoU lost on natural pictures, at most, points.
const LOST: f64 = 1.0;
/// Pictures that their own domain answers, at least, percent.
const ROUTED: f64 = 97.0;

/// Whether a target was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reached {
    /// It was.
    Yes,
    /// It was not.
    No,
    /// The runs at hand do not say.
    NotMeasurable,
}

impl Reached {
    /// In a word or two.
    pub fn name(self) -> &'static str {
        match self {
            Self::Yes => "reached",
            Self::No => "missed",
            Self::NotMeasurable => "not measurable",
        }
    }
}

/// A target and what came of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Verdict {
    /// What is asked for.
    pub target: String,
    /// By which prompt; `None` where prompts play no part.
    pub prompt: Option<PromptKind>,
    /// The bound, in points of a percentage (routing: percent).
    pub bound: f64,
    /// What was measured, in the same; a target is judged by the mean.
    pub measured: Option<Spread>,
    /// Whether it was reached.
    pub reached: Reached,
    /// What else there is to know of it: why it is not measurable, the worst run, who is nearest.
    pub why: String,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { target, prompt, measured, reached, why, .. } = self;
        write!(f, "{}: {target}", reached.name())?;
        if let Some(prompt) = prompt {
            write!(f, ", asked by {}", prompt.name())?;
        }
        if let Some(measured) = measured {
            write!(f, ": {}", measured.shown(2))?;
        }
        if why.is_empty() { Ok(()) } else { write!(f, " ({why})") }
    }
}

/// How the mean of a figure is held against a bound.
#[derive(Clone, Copy)]
enum Side {
    AtMost,
    AtLeast,
    Above,
}

impl Verdict {
    fn judged(target: String, prompt: Option<PromptKind>, side: Side, bound: f64, measured: Spread) -> Self {
        let (good, worst) = match side {
            Side::AtMost => (measured.mean <= bound, measured.most),
            Side::AtLeast => (measured.mean >= bound, measured.least),
            Side::Above => (measured.mean > bound, measured.least),
        };
        let why = match measured.runs {
            1 => "one run".to_owned(),
            runs => format!("worst of {runs} runs {worst:.2}"),
        };
        let reached = if good { Reached::Yes } else { Reached::No };
        Self { target, prompt, bound, measured: Some(measured), reached, why }
    }

    fn open(target: String, prompt: Option<PromptKind>, bound: f64, why: impl Into<String>) -> Self {
        let reached = Reached::NotMeasurable;
        Self { target, prompt, bound, measured: None, reached, why: why.into() }
    }

    /// Judged if there is something to judge.
    fn of(
        target: String,
        prompt: Option<PromptKind>,
        side: Side,
        bound: f64,
        values: &[f64],
        otherwise: &str,
    ) -> Self {
        match Spread::of(values) {
            Some(measured) => Self::judged(target, prompt, side, bound, measured),
            None => Self::open(target, prompt, bound, otherwise),
        }
    }
}

/// The verdicts on MoDA; none in a study without it.
pub fn verdicts(config: &StudyConfig, summaries: &[Summary]) -> Vec<Verdict> {
    if !config.strategies.contains(&Strategy::Moda) {
        return Vec::new();
    }
    let runs: Vec<&Summary> = summaries.iter().filter(|run| run.strategy == Strategy::Moda).collect();
    let unfinished = "no run of moda is finished";
    let mut all = Vec::new();
    for prompt in &config.data.prompts {
        let kind = Some(*prompt);
        let of = |value: &dyn Fn(&Figures) -> Option<f64>| -> Vec<f64> {
            runs.iter().filter_map(|run| Some(100.0 * value(run.figures.get(prompt)?)?)).collect()
        };
        let missing = |reason: &'static str| if runs.is_empty() { unfinished } else { reason };

        let forgotten = of(&|figures| figures.iou.as_ref()?.forgetting_max);
        all.push(Verdict::of(
            format!("forgetting (FF-IoU) at most {FORGETTING} points"),
            kind,
            Side::AtMost,
            FORGETTING,
            &forgotten,
            missing("a stream of one domain forgets nothing"),
        ));

        let below: Vec<f64> =
            leads(summaries, Strategy::Joint, *prompt).into_iter().map(|lead| 0.0 - lead).collect();
        all.push(Verdict::of(
            format!("Last-IoU at most {BELOW_JOINT} points below joint"),
            kind,
            Side::AtMost,
            BELOW_JOINT,
            &below,
            missing("joint has no finished run of the same order and seed"),
        ));
        all.push(above_others(summaries, *prompt));

        let target = |set: &str| format!("{set}: at most {LOST} point of IoU lost");
        let lost = of(&|figures| figures.natural.map(|(last, base)| base.iou - last.iou));
        let without = if config.data.measure_held_out {
            "natural pictures are not measured on while settings are chosen (data.measure_held_out)"
        } else {
            "data.natural names no set"
        };
        let natural = target("natural pictures");
        all.push(Verdict::of(natural, kind, Side::AtMost, LOST, &lost, missing(without)));
        for row in retention(config, summaries) {
            if (row.strategy, row.prompt) == (Strategy::Moda, *prompt) {
                let name = match &row.seen {
                    Some(seen) => format!("{} (seen: {seen})", row.set),
                    None => format!("{} (unseen)", row.set),
                };
                let loss = row.change.scaled(-100.0);
                all.push(Verdict::judged(target(&name), kind, Side::AtMost, LOST, loss));
            }
        }
    }
    let routed: Vec<f64> = runs.iter().filter_map(|run| Some(100.0 * run.routing_accuracy?)).collect();
    let target = format!("routing: at least {ROUTED} % of pictures answered by their own domain");
    let otherwise = if runs.is_empty() { unfinished } else { "no picture was routed" };
    all.push(Verdict::of(target, None, Side::AtLeast, ROUTED, &routed, otherwise));
    all
}

/// By how many points MoDA's Last-IoU lies above another strategy's, in every order and seed that both have finished.
fn leads(summaries: &[Summary], other: Strategy, prompt: PromptKind) -> Vec<f64> {
    let last = |run: &Summary| Some(run.figures.get(&prompt)?.last.iou);
    let of = |run: &Summary| {
        let same = |found: &&Summary| {
            found.strategy == other && (&found.order, found.seed) == (&run.order, run.seed)
        };
        Some(100.0 * (last(run)? - last(summaries.iter().find(same)?)?))
    };
    summaries.iter().filter(|run| run.strategy == Strategy::Moda).filter_map(of).collect()
}

/// MoDA against every other strategy but joint. One that is not below settles it; where none is, all must have been run.
fn above_others(summaries: &[Summary], prompt: PromptKind) -> Verdict {
    let target = "Last-IoU above every other strategy (lead over the nearest)".to_owned();
    let others = Strategy::ALL.into_iter().filter(|s| !matches!(s, Strategy::Moda | Strategy::Joint));
    let (mut nearest, mut not_run): (Option<(Strategy, Spread)>, Vec<&str>) = (None, Vec::new());
    let mut not_below = Vec::new();
    for other in others {
        match Spread::of(&leads(summaries, other, prompt)) {
            Some(lead) => {
                if lead.mean <= 0.0 {
                    not_below.push(other.name());
                }
                if nearest.is_none_or(|(_, least)| lead.mean < least.mean) {
                    nearest = Some((other, lead));
                }
            }
            None => not_run.push(other.name()),
        }
    }
    let Some((nearest, lead)) = nearest else {
        let why = "no other strategy has a finished run of the same order and seed";
        return Verdict::open(target, Some(prompt), 0.0, why);
    };
    let mut verdict = Verdict::judged(target, Some(prompt), Side::Above, 0.0, lead);
    let mut why = vec![format!("nearest: {}, {}", nearest.name(), verdict.why)];
    if !not_below.is_empty() {
        why.push(format!("not below moda: {}", not_below.join(", ")));
    }
    if !not_run.is_empty() {
        why.push(format!("not run: {}", not_run.join(", ")));
        if verdict.reached == Reached::Yes {
            verdict.reached = Reached::NotMeasurable;
        }
    }
    verdict.why = why.join("; ");
    verdict
}

/// As a table.
pub(super) fn sheet(all: &[Verdict]) -> Sheet {
    let headers = ["Target of MoDA", "Asked by", "Measured", "Verdict", "Remarks"];
    let mut sheet = Sheet::new("What MoDA is held to".to_owned(), &headers);
    for verdict in all {
        sheet.rows.push(vec![
            verdict.target.clone(),
            verdict.prompt.map_or("-", PromptKind::name).to_owned(),
            super::spread::shown(verdict.measured.as_ref(), 1.0, 2),
            verdict.reached.name().to_owned(),
            verdict.why.clone(),
        ]);
    }
    sheet
}
