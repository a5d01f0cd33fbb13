//! A figure over the runs of a study.

use serde::{Deserialize, Serialize};

/// Mean and spread of a figure over runs: seeds and orders.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// Runs that have the figure.
    pub runs: usize,
    /// Their mean.
    pub mean: f64,
    /// Standard deviation of a sample; `None` for a single run.
    pub deviation: Option<f64>,
    /// The smallest.
    pub least: f64,
    /// The largest.
    pub most: f64,
}

impl Spread {
    /// Of some figures; `None` of none.
    pub fn of(values: &[f64]) -> Option<Self> {
        let count = values.len() as f64;
        if values.is_empty() {
            return None;
        }
        let mean = values.iter().sum::<f64>() / count;
        let squares: f64 = values.iter().map(|value| (value - mean) * (value - mean)).sum();
        Some(Self {
            runs: values.len(),
            mean,
            deviation: (values.len() > 1).then(|| (squares / (count - 1.0)).sqrt()),
            least: values.iter().copied().fold(f64::INFINITY, f64::min),
            most: values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        })
    }

    /// Mean and deviation, as `70.1 ±0.3`, or the mean of a single run.
    pub fn shown(&self, decimals: usize) -> String {
        match self.deviation {
            Some(deviation) => format!("{:.decimals$} ±{deviation:.decimals$}", self.mean),
            None => format!("{:.decimals$}", self.mean),
        }
    }

    /// Of every value times this.
    #[must_use]
    pub fn scaled(self, by: f64) -> Self {
        // Not -0.
        let times = |value: f64| by * value + 0.0;
        let (a, b) = (times(self.least), times(self.most));
        Self {
            mean: times(self.mean),
            deviation: self.deviation.map(|deviation| by.abs() * deviation),
            least: a.min(b),
            most: a.max(b),
            ..self
        }
    }
}

/// The same of what may be missing; a dash for nothing.
pub(super) fn shown(spread: Option<&Spread>, scale: f64, decimals: usize) -> String {
    spread.map_or_else(|| "-".to_owned(), |spread| spread.scaled(scale).shown(decimals))
}
