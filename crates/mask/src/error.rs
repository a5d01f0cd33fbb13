use thiserror::Error;

/// Everything that can be wrong with what a caller hands to this crate.
#[derive(Clone, Debug, PartialEq, Error)]
#[non_exhaustive]
pub enum MaskError {
    /// A box whose corners are not finite, or whose second corner lies before the first.
    #[error("box: expected finite corners with x1 >= x0 and y1 >= y0, found ({x0}, {y0}) to ({x1}, {y1})")]
    BadBox {
        /// Left edge found, pixels.
        x0: f64,
        /// Top edge found, pixels.
        y0: f64,
        /// Right edge found, pixels.
        x1: f64,
        /// Bottom edge found, pixels.
        y1: f64,
    },

    /// A frame with more pixels than run lengths (`u32`) can count.
    #[error("frame: expected at most {} pixels, found {width} x {height}", u32::MAX)]
    FrameTooLarge {
        /// Width found, pixels.
        width: usize,
        /// Height found, pixels.
        height: usize,
    },

    /// A pixel buffer that does not fit its frame.
    #[error("mask: expected {expected} pixels for a frame of {width} x {height}, found {found}")]
    PixelCount {
        /// Width of the frame, pixels.
        width: usize,
        /// Height of the frame, pixels.
        height: usize,
        /// `width * height`.
        expected: usize,
        /// Length of the buffer.
        found: usize,
    },

    /// Two masks that should share one frame do not.
    #[error(
        "masks: expected both in one frame of {} x {} (width x height), found {} x {}",
        expected.0, expected.1, found.0, found.1
    )]
    FrameMismatch {
        /// Width and height of the first, pixels.
        expected: (usize, usize),
        /// Width and height of the other, pixels.
        found: (usize, usize),
    },

    /// Run lengths that do not add up to the frame.
    #[error("run lengths: expected a sum of {expected} for a frame of {width} x {height}, found {found}")]
    RunSum {
        /// Width of the frame, pixels.
        width: usize,
        /// Height of the frame, pixels.
        height: usize,
        /// `width * height`.
        expected: u64,
        /// Sum of the runs; when reading stopped early, the sum so far.
        found: u64,
    },

    /// A character that no COCO run-length string holds.
    #[error("COCO string, byte {position}: expected a character from '0' to 'o', found byte {found:#04x}")]
    BadCharacter {
        /// Byte offset in the string.
        position: usize,
        /// The byte found.
        found: u8,
    },

    /// A number in a COCO run-length string with more digits than any run can need.
    #[error(
        "COCO string, byte {position}: expected a run length of at most 7 characters, found a longer one"
    )]
    NumberTooLong {
        /// Byte offset where it became too long.
        position: usize,
    },

    /// A COCO run-length string that stops inside a number.
    #[error("COCO string: expected run length {run} to go on, found the end of the string")]
    Truncated {
        /// Index of the unfinished run, from 0.
        run: usize,
    },

    /// A run length below zero.
    #[error("COCO string: expected run length {run} to be 0 or more, found {found}")]
    NegativeRun {
        /// Index of the run, from 0.
        run: usize,
        /// The value found.
        found: i64,
    },

    /// A window that does not lie inside the frame around it.
    #[error(
        "window: expected it inside a frame of {width} x {height}, found {window_width} x {window_height} at ({x}, {y})"
    )]
    WindowOutside {
        /// Width of the frame, pixels.
        width: usize,
        /// Height of the frame, pixels.
        height: usize,
        /// Left edge of the window in the frame, pixels.
        x: usize,
        /// Top edge of the window in the frame, pixels.
        y: usize,
        /// Width of the window, pixels.
        window_width: usize,
        /// Height of the window, pixels.
        window_height: usize,
    },

    /// A merge of no masks at all, which would have no frame.
    #[error("merge: expected at least one mask, found none")]
    NothingToMerge,

    /// A polygon corner that is not finite or lies absurdly far outside.
    #[error(
        "polygon {polygon}, point {index}: expected finite coordinates within {limit} pixels of 0, found ({x}, {y})"
    )]
    BadPoint {
        /// Index of the polygon, from 0.
        polygon: usize,
        /// Index of the point in its polygon, from 0.
        index: usize,
        /// x found, pixels.
        x: f64,
        /// y found, pixels.
        y: f64,
        /// The largest magnitude accepted, pixels.
        limit: f64,
    },
}
