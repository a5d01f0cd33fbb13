//! Random streams that follow from the run's seed and a purpose.
//!
//! A stream is named by what it is for and numbered by where it is used (epoch, sample, step). The same name and numbers
//! give the same stream in every run with the same seed, in whatever order and on whatever thread the streams are asked
//! for. So a resumed run needs no saved state: it asks for the streams of the step it is at.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use sha2::{Digest, Sha256};

/// The random streams of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Streams {
    seed: u64,
}

impl Streams {
    /// The streams of a seed.
    pub fn new(seed: u64) -> Self {
        Self { seed }
    }

    /// The stream for a purpose at a place, such as `("flip", &[epoch, sample])`.
    ///
    /// The generator's seed is the SHA-256 of seed, purpose and place, so streams of neighbouring places are as unlike as
    /// any others.
    pub fn stream(&self, purpose: &str, place: &[u64]) -> ChaCha8Rng {
        let mut hash = Sha256::new();
        hash.update(self.seed.to_le_bytes());
        hash.update((purpose.len() as u64).to_le_bytes());
        hash.update(purpose.as_bytes());
        for number in place {
            hash.update(number.to_le_bytes());
        }
        ChaCha8Rng::from_seed(hash.finalize().into())
    }

    /// A shuffled order of `0..count` for an epoch.
    pub fn order(&self, epoch: u64, count: usize) -> Vec<usize> {
        use rand::seq::SliceRandom;
        let mut order: Vec<usize> = (0..count).collect();
        order.shuffle(&mut self.stream("order", &[epoch]));
        order
    }
}

/// An evenly distributed number from 0 to below 1.
pub fn unit(rng: &mut (impl Rng + ?Sized)) -> f64 {
    (rng.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_follow_from_seed_purpose_and_place() {
        let draw =
            |seed, purpose, place: &[u64]| -> u64 { Streams::new(seed).stream(purpose, place).next_u64() };
        assert_eq!(draw(1, "flip", &[2, 3]), draw(1, "flip", &[2, 3]));
        let all = [
            draw(1, "flip", &[2, 3]),
            draw(2, "flip", &[2, 3]),
            draw(1, "crop", &[2, 3]),
            draw(1, "flip", &[3, 2]),
            draw(1, "flip", &[2]),
            draw(1, "flip", &[2, 3, 0]),
        ];
        for (i, a) in all.iter().enumerate() {
            assert!(all[..i].iter().all(|b| a != b), "stream {i} is another's");
        }
    }

    /// The value is part of the contract: a run made last year can be repeated.
    #[test]
    fn streams_do_not_change_between_versions() {
        assert_eq!(Streams::new(7).stream("order", &[0]).next_u64(), FIRST_OF_SEVEN);
        assert_eq!(Streams::new(7).order(0, 8), ORDER_OF_SEVEN);
    }

    const FIRST_OF_SEVEN: u64 = 9186742937840402959;
    const ORDER_OF_SEVEN: [usize; 8] = [6, 0, 7, 2, 5, 4, 3, 1];

    #[test]
    fn an_epoch_visits_everything_once() {
        let streams = Streams::new(3);
        let mut order = streams.order(0, 1000);
        assert_ne!(order, streams.order(1, 1000));
        order.sort_unstable();
        assert!(order.iter().enumerate().all(|(i, v)| i == *v));
    }
}
