//! What a folder is, going by what lies in it.

use super::files::Root;
use super::{Layout, OpenOptions, coco, folders, frames, masks, parts, regions, voc, yolo};
use crate::{DataError, EXTENSIONS};

/// The layout of a folder. Where several fit, the one that says more goes first.
pub(super) fn layout(root: &Root, options: &OpenOptions) -> Result<Layout, DataError> {
    if options.mask_folder.is_some() || options.mask_meaning.is_some() {
        return Ok(Layout::Masks);
    }
    if !frames::cifar10_files(root)?.is_empty() {
        return Ok(Layout::Cifar10);
    }
    if !frames::stl10_files(root)?.is_empty() {
        return Ok(Layout::Stl10);
    }
    if !coco::find(root)?.is_empty() {
        return Ok(Layout::Coco);
    }
    if regions::speaks_of(root, ["image", "annotations"])? || regions::speaks_of(root, ["image", "masks"])? {
        return Ok(Layout::Regions);
    }
    if regions::speaks_of(root, ["shapes", "imagePath"])? {
        return Ok(Layout::Labelme);
    }
    if !parts::find(root, &voc::WANTED)?.is_empty() {
        return Ok(Layout::Voc);
    }
    if !parts::find(root, &yolo::WANTED)?.is_empty() {
        return Ok(Layout::Yolo);
    }
    if masks::is_here(root, options)? {
        return Ok(Layout::Masks);
    }
    if !folders::class_folders(root)?.is_empty() {
        return Ok(Layout::ClassFolders);
    }
    if !root.files(&root.path, EXTENSIONS, true)?.is_empty() {
        return Ok(Layout::Pictures);
    }
    let reason = "no dataset recognised: expected pictures with a COCO .json, VOC .xml, YOLO .txt or LabelMe .json \
                  files, a folder masks/ of label pictures, a folder for every class, or pictures alone";
    Err(DataError::not_a_dataset(&root.path, reason))
}
