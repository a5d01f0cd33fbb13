//! Measures of segmentation, detection, continual learning and features.
//!
//! Nothing here learns, opens files or prints: plain numbers, masks and boxes in, figures out. Every figure
//! is a fraction from 0 to 1 unless it says otherwise, and `None` where there is nothing to measure, so that
//! a report can tell "bad" from "no such thing". Definitions that papers share only by name have names of
//! their own.
//!
//! | module | what it measures |
//! | --- | --- |
//! | [`iou`] | IoU and boundary IoU of masks, and their mean over objects by size |
//! | [`semantic`] | label maps: confusion matrix, mIoU, Dice, accuracy |
//! | [`coco_ap`] | COCO average precision and recall of boxes and masks, equal to pycocotools |
//! | [`voc_ap`] | PASCAL VOC average precision by 11 or all points, and CorLoc |
//! | [`proposals`] | recall of proposals |
//! | [`detection`] | what the three before are fed: [`Region`], [`Detection`] |
//! | [`clicks`] | simulated clicks of interactive segmentation, by RITM's rule |
//! | [`continual`] | forgetting and transfer, from the matrix of scores by step and domain |
//! | [`knn`] | the weighted k-nearest-neighbour classifier |
//!
//! ```
//! use kirie_metrics::{CocoEvaluation, CocoParams, Detection, GroundTruth};
//!
//! let region = [10.0, 10.0, 50.0, 40.0];
//! let truths = [GroundTruth { image: 1, category: 3, region, area: 1800.0, crowd: false }];
//! let detections = [Detection::new(1, 3, [11.0, 10.0, 50.0, 40.0], 0.9)];
//! let summary = CocoEvaluation::new(&truths, &detections, CocoParams::default())?.summary();
//! assert!(summary.ap.unwrap() > 0.99);
//! assert_eq!(summary.ap_small, None);
//! # Ok::<(), kirie_metrics::MetricsError>(())
//! ```

pub mod clicks;
pub mod coco_ap;
mod coco_match;
pub mod continual;
pub mod detection;
mod error;
pub mod iou;
pub mod knn;
mod numeric;
pub mod proposals;
pub mod semantic;
pub mod voc_ap;

pub use clicks::{Click, Clicker, squared_depths};
pub use coco_ap::{AreaRange, CocoEvaluation, CocoParams, CocoSummary, GroundTruth, Selection};
pub use continual::{ContinualReport, TaskMatrix};
pub use detection::{Detection, Region, inclusive_box};
pub use error::MetricsError;
pub use iou::{ObjectReport, ObjectScores, Overlap, SizeClass, SizeLimits};
pub use knn::{KnnBank, KnnVotes};
pub use numeric::linspace;
pub use proposals::{Matching, proposal_recall};
pub use semantic::{ClassMean, ClassReport, ConfusionMatrix, SemanticReport};
pub use voc_ap::{
    ByCategory, Interpolation, VocObject, VocParams, average_precision, corloc, voc_average_precision,
};
