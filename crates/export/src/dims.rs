//! Sides of tensors: numbers, or what follows from a number that is known only when the graph runs.

/// A number that the caller chooses when the graph runs, such as how many prompts there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Symbol {
    /// Its name in the graph.
    pub(crate) name: &'static str,
    /// The two values that the model is recorded with, to see what follows them. They should not stand in a simple ratio to
    /// anything else.
    pub(crate) probes: [usize; 2],
}

/// One side of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dim {
    /// Always this long.
    Fixed(usize),
    /// `times * symbol + plus`; `symbol` is the place in the list of symbols.
    Free {
        /// Which symbol.
        symbol: usize,
        /// Factor.
        times: usize,
        /// Offset.
        plus: usize,
    },
}

impl Dim {
    /// The side that was `lengths` long in the two recordings, if it follows from one symbol.
    pub(crate) fn solve(lengths: [usize; 2], symbols: &[Symbol]) -> Option<Self> {
        let [a, b] = lengths;
        if a == b {
            return Some(Self::Fixed(a));
        }
        let candidates = symbols.iter().enumerate();
        candidates
            .clone()
            .find_map(|(symbol, Symbol { probes: [p, q], .. })| {
                let times = a / p;
                (times > 0 && a == times * p && b == times * q).then_some(Self::Free {
                    symbol,
                    times,
                    plus: 0,
                })
            })
            .or_else(|| {
                candidates.clone().find_map(|(symbol, Symbol { probes: [p, q], .. })| {
                    (a > *p && a - p == b.checked_sub(*q)?).then(|| Self::Free {
                        symbol,
                        times: 1,
                        plus: a - p,
                    })
                })
            })
    }

    /// Its length, if it is always the same.
    pub(crate) fn fixed(self) -> Option<usize> {
        match self {
            Self::Fixed(length) => Some(length),
            Self::Free { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sides_are_told_from_two_recordings() {
        let symbols =
            [Symbol { name: "prompts", probes: [3, 7] }, Symbol { name: "points", probes: [5, 11] }];
        let free = |symbol, times, plus| Some(Dim::Free { symbol, times, plus });
        assert_eq!(Dim::solve([64, 64], &symbols), Some(Dim::Fixed(64)));
        assert_eq!(Dim::solve([3, 7], &symbols), free(0, 1, 0));
        assert_eq!(Dim::solve([24, 56], &symbols), free(0, 8, 0));
        assert_eq!(Dim::solve([5, 11], &symbols), free(1, 1, 0));
        assert_eq!(Dim::solve([10, 16], &symbols), free(1, 1, 5));
        // prompts times points follow both, which no single symbol tells
        assert_eq!(Dim::solve([15, 77], &symbols), None);
    }
}
