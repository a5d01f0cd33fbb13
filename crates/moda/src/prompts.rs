//! Prompt pools: what L2P, DualPrompt, CODA-Prompt and S-Prompts train.
//!
//! Their papers put learned tokens into a vision transformer. The encoders here need not be one (kirie-small's is convolutional), but
//! SAM's decoder always works on a sequence of tokens. So a pool's tokens stand beside those of the prompt, in the decoder, where the
//! CoSAM repository puts those of L2P; the query that chooses among them is the mean of the frozen embedding over its places. Figures
//! are therefore not those of methods that change the encoder.
//!
//! | strategy | pool | chosen by | trained in domain t |
//! | --- | --- | --- | --- |
//! | L2P | 40 prompts of 5 tokens | the 5 keys nearest to the query, for each picture | those chosen; keys are pulled to the query |
//! | DualPrompt | a general prompt, and one for each domain | the nearest key; in training domain t's own | both; its key is pulled |
//! | CODA-Prompt | components, an equal share for each domain | a weighted sum of all learned so far | domain t's share |
//! | S-Prompts | one prompt for each domain, each trained alone | nearest of k-means centroids, see [`crate::router`] | its own |

use burn::module::{Initializer, Module, Param};
use burn::tensor::{Device, Int, Tensor, TensorData};
use rand::Rng;
use serde::{Deserialize, Serialize};

use crate::error::ContinualError;

/// Sizes of the pools.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PromptConfig {
    /// Tokens of a prompt of L2P, DualPrompt and S-Prompts.
    pub length: usize,
    /// L2P: prompts in the pool.
    pub pool: usize,
    /// L2P: prompts chosen for a picture.
    pub top: usize,
    /// CODA-Prompt: tokens of a component.
    pub coda_length: usize,
    /// CODA-Prompt: components of a domain.
    pub coda_components: usize,
    /// L2P and DualPrompt: weight of the pull between query and chosen keys.
    pub pull: f64,
}

impl Default for PromptConfig {
    fn default() -> Self {
        Self { length: 5, pool: 40, top: 5, coda_length: 8, coda_components: 8, pull: 1.0 }
    }
}

impl PromptConfig {
    /// Checks the numbers.
    pub fn check(&self) -> Result<(), ContinualError> {
        let sizes = [
            ("prompts.length", self.length),
            ("prompts.pool", self.pool),
            ("prompts.top", self.top),
            ("prompts.coda_length", self.coda_length),
            ("prompts.coda_components", self.coda_components),
        ];
        for (name, size) in sizes {
            if size == 0 || size > 1024 {
                return Err(ContinualError::setting(name, size, "1 to 1024"));
            }
        }
        if self.top > self.pool {
            return Err(ContinualError::setting("prompts.top", self.top, "at most prompts.pool"));
        }
        if !(self.pull.is_finite() && self.pull >= 0.0) {
            return Err(ContinualError::setting("prompts.pull", self.pull, "0 or more"));
        }
        Ok(())
    }
}

/// How a pool's tokens are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Choice {
    /// L2P: so many of the nearest keys.
    Nearest(usize),
    /// DualPrompt: the nearest key of the domains seen.
    Domain,
    /// CODA-Prompt: a weighted sum, so many components a domain.
    Weighted(usize),
    /// S-Prompts: all there is.
    All,
}

/// How far a stream is, for a pool that goes by domains.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pick {
    /// Domains that are learned, the one that is being learned included.
    pub seen: usize,
    /// Whether the last of them is being learned.
    pub training: bool,
}

/// A pool of prompts. Keys: `prompts` `[count, length, C]`, `keys` `[count, C]`, `attention` `[count, C]`, `general` `[length, C]`.
#[derive(Module, Debug)]
pub struct PromptPool {
    /// The tokens.
    pub prompts: Param<Tensor<3>>,
    /// What queries are compared with.
    pub keys: Option<Param<Tensor<2>>>,
    /// CODA-Prompt: which channels of a query count for a component.
    pub attention: Option<Param<Tensor<2>>>,
    /// DualPrompt: tokens of all domains.
    pub general: Option<Param<Tensor<2>>>,
    #[module(skip)]
    choice: Choice,
}

fn even<const D: usize>(shape: [usize; D], device: &Device) -> Param<Tensor<D>> {
    Initializer::Uniform { min: -1.0, max: 1.0 }.init(shape, device)
}

/// Small random tokens, so that a decoder that never saw them is disturbed little.
fn small<const D: usize>(shape: [usize; D], device: &Device) -> Param<Tensor<D>> {
    Initializer::Normal { mean: 0.0, std: 0.02 }.init(shape, device)
}

impl PromptPool {
    /// L2P's pool for tokens of `dim` channels.
    pub fn l2p(config: &PromptConfig, dim: usize, device: &Device) -> Self {
        Self {
            prompts: small([config.pool, config.length, dim], device),
            keys: Some(even([config.pool, dim], device)),
            attention: None,
            general: None,
            choice: Choice::Nearest(config.top),
        }
    }

    /// DualPrompt's for so many domains.
    pub fn dual(config: &PromptConfig, domains: usize, dim: usize, device: &Device) -> Self {
        Self {
            prompts: small([domains, config.length, dim], device),
            keys: Some(even([domains, dim], device)),
            attention: None,
            general: Some(small([config.length, dim], device)),
            choice: Choice::Domain,
        }
    }

    /// CODA-Prompt's for so many domains; keys and attention vectors of all components begin orthogonal to one another where there are
    /// no more of them than channels.
    pub fn coda(
        config: &PromptConfig,
        domains: usize,
        dim: usize,
        rng: &mut impl Rng,
        device: &Device,
    ) -> Self {
        let count = domains * config.coda_components;
        let mut vectors = || {
            let data = TensorData::new(orthogonal(count, dim, rng), [count, dim]);
            Param::from_tensor(Tensor::from_data(data, device))
        };
        Self {
            keys: Some(vectors()),
            attention: Some(vectors()),
            prompts: small([count, config.coda_length, dim], device),
            general: None,
            choice: Choice::Weighted(config.coda_components),
        }
    }

    /// As it begins the nth domain, from 0: DualPrompt's tokens of a domain start from those of the one before.
    #[must_use]
    pub(crate) fn for_domain(mut self, n: usize) -> Self {
        if self.choice == Choice::Domain && n > 0 {
            self.prompts = self.prompts.map(|prompts| {
                let prompts = prompts.inner();
                let [_, length, dim] = prompts.dims();
                let before = prompts.clone().narrow(0, n - 1, 1);
                let prompts = prompts.slice_assign([n..n + 1, 0..length, 0..dim], before);
                Tensor::from_inner(prompts).set_require_grad(true)
            });
        }
        self
    }

    /// One prompt, as S-Prompts has for each domain.
    pub fn single(config: &PromptConfig, dim: usize, device: &Device) -> Self {
        Self {
            prompts: small([1, config.length, dim], device),
            keys: None,
            attention: None,
            general: None,
            choice: Choice::All,
        }
    }

    /// The tokens for queries `[B, C]`, `[B, N, C]` or `[1, N, C]`; and, in training, the mean cosine of queries and chosen keys
    /// where a method pulls them together, `[1]`.
    pub fn tokens(&self, query: Tensor<2>, pick: Pick) -> (Tensor<3>, Option<Tensor<1>>) {
        let prompts = self.prompts.val();
        let [_, length, dim] = prompts.dims();
        let [batch, _] = query.dims();
        let seen = pick.seen.max(1);
        let Some(keys) = self.keys.as_ref().map(Param::val) else { return (prompts, None) };
        match self.choice {
            Choice::All => (prompts, None),
            Choice::Nearest(top) => {
                let likeness = cosines(query, keys); // [B, pool]
                let chosen = nearest(&likeness, top);
                let index: Vec<i32> = chosen.iter().map(|at| *at as i32).collect();
                let device = likeness.device();
                let flat =
                    Tensor::<1, Int>::from_data(TensorData::new(index.clone(), [index.len()]), &device);
                let tokens = prompts.select(0, flat).reshape([batch, top * length, dim]);
                let index = Tensor::<2, Int>::from_data(TensorData::new(index, [batch, top]), &device);
                let pull = likeness.gather(1, index).sum() / batch as f64;
                (tokens, pick.training.then_some(pull))
            }
            Choice::Domain => {
                let likeness = cosines(query, keys.narrow(0, 0, seen));
                let chosen = if pick.training { vec![seen - 1; batch] } else { nearest(&likeness, 1) };
                let index: Vec<i32> = chosen.iter().map(|at| *at as i32).collect();
                let index = Tensor::<1, Int>::from_data(TensorData::new(index, [batch]), &likeness.device());
                let mut tokens = prompts.select(0, index);
                if let Some(general) = &self.general {
                    let general = general.val().unsqueeze::<3>().expand([batch, length, dim]);
                    tokens = Tensor::cat(vec![general, tokens], 1);
                }
                let pull = likeness.narrow(1, seen - 1, 1).mean();
                (tokens, pick.training.then_some(pull))
            }
            Choice::Weighted(share) => {
                let count = seen * share;
                // What earlier domains learned takes part, but is not changed.
                let old = if pick.training { count - share } else { 0 };
                let keys = partly_fixed(keys.narrow(0, 0, count), old);
                let prompts = partly_fixed(prompts.narrow(0, 0, count), old);
                let keys = normed(keys, 1);
                let query = query.unsqueeze_dim::<3>(1).expand([batch, count, dim]);
                let query = match &self.attention {
                    Some(attention) => {
                        query * partly_fixed(attention.val().narrow(0, 0, count), old).unsqueeze::<3>()
                    }
                    None => query,
                };
                let weights = (normed(query, 2) * keys.unsqueeze::<3>()).sum_dim(2).squeeze_dim::<2>(2);
                let tokens = weights.matmul(prompts.reshape([count, length * dim]));
                (tokens.reshape([batch, length, dim]), None)
            }
        }
    }
}

/// The first `old` rows without a gradient.
fn partly_fixed<const D: usize>(x: Tensor<D>, old: usize) -> Tensor<D> {
    let rows = x.dims()[0];
    if old == 0 || !x.device().is_autodiff() {
        return x;
    }
    let fixed = x.clone().narrow(0, 0, old).detach();
    if old == rows { fixed } else { Tensor::cat(vec![fixed, x.narrow(0, old, rows - old)], 0) }
}

/// Rows (or whatever lies along `axis`) of length 1.
fn normed<const D: usize>(x: Tensor<D>, axis: usize) -> Tensor<D> {
    let length = (x.clone().square().sum_dim(axis) + 1e-12).sqrt();
    x / length
}

/// Cosines of `[B, C]` with `[K, C]`, `[B, K]`.
pub(crate) fn cosines(query: Tensor<2>, keys: Tensor<2>) -> Tensor<2> {
    normed(query, 1).matmul(normed(keys, 1).transpose())
}

/// For each row the places of the `top` largest values, the largest first, the first of equals.
fn nearest(likeness: &Tensor<2>, top: usize) -> Vec<usize> {
    let [_, count] = likeness.dims();
    let plain = if likeness.device().is_autodiff() { likeness.clone().inner() } else { likeness.clone() };
    let values: Vec<f32> = plain.into_data().iter::<f32>().collect();
    let best = |row: &[f32]| {
        let mut order: Vec<usize> = (0..count).collect();
        order.sort_by(|a, b| row[*b].total_cmp(&row[*a]).then(a.cmp(b)));
        order.truncate(top);
        order
    };
    values.chunks_exact(count).flat_map(best).collect()
}

/// Random vectors of length 1, each orthogonal to the `dim - 1` before it (Gram and Schmidt).
fn orthogonal(count: usize, dim: usize, rng: &mut impl Rng) -> Vec<f32> {
    let mut rows: Vec<Vec<f64>> = Vec::with_capacity(count);
    for _ in 0..count {
        let mut row: Vec<f64> = (0..dim).map(|_| 2.0 * kirie_engine::random::unit(rng) - 1.0).collect();
        let from = rows.len() - rows.len() % dim;
        for other in &rows[from..] {
            let along: f64 = row.iter().zip(other).map(|(a, b)| a * b).sum();
            row.iter_mut().zip(other).for_each(|(a, b)| *a -= along * b);
        }
        let length = row.iter().map(|v| v * v).sum::<f64>().sqrt().max(1e-12);
        rows.push(row.into_iter().map(|v| v / length).collect());
    }
    rows.into_iter().flatten().map(|v| v as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Distribution;
    use kirie_engine::random::Streams;

    const DIM: usize = 8;

    fn config() -> PromptConfig {
        PromptConfig { length: 2, pool: 6, top: 2, coda_length: 3, coda_components: 2, pull: 1.0 }
    }

    fn queries(device: &Device) -> Tensor<2> {
        Tensor::random([3, DIM], Distribution::Normal(0.0, 1.0), device)
    }

    #[test]
    fn vectors_are_orthogonal_and_of_length_one() {
        let rows = orthogonal(6, DIM, &mut Streams::new(1).stream("test", &[]));
        for (i, a) in rows.chunks(DIM).enumerate() {
            for (j, b) in rows.chunks(DIM).enumerate() {
                let product: f32 = a.iter().zip(b).map(|(a, b)| a * b).sum();
                assert!((product - f32::from(u8::from(i == j))).abs() < 1e-5, "{i} {j} {product}");
            }
        }
    }

    #[test]
    fn l2p_chooses_the_nearest_keys_and_pulls_them() {
        let device = Device::flex().autodiff();
        let pool = PromptPool::l2p(&config(), DIM, &device);
        // A query that is a key itself chooses it first, with a cosine of 1.
        let keys = pool.keys.as_ref().unwrap().val();
        let query = keys.clone().narrow(0, 4, 1).detach();
        let (tokens, pull) = pool.tokens(query.clone(), Pick { seen: 1, training: true });
        assert_eq!(tokens.dims(), [1, 4, DIM]);
        let first = tokens.narrow(1, 0, 2).inner() - pool.prompts.val().narrow(0, 4, 1).inner();
        assert_eq!(first.abs().max().into_scalar::<f32>(), 0.0);
        let expected: f32 = {
            let row: Vec<f32> = cosines(query, keys.clone()).inner().into_data().iter::<f32>().collect();
            let mut row = row;
            row.sort_by(f32::total_cmp);
            row[4] + row[5]
        };
        let pull = pull.unwrap();
        assert!((pull.clone().into_scalar::<f32>() - expected).abs() < 1e-5);
        let gradients = pull.backward();
        let moved = pool.keys.as_ref().unwrap().val().grad(&gradients).unwrap();
        let rows: Vec<f32> = moved.abs().sum_dim(1).into_data().iter::<f32>().collect();
        assert!(rows.iter().filter(|sum| **sum > 1e-7).count() <= 2, "{rows:?}");
    }

    #[test]
    fn coda_leaves_earlier_components_alone() {
        let device = Device::flex().autodiff();
        let pool = PromptPool::coda(&config(), 3, DIM, &mut Streams::new(2).stream("test", &[]), &device);
        let (tokens, pull) = pool.tokens(queries(&device), Pick { seen: 2, training: true });
        assert_eq!(tokens.dims(), [3, 3, DIM]);
        assert!(pull.is_none());
        let gradients = tokens.square().sum().backward();
        let sums = |t: Tensor<2>| -> Vec<f32> { t.abs().sum_dim(1).into_data().iter::<f32>().collect() };
        let keys = sums(pool.keys.as_ref().unwrap().val().grad(&gradients).unwrap());
        let prompts = pool.prompts.val().grad(&gradients).unwrap().reshape([6, 3 * DIM]);
        for (row, sum) in sums(prompts).iter().enumerate() {
            assert_eq!((2..4).contains(&row), *sum > 0.0, "prompt {row}");
        }
        assert!(keys[2] > 0.0 && keys[0] == 0.0 && keys[4] == 0.0, "{keys:?}");
    }

    #[test]
    fn dual_takes_its_own_prompt_in_training_and_the_nearest_key_later() {
        let device = Device::flex();
        let pool = PromptPool::dual(&config(), 3, DIM, &device);
        let key = pool.keys.as_ref().unwrap().val().narrow(0, 0, 1);
        let expert = |pick| {
            let (tokens, _) = pool.tokens(key.clone(), pick);
            assert_eq!(tokens.dims(), [1, 4, DIM]);
            tokens.narrow(1, 2, 2)
        };
        let same = |a: Tensor<3>, row| {
            (a - pool.prompts.val().narrow(0, row, 1)).abs().max().into_scalar::<f32>() == 0.0
        };
        assert!(same(expert(Pick { seen: 2, training: true }), 1));
        assert!(same(expert(Pick { seen: 2, training: false }), 0));
    }
}
