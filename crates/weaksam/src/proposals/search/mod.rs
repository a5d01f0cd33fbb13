//! Selective search: boxes of regions that are alike, from segments up to the whole picture. No model; what proposals of SAM have to
//! be held against.
//!
//! Uijlings et al., "Selective Search for Object Recognition", IJCV 2013, with the choices of OpenCV's "fast" mode: colours as
//! HSV and Lab; first segments by Felzenszwalb and Huttenlocher at k = 150, 300 and 450; similarity by
//! colour, texture, size and fill, and by texture, size and fill.

mod segment;

use std::collections::{BTreeSet, HashSet};

use kirie_data::{Image, longest_side, resize_bilinear};
use kirie_engine::random::{Streams, unit};
use kirie_mask::BBox;

use super::select::Proposal;
use crate::WeakError;
use crate::files::{Source, to_corners};

/// Longer side of what is looked at, pixels; larger pictures are shrunk.
const LONGEST: u32 = 500;
/// Scales of the first segments; each is also their least size, pixels.
const SCALES: [f32; 3] = [150.0, 300.0, 450.0];
/// Bins of a channel's colours.
const COLOUR_BINS: usize = 25;
/// Bins of a direction's slopes, and directions.
const TEXTURE_BINS: usize = 10;
const DIRECTIONS: usize = 8;

/// Three channels of a picture, 0..255, row by row.
struct Channels {
    width: usize,
    height: usize,
    values: [Vec<f32>; 3],
}

/// A region on its way up.
#[derive(Clone)]
struct Region {
    /// Corners, the last pixel included.
    corners: [usize; 4],
    size: f64,
    /// Histograms, each of which sums to 1.
    colour: Vec<f64>,
    texture: Vec<f64>,
    neighbours: BTreeSet<usize>,
}

/// The boxes of a picture, the likeliest first (regions that are merged late, with some chance, as published), at most `limit`.
/// `number` is the picture's, for the random numbers.
///
/// # Errors
/// A picture that cannot be resized for want of memory.
pub fn selective_search(
    image: &Image,
    streams: &Streams,
    number: u64,
    limit: usize,
) -> Result<Vec<Proposal>, WeakError> {
    let (width, height) =
        longest_side(image.width(), image.height(), LONGEST.min(image.width().max(image.height())));
    let small = resize_bilinear(image, width, height)?;
    let mut rng = streams.stream("selective-search", &[number]);
    let mut ranked: Vec<(f64, [usize; 4])> = Vec::new();
    for channels in [hsv(&small), lab(&small)] {
        let textures = textures(&channels);
        for scale in SCALES {
            let segments = segment::segments(&channels, scale, scale as usize);
            let regions = regions(&channels, &textures, &segments);
            for with_colour in [true, false] {
                let found = group(regions.clone(), f64::from(width * height), with_colour);
                let count = found.len();
                for (level, corners) in found.into_iter().enumerate() {
                    ranked.push(((count - level) as f64 * unit(&mut rng), corners));
                }
            }
        }
    }
    ranked.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut seen = HashSet::new();
    ranked.retain(|(_, corners)| seen.insert(*corners));
    ranked.truncate(limit);
    let (x, y) = (f64::from(image.width()) / f64::from(width), f64::from(image.height()) / f64::from(height));
    let boxes = ranked.iter().filter_map(|(rank, [x0, y0, x1, y1])| {
        let bbox = BBox::new(*x0 as f64 * x, *y0 as f64 * y, (x1 + 1) as f64 * x, (y1 + 1) as f64 * y);
        let corners = to_corners(&bbox, image.width(), image.height())?;
        Some(Proposal { corners, score: (1.0 / (1.0 + rank)) as f32, source: Source::Search })
    });
    Ok(boxes.collect())
}

/// Merges the two most alike neighbours until one region is left; gives the corners of all regions there have been, the first
/// segments first.
fn group(mut regions: Vec<Region>, area: f64, with_colour: bool) -> Vec<[usize; 4]> {
    let similarity = |a: &Region, b: &Region| {
        let common = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a.min(*b)).sum::<f64>();
        let around = joined(a.corners, b.corners);
        let extent = ((around[2] - around[0] + 1) * (around[3] - around[1] + 1)) as f64;
        let size = 1.0 - (a.size + b.size) / area;
        let fill = 1.0 - (extent - a.size - b.size) / area;
        let colour = if with_colour { common(&a.colour, &b.colour) } else { 0.0 };
        colour + common(&a.texture, &b.texture) + size + fill
    };
    let mut pairs: Vec<(f64, usize, usize)> = Vec::new();
    for (index, region) in regions.iter().enumerate() {
        for other in region.neighbours.range(index + 1..) {
            pairs.push((similarity(region, &regions[*other]), index, *other));
        }
    }
    // Of equally alike pairs the first one.
    while let Some(at) =
        (0..pairs.len()).reduce(|best, at| if pairs[at].0 > pairs[best].0 { at } else { best })
    {
        let (_, a, b) = pairs[at];
        pairs.retain(|(_, i, j)| ![a, b].contains(i) && ![a, b].contains(j));
        let merged = merge(&regions[a], &regions[b], [a, b]);
        let index = regions.len();
        for neighbour in &merged.neighbours {
            regions[*neighbour].neighbours.insert(index);
            pairs.push((similarity(&regions[*neighbour], &merged), *neighbour, index));
        }
        for old in [a, b] {
            for neighbour in std::mem::take(&mut regions[old].neighbours) {
                regions[neighbour].neighbours.remove(&old);
            }
        }
        regions.push(merged);
    }
    regions.into_iter().map(|region| region.corners).collect()
}

fn joined(a: [usize; 4], b: [usize; 4]) -> [usize; 4] {
    [a[0].min(b[0]), a[1].min(b[1]), a[2].max(b[2]), a[3].max(b[3])]
}

fn merge(a: &Region, b: &Region, own: [usize; 2]) -> Region {
    let size = a.size + b.size;
    let mean =
        |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| (x * a.size + y * b.size) / size).collect();
    Region {
        corners: joined(a.corners, b.corners),
        size,
        colour: mean(&a.colour, &b.colour),
        texture: mean(&a.texture, &b.texture),
        neighbours: a.neighbours.union(&b.neighbours).filter(|i| !own.contains(i)).copied().collect(),
    }
}

/// The first regions. `textures` are slopes by direction and channel.
fn regions(channels: &Channels, textures: &[Vec<f32>], segments: &[usize]) -> Vec<Region> {
    let count = segments.iter().max().map_or(0, |last| last + 1);
    let empty = Region {
        corners: [usize::MAX, usize::MAX, 0, 0],
        size: 0.0,
        colour: vec![0.0; 3 * COLOUR_BINS],
        texture: vec![0.0; textures.len() * TEXTURE_BINS],
        neighbours: BTreeSet::new(),
    };
    let mut regions = vec![empty; count];
    let bin = |value: f32, bins: usize| ((value / 256.0 * bins as f32) as usize).min(bins - 1);
    for (at, segment) in segments.iter().enumerate() {
        let (x, y) = (at % channels.width, at / channels.width);
        let region = &mut regions[*segment];
        region.corners = if region.size > 0.0 { joined(region.corners, [x, y, x, y]) } else { [x, y, x, y] };
        region.size += 1.0;
        for (channel, values) in channels.values.iter().enumerate() {
            region.colour[channel * COLOUR_BINS + bin(values[at], COLOUR_BINS)] += 1.0;
        }
        for (map, values) in textures.iter().enumerate() {
            region.texture[map * TEXTURE_BINS + bin(values[at], TEXTURE_BINS)] += 1.0;
        }
        let right = (x + 1 < channels.width).then(|| at + 1);
        let below = (y + 1 < channels.height).then(|| at + channels.width);
        for other in right.into_iter().chain(below).map(|at| segments[at]) {
            if other != *segment {
                regions[*segment].neighbours.insert(other);
                regions[other].neighbours.insert(*segment);
            }
        }
    }
    for region in &mut regions {
        for histogram in [&mut region.colour, &mut region.texture] {
            let sum: f64 = histogram.iter().sum();
            for value in histogram.iter_mut() {
                *value /= sum.max(1.0);
            }
        }
    }
    regions
}

/// Slopes in eight directions of every channel, each stretched to 0..255.
fn textures(channels: &Channels) -> Vec<Vec<f32>> {
    let (width, height) = (channels.width, channels.height);
    let mut maps = Vec::with_capacity(3 * DIRECTIONS);
    for values in &channels.values {
        let value = |x: isize, y: isize| {
            let (x, y) = (x.clamp(0, width as isize - 1), y.clamp(0, height as isize - 1));
            values[y as usize * width + x as usize]
        };
        let mut directions = vec![Vec::new(); DIRECTIONS];
        for y in 0..height as isize {
            for x in 0..width as isize {
                // Scharr's slopes.
                let side = |dx: isize| {
                    3.0 * value(x + dx, y - 1) + 10.0 * value(x + dx, y) + 3.0 * value(x + dx, y + 1)
                };
                let edge = |dy: isize| {
                    3.0 * value(x - 1, y + dy) + 10.0 * value(x, y + dy) + 3.0 * value(x + 1, y + dy)
                };
                let (h, v) = (side(1) - side(-1), edge(1) - edge(-1));
                let root = std::f32::consts::FRAC_1_SQRT_2;
                for (pair, slope) in [h, v, (h + v) * root, (v - h) * root].into_iter().enumerate() {
                    directions[2 * pair].push(slope.max(0.0));
                    directions[2 * pair + 1].push((-slope).max(0.0));
                }
            }
        }
        for mut map in directions {
            let most = map.iter().copied().fold(1e-6, f32::max);
            for value in &mut map {
                *value *= 255.0 / most;
            }
            maps.push(map);
        }
    }
    maps
}

/// Converts every pixel, from 0..1.
fn converted(image: &Image, convert: impl Fn([f32; 3]) -> [f32; 3]) -> Channels {
    let mut values = [Vec::new(), Vec::new(), Vec::new()];
    for rgb in image.as_raw().chunks_exact(3) {
        let converted = convert([rgb[0], rgb[1], rgb[2]].map(|value| f32::from(value) / 255.0));
        for (channel, value) in values.iter_mut().zip(converted) {
            channel.push(value.clamp(0.0, 255.0));
        }
    }
    Channels { width: image.width() as usize, height: image.height() as usize, values }
}

/// Hue, saturation, value, each 0..255.
fn hsv(image: &Image) -> Channels {
    converted(image, |[r, g, b]| {
        let (most, least) = (r.max(g).max(b), r.min(g).min(b));
        let range = most - least;
        let sixth = if range <= 0.0 {
            0.0
        } else if most == r {
            ((g - b) / range).rem_euclid(6.0)
        } else if most == g {
            (b - r) / range + 2.0
        } else {
            (r - g) / range + 4.0
        };
        [sixth / 6.0 * 255.0, if most > 0.0 { range / most * 255.0 } else { 0.0 }, most * 255.0]
    })
}

/// CIE Lab of sRGB under D65, as 8-bit pictures hold it: L from 0 to 255, a and b with 128 for none.
fn lab(image: &Image) -> Channels {
    converted(image, |rgb| {
        let [r, g, b] = rgb.map(|v| if v <= 0.04045 { v / 12.92 } else { ((v + 0.055) / 1.055).powf(2.4) });
        let x = (0.412_453 * r + 0.357_58 * g + 0.180_423 * b) / 0.950_456;
        let y = 0.212_671 * r + 0.715_16 * g + 0.072_169 * b;
        let z = (0.019_334 * r + 0.119_193 * g + 0.950_227 * b) / 1.088_754;
        let [x, y, z] = [x, y, z].map(|t| if t > 0.008_856 { t.cbrt() } else { 7.787 * t + 16.0 / 116.0 });
        [(116.0 * y - 16.0) * 2.55, 500.0 * (x - y) + 128.0, 200.0 * (y - z) + 128.0]
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drawn::{objects, picture};
    use crate::files::to_bbox;

    #[test]
    fn it_finds_what_is_drawn() {
        for n in 0..3 {
            let found = selective_search(&picture(n), &Streams::new(1), n as u64, 2000).unwrap();
            assert!(!found.is_empty() && found.is_sorted_by(|a, b| a.score >= b.score));
            for (class, [x0, y0, x1, y1]) in objects(n) {
                let truth = BBox::new(f64::from(x0), f64::from(y0), f64::from(x1), f64::from(y1));
                let best = found.iter().map(|p| to_bbox(p.corners).iou(&truth)).fold(0.0, f64::max);
                assert!(best > 0.8, "{n} {class}: {best}");
            }
            let again = selective_search(&picture(n), &Streams::new(1), n as u64, 2000).unwrap();
            assert_eq!(again, found);
            assert_eq!(selective_search(&picture(n), &Streams::new(1), n as u64, 3).unwrap(), found[..3]);
        }
    }

    #[test]
    fn colours_are_the_known_ones() {
        let one = |rgb: [u8; 3]| Image::from_raw(1, 1, rgb.to_vec()).unwrap();
        let channels = |c: Channels| c.values.map(|v| v[0].round());
        assert_eq!(channels(hsv(&one([0, 255, 0]))), [85.0, 255.0, 255.0]);
        assert_eq!(channels(hsv(&one([9, 9, 9]))), [0.0, 0.0, 9.0]);
        // OpenCV's 8-bit Lab of red.
        assert_eq!(channels(lab(&one([255, 0, 0]))), [136.0, 208.0, 195.0]);
        assert_eq!(channels(lab(&one([255, 255, 255]))), [255.0, 128.0, 128.0]);
    }

    #[test]
    fn one_pixel_and_one_colour_are_no_trouble() {
        for (width, height) in [(1, 1), (30, 1), (1, 30), (30, 20)] {
            let flat = Image::from_raw(width, height, vec![100; (3 * width * height) as usize]).unwrap();
            let found = selective_search(&flat, &Streams::new(1), 0, 100).unwrap();
            assert_eq!(found.len(), 1);
            assert_eq!(found[0].corners, [0.0, 0.0, width as f32, height as f32]);
        }
    }
}
