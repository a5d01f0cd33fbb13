//! From a picture on disk to what the model sees of it in one step: a window, its objects, its ignored pixels.

use kirie_data::{Image, resize_bilinear};
use kirie_engine::random::unit;
use kirie_mask::{Mask, Rle};
use kirie_sam::registry::Preprocess;
use rand::{Rng, RngExt};

use super::TrainError;
use super::config::Augment;

/// A picture and its objects, at the picture's own size.
#[derive(Clone, Debug)]
pub struct Labelled {
    /// The picture.
    pub image: Image,
    /// Its objects; none for a picture without labels.
    pub objects: Vec<Rle>,
    /// Pixels that count neither way.
    pub ignore: Option<Rle>,
}

/// What the model sees of a picture.
#[derive(Clone, Debug)]
pub struct View {
    /// `[3, size, size]`, normalised and padded.
    pub pixels: Vec<f32>,
    /// Width and height of the part that is picture and not padding.
    pub extent: [usize; 2],
    /// The objects that were chosen.
    pub targets: Vec<Target>,
}

/// An object in a view.
#[derive(Clone, Debug)]
pub struct Target {
    /// `[size, size]`: the share of each pixel that the object covers, in quarters (0 to 4), or [`Target::IGNORE`].
    pub cover: Vec<u8>,
    /// Left, top, right and bottom edge of the object in the view, pixels.
    pub bbox: [f32; 4],
}

impl Target {
    /// A pixel that counts neither way; padding, too.
    pub const IGNORE: u8 = 255;

    /// The middle of its box.
    pub fn centre(&self) -> [f32; 2] {
        let [x0, y0, x1, y1] = self.bbox;
        [x0.midpoint(x1), y0.midpoint(y1)]
    }

    /// Whether most of a pixel is the object's.
    pub fn is_object(cover: u8) -> bool {
        (3..=4).contains(&cover)
    }
}

/// A rectangle of the picture, and the size it gets.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Window {
    x: u32,
    y: u32,
    width: u32,
    height: u32,
    to: [u32; 2],
    mirrored: bool,
}

/// A number between two, drawn in logarithms: half as large is as likely as twice as large.
fn between(rng: &mut impl Rng, [a, b]: [f64; 2]) -> f64 {
    (a.ln() + (b.ln() - a.ln()) * unit(rng)).exp()
}

impl Window {
    /// Draws a window: the picture scaled by the augmentation, and of that what fits into the model's input.
    fn draw(rng: &mut impl Rng, augment: &Augment, width: u32, height: u32, size: u32) -> Self {
        let scale = between(rng, augment.scale);
        let stretch = between(rng, [1.0 / augment.stretch, augment.stretch]).sqrt();
        let mirrored = unit(rng) < augment.flip;
        let per_pixel = scale * f64::from(size) / f64::from(width.max(height));
        let [scale_x, scale_y] = [per_pixel * stretch, per_pixel / stretch];
        // What of the picture fits, and where it is cut.
        let fit = |length: u32, scale: f64| ((f64::from(size) / scale).round() as u32).clamp(1, length);
        let (w, h) = (fit(width, scale_x), fit(height, scale_y));
        let (x, y) = (below(rng, width - w + 1), below(rng, height - h + 1));
        let to = |length: u32, scale: f64| ((f64::from(length) * scale).round() as u32).clamp(1, size);
        Self { x, y, width: w, height: h, to: [to(w, scale_x), to(h, scale_y)], mirrored }
    }

    /// Draws a window around an object's box, the whole of which is in it; what would lie outside the picture is left out.
    fn around(
        rng: &mut impl Rng,
        augment: &Augment,
        bbox: [u32; 4],
        [width, height]: [u32; 2],
        size: u32,
    ) -> Self {
        // Of a few pixels nothing can be learned by enlarging them more.
        const MOST_ENLARGED: u32 = 8;

        let stretch = between(rng, [1.0 / augment.stretch, augment.stretch]).sqrt();
        let mirrored = unit(rng) < augment.flip;
        let [x, y, w, h] = bbox;
        let side = f64::from(w.max(h)) * between(rng, augment.context);
        let side = side.max(f64::from(size / MOST_ENLARGED));
        // Along each axis the object stands anywhere in the window, more often near its middle.
        let mut cut = |low: u32, extent: u32, length: u32| {
            let free = side - f64::from(extent);
            let start = f64::from(low) - free * f64::midpoint(unit(rng), unit(rng));
            let from = (start.round().max(0.0) as u32).min(low);
            let to = ((start + side).round() as u32).clamp(low + extent.max(1), length);
            (from, to - from)
        };
        let ((x, w), (y, h)) = (cut(x, w, width), cut(y, h, height));
        let scale = f64::from(size) / f64::from(w.max(h));
        let to = |length: u32, scale: f64| ((f64::from(length) * scale).round() as u32).clamp(1, size);
        Self { x, y, width: w, height: h, to: [to(w, scale * stretch), to(h, scale / stretch)], mirrored }
    }
}

fn below(rng: &mut impl Rng, end: u32) -> u32 {
    rng.random_range(0..end)
}

/// Draws a view with up to `objects` objects (exactly so many, repeated where there are fewer; none if there is none).
pub fn view(
    labelled: &Labelled,
    preprocess: &Preprocess,
    augment: &Augment,
    objects: usize,
    smallest: u64,
    rng: &mut impl Rng,
) -> Result<View, TrainError> {
    // A window without an object teaches nothing: another is drawn, and in the end the whole picture is taken.
    const TRIES: usize = 4;

    let (width, height) = (labelled.image.width(), labelled.image.height());
    for attempt in 0..=TRIES {
        let whole = Augment { flip: augment.flip, ..Augment::default() };
        let augment = if attempt == TRIES { &whole } else { augment };
        let zoomed = unit(rng) < augment.zoom && !labelled.objects.is_empty();
        let first = zoomed.then(|| below(rng, labelled.objects.len() as u32) as usize);
        let window = match first {
            Some(object) => {
                let bbox = labelled.objects[object].bbox_xywh();
                Window::around(rng, augment, bbox, [width, height], preprocess.size)
            }
            None => Window::draw(rng, augment, width, height, preprocess.size),
        };
        let targets = targets(labelled, window, first, preprocess.size as usize, objects, smallest, rng);
        if targets.is_empty() && !labelled.objects.is_empty() && attempt < TRIES {
            continue;
        }
        let pixels = pixels(&labelled.image, window, preprocess, augment.colour, rng)?;
        return Ok(View { pixels, extent: window.to.map(|l| l as usize), targets });
    }
    unreachable!("the last attempt returns")
}

fn targets(
    labelled: &Labelled,
    window: Window,
    first: Option<usize>,
    size: usize,
    wanted: usize,
    smallest: u64,
    rng: &mut impl Rng,
) -> Vec<Target> {
    // In a drawn order, until there are enough that are large enough.
    let mut order: Vec<usize> = (0..labelled.objects.len()).collect();
    for i in (1..order.len()).rev() {
        order.swap(i, below(rng, i as u32 + 1) as usize);
    }
    if let Some(first) = first {
        order.retain(|index| *index != first);
        order.insert(0, first);
    }
    let ignore = labelled.ignore.as_ref().map(Rle::to_mask);
    let mut targets: Vec<Target> = Vec::new();
    for index in order {
        if targets.len() == wanted {
            break;
        }
        let target = target(&labelled.objects[index].to_mask(), ignore.as_ref(), window, size);
        if let Some(target) = target.filter(|t| area(t) >= smallest.max(1)) {
            targets.push(target);
        }
    }
    let found = targets.len();
    for i in found..wanted {
        if found > 0 {
            targets.push(targets[i % found].clone());
        }
    }
    targets
}

fn area(target: &Target) -> u64 {
    target.cover.iter().filter(|c| Target::is_object(**c)).count() as u64
}

/// An object as the window shows it: each pixel looked at in four places.
fn target(mask: &Mask, ignore: Option<&Mask>, window: Window, size: usize) -> Option<Target> {
    let [to_width, to_height] = window.to.map(|l| l as usize);
    let place = |at: usize, sub: usize, to: usize, from: u32, length: u32| {
        let unit = (at as f64 + 0.25 + 0.5 * sub as f64) / to as f64;
        from as usize + ((unit * f64::from(length)) as usize).min(length as usize - 1)
    };
    let columns: Vec<[usize; 2]> = (0..to_width)
        .map(|x| {
            let x = if window.mirrored { to_width - 1 - x } else { x };
            [0, 1].map(|sub| place(x, sub, to_width, window.x, window.width))
        })
        .collect();
    let mut cover = vec![Target::IGNORE; size * size];
    let mut bounds: Option<[usize; 4]> = None;
    for (y, line) in cover.chunks_exact_mut(size).take(to_height).enumerate() {
        let rows = [0, 1].map(|sub| place(y, sub, to_height, window.y, window.height));
        let [upper, lower] = rows.map(|row| mask.row(row));
        for (x, (pixel, [left, right])) in line.iter_mut().zip(&columns).enumerate() {
            *pixel = u8::from(upper[*left])
                + u8::from(upper[*right])
                + u8::from(lower[*left])
                + u8::from(lower[*right]);
            if ignore.is_some_and(|ignore| ignore.get(*left, rows[0])) {
                *pixel = Target::IGNORE;
            } else if *pixel >= 2 {
                let b = bounds.get_or_insert([x, y, x, y]);
                *b = [b[0].min(x), b[1].min(y), b[2].max(x), b[3].max(y)];
            }
        }
    }
    let [x0, y0, x1, y1] = bounds?;
    Some(Target { cover, bbox: [x0 as f32, y0 as f32, x1 as f32 + 1.0, y1 as f32 + 1.0] })
}

fn pixels(
    image: &Image,
    window: Window,
    preprocess: &Preprocess,
    colour: f64,
    rng: &mut impl Rng,
) -> Result<Vec<f32>, TrainError> {
    let cut = image.crop(window.x, window.y, window.width, window.height)?;
    let resized = resize_bilinear(&cut, window.to[0], window.to[1])?;
    let jitter = Jitter::draw(rng, colour, resized.as_raw());
    let (size, width) = (preprocess.size as usize, window.to[0] as usize);
    let mut values = vec![0.0_f32; 3 * size * size];
    let (red, rest) = values.split_at_mut(size * size);
    let (green, blue) = rest.split_at_mut(size * size);
    for (y, row) in resized.as_raw().chunks_exact(3 * width).enumerate() {
        for (x, pixel) in row.chunks_exact(3).enumerate() {
            let x = if window.mirrored { width - 1 - x } else { x };
            let rgb = jitter.apply([f32::from(pixel[0]), f32::from(pixel[1]), f32::from(pixel[2])]);
            for (channel, plane) in [&mut *red, &mut *green, &mut *blue].into_iter().enumerate() {
                plane[y * size + x] = (rgb[channel] - preprocess.mean[channel]) / preprocess.std[channel];
            }
        }
    }
    Ok(values)
}

/// A change of brightness, contrast and saturation.
#[derive(Clone, Copy, Debug)]
struct Jitter {
    brightness: f32,
    contrast: f32,
    saturation: f32,
    /// Mean brightness of the picture, which contrast keeps.
    mean: f32,
}

impl Jitter {
    fn draw(rng: &mut impl Rng, strength: f64, pixels: &[u8]) -> Self {
        let mut factor = || (1.0 + strength * (2.0 * unit(rng) - 1.0)) as f32;
        let (brightness, contrast, saturation) = (factor(), factor(), factor());
        let sum: f64 = pixels.iter().map(|v| f64::from(*v)).sum();
        Self { brightness, contrast, saturation, mean: (sum / pixels.len().max(1) as f64) as f32 }
    }

    fn apply(self, rgb: [f32; 3]) -> [f32; 3] {
        let gray = 0.299 * rgb[0] + 0.587 * rgb[1] + 0.114 * rgb[2];
        rgb.map(|v| {
            let v = gray + (v - gray) * self.saturation;
            let v = self.mean + (v - self.mean) * self.contrast;
            (v * self.brightness).clamp(0.0, 255.0)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    fn preprocess(size: u32) -> Preprocess {
        Preprocess { size, frame: 1024, mean: [0.0; 3], std: [255.0; 3] }
    }

    /// A red rectangle on black is the object: whatever the augmentation does, the red pixels and the target agree.
    #[test]
    fn pixels_and_targets_move_together() {
        let (w, h) = (90, 60);
        let inside = |x: usize, y: usize| (20..50).contains(&x) && (10..40).contains(&y);
        let raw = (0..w * h).flat_map(|i| if inside(i % w, i / w) { [255, 0, 0] } else { [0; 3] }).collect();
        let labelled = Labelled {
            image: Image::from_raw(w as u32, h as u32, raw).expect("the right length"),
            objects: vec![Rle::from_fn(w, h, inside)],
            ignore: None,
        };
        let augment = Augment {
            flip: 0.5,
            scale: [0.5, 2.0],
            stretch: 1.3,
            colour: 0.0,
            zoom: 0.5,
            context: [1.2, 3.0],
        };
        for seed in 0..40 {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let view = view(&labelled, &preprocess(64), &augment, 2, 4, &mut rng).expect("it works");
            assert_eq!(view.targets.len(), 2);
            let target = &view.targets[0];
            let [width, height] = view.extent;
            let (mut wrong, mut edge) = (0, 0);
            for y in 0..64 {
                for x in 0..64 {
                    let (red, cover) = (view.pixels[y * 64 + x], target.cover[y * 64 + x]);
                    assert_eq!(cover == Target::IGNORE, x >= width || y >= height, "padding is ignored");
                    if cover == Target::IGNORE {
                        assert_eq!(red, 0.0);
                    } else if (red > 0.9 && cover == 0) || (red < 0.1 && cover == 4) {
                        wrong += 1;
                    } else if (0.1..0.9).contains(&red) {
                        edge += 1;
                    }
                }
            }
            assert_eq!(wrong, 0, "seed {seed}");
            assert!(edge < 400, "seed {seed}: {edge} pixels of edge");
            let [x0, y0, x1, y1] = target.bbox;
            assert!(x0 < x1 && y0 < y1 && x1 <= width as f32 && y1 <= height as f32);
        }
    }

    #[test]
    fn ignored_pixels_and_small_objects() {
        let (w, h) = (64, 64);
        let labelled = Labelled {
            image: Image::from_raw(w as u32, h as u32, vec![9; w * h * 3]).expect("the right length"),
            objects: vec![Rle::from_fn(w, h, |x, y| x < 2 && y < 2), Rle::from_fn(w, h, |x, _| x >= 32)],
            ignore: Some(Rle::from_fn(w, h, |_, y| y >= 32)),
        };
        let none = Augment { flip: 0.0, ..Augment::default() };
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let view = view(&labelled, &preprocess(64), &none, 3, 16, &mut rng).expect("it works");
        assert_eq!(view.targets.len(), 3);
        for target in &view.targets {
            assert_eq!(target.bbox, [32.0, 0.0, 64.0, 32.0], "the small one is left out");
            assert_eq!(target.cover[40 * 64 + 40], Target::IGNORE);
            assert_eq!(target.cover[10 * 64 + 40], 4);
            assert_eq!(target.cover[10 * 64 + 10], 0);
        }
    }

    #[test]
    fn whole_pictures_are_prepared_as_the_predictor_does() {
        let (w, h) = (75, 50);
        let raw: Vec<u8> = (0..w * h * 3).map(|i| (i * 37 % 251) as u8).collect();
        let image = Image::from_raw(w as u32, h as u32, raw).expect("the right length");
        let preprocess =
            Preprocess { size: 64, frame: 1024, mean: [123.7, 116.3, 103.5], std: [58.4, 57.1, 57.4] };
        let expected = kirie_sam::predictor::prepare(&image, &preprocess).expect("it works");
        let labelled = Labelled { image, objects: vec![], ignore: None };
        let none = Augment { flip: 0.0, ..Augment::default() };
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let view = view(&labelled, &preprocess, &none, 1, 1, &mut rng).expect("it works");
        assert_eq!(view.pixels.len(), expected.values.len());
        let worst = view.pixels.iter().zip(&expected.values).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst < 1e-5, "{worst}");
        assert!(view.targets.is_empty());
    }
}
