//! Pictures in and out: decoding within limits, resizing exactly as Pillow does, the files that masks are written to,
//! and labelled sets of pictures.
//!
//! - [`read_image`], [`decode_image`]: any supported file to an 8-bit RGB [`Image`], upright, within [`Limits`];
//! - [`read_index_map`], [`read_mask_png`]: label pictures, as numbers and as one mask;
//! - [`resize_bilinear`], [`longest_side`]: the models' preprocessing, bit for bit as the reference does it;
//! - [`ImageMasks`]: the masks cut from one picture, in the JSON form of SAM's own mask generator;
//! - [`mod@write`]: masks as PNG, overlay picture, COCO, YOLO and GeoJSON;
//! - [`datasets`]: sets of many layouts opened in one form, inspected, converted and shown on a contact sheet;
//! - [`contact_sheet`]: pictures with their names on one sheet;
//! - [`write_atomic`]: the one way files are written; [`NewFolder`]: folders.

mod atomic;
pub mod datasets;
mod decode;
mod error;
mod image;
mod index_map;
mod new_folder;
mod records;
mod resize;
mod sheet;
pub mod write;

pub use atomic::{create_parent, write_atomic};
pub use decode::{EXTENSIONS, Limits, decode_image, read_image, read_mask_png, read_size};
pub use error::DataError;
pub use image::Image;
pub use index_map::{IndexMap, read_index_map};
pub use new_folder::NewFolder;
pub use records::{ImageMasks, ImageRecord, MaskRecord};
pub use resize::{longest_side, resize_bicubic, resize_bicubic_part, resize_bilinear};
pub use sheet::{Tile, contact_sheet, fitted};
