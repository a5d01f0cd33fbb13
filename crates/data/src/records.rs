//! The masks cut from one picture, as data: the JSON form that SAM's own mask generator writes and pycocotools reads.

use kirie_mask::Rle;
use serde::{Deserialize, Serialize};

/// The masks cut from one picture.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ImageMasks {
    /// The picture.
    pub image: ImageRecord,
    /// Name of the model that cut the masks.
    pub model: String,
    /// The masks, all of the picture's size. They may overlap.
    pub masks: Vec<MaskRecord>,
}

/// A picture, by name and size.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageRecord {
    /// Path or name.
    pub path: String,
    /// Width of the upright picture, pixels.
    pub width: u32,
    /// Height of the upright picture, pixels.
    pub height: u32,
}

/// One mask and what is known about it.
///
/// JSON has no number for NaN: scores that are not finite are written as `null`, and `null` is read as NaN.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MaskRecord {
    /// The pixels, as COCO run-length encoding at the picture's size.
    pub segmentation: Rle,
    /// Box around the mask: x, y, width, height in pixels of the picture. Width and height follow SAM: from the first
    /// to the last pixel, one less than the number of pixels between.
    pub bbox: [f64; 4],
    /// Number of foreground pixels.
    pub area: u64,
    /// The model's own estimate of the mask's IoU with the true object; not bounded to 0..1.
    #[serde(with = "nan_as_null")]
    pub predicted_iou: f64,
    /// IoU between the mask cut at a higher and at a lower threshold, 0..1.
    #[serde(with = "nan_as_null")]
    pub stability_score: f64,
    /// The points that asked for this mask: x, y in pixels of the picture.
    pub point_coords: Vec<[f64; 2]>,
    /// The part of the picture the model saw: x, y, width, height in pixels.
    pub crop_box: [f64; 4],
}

/// Numbers that are not finite as `null`, in both directions.
pub(crate) mod nan_as_null {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    // serde's `with` passes fields by reference.
    #[allow(clippy::trivially_copy_pass_by_ref)]
    pub(crate) fn serialize<S: Serializer>(number: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        Some(number).filter(|n| n.is_finite()).serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
        Ok(Option::deserialize(deserializer)?.unwrap_or(f64::NAN))
    }
}

#[cfg(test)]
mod tests {
    use kirie_mask::Mask;

    use super::*;

    #[test]
    fn json_has_the_fields_of_the_mask_generator() {
        let mask = Mask::from_fn(5, 4, |x, y| ((1..3).contains(&y) && x >= 2) || (x, y) == (0, 0));
        let record = MaskRecord {
            segmentation: Rle::from_mask(&mask),
            bbox: [0.0, 0.0, 4.0, 2.0],
            area: mask.area(),
            predicted_iou: 0.5,
            stability_score: f64::NAN,
            point_coords: vec![[1.5, 2.0]],
            crop_box: [0.0, 0.0, 5.0, 4.0],
        };
        let all = ImageMasks {
            image: ImageRecord { path: "a.png".to_owned(), width: 5, height: 4 },
            model: "m".to_owned(),
            masks: vec![record],
        };
        let text = serde_json::to_string(&all).unwrap();
        assert_eq!(
            text,
            concat!(
                r#"{"image":{"path":"a.png","width":5,"height":4},"model":"m","masks":[{"#,
                r#""segmentation":{"size":[4,5],"counts":"0181J000O"},"bbox":[0.0,0.0,4.0,2.0],"area":7,"#,
                r#""predicted_iou":0.5,"stability_score":null,"point_coords":[[1.5,2.0]],"#,
                r#""crop_box":[0.0,0.0,5.0,4.0]}]}"#
            )
        );
        let back: ImageMasks = serde_json::from_str(&text).unwrap();
        assert!(back.masks[0].stability_score.is_nan());
        assert_eq!(serde_json::to_string(&back).unwrap(), text);

        for score in [f64::INFINITY, f64::NEG_INFINITY] {
            let mut other = all.clone();
            other.masks[0].predicted_iou = score;
            assert!(serde_json::to_string(&other).unwrap().contains(r#""predicted_iou":null"#));
        }
    }
}
