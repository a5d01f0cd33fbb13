//! How good boxes and masks are, against true ones. No stage that learns looks at anything here.

use std::collections::BTreeMap;
use std::path::Path;

use kirie_data::datasets::Labels;
use kirie_data::write::ImageObjects;
use kirie_mask::{BBox, Rle};
use kirie_metrics::{
    ByCategory, CocoEvaluation, CocoParams, CocoSummary, Detection, GroundTruth, Interpolation, Selection,
    VocObject, VocParams, corloc, voc_average_precision,
};
use serde::{Deserialize, Serialize};

use crate::WeakError;
use crate::files::{Detections, ImageDetections, to_bbox, to_corners};
use crate::labels::{open_part, relative};

/// The IoUs at which masks from image-level labels are measured.
pub const MASK_IOUS: [f64; 4] = [0.25, 0.50, 0.70, 0.75];

/// A true object.
#[derive(Clone, Debug, PartialEq)]
pub struct TrueObject {
    /// Index of its class.
    pub class: usize,
    /// Its box: outer edges of its first and last pixels.
    pub bbox: BBox,
    /// Its area in square pixels, by which COCO tells small from large.
    pub area: f64,
    /// Need not be found (VOC).
    pub difficult: bool,
    /// A region of many objects (COCO).
    pub crowd: bool,
    /// Its pixels, where the set has them.
    pub mask: Option<Rle>,
}

/// True objects of a set of pictures.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Truth {
    /// The classes' names.
    pub classes: Vec<String>,
    /// Pictures by their file, relative to the set's folder: width, height, objects.
    pub pictures: BTreeMap<String, ([u32; 2], Vec<TrueObject>)>,
}

impl Truth {
    /// The true objects of a part of a labelled set, in the order of `classes`; objects of other classes are left out.
    ///
    /// # Errors
    /// Files that cannot be read; a set without objects.
    pub fn open(path: &Path, split: Option<&str>, classes: &[String]) -> Result<Self, WeakError> {
        let set = open_part(path, split.unwrap_or_default())?;
        let mut truth = Self { classes: classes.to_vec(), pictures: BTreeMap::new() };
        for sample in &set.samples {
            let size = match sample.size {
                Some(size) => size,
                None => set.picture_size(sample)?,
            };
            let Labels::Instances { instances, .. } = set.labels(sample)? else { continue };
            let mut objects = Vec::new();
            for instance in &instances {
                let name = instance.class.and_then(|id| set.class(id)).map(|class| class.name.as_str());
                let Some(class) = classes.iter().position(|class| Some(class.as_str()) == name) else {
                    continue;
                };
                objects.push(TrueObject {
                    class,
                    bbox: instance.bbox,
                    area: instance.area,
                    difficult: instance.difficult,
                    crowd: instance.crowd,
                    mask: instance.mask(size.0, size.1)?,
                });
            }
            truth.pictures.insert(relative(&set, sample), (size.into(), objects));
        }
        if truth.pictures.is_empty() {
            let reason = "no picture has objects to measure against".to_owned();
            return Err(WeakError::Labels { set: path.display().to_string(), reason });
        }
        Ok(truth)
    }

    /// Whether any object has a mask.
    pub fn has_masks(&self) -> bool {
        self.pictures.values().any(|(_, objects)| objects.iter().any(|object| object.mask.is_some()))
    }

    /// As a file to learn from: for the upper bound, a detector that is shown the truth. Crowds and difficult objects are left
    /// out.
    pub fn to_boxes(&self) -> Detections {
        let images = self.pictures.iter().map(|(file, (size, objects))| {
            let mut image = ImageDetections {
                file: file.clone(),
                width: size[0],
                height: size[1],
                ..ImageDetections::default()
            };
            let mut shown: Vec<usize> = objects.iter().map(|object| object.class).collect();
            shown.sort_unstable();
            shown.dedup();
            image.labels = shown.into_iter().map(|class| self.classes[class].clone()).collect();
            for object in objects.iter().filter(|object| !object.crowd && !object.difficult) {
                if let Some(corners) = to_corners(&object.bbox, size[0], size[1]) {
                    image.boxes.push(corners);
                    image.scores.push(1.0);
                    image.classes.push(object.class);
                    image.weights.push(1.0);
                }
            }
            image
        });
        Detections { classes: self.classes.clone(), images: images.collect() }
    }

    fn numbers(&self) -> BTreeMap<&str, u64> {
        (1..).zip(self.pictures.keys()).map(|(number, file)| (file.as_str(), number)).collect()
    }

    fn objects(&self) -> impl Iterator<Item = (u64, &TrueObject)> {
        (1..).zip(self.pictures.values()).flat_map(|(n, (_, objects))| objects.iter().map(move |o| (n, o)))
    }
}

/// A class's name and figure.
pub type OfClass = (String, Option<f64>);

/// Figures of boxes, each 0 to 1; `None` where there is nothing to measure.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BoxFigures {
    /// VOC 2007's mean AP: IoU above 0.5, 11 points.
    pub voc_11: Option<f64>,
    /// VOC 2010's: all points.
    pub voc_all: Option<f64>,
    /// The latter by class.
    pub voc_all_of: Vec<OfClass>,
    /// CorLoc: pictures of a class whose best box of it is right (for pictures that were learned from).
    pub corloc: Option<f64>,
    /// By class.
    pub corloc_of: Vec<OfClass>,
    /// COCO's twelve figures.
    pub coco: CocoSummary,
}

/// Figures of masks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MaskFigures {
    /// IoU, and AP at it by COCO's 101 points.
    pub ap_at: Vec<(f64, Option<f64>)>,
    /// The same by VOC's rule and all points, as chainercv has it (overlap may equal the IoU).
    pub voc_at: Vec<(f64, Option<f64>)>,
    /// COCO's twelve figures.
    pub coco: CocoSummary,
}

/// Measures the boxes of pictures that `truth` knows; of the others nothing is said.
///
/// # Errors
/// When nothing fits: other classes, or no picture in common.
pub fn measure_boxes(truth: &Truth, found: &Detections) -> Result<BoxFigures, WeakError> {
    let numbers = truth.numbers();
    let mut detections = Vec::new();
    let mut known = 0;
    for image in &found.images {
        let Some(number) = numbers.get(image.file.as_str()) else { continue };
        known += 1;
        for index in 0..image.boxes.len() {
            let region = to_bbox(image.boxes[index]).to_xywh();
            let score = f64::from(image.scores[index]);
            detections.push(Detection::new(*number, image.classes[index] as u64, region, score));
        }
    }
    if known == 0 || found.classes != truth.classes {
        return Err(WeakError::Labels {
            set: "the detections".to_owned(),
            reason: format!(
                "expected pictures and classes ({}) of the set that they are measured against, found {} such pictures and the \
                 classes {}",
                truth.classes.join(", "),
                known,
                found.classes.join(", ")
            ),
        });
    }
    // COCO counts what is difficult as any other; VOC has no crowds.
    let objects: Vec<VocObject<[f64; 4]>> = truth
        .objects()
        .map(|(image, o)| VocObject {
            image,
            category: o.class as u64,
            region: o.bbox.to_xywh(),
            difficult: o.difficult || o.crowd,
        })
        .collect();
    let truths: Vec<GroundTruth<[f64; 4]>> = truth
        .objects()
        .map(|(image, o)| GroundTruth {
            image,
            category: o.class as u64,
            region: o.bbox.to_xywh(),
            area: o.area,
            crowd: o.crowd,
        })
        .collect();
    let named = |figures: &ByCategory| -> Vec<OfClass> {
        let name = |class: u64| truth.classes[class as usize].clone();
        figures.categories.iter().map(|(class, figure)| (name(*class), *figure)).collect()
    };
    let all = voc_average_precision(&objects, &detections, &VocParams::voc2010())?;
    let located = corloc(&objects, &detections, &VocParams::voc2007())?;
    Ok(BoxFigures {
        voc_11: voc_average_precision(&objects, &detections, &VocParams::voc2007())?.mean,
        voc_all: all.mean,
        voc_all_of: named(&all),
        corloc: located.mean,
        corloc_of: named(&located),
        coco: CocoEvaluation::new(&truths, &detections, CocoParams::default())?.summary(),
    })
}

/// Measures the masks of pictures that `truth` knows. Objects without a mask are left out on either side.
///
/// # Errors
/// Masks of another size than the picture's.
pub fn measure_masks(truth: &Truth, found: &[ImageObjects]) -> Result<MaskFigures, WeakError> {
    let numbers = truth.numbers();
    let mut detections = Vec::new();
    for picture in found {
        let Some(number) = numbers.get(picture.image.path.as_str()) else { continue };
        for object in &picture.objects {
            if let Some(mask) = &object.mask {
                detections.push(Detection::new(*number, object.class as u64, mask.clone(), object.score));
            }
        }
    }
    let (mut truths, mut objects) = (Vec::new(), Vec::new());
    for (image, o) in truth.objects() {
        if let Some(mask) = &o.mask {
            let (category, region) = (o.class as u64, mask.clone());
            truths.push(GroundTruth {
                image,
                category,
                region: region.clone(),
                area: o.area,
                crowd: o.crowd,
            });
            objects.push(VocObject { image, category, region, difficult: o.difficult || o.crowd });
        }
    }
    let at = CocoEvaluation::new(&truths, &detections, CocoParams::at_ious(&MASK_IOUS))?;
    let mut figures = MaskFigures {
        ap_at: Vec::new(),
        voc_at: Vec::new(),
        coco: CocoEvaluation::new(&truths, &detections, CocoParams::default())?.summary(),
    };
    for iou in MASK_IOUS {
        figures
            .ap_at
            .push((iou, at.average_precision(&Selection { iou: Some(iou), ..Selection::default() })?));
        let params =
            VocParams { iou_threshold: iou, strictly_above: false, interpolation: Interpolation::AllPoints };
        figures.voc_at.push((iou, voc_average_precision(&objects, &detections, &params)?.mean));
    }
    Ok(figures)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drawn::draw_set;
    use kirie_data::ImageRecord;
    use kirie_data::write::FoundObject;

    /// The fixture of the reference, section 6.5; expected figures by pycocotools 2.0.11.
    #[test]
    fn equal_to_pycocotools() {
        let object = |class: usize, [x, y, w, h]: [f64; 4], area| TrueObject {
            class: class - 1,
            bbox: BBox::from_xywh([x, y, w, h]),
            area,
            difficult: false,
            crowd: false,
            mask: None,
        };
        let crowd = TrueObject { crowd: true, ..object(1, [0.0, 100.0, 200.0, 80.0], 9000.0) };
        let pictures = [
            vec![
                object(1, [10.0, 10.0, 20.0, 20.0], 400.0),
                object(1, [50.0, 50.0, 60.0, 40.0], 2000.0),
                object(2, [100.0, 20.0, 100.0, 120.0], 12000.0),
                crowd,
            ],
            vec![
                object(1, [30.0, 30.0, 32.0, 32.0], 1024.0),
                object(2, [5.0, 5.0, 12.0, 10.0], 120.0),
                object(2, [80.0, 80.0, 40.0, 40.0], 1600.0),
            ],
            vec![object(2, [20.0, 40.0, 96.0, 96.0], 9216.0), object(3, [60.0, 60.0, 30.0, 30.0], 700.0)],
            Vec::new(),
        ];
        let classes: Vec<String> = (1..4).map(|n| n.to_string()).collect();
        let truth = Truth {
            classes: classes.clone(),
            pictures: (1..)
                .zip(pictures)
                .map(|(n, objects)| (format!("{n}.png"), ([240, 200], objects)))
                .collect(),
        };
        let found: [&[(usize, [f32; 4], f32)]; 4] = [
            &[
                (1, [12.0, 11.0, 20.0, 20.0], 0.9),
                (1, [50.0, 50.0, 60.0, 44.0], 0.8),
                (1, [52.0, 52.0, 58.0, 38.0], 0.8),
                (1, [20.0, 110.0, 40.0, 30.0], 0.7),
                (2, [95.0, 25.0, 100.0, 110.0], 0.6),
            ],
            &[
                (1, [28.0, 33.0, 32.0, 32.0], 0.9),
                (1, [120.0, 120.0, 20.0, 20.0], 0.5),
                (2, [82.0, 80.0, 40.0, 44.0], 0.75),
                (2, [5.0, 6.0, 12.0, 10.0], 0.3),
            ],
            &[
                (2, [22.0, 44.0, 96.0, 90.0], 0.6),
                (2, [22.0, 44.0, 96.0, 96.0], 0.6),
                (3, [61.0, 59.0, 30.0, 30.0], 0.4),
            ],
            &[(1, [10.0, 10.0, 50.0, 50.0], 0.95)],
        ];
        let images = (1..).zip(found).map(|(n, found)| {
            let mut image = ImageDetections {
                file: format!("{n}.png"),
                width: 240,
                height: 200,
                ..ImageDetections::default()
            };
            for (class, [x, y, w, h], score) in found {
                image.boxes.push([*x, *y, x + w, y + h]);
                image.classes.push(class - 1);
                image.scores.push(*score);
                image.weights.push(1.0);
            }
            image
        });
        let detections = Detections { classes, images: images.collect() };
        let figures = measure_boxes(&truth, &detections).unwrap();
        let expected = [
            0.630390539054,
            0.900165016502,
            0.678217821782,
            0.666666666667,
            0.575577557756,
            0.750495049505,
            0.569444444444,
            0.727777777778,
            0.727777777778,
            0.666666666667,
            0.75,
            0.8,
        ];
        for (found, expected) in figures.coco.to_array().iter().zip(expected) {
            assert!((found - expected).abs() < 1e-11, "{found} is not {expected}");
        }
        // Class 1: wrong in picture 4 (best of all), then three of three found; the second of a pair is one too many.
        // 11 points: 3/4 up to recall 1; all points the same.
        assert_eq!(figures.voc_all_of[0], ("1".to_owned(), Some(0.75)));
        assert_eq!(figures.voc_all_of[2], ("3".to_owned(), Some(1.0)));
        assert_eq!(figures.corloc, Some(1.0));

        let other = Detections { classes: vec!["x".to_owned()], ..detections };
        assert!(measure_boxes(&truth, &other).unwrap_err().to_string().contains("classes"));
    }

    #[test]
    fn a_sets_truth_scores_full() {
        let folder = tempfile::tempdir().unwrap();
        draw_set(folder.path(), 6);
        let classes = ["disc", "bar"].map(str::to_owned);
        let truth = Truth::open(folder.path(), Some("train"), &classes).unwrap();
        assert_eq!(truth.pictures.len(), 4);
        let boxes = truth.to_boxes();
        assert!(truth.pictures.contains_key("images/p0.png"), "{:?}", truth.pictures.keys());
        let figures = measure_boxes(&truth, &boxes).unwrap();
        let full = |figure: Option<f64>| figure.is_some_and(|figure| (figure - 1.0).abs() < 1e-12);
        assert!(full(figures.voc_11) && full(figures.voc_all) && full(figures.corloc), "{figures:?}");
        assert!(figures.coco.ap.is_some_and(|ap| ap > 0.999));
    }

    #[test]
    fn masks_at_their_ious() {
        let square = |width: usize| Rle::from_fn(40, 40, move |x, y| x < width && y < 10);
        let object = TrueObject {
            class: 0,
            bbox: BBox::new(0.0, 0.0, 10.0, 10.0),
            area: 100.0,
            difficult: false,
            crowd: false,
            mask: Some(square(10)),
        };
        let truth = Truth {
            classes: vec!["square".to_owned()],
            pictures: [("a.png".to_owned(), ([40, 40], vec![object]))].into(),
        };
        let found = |width: usize| {
            let object = FoundObject {
                class: 0,
                bbox: BBox::new(0.0, 0.0, 10.0, 10.0),
                score: 0.5,
                mask: Some(square(width)),
            };
            let image = ImageRecord { path: "a.png".to_owned(), width: 40, height: 40 };
            measure_masks(&truth, &[ImageObjects { image, objects: vec![object] }]).unwrap()
        };
        // IoU 7 / 10: right at 0.25 and 0.5; at 0.7 by a rule that takes equality.
        let right: Vec<bool> = found(7).ap_at.iter().map(|(_, ap)| ap.is_some_and(|ap| ap > 0.99)).collect();
        assert_eq!(right, [true, true, true, false]);
        assert_eq!(found(3).voc_at[0], (0.25, Some(1.0)));
        assert_eq!(found(3).voc_at[1], (0.50, Some(0.0)));
    }
}
