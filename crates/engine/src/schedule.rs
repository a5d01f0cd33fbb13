//! The learning rate of a step.

use serde::{Deserialize, Serialize};

use crate::EngineError;

/// How the learning rate goes on after the warm-up.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Decay {
    /// It stays.
    Constant,
    /// Half a cosine from the full rate down to `end` times it at the last step.
    Cosine {
        /// What is left at the end, 0 to 1.
        #[serde(default)]
        end: f64,
    },
    /// Multiplied by `factor` at each of the given steps.
    Step {
        /// Optimiser steps, rising.
        at: Vec<u64>,
        /// What is left after each.
        factor: f64,
    },
}

/// Warm-up and decay, as a factor on the base learning rate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Schedule {
    /// Optimiser steps over which the rate rises in a straight line; the first step has `1 / warmup` of it.
    #[serde(default)]
    pub warmup: u64,
    /// What follows.
    pub decay: Decay,
}

impl Schedule {
    /// Checks the numbers.
    pub fn check(&self) -> Result<(), EngineError> {
        let bad = |name: &str, found: String, expected: &str| {
            Err(EngineError::Setting { name: name.to_owned(), found, expected: expected.to_owned() })
        };
        match &self.decay {
            Decay::Cosine { end } if !(0.0..=1.0).contains(end) => {
                bad("schedule.decay.end", end.to_string(), "0 to 1")
            }
            Decay::Step { at, .. } if !at.is_sorted() => {
                bad("schedule.decay.at", format!("{at:?}"), "rising steps")
            }
            Decay::Step { factor, .. } if !(factor.is_finite() && *factor > 0.0) => {
                bad("schedule.decay.factor", factor.to_string(), "a number above 0")
            }
            _ => Ok(()),
        }
    }

    /// The factor for a step (from 0) of a run of `total` steps.
    ///
    /// The cosine runs over the steps after the warm-up and reaches its end one step after the last, as PyTorch's
    /// `CosineAnnealingLR` stepped every iteration.
    pub fn factor(&self, step: u64, total: u64) -> f64 {
        if step < self.warmup {
            return (step + 1) as f64 / self.warmup as f64;
        }
        match &self.decay {
            Decay::Constant => 1.0,
            Decay::Cosine { end } => {
                let length = total.saturating_sub(self.warmup).max(1);
                let done = ((step - self.warmup) as f64 / length as f64).min(1.0);
                end + (1.0 - end) * 0.5 * (1.0 + (std::f64::consts::PI * done).cos())
            }
            Decay::Step { at, factor } => factor.powi(at.iter().filter(|s| **s <= step).count() as i32),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warm_up_then_cosine() {
        let schedule = Schedule { warmup: 4, decay: Decay::Cosine { end: 0.1 } };
        let at = |step| schedule.factor(step, 104);
        assert_eq!([at(0), at(3)], [0.25, 1.0]);
        assert_eq!(at(4), 1.0);
        assert!((at(54) - 0.55).abs() < 1e-12, "{}", at(54));
        assert!((at(104) - 0.1).abs() < 1e-12);
        assert!((at(500) - 0.1).abs() < 1e-12);
        assert!((4..104).all(|s| at(s + 1) < at(s)));
    }

    #[test]
    fn steps() {
        let schedule = Schedule { warmup: 0, decay: Decay::Step { at: vec![10, 20], factor: 0.1 } };
        let found = [0, 9, 10, 19, 20, 99].map(|s| schedule.factor(s, 100));
        for (found, expected) in found.iter().zip([1.0, 1.0, 0.1, 0.1, 0.01, 0.01]) {
            assert!((found - expected).abs() < 1e-12);
        }
    }

    #[test]
    fn bad_numbers_are_refused() {
        for decay in [
            Decay::Cosine { end: -0.1 },
            Decay::Cosine { end: f64::NAN },
            Decay::Step { at: vec![5, 3], factor: 0.1 },
            Decay::Step { at: vec![3], factor: 0.0 },
        ] {
            assert!(Schedule { warmup: 0, decay }.check().is_err());
        }
    }
}
