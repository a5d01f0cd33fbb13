//! Sums and scales whose last bits equal NumPy's.

/// `count` numbers from `start` to `end`, both included, as `numpy.linspace` computes them.
///
/// ```
/// use kirie_metrics::linspace;
/// assert_eq!(linspace(0.5, 0.95, 10)[8], 0.8999999999999999);
/// ```
pub fn linspace(start: f64, end: f64, count: usize) -> Vec<f64> {
    let step = (end - start) / count.saturating_sub(1).max(1) as f64;
    let mut numbers: Vec<f64> = (0..count).map(|i| i as f64 * step + start).collect();
    if let [_, .., last] = numbers.as_mut_slice() {
        *last = end;
    }
    numbers
}

/// The mean as `numpy.mean` computes it; `None` of nothing.
pub(crate) fn mean(numbers: &[f64]) -> Option<f64> {
    (!numbers.is_empty()).then(|| pairwise_sum(numbers) / numbers.len() as f64)
}

/// NumPy's order of adding: halves of halves down to 128 numbers, those in eight interleaved sums.
fn pairwise_sum(numbers: &[f64]) -> f64 {
    let n = numbers.len();
    if n > 128 {
        let (left, right) = numbers.split_at(n / 2 - n / 2 % 8);
        return pairwise_sum(left) + pairwise_sum(right);
    }
    let (eights, rest) = numbers.as_chunks::<8>();
    let Some((first, more)) = eights.split_first() else { return rest.iter().sum() };
    let mut r = *first;
    for eight in more {
        r.iter_mut().zip(eight).for_each(|(sum, number)| *sum += number);
    }
    let together = ((r[0] + r[1]) + (r[2] + r[3])) + ((r[4] + r[5]) + (r[6] + r[7]));
    rest.iter().fold(together, |sum, number| sum + number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_like_numpys() {
        assert_eq!(linspace(0.0, 1.0, 101)[35], 0.35000000000000003);
        assert_eq!(linspace(0.5, 0.95, 10)[5], 0.75);
        assert_eq!(linspace(0.5, 0.95, 10)[9], 0.95);
        // Three steps lead a little past the end, which is exact all the same.
        assert_eq!(linspace(0.1, 0.3, 4)[3], 0.3);
        assert_eq!(linspace(0.3, 0.9, 1), [0.3]);
        assert!(linspace(0.3, 0.9, 0).is_empty());
    }

    /// The bits `numpy.mean(1 / numpy.sqrt(numpy.arange(n) + 1.0))` gave, NumPy 2.4.6.
    #[test]
    fn means_like_numpys() {
        let bits: [(usize, u64); 6] = [
            (1, 0x3ff0000000000000),
            (7, 0x3fe25e12517835b3),
            (100, 0x3fc7cb70fe5d7f36),
            (129, 0x3fc522587686f820),
            (1010, 0x3faf7d1b215ae1a1),
            (80801, 0x3f7cbec7df9bcda0),
        ];
        for (n, expected) in bits {
            let numbers: Vec<f64> = (0..n).map(|i| 1.0 / (i as f64 + 1.0).sqrt()).collect();
            assert_eq!(mean(&numbers).map(f64::to_bits), Some(expected), "{n} numbers");
        }
        assert_eq!(mean(&[]), None);
    }
}
