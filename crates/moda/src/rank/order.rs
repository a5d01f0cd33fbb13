//! From measures to a list: several as one, and a choice of pictures that differ.

use kirie_engine::random::{Streams, unit};

use super::disagree::distance;

/// How pictures are chosen from a ranking.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Choice {
    /// How many.
    pub count: usize,
    /// With a number `n`: of the first `n * count`, those that differ most from each other (greedy k-center), as
    /// the first of the list are often pictures of one thing. Without: simply the first.
    pub diverse: Option<usize>,
    /// The part of them that is drawn at random from all others, for an unbiased look at how good the model is; 0 to 1.
    pub random: f64,
    /// Which are drawn.
    pub seed: u64,
}

/// The place of each value in the ascending order, from 0 to 1; equal ones share the mean of their places. NaN is the largest.
/// So measures of different units can be added.
pub fn ranks(values: &[f64]) -> Vec<f64> {
    // Negative NaN would be the smallest.
    let value = |i: usize| if values[i].is_nan() { f64::NAN } else { values[i] };
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|a, b| value(*a).total_cmp(&value(*b)));
    let last = values.len().saturating_sub(1).max(1) as f64;
    let mut ranks = vec![0.0; values.len()];
    let same = |a: usize, b: usize| values[a] == values[b] || (values[a].is_nan() && values[b].is_nan());
    let mut place = 0;
    for equal in order.chunk_by(|a, b| same(*a, *b)) {
        let mean = place as f64 + (equal.len() - 1) as f64 / 2.0;
        for i in equal {
            ranks[*i] = mean / last;
        }
        place += equal.len();
    }
    ranks
}

/// The mean rank of each picture over several measures, 0 to 1. Ranks avoid the trouble of scales that thin and large objects
/// give the measures.
pub fn combined(measures: &[Vec<f64>]) -> Vec<f64> {
    let mut sums = vec![0.0; measures.first().map_or(0, Vec::len)];
    for measure in measures {
        for (sum, rank) in sums.iter_mut().zip(ranks(measure)) {
            *sum += rank;
        }
    }
    sums.into_iter().map(|sum| sum / measures.len() as f64).collect()
}

/// Places by descending score; equal ones in their order.
pub fn descending(scores: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
    order
}

/// Chooses pictures of a ranking, `order` holding their places from the most doubtful on, and `features` a vector for each
/// picture. They come in the order of the ranking, those drawn at random last.
pub fn choose(order: &[usize], features: &[Vec<f32>], choice: &Choice) -> Vec<usize> {
    let count = choice.count.min(order.len());
    let random = ((choice.random.clamp(0.0, 1.0) * count as f64).round() as usize).min(count);
    let best = count - random;
    let mut chosen: Vec<usize> = match choice.diverse {
        None => order[..best].to_vec(),
        Some(times) => {
            let candidates = &order[..best.saturating_mul(times.max(1)).min(order.len())];
            let centers = k_center(candidates, features, best);
            candidates.iter().copied().filter(|i| centers.contains(i)).collect()
        }
    };
    let mut rest: Vec<usize> = order.iter().copied().filter(|i| !chosen.contains(i)).collect();
    let mut stream = Streams::new(choice.seed).stream("rank-random", &[]);
    for _ in 0..random {
        let drawn = (unit(&mut stream) * rest.len() as f64) as usize;
        if drawn < rest.len() {
            chosen.push(rest.remove(drawn));
        }
    }
    chosen
}

/// Greedy k-center (core-set, Sener and Savarese 2018): begins with the first candidate, then again and again the one that is
/// farthest from all that are taken.
fn k_center(candidates: &[usize], features: &[Vec<f32>], count: usize) -> Vec<usize> {
    let feature = |i: usize| features.get(i).map_or(&[] as &[f32], Vec::as_slice);
    let mut nearest = vec![f64::INFINITY; candidates.len()];
    let mut taken = Vec::with_capacity(count);
    while taken.len() < count {
        // The first of equals, which is the more doubtful.
        let next = nearest.iter().enumerate().fold(None, |best: Option<(usize, f64)>, (i, d)| match best {
            Some((_, most)) if most >= *d => best,
            _ => Some((i, *d)),
        });
        let Some((place, _)) = next else { break };
        taken.push(candidates[place]);
        for (d, other) in nearest.iter_mut().zip(candidates) {
            *d = d.min(distance(feature(candidates[place]), feature(*other)));
        }
        // Never again, not even where all are alike.
        nearest[place] = f64::NEG_INFINITY;
    }
    taken
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_share_places() {
        assert_eq!(ranks(&[3.0, 1.0, 2.0]), [1.0, 0.0, 0.5]);
        assert_eq!(ranks(&[1.0, 5.0, 1.0, 7.0, 5.0]), [0.125, 0.625, 0.125, 1.0, 0.625]);
        assert_eq!(ranks(&[f64::NAN, 1.0, -f64::NAN]), [0.75, 0.0, 0.75]);
        assert_eq!((ranks(&[4.0]), ranks(&[])), (vec![0.0], vec![]));
        // Only the order counts, whatever the scale.
        assert_eq!(combined(&[vec![0.1, 0.2, 0.9], vec![5e6, 1.0, 2.0]]), [0.5, 0.25, 0.75]);
        assert_eq!(combined(&[]), [] as [f64; 0]);
        assert_eq!(descending(&[0.5, 0.9, 0.5, 0.1]), [1, 0, 2, 3]);
    }

    #[test]
    fn a_choice_is_diverse_if_asked() {
        // Four near one corner, then two elsewhere.
        let features: Vec<Vec<f32>> =
            [[0.0, 0.0], [0.1, 0.0], [0.0, 0.1], [0.1, 0.1], [9.0, 0.0], [0.0, 5.0]].map(Vec::from).into();
        let order = [0, 1, 2, 3, 4, 5];
        let plain = Choice { count: 3, diverse: None, random: 0.0, seed: 1 };
        assert_eq!(choose(&order, &features, &plain), [0, 1, 2]);
        let diverse = Choice { diverse: Some(5), ..plain };
        assert_eq!(choose(&order, &features, &diverse), [0, 4, 5]);
        // Only among the first: the fifth and sixth are not doubtful enough.
        assert_eq!(choose(&order, &features, &Choice { diverse: Some(1), ..plain }), [0, 1, 2]);
        assert_eq!(choose(&order, &features, &Choice { count: 9, ..diverse }).len(), 6);
        let alike = vec![vec![1.0]; 6];
        assert_eq!(choose(&order, &alike, &diverse), [0, 1, 2]);

        let random = Choice { count: 4, random: 0.5, ..plain };
        let chosen = choose(&order, &features, &random);
        assert_eq!((chosen.len(), &chosen[..2]), (4, &[0, 1][..]));
        assert!(chosen[2] > 1 && chosen[3] > 1 && chosen[2] != chosen[3]);
        assert_eq!(choose(&order, &features, &random), chosen);
        let seeds: std::collections::BTreeSet<_> =
            (0..20).map(|seed| choose(&order, &features, &Choice { seed, ..random })).collect();
        assert!(seeds.len() > 3);
        assert_eq!(choose(&[], &[], &random), [] as [usize; 0]);
    }
}
