//! First segments of a picture: Felzenszwalb and Huttenlocher, "Efficient Graph-Based Image Segmentation", IJCV 2004.
//!
//! Pixels are joined along the edges between neighbours, the weakest first, wherever the edge is no stronger than what is already
//! inside of either part, plus `k` over the part's size.

use super::Channels;

/// Strength of the smoothing before, pixels.
const SIGMA: f32 = 0.8;

/// The segment of every pixel, numbered from 0 in the order in which they are met. Segments of fewer than `least` pixels are joined
/// to a neighbour.
pub(super) fn segments(channels: &Channels, k: f32, least: usize) -> Vec<usize> {
    let (width, height) = (channels.width, channels.height);
    let smooth: Vec<Vec<f32>> =
        channels.values.iter().map(|values| smoothed(values, width, height)).collect();
    let difference =
        |a: usize, b: usize| smooth.iter().map(|values| (values[a] - values[b]).powi(2)).sum::<f32>().sqrt();
    let mut edges = Vec::with_capacity(4 * width * height);
    for y in 0..height {
        for x in 0..width {
            let at = y * width + x;
            let mut add = |other: usize| edges.push((difference(at, other), at, other));
            if x + 1 < width {
                add(at + 1);
            }
            if y + 1 < height {
                add(at + width);
            }
            if x + 1 < width && y + 1 < height {
                add(at + width + 1);
            }
            if x + 1 < width && y > 0 {
                add(at + 1 - width);
            }
        }
    }
    edges.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut sets = Sets::new(width * height);
    let mut thresholds = vec![k; width * height];
    for (weight, a, b) in &edges {
        let (a, b) = (sets.find(*a), sets.find(*b));
        if a != b && *weight <= thresholds[a] && *weight <= thresholds[b] {
            let root = sets.join(a, b);
            thresholds[root] = weight + k / sets.size[root] as f32;
        }
    }
    for (_, a, b) in &edges {
        let (a, b) = (sets.find(*a), sets.find(*b));
        if a != b && (sets.size[a] < least || sets.size[b] < least) {
            sets.join(a, b);
        }
    }
    let mut numbers = vec![usize::MAX; width * height];
    let mut next = 0;
    (0..width * height)
        .map(|at| {
            let root = sets.find(at);
            if numbers[root] == usize::MAX {
                numbers[root] = next;
                next += 1;
            }
            numbers[root]
        })
        .collect()
}

/// Disjoint sets.
struct Sets {
    parent: Vec<usize>,
    size: Vec<usize>,
}

impl Sets {
    fn new(count: usize) -> Self {
        Self { parent: (0..count).collect(), size: vec![1; count] }
    }

    fn find(&mut self, mut at: usize) -> usize {
        while self.parent[at] != at {
            self.parent[at] = self.parent[self.parent[at]];
            at = self.parent[at];
        }
        at
    }

    /// Joins two roots; gives the root of both.
    fn join(&mut self, a: usize, b: usize) -> usize {
        let (root, other) = if self.size[a] >= self.size[b] { (a, b) } else { (b, a) };
        self.parent[other] = root;
        self.size[root] += self.size[other];
        root
    }
}

/// Smoothed by a Gaussian cut off at four standard deviations; the picture's edge goes on outside.
fn smoothed(values: &[f32], width: usize, height: usize) -> Vec<f32> {
    let reach = (4.0 * SIGMA).ceil() as isize;
    let weight = |d: isize| (-0.5 * (d as f32 / SIGMA).powi(2)).exp();
    let sum: f32 = (-reach..=reach).map(weight).sum();
    let weights: Vec<f32> = (-reach..=reach).map(|d| weight(d) / sum).collect();
    let along = |values: &[f32], length: usize, place: &dyn Fn(usize, usize) -> usize, lines: usize| {
        let mut out = vec![0.0; values.len()];
        for line in 0..lines {
            for at in 0..length {
                out[place(line, at)] = weights
                    .iter()
                    .zip(-reach..)
                    .map(|(weight, d)| {
                        let from = (at as isize + d).clamp(0, length as isize - 1) as usize;
                        weight * values[place(line, from)]
                    })
                    .sum();
            }
        }
        out
    };
    let rows = along(values, width, &|y, x| y * width + x, height);
    along(&rows, height, &|x, y| y * width + x, width)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_of_two_colours_are_two_segments() {
        let (width, height) = (20, 10);
        let plane: Vec<f32> =
            (0..width * height).map(|at| if at % width < 10 { 20.0 } else { 220.0 }).collect();
        let channels = Channels { width, height, values: [plane.clone(), plane.clone(), plane] };
        // The smoothed columns at the edge are segments of their own, of ten pixels, until the least size takes them in.
        assert_eq!(segments(&channels, 150.0, 5).iter().max(), Some(&5));
        let found = segments(&channels, 150.0, 15);
        assert_eq!(found.iter().max(), Some(&1));
        assert!(found.iter().enumerate().all(|(at, segment)| (at % width < 10) == (*segment == 0)));
        // With a least size above half of the picture there is only one.
        assert_eq!(segments(&channels, 150.0, 150).iter().max(), Some(&0));
    }
}
