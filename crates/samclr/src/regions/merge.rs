//! From masks that lie in each other to objects, and from objects to the regions that views are drawn from.

use kirie_mask::{MaskError, Rle};

/// Masks that belong to one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// The largest mask, as a position in the list.
    pub root: usize,
    /// All masks of the object, the root first, by falling area.
    pub parts: Vec<usize>,
}

/// Joins nested masks: the largest mask left takes every mask of whose own area more than `containment` lies in it, and so on. Of
/// equals the earlier counts as the larger; masks without pixels belong to no object.
///
/// A part of a part thus belongs to the outermost mask, and masks that overlap by less stay apart (S3SAMe's
/// `get_masks_hierarchy`, which calls the containment an IoU threshold).
///
/// # Errors
/// [`MaskError::FrameMismatch`] for masks of different frames.
pub fn merge_nested(masks: &[Rle], containment: f64) -> Result<Vec<Object>, MaskError> {
    let areas: Vec<u64> = masks.iter().map(Rle::area).collect();
    let boxes: Vec<[u32; 4]> = masks.iter().map(Rle::bbox_xywh).collect();
    let mut remaining: Vec<usize> = (0..masks.len()).filter(|i| areas[*i] > 0).collect();
    remaining.sort_by_key(|i| std::cmp::Reverse(areas[*i]));
    let mut objects = Vec::new();
    while let Some(&root) = remaining.first() {
        let mut parts = vec![root];
        let mut apart = Vec::new();
        for &other in &remaining[1..] {
            let inside = if overlap(boxes[root], boxes[other]) {
                Rle::merge(&[masks[root].clone(), masks[other].clone()], true)?.area()
            } else {
                0
            };
            let within = inside as f64 > containment * areas[other] as f64;
            if within { parts.push(other) } else { apart.push(other) }
        }
        objects.push(Object { root, parts });
        remaining = apart;
    }
    Ok(objects)
}

/// Whether boxes (x, y, width, height) share a pixel.
fn overlap(a: [u32; 4], b: [u32; 4]) -> bool {
    (0..2).all(|i| a[i] < b[i] + b[i + 2] && b[i] < a[i] + a[i + 2])
}

#[cfg(test)]
mod tests {
    use super::*;
    use kirie_mask::Mask;

    fn rectangle(x: usize, y: usize, width: usize, height: usize) -> Rle {
        Rle::from_mask(&Mask::from_fn(40, 30, |u, v| {
            (x..x + width).contains(&u) && (y..y + height).contains(&v)
        }))
    }

    #[test]
    fn parts_of_parts_belong_to_the_outermost() {
        let masks = [
            rectangle(5, 5, 4, 4),   // part of the part
            rectangle(2, 2, 20, 20), // the whole
            rectangle(4, 4, 10, 10), // its part
            rectangle(30, 2, 5, 5),  // something else
            rectangle(20, 0, 8, 8),  // overlaps the whole, but mostly outside
        ];
        let objects = merge_nested(&masks, 0.9).unwrap();
        let found: Vec<(usize, Vec<usize>)> = objects.into_iter().map(|o| (o.root, o.parts)).collect();
        assert_eq!(found, [(1, vec![1, 2, 0]), (4, vec![4]), (3, vec![3])]);
    }

    #[test]
    fn exactly_the_containment_is_not_enough() {
        // 10 pixels, 9 of them in the large one.
        let masks = [rectangle(0, 0, 9, 20), rectangle(0, 3, 10, 1)];
        assert_eq!(merge_nested(&masks, 0.9).unwrap().len(), 2);
        assert_eq!(merge_nested(&masks, 0.89).unwrap().len(), 1);
    }

    #[test]
    fn masks_without_pixels_belong_to_nothing_and_nothing_hangs() {
        let empty = rectangle(0, 0, 0, 0);
        assert_eq!(merge_nested(&[empty.clone(), empty.clone()], 0.9).unwrap(), []);
        let objects = merge_nested(&[empty, rectangle(1, 1, 1, 1)], 0.9).unwrap();
        assert_eq!(objects, [Object { root: 1, parts: vec![1] }]);
        assert_eq!(merge_nested(&[], 0.9).unwrap(), []);
    }
}
