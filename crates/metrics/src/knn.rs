//! The weighted k-nearest-neighbour classifier that frozen features are judged by.

use crate::MetricsError;
use crate::error::{finite, same_length};

/// Queries compared with a row of the bank while that row is at hand.
const TILE: usize = 16;

/// Labelled features to look up neighbours in.
///
/// The protocol of InstDisc (Wu et al. 2018), as lightly, DINO and the SAMCLR code follow it: features scaled
/// to length 1, the `k` of highest cosine, and class `c` scored by the sum of `exp(cosine / temperature)`
/// over those of class `c`. A result means little without its `k` and `temperature`: SAMCLR's code takes 200
/// and 0.1, InstDisc and DINO 200 (or 20) and 0.07.
///
/// Features are `f32`, row by row, as a model puts them out; a feature of length 0 has cosine 0 with
/// everything.
///
/// ```
/// use kirie_metrics::KnnBank;
///
/// let features = [1.0, 0.0, 0.9, 0.1, 0.0, 1.0, 0.1, 0.9, 0.7, 0.7];
/// let bank = KnnBank::new(&features, 2, &[0, 0, 1, 1, 1])?;
/// assert_eq!(bank.classify(&[0.8, 0.5], 3, 0.1)?[0].classes, [1, 0]);
/// # Ok::<(), kirie_metrics::MetricsError>(())
/// ```
#[derive(Clone, Debug)]
pub struct KnnBank {
    /// Of length 1, row by row.
    features: Vec<f32>,
    dimensions: usize,
    labels: Vec<u32>,
    /// The classes that occur, ascending.
    classes: Vec<u32>,
}

/// What the neighbours of one query say.
#[derive(Clone, Debug, PartialEq)]
pub struct KnnVotes {
    /// The classes among the neighbours, highest score first, the smaller class first of equals: the first is
    /// the answer, and top-5 accuracy asks whether the truth is among the first five.
    pub classes: Vec<u32>,
    /// Their scores.
    pub scores: Vec<f64>,
}

impl KnnBank {
    /// A bank of features, `[labels.len(), dimensions]` row by row, with their classes.
    ///
    /// # Errors [`MetricsError::Empty`] without features or dimensions, [`MetricsError::Length`] when the
    /// lengths do not fit, [`MetricsError::NotFinite`] for a number that is NaN or infinite.
    pub fn new(features: &[f32], dimensions: usize, labels: &[u32]) -> Result<Self, MetricsError> {
        if labels.is_empty() || dimensions == 0 {
            return Err(MetricsError::Empty { what: "features of a bank, and dimensions" });
        }
        same_length("numbers in the bank", labels.len().saturating_mul(dimensions), features.len())?;
        let mut classes = labels.to_vec();
        classes.sort_unstable();
        classes.dedup();
        Ok(Self { features: normalised(features, dimensions)?, dimensions, labels: labels.to_vec(), classes })
    }

    /// Classifies queries, features `[n, dimensions]` row by row, by their `k` nearest neighbours, of which
    /// there are at most as many as the bank holds; of equally near ones the earlier count. One answer per
    /// query.
    ///
    /// # Errors [`MetricsError::Length`] for queries that are no whole rows, [`MetricsError::NotFinite`] for
    /// a number that is NaN or infinite, [`MetricsError::NotPositive`] for a temperature that is not above 0,
    /// [`MetricsError::Empty`] for `k` of 0.
    pub fn classify(
        &self,
        queries: &[f32],
        k: usize,
        temperature: f64,
    ) -> Result<Vec<KnnVotes>, MetricsError> {
        if k == 0 {
            return Err(MetricsError::Empty { what: "neighbours to ask" });
        }
        if temperature.is_nan() || temperature <= 0.0 {
            return Err(MetricsError::NotPositive { what: "temperature", found: temperature });
        }
        let whole = queries.len() - queries.len() % self.dimensions;
        same_length("numbers in whole queries", whole, queries.len())?;
        let queries = normalised(queries, self.dimensions)?;
        let mut answers = Vec::with_capacity(queries.len() / self.dimensions);
        for tile in queries.chunks(TILE * self.dimensions) {
            let count = tile.len() / self.dimensions;
            let mut cosines = vec![Vec::with_capacity(self.labels.len()); count];
            for feature in self.features.chunks_exact(self.dimensions) {
                for (cosines, query) in cosines.iter_mut().zip(tile.chunks_exact(self.dimensions)) {
                    cosines.push(dot(query, feature));
                }
            }
            answers.extend(cosines.iter().map(|cosines| self.vote(cosines, k, temperature)));
        }
        Ok(answers)
    }

    fn vote(&self, cosines: &[f32], k: usize, temperature: f64) -> KnnVotes {
        let mut nearest: Vec<usize> = (0..cosines.len()).collect();
        let nearer = |a: &usize, b: &usize| cosines[*b].total_cmp(&cosines[*a]).then(a.cmp(b));
        if k < nearest.len() {
            nearest.select_nth_unstable_by(k, nearer);
            nearest.truncate(k);
        }
        // Nearest first, so that the sums do not depend on how they were selected.
        nearest.sort_unstable_by(nearer);
        let mut sums = vec![None; self.classes.len()];
        for i in nearest {
            let Ok(class) = self.classes.binary_search(&self.labels[i]) else { continue };
            *sums[class].get_or_insert(0.0) += (f64::from(cosines[i]) / temperature).exp();
        }
        let classes = self.classes.iter().copied();
        let mut votes: Vec<(u32, f64)> =
            classes.zip(sums).filter_map(|(class, sum)| Some((class, sum?))).collect();
        votes.sort_by(|a, b| b.1.total_cmp(&a.1));
        let (classes, scores) = votes.into_iter().unzip();
        KnnVotes { classes, scores }
    }
}

/// Rows scaled to length 1; those of length 0 stay as they are.
fn normalised(features: &[f32], dimensions: usize) -> Result<Vec<f32>, MetricsError> {
    for (index, &number) in features.iter().enumerate() {
        finite("number of features", index, f64::from(number))?;
    }
    let mut scaled = Vec::with_capacity(features.len());
    for row in features.chunks_exact(dimensions) {
        let length = row.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>().sqrt().max(1e-12);
        scaled.extend(row.iter().map(|&v| (f64::from(v) / length) as f32));
    }
    Ok(scaled)
}

/// The sum of products, in sixteen interleaved sums that the compiler computes side by side.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<16>(), b.as_chunks::<16>());
    let mut sums = [0.0f32; 16];
    for (a, b) in a.iter().zip(b) {
        for i in 0..16 {
            sums[i] += a[i] * b[i];
        }
    }
    sums.iter().sum::<f32>() + a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum::<f32>()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bank() -> KnnBank {
        let features = [1.0, 0.0, 0.9, 0.1, 0.0, 1.0, 0.1, 0.9, 0.7, 0.7];
        KnnBank::new(&features, 2, &[0, 0, 1, 1, 1]).expect("five rows of two")
    }

    /// The vector of the SAMCLR notes.
    #[test]
    fn the_reference_votes() {
        let expected = [
            (3, 0.1, [17050.1, 13029.8], 0.05),
            (5, 0.1, [17745.2, 13029.8], 0.05),
            (3, 0.07, [1110004.0, 573388.0], 2.0),
        ];
        for (k, temperature, scores, tolerance) in expected {
            let votes = bank().classify(&[0.8, 0.5], k, temperature).expect("one query");
            assert_eq!(votes[0].classes, [1, 0]);
            for (found, expected) in votes[0].scores.iter().zip(scores) {
                assert!((found - expected).abs() < tolerance, "{k}, {temperature}: {found} {expected}");
            }
        }
    }

    #[test]
    fn more_neighbours_than_there_are_is_all_of_them() {
        let ask = |k| bank().classify(&[0.8, 0.5, -1.0, 0.0], k, 0.1);
        assert_eq!(ask(5), ask(usize::MAX));
        assert_eq!(ask(5).map(|answers| answers.len()), Ok(2));
    }

    #[test]
    fn of_equals_the_earlier_neighbour_and_the_smaller_class() {
        let bank = KnnBank::new(&[1.0, 0.0, 1.0, 0.0, 2.0, 0.0], 2, &[9, 4, 4]).expect("three rows of two");
        let votes = |k| bank.classify(&[3.0, 0.0], k, 1.0).expect("one query").remove(0);
        assert_eq!(votes(1).classes, [9]);
        assert_eq!(votes(2).classes, [4, 9]);
        assert_eq!(votes(3).classes, [4, 9]);
    }

    #[test]
    fn many_queries_and_dimensions_are_each_by_itself() {
        let features: Vec<f32> = (0..40 * 35).map(|i| ((i * i) as f32 * 0.37).sin()).collect();
        let labels: Vec<u32> = (0..40).map(|i| i % 7).collect();
        let bank = KnnBank::new(&features, 35, &labels).expect("40 rows of 35");
        let answers = bank.classify(&features, 1, 0.1).expect("40 queries");
        let found: Vec<u32> = answers.iter().map(|votes| votes.classes[0]).collect();
        assert_eq!(found, labels);
        for (query, answer) in features.chunks(35).zip(&answers) {
            assert_eq!(bank.classify(query, 1, 0.1).expect("one query")[0], *answer);
        }
    }

    #[test]
    fn features_of_length_zero_are_far_from_everything() {
        let bank = KnnBank::new(&[0.0, 0.0, 0.1, 1.0], 2, &[0, 1]).expect("two rows of two");
        assert_eq!(bank.classify(&[1.0, 0.0], 2, 0.1).expect("one query")[0].classes, [1, 0]);
        assert_eq!(bank.classify(&[0.0, 0.0], 2, 0.1).expect("one query")[0].scores, [1.0, 1.0]);
    }

    #[test]
    fn refuses_what_does_not_fit() {
        assert!(KnnBank::new(&[], 2, &[]).is_err());
        assert!(KnnBank::new(&[], 0, &[1]).is_err());
        assert!(KnnBank::new(&[1.0, 2.0, 3.0], 2, &[0, 1]).is_err());
        assert!(KnnBank::new(&[1.0, f32::NAN], 2, &[0]).is_err());
        assert!(bank().classify(&[1.0, 2.0, 3.0], 1, 0.1).is_err());
        assert!(bank().classify(&[1.0, f32::INFINITY], 1, 0.1).is_err());
        assert!(bank().classify(&[1.0, 2.0], 0, 0.1).is_err());
        for temperature in [0.0, -1.0, f64::NAN] {
            assert!(bank().classify(&[1.0, 2.0], 1, temperature).is_err());
        }
        assert_eq!(bank().classify(&[], 1, 0.1), Ok(vec![]));
    }
}
