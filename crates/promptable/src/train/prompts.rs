//! Prompts drawn from the objects that a model is to find.

use kirie_engine::random::unit;
use kirie_sam::prompt_encoder::{SparsePrompts, TokenLabel};
use rand::{Rng, RngExt};

use super::config::Prompts;
use super::sample::Target;

/// What a batch asks with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Boxes.
    Box,
    /// So many points on the object.
    Points(usize),
}

impl Kind {
    /// Draws a batch's kind.
    pub fn draw(config: &Prompts, rng: &mut impl Rng) -> Self {
        if unit(rng) < config.boxes {
            Self::Box
        } else {
            Self::Points(rng.random_range(config.points[0]..=config.points[1]))
        }
    }
}

/// The largest noise on a box's corner, pixels of the 1024 frame (SAM, appendix A).
const MOST_BOX_NOISE: f32 = 20.0;

/// A prompt for each target. `size` is the view's side, `frame` that of the prompts' frame.
pub fn draw(
    kind: Kind,
    config: &Prompts,
    targets: &[&Target],
    size: usize,
    frame: u32,
    rng: &mut impl Rng,
) -> SparsePrompts {
    let scale = frame as f32 / size as f32;
    match kind {
        Kind::Box => {
            let mut prompts = SparsePrompts { tokens: 2, ..SparsePrompts::default() };
            for target in targets {
                let [x0, y0, x1, y1] =
                    noisy(target.bbox.map(|v| v * scale), config.box_noise as f32, frame, rng);
                prompts.coords.extend([[x0, y0], [x1, y1]]);
                prompts.labels.extend([TokenLabel::BoxTopLeft, TokenLabel::BoxBottomRight]);
            }
            prompts
        }
        Kind::Points(count) => {
            // Points without a box are followed by one token of padding, as the predictor gives them.
            let mut prompts = SparsePrompts { tokens: count + 1, ..SparsePrompts::default() };
            for target in targets {
                let inside = pixels_of(target, size);
                for _ in 0..count {
                    let [x, y] = match inside.len() {
                        0 => target.centre(),
                        n => inside[rng.random_range(0..n)],
                    };
                    prompts.coords.push([x * scale, y * scale]);
                    prompts.labels.push(TokenLabel::Positive);
                }
                prompts.coords.push([0.0; 2]);
                prompts.labels.push(TokenLabel::Padding);
            }
            prompts
        }
    }
}

/// Adds a click to every prompt, before its padding: where the answer is wrong, on the object if that is where it is
/// missing. `answers` are logits of `side * side`.
pub fn correct(
    prompts: &SparsePrompts,
    targets: &[&Target],
    answers: &[&[f32]],
    (size, side): (usize, usize),
    frame: u32,
    rng: &mut impl Rng,
) -> SparsePrompts {
    let scale = frame as f32 / size as f32;
    let mut out = SparsePrompts { tokens: prompts.tokens + 1, ..SparsePrompts::default() };
    let old = prompts.coords.chunks_exact(prompts.tokens).zip(prompts.labels.chunks_exact(prompts.tokens));
    for ((target, answer), (coords, labels)) in targets.iter().zip(answers).zip(old) {
        let mut wrong = Vec::new();
        for (i, cover) in target.cover.iter().enumerate() {
            let (x, y) = (i % size, i / size);
            let found = answer[(y * side / size) * side + x * side / size] > 0.0;
            if *cover != Target::IGNORE && found != Target::is_object(*cover) {
                wrong.push((x, y, !found));
            }
        }
        let (place, label) = match wrong.len() {
            // Nothing to correct: another point on the object.
            0 => {
                let inside = pixels_of(target, size);
                let centre = target.centre();
                let place =
                    if inside.is_empty() { centre } else { inside[rng.random_range(0..inside.len())] };
                (place, TokenLabel::Positive)
            }
            n => {
                let (x, y, missing) = wrong[rng.random_range(0..n)];
                let label = if missing { TokenLabel::Positive } else { TokenLabel::Negative };
                ([x as f32 + 0.5, y as f32 + 0.5], label)
            }
        };
        out.coords.push(place.map(|v| v * scale));
        out.labels.push(label);
        out.coords.extend(coords);
        out.labels.extend(labels);
    }
    out
}

/// Centres of the object's pixels.
fn pixels_of(target: &Target, size: usize) -> Vec<[f32; 2]> {
    let pixels = target.cover.iter().enumerate().filter(|(_, cover)| Target::is_object(**cover));
    pixels.map(|(i, _)| [(i % size) as f32 + 0.5, (i / size) as f32 + 0.5]).collect()
}

fn noisy(bbox: [f32; 4], noise: f32, frame: u32, rng: &mut impl Rng) -> [f32; 4] {
    if noise == 0.0 {
        return bbox;
    }
    let sides = [bbox[2] - bbox[0], bbox[3] - bbox[1]];
    let mut out = bbox;
    for (i, value) in out.iter_mut().enumerate() {
        let shift = (normal(rng) * noise * sides[i % 2]).clamp(-MOST_BOX_NOISE, MOST_BOX_NOISE);
        *value = (*value + shift).clamp(0.0, frame as f32);
    }
    // Noise must not turn a small box inside out.
    if out[0] < out[2] && out[1] < out[3] { out } else { bbox }
}

/// A standard normal deviate (Box and Muller).
fn normal(rng: &mut impl Rng) -> f32 {
    let radius = (-2.0 * (1.0 - unit(rng)).ln()).sqrt();
    (radius * (2.0 * std::f64::consts::PI * unit(rng)).cos()) as f32
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    fn disc(size: usize) -> Target {
        let inside = |i: usize| {
            let (x, y) = ((i % size) as f32 + 0.5 - 20.0, (i / size) as f32 + 0.5 - 30.0);
            x * x + y * y < 64.0
        };
        let cover = (0..size * size).map(|i| if inside(i) { 4 } else { 0 }).collect();
        Target { cover, bbox: [12.0, 22.0, 28.0, 38.0] }
    }

    #[test]
    fn points_lie_on_the_object() {
        let target = disc(64);
        let mut rng = ChaCha8Rng::seed_from_u64(5);
        let prompts = draw(Kind::Points(7), &Prompts::default(), &[&target; 3], 64, 1024, &mut rng);
        assert_eq!((prompts.tokens, prompts.coords.len()), (8, 24));
        for (coords, labels) in prompts.coords.chunks(8).zip(prompts.labels.chunks(8)) {
            assert_eq!(labels[7], TokenLabel::Padding);
            for ([x, y], label) in coords.iter().zip(labels).take(7) {
                assert_eq!(*label, TokenLabel::Positive);
                let (x, y) = (x / 16.0 - 20.0, y / 16.0 - 30.0);
                assert!(x * x + y * y < 64.0);
            }
        }
    }

    #[test]
    fn noise_on_boxes_has_the_right_size() {
        let target = disc(64);
        let config = Prompts { box_noise: 0.05, ..Prompts::default() };
        let mut rng = ChaCha8Rng::seed_from_u64(6);
        let prompts = draw(Kind::Box, &config, &vec![&target; 4000], 64, 1024, &mut rng);
        let shifts: Vec<f64> = prompts.coords.chunks(2).map(|c| f64::from(c[0][0]) - 12.0 * 16.0).collect();
        let mean = shifts.iter().sum::<f64>() / 4000.0;
        let deviation = (shifts.iter().map(|s| s * s).sum::<f64>() / 4000.0).sqrt();
        // 5 % of 256 pixels, hardly cut off at 20
        assert!(mean.abs() < 1.0, "{mean}");
        assert!((10.5..13.5).contains(&deviation), "{deviation}");
        assert!(shifts.iter().all(|s| s.abs() <= 20.0));
        let exact = draw(Kind::Box, &Prompts::default(), &[&target], 64, 1024, &mut rng);
        assert_eq!(exact.coords, [[192.0, 352.0], [448.0, 608.0]]);
    }

    #[test]
    fn corrections_go_where_the_answer_is_wrong() {
        let target = disc(64);
        let mut rng = ChaCha8Rng::seed_from_u64(7);
        let prompts = draw(Kind::Points(1), &Prompts::default(), &[&target; 2], 64, 1024, &mut rng);
        let (nothing, everything) = (vec![-1.0; 32 * 32], vec![1.0; 32 * 32]);
        let next = correct(&prompts, &[&target; 2], &[&nothing, &everything], (64, 32), 1024, &mut rng);
        assert_eq!((next.tokens, next.labels.len()), (3, 6));
        assert_eq!([next.labels[0], next.labels[3]], [TokenLabel::Positive, TokenLabel::Negative]);
        let on = |[x, y]: [f32; 2]| (x / 16.0 - 20.0).hypot(y / 16.0 - 30.0) < 8.0;
        assert!(on(next.coords[0]) && !on(next.coords[3]));
        assert_eq!(next.coords[1..3], prompts.coords[0..2]);
    }
}
