//! The text forms of [`Rle`]: COCO's compressed string, and serde.
//!
//! The string writes each run as a difference to the run two before it (from the fourth run on), in
//! groups of five bits, lowest group first. The character of a group is `'0'` plus its bits, plus 32
//! when another group follows; the highest bit of the last group is the sign.

use serde::{Deserialize, Serialize};

use crate::{MaskError, Rle};

/// Seven groups hold 35 bits; the difference of two runs needs 33.
const MAX_GROUPS: u32 = 7;
const CONTINUES: u8 = 32;

impl Rle {
    /// The mask as COCO's compressed string, byte for byte what pycocotools writes.
    pub fn to_coco_string(&self) -> String {
        let counts = self.counts();
        let mut text = String::with_capacity(2 * counts.len());
        for (i, &count) in counts.iter().enumerate() {
            let before = if i > 2 { i64::from(counts[i - 2]) } else { 0 };
            let mut rest = i64::from(count) - before;
            loop {
                let group = (rest & 31) as u8;
                rest >>= 5;
                let sign = if group & 16 == 0 { 0 } else { -1 };
                let last = rest == sign;
                text.push(char::from(b'0' + group + if last { 0 } else { CONTINUES }));
                if last {
                    break;
                }
            }
        }
        text
    }

    /// Reads COCO's compressed string. The work and memory are in proportion to its length.
    ///
    /// # Errors
    /// [`MaskError::BadCharacter`], [`MaskError::NumberTooLong`], [`MaskError::Truncated`],
    /// [`MaskError::NegativeRun`], [`MaskError::RunSum`] and [`MaskError::FrameTooLarge`], each saying where.
    pub fn from_coco_string(height: usize, width: usize, text: &str) -> Result<Self, MaskError> {
        let expected = u64::from(crate::frame_area(width, height)?);
        let mut counts: Vec<u32> = Vec::new();
        let mut sum = 0u64;
        let (mut value, mut groups) = (0i64, 0);
        for (position, byte) in text.bytes().enumerate() {
            let bits = byte.wrapping_sub(b'0');
            if bits > 63 {
                return Err(MaskError::BadCharacter { position, found: byte });
            }
            if groups == MAX_GROUPS {
                return Err(MaskError::NumberTooLong { position });
            }
            value |= i64::from(bits & 31) << (5 * groups);
            groups += 1;
            if bits & CONTINUES != 0 {
                continue;
            }
            if bits & 16 != 0 {
                value |= -1 << (5 * groups);
            }
            let run = counts.len();
            if run > 2 {
                value += i64::from(counts[run - 2]);
            }
            let count = u64::try_from(value).map_err(|_| MaskError::NegativeRun { run, found: value })?;
            sum += count;
            // Stops at once, so that every run kept fits 32 bits.
            if sum > expected {
                return Err(MaskError::RunSum { width, height, expected, found: sum });
            }
            counts.push(count as u32);
            (value, groups) = (0, 0);
        }
        if groups > 0 {
            return Err(MaskError::Truncated { run: counts.len() });
        }
        Self::from_counts(height, width, counts)
    }
}

/// COCO's `{"size": [height, width], "counts": ...}`.
#[derive(Serialize, Deserialize)]
struct Coco<Counts> {
    size: [usize; 2],
    counts: Counts,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a COCO run-length string or a list of run lengths (0 to 4294967295)")]
enum Counts {
    Text(String),
    List(Vec<u32>),
}

impl Serialize for Rle {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Coco { size: [self.height(), self.width()], counts: self.to_coco_string() }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Rle {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Coco { size: [height, width], counts } = Coco::deserialize(deserializer)?;
        match counts {
            Counts::Text(text) => Self::from_coco_string(height, width, &text),
            Counts::List(list) => Self::from_counts(height, width, list),
        }
        .map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Rle {
        Rle::from_counts(4, 5, vec![0, 1, 8, 2, 2, 2, 2, 2, 1]).unwrap()
    }

    #[test]
    fn sams_example() {
        assert_eq!(example().to_coco_string(), "0181J000O");
        assert_eq!(Rle::from_coco_string(4, 5, "0181J000O"), Ok(example()));
    }

    #[test]
    fn long_runs_take_several_characters() {
        let side = 65_535;
        let rle = Rle::from_counts(side, side, vec![1, 2, side as u32, 1, (side * side - side - 4) as u32]);
        let rle = rle.unwrap();
        assert_eq!(Rle::from_coco_string(side, side, &rle.to_coco_string()), Ok(rle));
    }

    #[test]
    fn each_kind_of_bad_string() {
        let read = |text: &str| Rle::from_coco_string(4, 5, text).unwrap_err();
        assert_eq!(read("0181J0 0O"), MaskError::BadCharacter { position: 6, found: b' ' });
        assert_eq!(read("p"), MaskError::BadCharacter { position: 0, found: b'p' });
        assert_eq!(read("é"), MaskError::BadCharacter { position: 0, found: 0xc3 });
        assert_eq!(read("0181J000o"), MaskError::Truncated { run: 8 });
        assert_eq!(read("oooooooooooo"), MaskError::NumberTooLong { position: 7 });
        assert_eq!(read("O"), MaskError::NegativeRun { run: 0, found: -1 });
        assert_eq!(read("0181J00"), MaskError::RunSum { width: 5, height: 4, expected: 20, found: 17 });
        assert_eq!(read("0181J0009"), MaskError::RunSum { width: 5, height: 4, expected: 20, found: 30 });
        assert_eq!(read(""), MaskError::RunSum { width: 5, height: 4, expected: 20, found: 0 });
        let huge = usize::MAX;
        assert_eq!(
            Rle::from_coco_string(huge, 1, "0"),
            Err(MaskError::FrameTooLarge { width: 1, height: huge })
        );
    }

    #[test]
    fn json_both_ways() {
        let json = serde_json::to_string(&example()).unwrap();
        assert_eq!(json, r#"{"size":[4,5],"counts":"0181J000O"}"#);
        assert_eq!(serde_json::from_str::<Rle>(&json).unwrap(), example());
        let list = r#"{"counts":[0,1,8,2,2,2,2,2,1],"size":[4,5]}"#;
        assert_eq!(serde_json::from_str::<Rle>(list).unwrap(), example());
    }

    #[test]
    fn bad_json_is_explained() {
        let message = |json: &str| serde_json::from_str::<Rle>(json).unwrap_err().to_string();
        assert!(message(r#"{"size":[4,5],"counts":"p"}"#).contains("byte 0x70"));
        assert!(message(r#"{"size":[4,5],"counts":[-1,21]}"#).contains("list of run lengths"));
        assert!(message(r#"{"size":[4,5],"counts":[20,1]}"#).contains("expected a sum of 20"));
        assert!(message(r#"{"counts":"0"}"#).contains("size"));
    }
}
