//! Continual learning: what is read off the matrix of scores by training step and test domain.
//!
//! The literature calls several things "forgetting" and "backward transfer"; here each has a name of its own,
//! and its documentation says who uses it. `R[i][j]` is the score on domain `j` after step `i`, both counted
//! from 0, and `T` the number of domains. Scores may be on any scale where more is better; figures come out
//! on that scale.

use serde::{Deserialize, Serialize};

use crate::MetricsError;
use crate::error::{finite, same_length};
use crate::numeric::mean;

/// Scores by training step (rows) and test domain (columns, in the order of training).
///
/// Row `i` holds at least the scores of the `i + 1` domains seen by then, and the unseen ones too if they
/// were tested, which forward transfer needs, and without which a collapse on them goes unnoticed.
///
/// ```
/// use kirie_metrics::TaskMatrix;
///
/// let matrix = TaskMatrix::new(vec![vec![0.9, 0.2], vec![0.7, 0.8]])?;
/// assert_eq!(matrix.last(), 0.75);
/// assert_eq!(matrix.forward_transfer(None)?, Some(0.2));
/// # Ok::<(), kirie_metrics::MetricsError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Vec<Vec<f64>>", into = "Vec<Vec<f64>>")]
pub struct TaskMatrix {
    rows: Vec<Vec<f64>>,
}

impl TryFrom<Vec<Vec<f64>>> for TaskMatrix {
    type Error = MetricsError;

    fn try_from(rows: Vec<Vec<f64>>) -> Result<Self, MetricsError> {
        Self::new(rows)
    }
}

impl From<TaskMatrix> for Vec<Vec<f64>> {
    fn from(matrix: TaskMatrix) -> Self {
        matrix.rows
    }
}

/// The figures of a report, by the names it prints. What needs an earlier domain is `None` for a single one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ContinualReport {
    /// [`TaskMatrix::last`].
    pub last: f64,
    /// [`TaskMatrix::average`].
    pub avg: f64,
    /// [`TaskMatrix::forgetting_from_best`].
    pub forgetting_max: Option<f64>,
    /// [`TaskMatrix::forgetting_from_first`].
    pub forgetting_first: Option<f64>,
    /// [`TaskMatrix::backward_transfer`].
    pub bwt: Option<f64>,
    /// [`TaskMatrix::forward_transfer`], less the baseline where one was given.
    pub fwt: Option<f64>,
    /// [`TaskMatrix::learning_accuracy`].
    pub learning_acc: f64,
}

impl TaskMatrix {
    /// A matrix from its rows, one per training step, as many as there are domains.
    ///
    /// # Errors [`MetricsError::Empty`] without rows, [`MetricsError::TaskRow`] for a row that is too short
    /// or too long, [`MetricsError::NotFinite`] for a score that is NaN or infinite.
    pub fn new(rows: Vec<Vec<f64>>) -> Result<Self, MetricsError> {
        if rows.is_empty() {
            return Err(MetricsError::Empty { what: "rows of a task matrix" });
        }
        let domains = rows.len();
        for (row, scores) in rows.iter().enumerate() {
            let (expected, found) = (row + 1, scores.len());
            if !(expected..=domains).contains(&found) {
                return Err(MetricsError::TaskRow { row, expected, domains, found });
            }
            for (domain, &score) in scores.iter().enumerate() {
                finite("score of domain", domain, score)?;
            }
        }
        Ok(Self { rows })
    }

    /// The scores, row by row.
    pub fn rows(&self) -> &[Vec<f64>] {
        &self.rows
    }

    /// The number of domains, `T`.
    pub fn domains(&self) -> usize {
        self.rows.len()
    }

    /// `R[T-1][..]`.
    fn final_row(&self) -> &[f64] {
        self.rows.last().map_or(&[], Vec::as_slice)
    }

    /// `R[j][j]`.
    fn diagonal(&self) -> impl Iterator<Item = f64> + '_ {
        self.rows.iter().enumerate().map(|(j, row)| row[j])
    }

    /// **Last**: the mean over all domains after the last step, `1/T sum_j R[T-1][j]`. GEM's ACC, Mammoth's
    /// `accmean`, the CoSAM benchmark's Last-IoU.
    pub fn last(&self) -> f64 {
        mean(self.final_row()).unwrap_or_default()
    }

    /// **Average**: the mean over the steps of the mean over the domains seen by then,
    /// `1/T sum_i 1/(i+1) sum_{j<=i} R[i][j]`. Average incremental accuracy; CoSAM's Avg-IoU as commonly
    /// read.
    pub fn average(&self) -> f64 {
        let seen = |(i, row): (usize, &Vec<f64>)| mean(&row[..=i]).unwrap_or_default();
        mean(&self.rows.iter().enumerate().map(seen).collect::<Vec<_>>()).unwrap_or_default()
    }

    /// **Accuracy A**: the mean over all seen entries, `2/(T(T+1)) sum_{i>=j} R[i][j]` (Díaz-Rodríguez et al.
    /// 2018; continuum's `accuracy_A`). Unlike [`average`](Self::average) later steps weigh more.
    pub fn accuracy_a(&self) -> f64 {
        let seen = self.rows.iter().enumerate().flat_map(|(i, row)| &row[..=i]);
        mean(&seen.copied().collect::<Vec<_>>()).unwrap_or_default()
    }

    /// **Learning accuracy**: each domain right after its own step, `1/T sum_j R[j][j]`.
    pub fn learning_accuracy(&self) -> f64 {
        mean(&self.diagonal().collect::<Vec<_>>()).unwrap_or_default()
    }

    /// **Forgetting from the best earlier score** (Chaudhry et al. 2018; continuum):
    /// `1/(T-1) sum_{j<T-1} (max_{j<=l<=T-2} R[l][j] - R[T-1][j])`. CoSAM's FF ("final forgetting") as
    /// commonly read. Below 0 when the last step improved on all before. `None` for a single domain.
    pub fn forgetting_from_best(&self) -> Option<f64> {
        let steps = self.domains() - 1;
        self.over_earlier(|j, last| best(&self.rows[j..steps], j) - last)
    }

    /// **Forgetting from the best score at any step** (Mammoth): the maximum is over the whole column, so
    /// also over the last step, which keeps it at 0 or above, and over those before the domain was seen,
    /// where they were tested (Mammoth itself takes 0 where they were not). `None` for a single domain.
    pub fn forgetting_from_any(&self) -> Option<f64> {
        self.over_earlier(|j, last| best(&self.rows, j) - last)
    }

    /// **Forgetting from the first score** (Avalanche): `1/(T-1) sum_{j<T-1} (R[j][j] - R[T-1][j])`, which is
    /// [`backward_transfer`](Self::backward_transfer) negated. `None` for a single domain.
    pub fn forgetting_from_first(&self) -> Option<f64> {
        self.over_earlier(|j, last| self.rows[j][j] - last)
    }

    /// **Forgetting over all domains** (SAMCL's FM): as
    /// [`forgetting_from_first`](Self::forgetting_from_first), but the last domain, which cannot have been
    /// forgotten, counts in the mean with 0:
    /// `1/T sum_j (R[j][j] - R[T-1][j])`.
    pub fn forgetting_over_all(&self) -> f64 {
        let lost: Vec<f64> =
            self.diagonal().zip(self.final_row()).map(|(first, last)| first - last).collect();
        mean(&lost).unwrap_or_default()
    }

    /// **Backward transfer** (GEM; Mammoth; Avalanche): `1/(T-1) sum_{j<T-1} (R[T-1][j] - R[j][j])`. Below 0
    /// means forgetting. `None` for a single domain.
    pub fn backward_transfer(&self) -> Option<f64> {
        self.over_earlier(|j, last| last - self.rows[j][j])
    }

    /// **Backward transfer over all pairs** (Díaz-Rodríguez et al. 2018; continuum's `backward_transfer`):
    /// `2/(T(T-1)) sum_{i>j} (R[i][j] - R[j][j])`. Its positive part is `max(.., 0)`, "remembering" is
    /// `1 - |min(.., 0)|`. `None` for a single domain.
    pub fn backward_transfer_over_pairs(&self) -> Option<f64> {
        let later =
            |(i, row): (usize, &Vec<f64>)| (0..i).map(|j| row[j] - self.rows[j][j]).collect::<Vec<_>>();
        mean(&self.rows.iter().enumerate().flat_map(later).collect::<Vec<_>>())
    }

    /// **Forward transfer** (GEM; Mammoth; Avalanche): `1/(T-1) sum_{j>=1} (R[j-1][j] - b_j)`, how well a
    /// domain does just before it is trained on, less the `baseline` `b` of a model not trained at all (for
    /// SAM: zero shot), one score per domain. Without a baseline nothing is taken off, as in continuum and
    /// SAMCL. `None` for a single domain, or when a domain was not tested before its step.
    ///
    /// # Errors [`MetricsError::Length`] for a baseline of another number of domains,
    /// [`MetricsError::NotFinite`] for one that is NaN or infinite.
    pub fn forward_transfer(&self, baseline: Option<&[f64]>) -> Result<Option<f64>, MetricsError> {
        if let Some(baseline) = baseline {
            self.check("baseline scores", baseline)?;
        }
        let base = |j: usize| baseline.map_or(0.0, |scores| scores[j]);
        let ahead = (1..self.domains()).map(|j| Some(self.rows[j - 1].get(j)? - base(j)));
        Ok(ahead.collect::<Option<Vec<_>>>().and_then(|gains| mean(&gains)))
    }

    /// **Intransigence** (Chaudhry et al. 2018) by domain: `joint[j] - R[j][j]`, what learning one domain
    /// after another costs against a model trained on all at once with scores `joint`.
    ///
    /// # Errors [`MetricsError::Length`] for another number of domains, [`MetricsError::NotFinite`] for a
    /// score that is NaN or infinite.
    pub fn intransigence(&self, joint: &[f64]) -> Result<Vec<f64>, MetricsError> {
        self.check("joint scores", joint)?;
        Ok(joint.iter().zip(self.diagonal()).map(|(joint, own)| joint - own).collect())
    }

    /// The figures of a report. `baseline` as for [`forward_transfer`](Self::forward_transfer).
    ///
    /// # Errors
    /// As [`forward_transfer`](Self::forward_transfer).
    pub fn report(&self, baseline: Option<&[f64]>) -> Result<ContinualReport, MetricsError> {
        Ok(ContinualReport {
            last: self.last(),
            avg: self.average(),
            forgetting_max: self.forgetting_from_best(),
            forgetting_first: self.forgetting_from_first(),
            bwt: self.backward_transfer(),
            fwt: self.forward_transfer(baseline)?,
            learning_acc: self.learning_accuracy(),
        })
    }

    /// The mean of `figure(j, R[T-1][j])` over all domains but the last.
    fn over_earlier(&self, figure: impl Fn(usize, f64) -> f64) -> Option<f64> {
        let earlier = self.final_row().iter().take(self.domains() - 1).enumerate();
        mean(&earlier.map(|(j, &last)| figure(j, last)).collect::<Vec<_>>())
    }

    fn check(&self, what: &'static str, scores: &[f64]) -> Result<(), MetricsError> {
        same_length(what, self.domains(), scores.len())?;
        scores.iter().enumerate().try_for_each(|(j, &score)| finite(what, j, score).map(|_| ()))
    }
}

/// The best score of a domain in some rows, of those that have one.
fn best(rows: &[Vec<f64>], domain: usize) -> f64 {
    rows.iter().filter_map(|row| row.get(domain)).copied().fold(f64::NEG_INFINITY, f64::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A logged run of the CoSAM repository (naive, HQ-SAM ViT-B), IoU and boundary IoU.
    const IOU: [[f64; 8]; 8] = [
        [0.7578, 0.7659, 0.6777, 0.4901, 0.4069, 0.3313, 0.2902, 0.1657],
        [0.7431, 0.7536, 0.6715, 0.4670, 0.3776, 0.2634, 0.1057, 0.0569],
        [0.7355, 0.7654, 0.6669, 0.5194, 0.3563, 0.1782, 0.0462, 0.0448],
        [0.6680, 0.6680, 0.5845, 0.7177, 0.7996, 0.7533, 0.6565, 0.6725],
        [0.7027, 0.6755, 0.5952, 0.6922, 0.8451, 0.7454, 0.6557, 0.7668],
        [0.6782, 0.7264, 0.5907, 0.6765, 0.8169, 0.8056, 0.6477, 0.7407],
        [0.7167, 0.7647, 0.6406, 0.6695, 0.8226, 0.7280, 0.7097, 0.7271],
        [0.6863, 0.7781, 0.6437, 0.6456, 0.8214, 0.6919, 0.6755, 0.7873],
    ];
    const BIOU: [[f64; 8]; 8] = [
        [0.7578, 0.7659, 0.6777, 0.4765, 0.3848, 0.2356, 0.1843, 0.1023],
        [0.7431, 0.7536, 0.6715, 0.4606, 0.3550, 0.1717, 0.0760, 0.0343],
        [0.7355, 0.7654, 0.6669, 0.5119, 0.3402, 0.1448, 0.0462, 0.0296],
        [0.6678, 0.6680, 0.5845, 0.6759, 0.6027, 0.5286, 0.3485, 0.4459],
        [0.7026, 0.6755, 0.5952, 0.6427, 0.7592, 0.5490, 0.3690, 0.5220],
        [0.6779, 0.7264, 0.5907, 0.6273, 0.7205, 0.6343, 0.3657, 0.4885],
        [0.7167, 0.7647, 0.6406, 0.6212, 0.7185, 0.5463, 0.4468, 0.5017],
        [0.6863, 0.7781, 0.6437, 0.5992, 0.7164, 0.5176, 0.4041, 0.5633],
    ];

    fn matrix(rows: &[[f64; 8]; 8]) -> TaskMatrix {
        TaskMatrix::new(rows.map(|row| row.to_vec()).to_vec()).expect("8 rows of 8")
    }

    /// The figures that the reference lists, in its order.
    fn figures(rows: &[[f64; 8]; 8]) -> [f64; 10] {
        let m = matrix(rows);
        [
            m.last(),
            m.average(),
            m.accuracy_a(),
            m.forgetting_from_best().expect("8 domains"),
            m.forgetting_from_any().expect("8 domains"),
            m.forgetting_from_first().expect("8 domains"),
            m.backward_transfer().expect("8 domains"),
            m.backward_transfer_over_pairs().expect("8 domains"),
            m.forward_transfer(None).expect("no baseline").expect("all tested"),
            m.learning_accuracy(),
        ]
    }

    #[test]
    fn the_logged_run() {
        let expected = [
            (IOU, [0.7162, 0.7180, 0.7124, 0.0465, 0.0499, 0.0448, -0.0448, -0.0459, 0.6967, 0.7555]),
            (BIOU, [0.6136, 0.6832, 0.6593, 0.0516, 0.0549, 0.0499, -0.0499, -0.0493, 0.5669, 0.6572]),
        ];
        for (rows, expected) in expected {
            for (i, (found, expected)) in figures(&rows).into_iter().zip(expected).enumerate() {
                assert!((found - expected).abs() <= 0.00005 + 1e-12, "figure {i}: {found} {expected}");
            }
        }
    }

    #[test]
    fn other_definitions_on_two_domains() {
        let matrix = TaskMatrix::new(vec![vec![0.5, 0.25], vec![0.75, 1.0]]).expect("2 rows of 2");
        assert_eq!(matrix.forgetting_from_best(), Some(-0.25));
        assert_eq!(matrix.forgetting_from_any(), Some(0.0));
        assert_eq!(matrix.forgetting_over_all(), -0.125);
        assert_eq!(matrix.forward_transfer(Some(&[0.5, 0.125])), Ok(Some(0.125)));
        assert_eq!(matrix.intransigence(&[0.75, 0.75]), Ok(vec![0.25, -0.25]));
        assert!(matrix.intransigence(&[0.75]).is_err());
        assert!(matrix.forward_transfer(Some(&[0.5, f64::NAN])).is_err());
        assert!(matrix.report(Some(&[0.5])).is_err());
    }

    #[test]
    fn one_domain_forgets_nothing() {
        let report = TaskMatrix::new(vec![vec![0.5]]).expect("one score").report(None).expect("no baseline");
        let expected = ContinualReport {
            last: 0.5,
            avg: 0.5,
            forgetting_max: None,
            forgetting_first: None,
            bwt: None,
            fwt: None,
            learning_acc: 0.5,
        };
        assert_eq!(report, expected);
    }

    #[test]
    fn seen_domains_alone_are_enough_but_for_forward_transfer() {
        let seen =
            TaskMatrix::new(vec![vec![0.5], vec![0.25, 0.75], vec![0.5, 0.5, 1.0]]).expect("a triangle");
        assert_eq!(seen.forgetting_from_any(), Some(0.125));
        assert_eq!(seen.forward_transfer(None), Ok(None));
    }

    #[test]
    fn rows_and_scores_are_checked_also_when_read() {
        assert!(TaskMatrix::new(vec![]).is_err());
        let error = TaskMatrix::new(vec![vec![0.5], vec![0.5]]).expect_err("a score is missing");
        assert_eq!(error.to_string(), "task matrix, row 1: expected 2 to 2 scores, found 1");
        assert!(TaskMatrix::new(vec![vec![0.5, 0.5]]).is_err());
        assert!(TaskMatrix::new(vec![vec![f64::NAN]]).is_err());
        let text = serde_json::to_string(&matrix(&IOU)).expect("plain numbers");
        assert_eq!(serde_json::from_str::<TaskMatrix>(&text).expect("what was written"), matrix(&IOU));
        assert!(serde_json::from_str::<TaskMatrix>("[[0.5],[0.5]]").is_err());
    }
}
