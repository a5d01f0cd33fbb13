//! What is made smaller: NT-Xent (SimCLR, SAMCLR), InfoNCE with a queue (MoCo), cross entropy to a centred teacher (DINO).
//!
//! Rows of several views lie view after view: row `v * B + i` is view `v` of sample `i`.

use burn::tensor::{Device, Tensor, TensorData, activation};

#[cfg(test)]
mod tests;

/// What stands in for minus infinity among logits.
const NOTHING: f32 = -1e9;

/// Rows scaled to length 1, `[rows, width]`.
pub fn normalised(x: Tensor<2>) -> Tensor<2> {
    let length = (x.clone().square().sum_dim(1) + 1e-12).sqrt();
    x / length
}

/// What an anchor's positive is held against, beside itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Against {
    /// The other samples' views: other positives of the same anchor are left out (pytorch-metric-learning, which the SAMCLR
    /// authors' code calls).
    #[default]
    Negatives,
    /// All other views (SimCLR, section 2.1). The same where there are two views.
    All,
}

/// NT-Xent of `views` views each of the same samples; `embeddings` are `[views * samples, width]` and need not be normalised.
///
/// The mean over all ordered positive pairs (a, p) of `-log(e^(s_ap / t) / (e^(s_ap / t) + sum of e^(s_an / t)))`, s being the
/// cosine and t the temperature. A random start gives about the logarithm of 1 + the number of negatives.
pub fn nt_xent(embeddings: Tensor<2>, views: usize, temperature: f64, against: Against) -> Tensor<1> {
    let [rows, _] = embeddings.dims();
    let samples = rows / views.max(1);
    let z = normalised(embeddings);
    let device = z.device();
    let logits = z.clone().matmul(z.transpose()) / temperature;
    let same_sample = |a: usize, b: usize| a % samples == b % samples;
    let hidden = match against {
        Against::Negatives => fill(rows, rows, &device, |a, b| if same_sample(a, b) { NOTHING } else { 0.0 }),
        Against::All => fill(rows, rows, &device, |a, b| if a == b { NOTHING } else { 0.0 }),
    };
    let others = log_sum_exp(logits.clone() + hidden);
    // -log(e^p / (e^p + e^o)) = log(1 + e^(o - p)); where the others hold the positive already, o - p itself.
    let pairs = match against {
        Against::Negatives => softplus(others - logits),
        Against::All => others - logits,
    };
    let positive = fill(rows, rows, &device, |a, b| f32::from(u8::from(a != b && same_sample(a, b))));
    (pairs * positive).sum() / (rows * views.saturating_sub(1)).max(1) as f64
}

/// InfoNCE of MoCo: `queries` and their `keys`, `[batch, width]` both of length 1, against the keys of a queue `[length, width]`.
pub fn info_nce(queries: Tensor<2>, keys: Tensor<2>, queue: Tensor<2>, temperature: f64) -> Tensor<1> {
    let positive = (queries.clone() * keys).sum_dim(1) / temperature;
    let negatives = queries.matmul(queue.transpose()) / temperature;
    softplus(log_sum_exp(negatives) - positive).mean()
}

/// The loss of DINO: cross entropy between what the teacher and the student make of different views.
///
/// `student` `[student views * samples, prototypes]`, `teacher` `[teacher views * samples, prototypes]`: views that both see come
/// first and in the same order. The teacher's are centred by `centre` `[1, prototypes]` and sharpened by the lower of the
/// `temperatures` (student, teacher). The mean over all pairs of different views and over samples.
pub fn dino(
    student: Tensor<2>,
    teacher: Tensor<2>,
    centre: Tensor<2>,
    samples: usize,
    temperatures: [f64; 2],
) -> Tensor<1> {
    let student_views = student.dims()[0] / samples.max(1);
    let teacher_views = teacher.dims()[0] / samples.max(1);
    let targets = activation::softmax((teacher - centre) / temperatures[1], 1);
    let log_probabilities = activation::log_softmax(student / temperatures[0], 1);
    let mut terms = Vec::new();
    for t in 0..teacher_views {
        let target = targets.clone().narrow(0, t * samples, samples);
        for s in (0..student_views).filter(|s| *s != t) {
            let seen = log_probabilities.clone().narrow(0, s * samples, samples);
            terms.push((target.clone() * seen).sum_dim(1).mean());
        }
    }
    let count = terms.len().max(1) as f64;
    let zero = Tensor::zeros([1], &log_probabilities.device());
    -terms.into_iter().fold(zero, |sum, term| sum + term) / count
}

/// `log(sum of exp)` along rows, `[rows, columns]` to `[rows, 1]`.
fn log_sum_exp(x: Tensor<2>) -> Tensor<2> {
    let highest = x.clone().max_dim(1).detach();
    (x - highest.clone()).exp().sum_dim(1).log() + highest
}

/// `log(1 + e^x)` without overflow.
fn softplus(x: Tensor<2>) -> Tensor<2> {
    let tail = (-x.clone().abs()).exp().log1p();
    x.clamp_min(0.0) + tail
}

/// A constant by row and column.
fn fill(rows: usize, columns: usize, device: &Device, value: impl Fn(usize, usize) -> f32) -> Tensor<2> {
    let values: Vec<f32> = (0..rows * columns).map(|i| value(i / columns, i % columns)).collect();
    Tensor::from_data(TensorData::new(values, [rows, columns]), device)
}
