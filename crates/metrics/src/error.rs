use kirie_mask::MaskError;
use thiserror::Error;

/// Everything that can be wrong with what a caller hands to this crate.
#[derive(Clone, Debug, PartialEq, Error)]
#[non_exhaustive]
pub enum MetricsError {
    /// Two masks that do not belong together, or another fault of a mask.
    #[error(transparent)]
    Mask(#[from] MaskError),

    /// A number that is NaN, or infinite where that has no meaning.
    #[error("{what} {index}: expected a finite number, found {found}")]
    NotFinite {
        /// What the number is, such as `score of detection`.
        what: &'static str,
        /// Which one, from 0.
        index: usize,
        /// The number found.
        found: f64,
    },

    /// A number that must be above 0 and is not.
    #[error("{what}: expected a number above 0, found {found}")]
    NotPositive {
        /// What the number is.
        what: &'static str,
        /// The number found.
        found: f64,
    },

    /// A list that needs at least one entry.
    #[error("{what}: expected at least one, found none")]
    Empty {
        /// What the list holds.
        what: &'static str,
    },

    /// A list whose length does not fit another.
    #[error("{what}: expected {expected}, found {found}")]
    Length {
        /// What is counted.
        what: &'static str,
        /// The length that fits.
        expected: usize,
        /// The length found.
        found: usize,
    },

    /// A label that no class has.
    #[error("{what}, position {position}: expected a label from 0 to {last}, found {found}")]
    Label {
        /// Which list of labels, such as `ground truth`.
        what: &'static str,
        /// Index in the list, from 0.
        position: usize,
        /// The largest label there is.
        last: usize,
        /// The label found.
        found: u32,
    },

    /// A confusion matrix of more pixels than can be counted exactly.
    #[error("confusion matrix: expected at most {limit} pixels, found {found}")]
    TooManyPixels {
        /// The most there may be.
        limit: u64,
        /// The pixels found; `u64::MAX` stands for more.
        found: u64,
    },

    /// Two partial results that cannot be merged.
    #[error("{what}: expected the same in both parts, found {ours} and {theirs}")]
    Unlike {
        /// What differs.
        what: &'static str,
        /// That of the part merged into.
        ours: String,
        /// That of the part merged from.
        theirs: String,
    },

    /// A figure asked for at a setting that was not evaluated.
    #[error("{what}: expected one of those evaluated ({evaluated}), found {found}")]
    NotEvaluated {
        /// Which setting.
        what: &'static str,
        /// The values evaluated.
        evaluated: String,
        /// The value asked for.
        found: String,
    },

    /// A row of a task matrix without a score for every domain seen so far.
    #[error("task matrix, row {row}: expected {expected} to {domains} scores, found {found}")]
    TaskRow {
        /// Index of the row, from 0.
        row: usize,
        /// Domains seen after this row's step.
        expected: usize,
        /// Domains in all.
        domains: usize,
        /// Scores found.
        found: usize,
    },
}

/// `number`, unless it is NaN or infinite.
pub(crate) fn finite(what: &'static str, index: usize, number: f64) -> Result<f64, MetricsError> {
    if number.is_finite() { Ok(number) } else { Err(MetricsError::NotFinite { what, index, found: number }) }
}

/// Nothing, unless the lengths differ.
pub(crate) fn same_length(what: &'static str, expected: usize, found: usize) -> Result<(), MetricsError> {
    if expected == found { Ok(()) } else { Err(MetricsError::Length { what, expected, found }) }
}
