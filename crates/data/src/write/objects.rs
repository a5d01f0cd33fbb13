//! Objects of several classes that a detector found: one COCO file, and pictures to look at.

use kirie_mask::{BBox, Rle};
use serde::Serialize;

use ::image::Rgb;

use super::coco::{Category, Dataset, Info, Picture};
use super::letters::{LETTER, fill, text};
use super::{color, paint, paint_box};
use crate::records::nan_as_null;
use crate::{DataError, Image, ImageRecord};

/// An object that was found.
#[derive(Clone, Debug, PartialEq)]
pub struct FoundObject {
    /// Its class, an index into a list of names.
    pub class: usize,
    /// The box around it, pixels: outer edges of its first and last pixels.
    pub bbox: BBox,
    /// How sure the detector is.
    pub score: f64,
    /// Its pixels, where they are known.
    pub mask: Option<Rle>,
}

/// What was found in a picture.
#[derive(Clone, Debug, PartialEq)]
pub struct ImageObjects {
    /// The picture.
    pub image: ImageRecord,
    /// The objects.
    pub objects: Vec<FoundObject>,
}

#[derive(Serialize)]
struct Annotation<'a> {
    id: u64,
    image_id: u64,
    category_id: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    segmentation: Option<&'a Rle>,
    area: f64,
    bbox: [f64; 4],
    iscrowd: u8,
    #[serde(with = "nan_as_null")]
    score: f64,
}

/// The content of a COCO annotation file with all objects of all pictures.
///
/// Images, annotations and categories (the classes in their order) count from 1. `score` is there as well, so that the
/// annotations also serve as results; `area` is the mask's, or the box's where there is no mask.
///
/// # Errors
/// [`DataError::MaskSize`] when a mask is not of its picture's size.
pub fn objects_coco_json(pictures: &[ImageObjects], classes: &[String]) -> Result<Vec<u8>, DataError> {
    let mut images = Vec::new();
    let mut annotations: Vec<Annotation<'_>> = Vec::new();
    for (image_id, picture) in (1..).zip(pictures) {
        check_sizes(picture)?;
        let ImageRecord { path, width, height } = &picture.image;
        images.push(Picture { id: image_id, file_name: path, width: *width, height: *height });
        for object in &picture.objects {
            annotations.push(Annotation {
                id: annotations.len() as u64 + 1,
                image_id,
                category_id: object.class as u64 + 1,
                segmentation: object.mask.as_ref(),
                area: object.mask.as_ref().map_or(object.bbox.area(), |mask| mask.area() as f64),
                bbox: object.bbox.to_xywh(),
                iscrowd: 0,
                score: object.score,
            });
        }
    }
    let categories = (1..).zip(classes).map(|(id, name)| Category { id, name, supercategory: "" }).collect();
    Dataset { info: Info { description: "objects found by kirie" }, images, annotations, categories }
        .to_json()
}

/// The picture with its objects: masks tinted, boxes drawn, each in its class's [`color`] and with its name and score in
/// hundredths.
///
/// # Errors
/// [`DataError::PictureSize`] when the objects are of a picture of another size, [`DataError::MaskSize`] when a mask is.
pub fn objects_overlay(
    image: &Image,
    picture: &ImageObjects,
    classes: &[String],
) -> Result<Image, DataError> {
    check_sizes(picture)?;
    let (expected_width, expected_height) = (picture.image.width, picture.image.height);
    let (width, height) = (image.width(), image.height());
    if (expected_width, expected_height) != (width, height) {
        let name = picture.image.path.clone();
        return Err(DataError::PictureSize { name, expected_width, expected_height, width, height });
    }
    let line = (f64::from(width.max(height)) / 300.0).max(1.5);
    let mut result = image.clone();
    let mut masks: Vec<(&Rle, [u8; 3])> = picture
        .objects
        .iter()
        .filter_map(|object| Some((object.mask.as_ref()?, color(object.class))))
        .collect();
    masks.sort_by_key(|(mask, _)| std::cmp::Reverse(mask.area()));
    paint(&mut result, masks.into_iter(), line);
    for object in &picture.objects {
        paint_box(&mut result, &object.bbox, color(object.class), line);
    }
    // The best on top.
    for object in picture.objects.iter().rev() {
        let name = classes.get(object.class).map_or("object", String::as_str);
        let label = format!("{name} {:.0}", 100.0 * object.score);
        let long = (label.chars().count() as u32) * LETTER + 4;
        let x = (object.bbox.x0.max(0.0) as u32).min(width.saturating_sub(long));
        let y = (object.bbox.y0.max(0.0) as u32).min(height.saturating_sub(18));
        let paper = color(object.class);
        let bright = paper.iter().map(|v| u32::from(*v)).sum::<u32>() > 380;
        let sheet = result.rgb_mut();
        fill(sheet, [x, y, long, 18], Rgb(paper));
        text(sheet, x + 2, y + 1, &label, Rgb(if bright { [0; 3] } else { [255; 3] }));
    }
    Ok(result)
}

fn check_sizes(picture: &ImageObjects) -> Result<(), DataError> {
    let (width, height) = (picture.image.width as usize, picture.image.height as usize);
    for (index, mask) in picture.objects.iter().enumerate().filter_map(|(i, o)| Some((i, o.mask.as_ref()?))) {
        if (mask.width(), mask.height()) != (width, height) {
            return Err(DataError::MaskSize {
                name: picture.image.path.clone(),
                index,
                mask_width: mask.width(),
                mask_height: mask.height(),
                image_width: picture.image.width,
                image_height: picture.image.height,
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture() -> ImageObjects {
        let mask = Rle::from_fn(30, 20, |x, y| (4..10).contains(&x) && (5..9).contains(&y));
        let object = |class, x: f64, mask| FoundObject {
            class,
            bbox: BBox::new(x, 5.0, x + 6.0, 9.0),
            score: 0.75,
            mask,
        };
        ImageObjects {
            image: ImageRecord { path: "a.png".to_owned(), width: 30, height: 20 },
            objects: vec![object(1, 4.0, Some(mask)), object(0, 20.5, None)],
        }
    }

    #[test]
    fn a_coco_file_that_is_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("instances.json");
        let classes = ["cat", "dog"].map(str::to_owned);
        std::fs::write(&path, objects_coco_json(&[picture()], &classes).unwrap()).unwrap();
        let blank = Image::from_raw(30, 20, vec![0; 1800]).unwrap();
        crate::write::write_picture(folder.path().join("a.png"), &blank).unwrap();
        let set = crate::datasets::open(&path, None).unwrap();
        let crate::datasets::Labels::Instances { instances, .. } = set.labels(&set.samples[0]).unwrap()
        else {
            panic!("no objects");
        };
        assert_eq!(instances.len(), 2);
        assert_eq!(instances[0].class, Some(2));
        assert_eq!((instances[0].area, instances[0].score), (24.0, Some(0.75)));
        assert_eq!(instances[0].mask(30, 20).unwrap(), picture().objects[0].mask);
        assert_eq!((instances[1].class, instances[1].bbox), (Some(1), BBox::new(20.5, 5.0, 26.5, 9.0)));
    }

    #[test]
    fn overlays_and_wrong_sizes() {
        let blank = Image::from_raw(30, 20, vec![90; 1800]).unwrap();
        let classes = ["cat", "dog"].map(str::to_owned);
        let drawn = objects_overlay(&blank, &picture(), &classes).unwrap();
        assert_ne!(drawn, blank);
        assert_eq!((drawn.width(), drawn.height()), (30, 20));
        let mut other = picture();
        other.image.width = 31;
        assert!(matches!(objects_overlay(&blank, &other, &classes), Err(DataError::MaskSize { .. })));
        assert!(objects_coco_json(&[other.clone()], &classes).is_err());
        other.objects.remove(0);
        assert!(matches!(objects_overlay(&blank, &other, &classes), Err(DataError::PictureSize { .. })));
    }
}
