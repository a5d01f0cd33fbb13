//! An object and what a model answered, to look at.

use kirie_data::write::{Prompts, overlay};
use kirie_data::{Image, ImageMasks, ImageRecord, MaskRecord, longest_side, resize_bilinear};
use kirie_mask::{BBox, Point, Rle};

use super::{Case, EvaluateError};

/// Longest side of one of the two pictures of a case, pixels.
const SIDE: u32 = 320;
/// Between the two.
const GAP: u32 = 6;

impl Case {
    /// Object and answer side by side, with some of their surroundings; `picture` is the one they are of.
    ///
    /// # Errors
    /// [`EvaluateError::Data`] for another picture's case.
    pub fn picture(&self, picture: &Image) -> Result<Image, EvaluateError> {
        pair(picture, self)
    }
}

fn pair(picture: &Image, case: &Case) -> Result<Image, EvaluateError> {
    let window = window(picture, case);
    let (x, y, width, height) = window;
    let (wide, high) = longest_side(width, height, SIDE);
    let (wide, high) = (wide.max(1), high.max(1));
    let part = resize_bilinear(&picture.crop(x, y, width, height)?, wide, high)?;
    let scaled = |mask: &Rle| {
        let mask = mask.to_mask();
        Rle::from_fn(wide as usize, high as usize, |u, v| {
            let column = x as usize + u * width as usize / wide as usize;
            mask.get(column, y as usize + v * height as usize / high as usize)
        })
    };
    let place = |p: Point| Point {
        x: (p.x - f64::from(x)) * f64::from(wide) / f64::from(width),
        y: (p.y - f64::from(y)) * f64::from(high) / f64::from(height),
    };
    let corner = |x, y| place(Point { x, y });
    let prompts = Prompts {
        points: case.prompt.points.iter().map(|(point, on)| (place(*point), *on)).collect(),
        boxes: case
            .prompt
            .bbox
            .iter()
            .map(|b| (corner(b.x0, b.y0), corner(b.x1, b.y1)))
            .map(|(a, b)| BBox::new(a.x, a.y, b.x, b.y))
            .collect(),
    };
    let left = overlay(&part, &masks(scaled(&case.truth), wide, high), &Prompts::default())?;
    let right = overlay(&part, &masks(scaled(&case.answer), wide, high), &prompts)?;
    let row = |image: &Image, y: u32| {
        let bytes = 3 * wide as usize;
        image.as_raw().iter().skip(y as usize * bytes).take(bytes).copied().collect::<Vec<u8>>()
    };
    let mut pixels = Vec::with_capacity(3 * (2 * wide + GAP) as usize * high as usize);
    for y in 0..high {
        pixels.extend(row(&left, y));
        pixels.extend(std::iter::repeat_n(255, 3 * GAP as usize));
        pixels.extend(row(&right, y));
    }
    Ok(Image::from_raw(2 * wide + GAP, high, pixels)?)
}

/// The part of the picture to show: x, y, width, height.
fn window(picture: &Image, case: &Case) -> (u32, u32, u32, u32) {
    let boxes = [&case.truth, &case.answer].map(|mask| BBox::from_xywh(mask.bbox_xywh().map(f64::from)));
    let boxes = boxes.into_iter().filter(|b| b.area() > 0.0).chain(case.prompt.bbox);
    let around =
        boxes.reduce(|a, b| BBox::new(a.x0.min(b.x0), a.y0.min(b.y0), a.x1.max(b.x1), a.y1.max(b.y1)));
    let (width, height) = (f64::from(picture.width()), f64::from(picture.height()));
    let Some(b) = around else { return (0, 0, picture.width(), picture.height()) };
    let margin = 0.25 * b.width().max(b.height()) + 8.0;
    let (x0, y0) = ((b.x0 - margin).clamp(0.0, width - 1.0), (b.y0 - margin).clamp(0.0, height - 1.0));
    let (x1, y1) = ((b.x1 + margin).clamp(x0 + 1.0, width), (b.y1 + margin).clamp(y0 + 1.0, height));
    let (x, y) = (x0 as u32, y0 as u32);
    (x, y, (x1.ceil() as u32 - x).max(1), (y1.ceil() as u32 - y).max(1))
}

fn masks(mask: Rle, width: u32, height: u32) -> ImageMasks {
    let record = MaskRecord {
        bbox: mask.inclusive_box().to_xywh(),
        area: mask.area(),
        predicted_iou: 1.0,
        stability_score: 1.0,
        point_coords: Vec::new(),
        crop_box: [0.0, 0.0, f64::from(width), f64::from(height)],
        segmentation: mask,
    };
    let image = ImageRecord { path: String::new(), width, height };
    ImageMasks { image, model: String::new(), masks: vec![record] }
}
