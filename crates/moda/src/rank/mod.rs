//! Which pictures to label next: those that a model is least sure of.
//!
//! | module | |
//! | --- | --- |
//! | [`doubt`] | how unsure one answer is: of its logits, its predicted IoU |
//! | [`disagree`] | how far several answers differ: to moved boxes, of several adapters, of a router's candidates |
//! | [`order`] | several measures as one, and choosing pictures that differ from each other |
//! | [`judge`] | whether a ranking is worth anything, on labelled pictures |
//! | [`ask`](mod@ask) | asks a model about a picture and measures its doubt |
//!
//! In all measures higher is more doubtful: label first. The first three modules and the fourth are functions of plain numbers,
//! with the definitions of their sources beside them.

pub mod ask;
pub mod disagree;
pub mod doubt;
pub mod judge;
pub mod order;

pub use ask::{Ask, AskOptions, Asked, AskedObject, ask};
pub use order::{Choice, choose, combined, descending, ranks};

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

/// A measure of doubt that [`ask()`](ask::ask) takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Measure {
    /// One less the IoU that the model predicts for its mask.
    PredictedIou,
    /// One less SAM's stability score.
    Stability,
    /// Entropy of the pixels in the mask and a band around it, nats.
    Entropy,
    /// One less the distance of their two probabilities.
    Margin,
    /// How far the masks for moved boxes differ.
    Jitter,
    /// How much of their entropy is disagreement, nats.
    Bald,
}

impl Measure {
    /// All measures.
    pub const ALL: [Self; 6] =
        [Self::PredictedIou, Self::Stability, Self::Entropy, Self::Margin, Self::Jitter, Self::Bald];

    /// Those whose mean rank is the default order: two that see different things, and that ordered pictures better than chance on
    /// every labelled set they were tried on. Predicted IoU and stability did so only on pictures like those the model knew.
    pub const DEFAULT: [Self; 2] = [Self::Margin, Self::Jitter];

    /// Its name on the command line and in files.
    pub fn name(self) -> &'static str {
        match self {
            Self::PredictedIou => "predicted-iou",
            Self::Stability => "stability",
            Self::Entropy => "entropy",
            Self::Margin => "margin",
            Self::Jitter => "jitter",
            Self::Bald => "bald",
        }
    }

    /// What it is where there is no answer at all: as much as it can be.
    pub fn most(self) -> f64 {
        match self {
            Self::Entropy | Self::Bald => std::f64::consts::LN_2,
            _ => 1.0,
        }
    }
}

/// What was measured, one number for each [`Measure`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Doubts([f64; Measure::ALL.len()]);

impl Doubts {
    /// Of something that has no answer.
    pub fn most() -> Self {
        Self(Measure::ALL.map(Measure::most))
    }

    /// The number of a measure.
    pub fn get(&self, measure: Measure) -> f64 {
        self.0[measure as usize]
    }

    pub(crate) fn set(&mut self, measure: Measure, value: f64) {
        self.0[measure as usize] = value;
    }

    /// The mean of several; the most where there are none.
    pub fn mean<'a>(all: impl IntoIterator<Item = &'a Self>) -> Self {
        let (mut sum, mut count) = ([0.0; Measure::ALL.len()], 0.0);
        for doubts in all {
            count += 1.0;
            for (sum, value) in sum.iter_mut().zip(doubts.0) {
                *sum += value;
            }
        }
        if count > 0.0 { Self(sum.map(|sum| sum / count)) } else { Self::most() }
    }
}

impl Serialize for Doubts {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(Measure::ALL.len()))?;
        for measure in Measure::ALL {
            map.serialize_entry(measure.name(), &self.get(measure))?;
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubts_are_kept_by_measure() {
        for (i, measure) in Measure::ALL.into_iter().enumerate() {
            assert_eq!(measure as usize, i, "the order of ALL is that of the enum");
        }
        let mut one = Doubts::most();
        one.set(Measure::Stability, 0.5);
        let mean = Doubts::mean([&one, &Doubts::most()]);
        assert_eq!((mean.get(Measure::Stability), mean.get(Measure::PredictedIou)), (0.75, 1.0));
        assert_eq!(Doubts::mean([]), Doubts::most());
        let json = serde_json::to_value(one).unwrap();
        assert_eq!((json["stability"].as_f64(), json["jitter"].as_f64()), (Some(0.5), Some(1.0)));
    }
}
