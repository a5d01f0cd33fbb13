//! The one error type of this crate.

use std::io;
use std::path::Path;

/// What went wrong with a picture, a mask or a file.
///
/// `name` is the path of the file, or the name the caller gave to a block of bytes.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// There is no file of this name.
    #[error("{name}: no such file")]
    NotFound {
        /// The path that was looked for.
        name: String,
    },

    /// The file is there but cannot be read (a folder, no permission, a failing disk).
    #[error("{name}: cannot be read: {source}")]
    Unreadable {
        /// The path that was opened.
        name: String,
        /// The system's reason.
        source: io::Error,
    },

    /// The file holds no bytes at all.
    #[error("{name}: the file is empty (0 bytes)")]
    Empty {
        /// The empty file.
        name: String,
    },

    /// The content is not a picture of a format this program reads, whatever the file is called.
    #[error("{name}: expected a JPEG, PNG, WebP, TIFF or BMP picture, found {found}")]
    NotAnImage {
        /// The file.
        name: String,
        /// What the first bytes look like.
        found: String,
    },

    /// A picture of a known format that uses a feature this program does not read.
    #[error("{name}: this kind of {format} is not supported: {reason}")]
    Unsupported {
        /// The file.
        name: String,
        /// The format's usual name.
        format: &'static str,
        /// The decoder's reason.
        reason: String,
    },

    /// A picture of a known format whose data is damaged or ends too early.
    #[error("{name}: damaged or incomplete {format}: {reason}")]
    Corrupt {
        /// The file.
        name: String,
        /// The format's usual name.
        format: &'static str,
        /// The decoder's reason.
        reason: String,
    },

    /// The picture or file is larger than the [`Limits`](crate::Limits) allow; no pixel was decoded.
    #[error("{name}: too large: {found}, the limit is {limit}")]
    TooLarge {
        /// The file.
        name: String,
        /// The size found, with its unit.
        found: String,
        /// The limit it passes, with its unit.
        limit: String,
    },

    /// Raw pixels whose number does not fit the stated size.
    #[error("a {width}x{height} picture needs {expected} bytes, found {found}")]
    RawLength {
        /// Stated width, pixels.
        width: u32,
        /// Stated height, pixels.
        height: u32,
        /// 3 * width * height.
        expected: u64,
        /// Bytes given.
        found: usize,
    },

    /// A picture with a side of 0 pixels was asked for.
    #[error("a picture needs at least 1x1 pixels, {width}x{height} was asked for")]
    ZeroSize {
        /// Width asked for, pixels.
        width: u32,
        /// Height asked for, pixels.
        height: u32,
    },

    /// A part of a picture was asked for that does not lie inside it.
    #[error(
        "the part {width}x{height} at ({x}, {y}) does not lie inside the {image_width}x{image_height} picture"
    )]
    CropOutside {
        /// Left edge asked for, pixels.
        x: u32,
        /// Top edge asked for, pixels.
        y: u32,
        /// Width asked for, pixels.
        width: u32,
        /// Height asked for, pixels.
        height: u32,
        /// The picture's width, pixels.
        image_width: u32,
        /// The picture's height, pixels.
        image_height: u32,
    },

    /// A mask of another size than the picture it belongs to.
    #[error(
        "{name}: mask {index} is {mask_width}x{mask_height}, but its picture is {image_width}x{image_height}"
    )]
    MaskSize {
        /// The picture.
        name: String,
        /// Position of the mask in the list, from 0.
        index: usize,
        /// The mask's width, pixels.
        mask_width: usize,
        /// The mask's height, pixels.
        mask_height: usize,
        /// The picture's width, pixels.
        image_width: u32,
        /// The picture's height, pixels.
        image_height: u32,
    },

    /// Masks of one picture were to be laid over another.
    #[error(
        "{name}: its masks belong to a {expected_width}x{expected_height} picture, this one is {width}x{height}"
    )]
    PictureSize {
        /// The picture the masks belong to.
        name: String,
        /// That picture's width, pixels.
        expected_width: u32,
        /// That picture's height, pixels.
        expected_height: u32,
        /// Width of the picture found, pixels.
        width: u32,
        /// Height of the picture found, pixels.
        height: u32,
    },

    /// More masks than the file format can number.
    #[error("{name}: a label picture holds at most {limit} masks, found {found}")]
    TooManyMasks {
        /// The picture.
        name: String,
        /// The masks given.
        found: usize,
        /// The format's limit.
        limit: usize,
    },

    /// A file name whose ending does not say a format that pictures can be written in.
    #[error("{name}: expected a name ending in .png, .jpg or .jpeg")]
    UnknownExtension {
        /// The file name.
        name: String,
    },

    /// The encoder refused (for example a JPEG over 65,535 pixels a side).
    #[error("cannot encode {what}: {reason}")]
    Encode {
        /// What was being encoded.
        what: &'static str,
        /// The encoder's reason.
        reason: String,
    },

    /// A file could not be written; what stood there before is untouched.
    #[error("{name}: cannot be written: {source}")]
    Write {
        /// The path that was to be written.
        name: String,
        /// The system's reason, such as no space left, permission denied, is a directory.
        source: io::Error,
    },

    /// The folder or file is no dataset that could be recognised, or not one of the layout asked for.
    #[error("{name}: {reason}")]
    NotADataset {
        /// The folder or file.
        name: String,
        /// What was looked for and what was found.
        reason: String,
    },

    /// A dataset's own file (labels, classes, a list) says something that cannot be right.
    #[error("{name}, {place}: {reason}")]
    Malformed {
        /// The file.
        name: String,
        /// Where in it: a line, or what the format numbers its entries by.
        place: String,
        /// What was expected and what was found.
        reason: String,
    },

    /// A label of a class that the dataset's class list lacks.
    #[error("{name}, {place}: class {class} is not among the classes: {known}")]
    UnknownClass {
        /// The label file.
        name: String,
        /// Where in it.
        place: String,
        /// The class, as written there.
        class: String,
        /// The classes there are, shortened.
        known: String,
    },

    /// A part (train, val, test ...) that the dataset does not have.
    #[error("{name}: there is no part {split:?}, found {found}")]
    UnknownSplit {
        /// The dataset.
        name: String,
        /// The part asked for.
        split: String,
        /// The parts there are.
        found: String,
    },

    /// A list names pictures that are not there.
    #[error("{name}, line {line}: no picture {stem:?} in the dataset{}", and_more(*.more))]
    NotListed {
        /// The list.
        name: String,
        /// Line of the first such name, from 1.
        line: usize,
        /// The first such name.
        stem: String,
        /// How many more follow.
        more: usize,
    },

    /// A path in a dataset file, or a link in its folder, leads out of the dataset's folder.
    #[error("{name}: {path:?} leads out of the dataset's folder, which was not allowed")]
    Outside {
        /// The file that names the path, or the folder that holds the link.
        name: String,
        /// The path.
        path: String,
    },

    /// A folder that should hold nothing yet.
    #[error("{name}: expected a new or empty folder")]
    NotEmpty {
        /// The folder.
        name: String,
    },
}

/// " (and 3 more such names)", or nothing.
fn and_more(more: usize) -> String {
    if more == 0 { String::new() } else { format!(" (and {more} more such names)") }
}

impl DataError {
    /// A [`DataError::Malformed`].
    pub(crate) fn malformed(
        file: &Path,
        place: impl std::fmt::Display,
        reason: impl std::fmt::Display,
    ) -> Self {
        Self::Malformed {
            name: file.display().to_string(),
            place: place.to_string(),
            reason: reason.to_string(),
        }
    }

    /// A [`DataError::NotADataset`].
    pub(crate) fn not_a_dataset(path: &Path, reason: impl Into<String>) -> Self {
        Self::NotADataset { name: path.display().to_string(), reason: reason.into() }
    }
}
