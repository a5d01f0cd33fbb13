//! Masks as GeoJSON, for programs that draw and measure shapes (QGIS, QuPath, web maps).

use kirie_mask::{Point, Rle};
use serde_json::{Value, json};

use super::{check_sizes, outlines, simplified};
use crate::{DataError, ImageMasks};

/// One `FeatureCollection` of a picture: a feature a mask, its `id` the mask's position in the list, from 0.
///
/// Coordinates are pixels of the picture, **y downwards**, not longitude and latitude; the corner of pixel (0, 0) is
/// the origin. A mask of one part is a `Polygon`, of several a `MultiPolygon`; every ring is closed, the outer ring
/// comes first and its holes after it. Outlines stray at most `tolerance` pixels from the mask's edge (0 keeps every
/// corner). Properties are those of [`MaskRecord`](crate::MaskRecord) but for the pixels. Masks without a pixel are
/// left out.
///
/// # Errors
/// [`DataError::MaskSize`] when a mask is not of the picture's size.
pub fn geojson(all: &ImageMasks, tolerance: f64) -> Result<String, DataError> {
    check_sizes(all)?;
    let masks = all.masks.iter().enumerate().filter(|(_, mask)| mask.segmentation.area() > 0);
    let features: Vec<Value> = masks
        .map(|(id, mask)| {
            json!({
                "type": "Feature",
                "id": id,
                "geometry": geometry(&mask.segmentation, tolerance),
                // Scores that are not finite become null here too: JSON values hold no NaN.
                "properties": {
                    "area": mask.area,
                    "bbox": mask.bbox,
                    "predicted_iou": mask.predicted_iou,
                    "stability_score": mask.stability_score,
                    "point_coords": mask.point_coords,
                    "crop_box": mask.crop_box,
                },
            })
        })
        .collect();
    let collection =
        json!({ "type": "FeatureCollection", "image": all.image, "model": all.model, "features": features });
    Ok(collection.to_string())
}

fn geometry(mask: &Rle, tolerance: f64) -> Value {
    let mut polygons: Vec<Vec<Vec<[f64; 2]>>> = outlines(mask)
        .iter()
        .map(|region| {
            let rings = [&region.exterior].into_iter().chain(&region.holes);
            rings.map(|ring| closed(&simplified(ring, tolerance))).collect()
        })
        .collect();
    match polygons.pop() {
        Some(only) if polygons.is_empty() => json!({ "type": "Polygon", "coordinates": only }),
        last => {
            polygons.extend(last);
            json!({ "type": "MultiPolygon", "coordinates": polygons })
        }
    }
}

/// The ring's corners with the first repeated at the end, as GeoJSON asks.
fn closed(ring: &[Point]) -> Vec<[f64; 2]> {
    ring.iter().chain(ring.first()).map(|p| [p.x, p.y]).collect()
}
