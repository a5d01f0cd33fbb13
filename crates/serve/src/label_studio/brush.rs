//! Brush masks as Label Studio keeps them: the run-length packing of thi.ng/umbrella's `rle-pack` over red, green, blue and alpha of
//! every pixel, 0 or 255, row by row.
//!
//! The stream of bits, most significant first: 32 bits for the number of values, 5 for the bits of a value less 1, four times 4 for
//! the bits of a length less 1; then pieces: a bit that says whether one value repeats, 2 for which kind of length, the length less
//! 1, and the value (or so many values).

use kirie_mask::Rle;

/// Bits of the four kinds of lengths.
const LENGTHS: [u32; 4] = [3, 4, 8, 16];
const VALUE_BITS: u32 = 8;

/// A mask as such bytes.
pub(super) fn encode(rle: &Rle) -> Vec<u8> {
    let mask = rle.to_mask();
    let pixels = mask.as_slice();
    let mut bits = Bits::default();
    bits.push(4 * pixels.len() as u64, 32);
    bits.push(u64::from(VALUE_BITS - 1), 5);
    for length in LENGTHS {
        bits.push(u64::from(length - 1), 4);
    }
    for run in pixels.chunk_by(|a, b| a == b) {
        let value = if run[0] { 255 } else { 0 };
        let mut left = 4 * run.len();
        while left > 0 {
            let kind = LENGTHS.iter().position(|bits| left <= 1 << bits).unwrap_or(LENGTHS.len() - 1);
            let piece = left.min(1 << LENGTHS[kind]);
            bits.push(1, 1);
            bits.push(kind as u64, 2);
            bits.push(piece as u64 - 1, LENGTHS[kind]);
            bits.push(value, VALUE_BITS);
            left -= piece;
        }
    }
    bits.finish()
}

#[derive(Default)]
struct Bits {
    bytes: Vec<u8>,
    /// The last bits, not yet a byte.
    rest: u64,
    count: u32,
}

impl Bits {
    /// Appends the lowest `bits` of a number, at most 32.
    fn push(&mut self, number: u64, bits: u32) {
        self.rest = self.rest << bits | (number & ((1 << bits) - 1));
        self.count += bits;
        while self.count >= 8 {
            self.count -= 8;
            self.bytes.push((self.rest >> self.count) as u8);
        }
        self.rest &= (1 << self.count) - 1;
    }

    fn finish(mut self) -> Vec<u8> {
        if self.count > 0 {
            self.push(0, 8 - self.count);
        }
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kirie_mask::Mask;

    /// The decoder, after the description of the format, a bit at a time.
    fn decode(bytes: &[u8]) -> Vec<u8> {
        let mut at = 0;
        let mut read = |bits: usize| {
            (0..bits).fold(0_usize, |number, _| {
                let bit = bytes[at / 8] >> (7 - at % 8) & 1;
                at += 1;
                number << 1 | usize::from(bit)
            })
        };
        let count = read(32);
        let word = read(5) + 1;
        let lengths: Vec<usize> = (0..4).map(|_| read(4) + 1).collect();
        let mut values = Vec::new();
        while values.len() < count {
            let repeats = read(1) == 1;
            let kind = read(2);
            let length = read(lengths[kind]) + 1;
            if repeats {
                let value = read(word) as u8;
                values.extend(std::iter::repeat_n(value, length));
            } else {
                for _ in 0..length {
                    values.push(read(word) as u8);
                }
            }
        }
        values
    }

    #[test]
    fn masks_come_back() {
        let masks = [
            Mask::from_fn(7, 5, |x, y| (x + y) % 3 == 0),
            Mask::from_fn(300, 200, |x, y| (100..250).contains(&x) && y > 20),
            Mask::from_fn(1, 1, |_, _| true),
            Mask::from_fn(200, 100, |_, _| false),
        ];
        for mask in masks {
            let expected: Vec<u8> =
                mask.as_slice().iter().flat_map(|set| [if *set { 255 } else { 0 }; 4]).collect();
            assert!(
                decode(&encode(&Rle::from_mask(&mask))) == expected,
                "{}x{}",
                mask.width(),
                mask.height()
            );
        }
    }
}
