//! What is known about one picture.

use kirie_mask::{BBox, MaskError, Point, Rle, rasterize_all};

use crate::index_map::regions;

/// The labels of one picture.
#[derive(Clone, Debug, PartialEq)]
pub enum Labels {
    /// Nothing is known about the picture.
    None,
    /// Which classes the picture shows, by id; not where.
    Tags(Vec<u32>),
    /// Objects. An empty list says that there are none.
    Instances {
        /// Width and height of the frame the objects lie in, pixels; `None` where the label file does not say.
        frame: Option<(u32, u32)>,
        /// The objects, in the order of the label file.
        instances: Vec<Instance>,
    },
    /// The class of every pixel.
    ClassMap(ClassMap),
}

impl Labels {
    /// Width and height of the frame the labels were made for, where they say so.
    pub fn frame(&self) -> Option<(u32, u32)> {
        match self {
            Self::None | Self::Tags(_) => None,
            Self::Instances { frame, .. } => *frame,
            Self::ClassMap(map) => Some((map.width, map.height)),
        }
    }

    /// The ids of all classes that occur, ascending and once each; crowd regions and, in a class map, the background
    /// count as well.
    pub fn tags(&self) -> Vec<u32> {
        let mut tags: Vec<u32> = match self {
            Self::None => Vec::new(),
            Self::Tags(tags) => tags.clone(),
            Self::Instances { instances, .. } => instances.iter().filter_map(|i| i.class).collect(),
            Self::ClassMap(map) => map.present().into_iter().map(u32::from).collect(),
        };
        tags.sort_unstable();
        tags.dedup();
        tags
    }
}

/// One object, or one region without a class.
#[derive(Clone, Debug, PartialEq)]
pub struct Instance {
    /// Id of its class; `None` where the labels know objects but no classes.
    pub class: Option<u32>,
    /// Its pixels.
    pub segmentation: Segmentation,
    /// The box around it, pixels: `x0`, `y0` are the outer edges of the first column and row, `x1`, `y1` those of the
    /// last, so that a box around pixel (0, 0) alone is (0, 0) to (1, 1).
    pub bbox: BBox,
    /// Its area in square pixels, as the label file states it (COCO) or as measured.
    pub area: f64,
    /// A region of many objects that are not told apart, or that is to be ignored: neither a target nor background.
    pub crowd: bool,
    /// Marked as hard to recognise; Pascal VOC leaves such objects out of the score.
    pub difficult: bool,
    /// How sure the program was that made the label; `None` for labels made by people.
    pub score: Option<f64>,
    /// Which of several people drew it, from 0; regions of different people overlap.
    pub annotator: u16,
}

impl Instance {
    /// An object of which the rest is measured on `segmentation`; a box where that is [`Segmentation::Box`].
    pub(super) fn new(class: Option<u32>, segmentation: Segmentation, bbox: BBox) -> Self {
        let area = match &segmentation {
            Segmentation::Rle(rle) => rle.area() as f64,
            Segmentation::Polygons(polygons) => polygons.iter().map(|ring| shoelace(ring)).sum(),
            Segmentation::Box => bbox.area(),
        };
        Self { class, segmentation, bbox, area, crowd: false, difficult: false, score: None, annotator: 0 }
    }

    /// An object from its pixels.
    pub(super) fn from_rle(class: Option<u32>, rle: Rle) -> Self {
        let bbox = BBox::from_xywh(rle.bbox_xywh().map(f64::from));
        Self::new(class, Segmentation::Rle(rle), bbox)
    }

    /// An object from its outlines.
    pub(super) fn from_polygons(class: Option<u32>, polygons: Vec<Vec<Point>>) -> Self {
        let bbox = around(&polygons);
        Self::new(class, Segmentation::Polygons(polygons), bbox)
    }

    /// Its pixels in a frame of `width` x `height`; `None` when only the box is known. Polygons are drawn as pycocotools
    /// draws them.
    ///
    /// # Errors
    /// [`MaskError::FrameMismatch`] when run lengths are of another frame, and those of
    /// [`rasterize_all`].
    pub fn mask(&self, width: u32, height: u32) -> Result<Option<Rle>, MaskError> {
        let expected = (width as usize, height as usize);
        match &self.segmentation {
            Segmentation::Rle(rle) => {
                let found = (rle.width(), rle.height());
                if found == expected {
                    Ok(Some(rle.clone()))
                } else {
                    Err(MaskError::FrameMismatch { expected, found })
                }
            }
            Segmentation::Polygons(polygons) => rasterize_all(polygons, expected.0, expected.1).map(Some),
            Segmentation::Box => Ok(None),
        }
    }
}

/// The pixels of an object.
#[derive(Clone, Debug, PartialEq)]
pub enum Segmentation {
    /// Run lengths over the whole frame.
    Rle(Rle),
    /// The outlines of its parts, pixels; at least three points each.
    Polygons(Vec<Vec<Point>>),
    /// Only the box is known.
    Box,
}

/// The class of every pixel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassMap {
    /// Width, pixels.
    pub width: u32,
    /// Height, pixels.
    pub height: u32,
    /// Class ids, row by row; [`ClassMap::IGNORE`] where the label says nothing.
    pub ids: Vec<u16>,
}

impl ClassMap {
    /// The id of pixels that are neither learned from nor scored, whatever number the file has for them.
    pub const IGNORE: u16 = u16::MAX;

    /// The class ids that occur, ascending, without [`ClassMap::IGNORE`].
    pub fn present(&self) -> Vec<u16> {
        let mut seen = vec![false; usize::from(u16::MAX) + 1];
        for &id in &self.ids {
            seen[usize::from(id)] = true;
        }
        (0..Self::IGNORE).filter(|&id| seen[usize::from(id)]).collect()
    }

    /// The region of every class that occurs, ascending by id. Pixels to ignore come last, as a crowd region without
    /// a class.
    pub fn regions(&self) -> Vec<Instance> {
        let found = regions(self.width as usize, self.height as usize, &self.ids);
        let instance = |(id, rle)| {
            let ignored = id == Self::IGNORE;
            let class = (!ignored).then_some(u32::from(id));
            Instance { crowd: ignored, ..Instance::from_rle(class, rle) }
        };
        found.into_iter().map(instance).collect()
    }
}

fn around(polygons: &[Vec<Point>]) -> BBox {
    let mut points = polygons.iter().flatten();
    let Some(&Point { x, y }) = points.next() else { return BBox::new(0.0, 0.0, 0.0, 0.0) };
    points.fold(BBox::new(x, y, x, y), |b, p| {
        BBox::new(b.x0.min(p.x), b.y0.min(p.y), b.x1.max(p.x), b.y1.max(p.y))
    })
}

fn shoelace(ring: &[Point]) -> f64 {
    let twice: f64 = ring.iter().zip(ring.iter().cycle().skip(1)).map(|(a, b)| a.x * b.y - b.x * a.y).sum();
    twice.abs() / 2.0
}
