//! Eigenvalues of symmetric matrices, all of them, and the widest directions.
//!
//! `nalgebra` has both. It is not used because it asks other features of `num-complex`, which matrix products stand on, and with that
//! would have the whole of Burn built a second time for two figures of a report.

/// A symmetric matrix, of which the lower triangle counts.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Symmetric {
    side: usize,
    /// Row by row, whole rows.
    values: Vec<f64>,
}

impl Symmetric {
    pub(crate) fn zeros(side: usize) -> Self {
        Self { side, values: vec![0.0; side * side] }
    }

    /// Adds a vector's products with itself.
    pub(crate) fn add_product(&mut self, vector: &[f64]) {
        for (i, row) in self.values.chunks_exact_mut(self.side.max(1)).enumerate() {
            let factor = vector[i];
            for (sum, value) in row.iter_mut().zip(&vector[..=i]) {
                *sum += factor * value;
            }
        }
    }

    /// The sum of the diagonal, which is that of the eigenvalues.
    pub(crate) fn trace(&self) -> f64 {
        (0..self.side).map(|i| self.at(i, i)).sum()
    }

    fn at(&self, i: usize, j: usize) -> f64 {
        let (row, column) = if i >= j { (i, j) } else { (j, i) };
        self.values[row * self.side + column]
    }

    /// The same with both triangles filled.
    fn whole(mut self) -> Self {
        for i in 0..self.side {
            for j in 0..i {
                self.values[j * self.side + i] = self.values[i * self.side + j];
            }
        }
        self
    }
}

/// All eigenvalues, rising: to three diagonals by Householder's reflections, then each by halving an interval (Sturm's count of
/// eigenvalues below a number; Golub and Van Loan, sections 8.3 and 8.4).
pub(crate) fn eigenvalues(matrix: Symmetric) -> Vec<f64> {
    let n = matrix.side;
    let (diagonal, beside) = tridiagonal(matrix.whole());
    let reach = |i: usize| {
        let left = if i > 0 { beside[i - 1].abs() } else { 0.0 };
        left + beside.get(i).map_or(0.0, |v: &f64| v.abs())
    };
    let low = (0..n).map(|i| diagonal[i] - reach(i)).fold(f64::INFINITY, f64::min);
    let high = (0..n).map(|i| diagonal[i] + reach(i)).fold(f64::NEG_INFINITY, f64::max);
    let below = |x: f64| {
        let (mut count, mut pivot) = (0, 1.0_f64);
        for i in 0..n {
            let carried = if i > 0 { beside[i - 1].powi(2) / pivot } else { 0.0 };
            pivot = diagonal[i] - x - carried;
            if pivot.abs() < 1e-300 {
                pivot = -1e-300;
            }
            count += usize::from(pivot < 0.0);
        }
        count
    };
    let tiny = (high - low).abs().max(high.abs()).max(low.abs()) * 1e-14;
    (0..n)
        .map(|k| {
            let (mut from, mut to) = (low, high);
            while to - from > tiny {
                let middle = from + (to - from) / 2.0;
                if middle <= from || middle >= to {
                    break;
                }
                if below(middle) > k { to = middle } else { from = middle }
            }
            from + (to - from) / 2.0
        })
        .collect()
}

/// The diagonal, and what stands beside it.
fn tridiagonal(mut matrix: Symmetric) -> (Vec<f64>, Vec<f64>) {
    let n = matrix.side;
    let values = &mut matrix.values;
    let mut beside = Vec::new();
    for k in 0..n.saturating_sub(1) {
        // The reflection that takes all but the first number below the diagonal away.
        let column: Vec<f64> = (k + 1..n).map(|i| values[i * n + k]).collect();
        let length = column.iter().map(|v| v * v).sum::<f64>().sqrt();
        if length == 0.0 {
            beside.push(0.0);
            continue;
        }
        let first = -length * column[0].signum();
        beside.push(first);
        let mut v = column;
        v[0] -= first;
        let square: f64 = v.iter().map(|x| x * x).sum();
        if square == 0.0 {
            continue;
        }
        // A - v w' - w v' with w from p = 2 A v / v'v.
        let mut p: Vec<f64> = (k + 1..n)
            .map(|i| {
                let row = &values[i * n + k + 1..(i + 1) * n];
                2.0 * row.iter().zip(&v).map(|(a, b)| a * b).sum::<f64>() / square
            })
            .collect();
        let shared = p.iter().zip(&v).map(|(a, b)| a * b).sum::<f64>() / square;
        for (p, v) in p.iter_mut().zip(&v) {
            *p -= shared * v;
        }
        for (i, (vi, wi)) in (k + 1..n).zip(v.iter().zip(&p)) {
            let row = &mut values[i * n + k + 1..(i + 1) * n];
            for (a, (vj, wj)) in row.iter_mut().zip(v.iter().zip(&p)) {
                *a -= vi * wj + wi * vj;
            }
        }
    }
    ((0..n).map(|i| values[i * n + i]).collect(), beside)
}

/// The `count` largest eigenvalues of a matrix without negative ones, with their directions of length 1, by repeated products. A
/// direction's sign is such that its largest number is positive, so that a plot can be repeated.
pub(crate) fn widest(matrix: &Symmetric, count: usize) -> Vec<(f64, Vec<f64>)> {
    const ROUNDS: usize = 1000;
    let n = matrix.side;
    let matrix = matrix.clone().whole();
    let mut found: Vec<(f64, Vec<f64>)> = Vec::new();
    for c in 0..count.min(n) {
        // A start that is at right angles to nothing in particular.
        let mut direction: Vec<f64> = (0..n).map(|i| 1.0 + 0.5 * ((i * 37 + c * 11) as f64).sin()).collect();
        let mut value = 0.0;
        for _ in 0..ROUNDS {
            for (_, earlier) in &found {
                let along: f64 = direction.iter().zip(earlier).map(|(a, b)| a * b).sum();
                direction.iter_mut().zip(earlier).for_each(|(a, b)| *a -= along * b);
            }
            let length = direction.iter().map(|v| v * v).sum::<f64>().sqrt();
            if length < 1e-300 {
                break;
            }
            for v in &mut direction {
                *v /= length;
            }
            let next: Vec<f64> = matrix
                .values
                .chunks_exact(n)
                .map(|row| row.iter().zip(&direction).map(|(a, b)| a * b).sum())
                .collect();
            let new: f64 = next.iter().zip(&direction).map(|(a, b)| a * b).sum();
            let change: f64 = next.iter().zip(&direction).map(|(a, b)| (a - new * b).powi(2)).sum();
            value = new;
            if change.sqrt() <= 1e-10 * new.abs() || new <= 0.0 {
                break;
            }
            direction = next;
        }
        let length = direction.iter().map(|v| v * v).sum::<f64>().sqrt().max(1e-300);
        let largest = direction.iter().copied().fold(0.0, |m: f64, v| if v.abs() > m.abs() { v } else { m });
        for v in &mut direction {
            *v *= largest.signum() / length;
        }
        found.push((value.max(0.0), direction));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn symmetric(side: usize, value: impl Fn(usize, usize) -> f64) -> Symmetric {
        let values = (0..side * side).map(|i| value((i / side).max(i % side), (i / side).min(i % side)));
        Symmetric { side, values: values.collect() }
    }

    #[test]
    fn known_matrices() {
        let diagonal = symmetric(4, |i, j| if i == j { [3.0, -1.0, 7.0, 0.0][i] } else { 0.0 });
        for (found, expected) in eigenvalues(diagonal).iter().zip([-1.0, 0.0, 3.0, 7.0]) {
            assert!((found - expected).abs() < 1e-12, "{found}");
        }
        // The second difference has 2 - 2 cos(k pi / (n + 1)).
        let n = 30;
        let difference = symmetric(n, |i, j| match i - j {
            0 => 2.0,
            1 => -1.0,
            _ => 0.0,
        });
        for (k, found) in eigenvalues(difference).iter().enumerate() {
            let expected = 2.0 - 2.0 * ((k + 1) as f64 * std::f64::consts::PI / (n + 1) as f64).cos();
            assert!((found - expected).abs() < 1e-12, "{k}: {found} {expected}");
        }
        assert!(eigenvalues(Symmetric::zeros(0)).is_empty());
        assert_eq!(eigenvalues(symmetric(1, |_, _| 5.0)).len(), 1);
    }

    /// Of any matrix: the sums of eigenvalues and of their squares are those of the matrix, and the widest directions are
    /// eigenvectors of the largest.
    #[test]
    fn any_matrix() {
        let n = 23;
        let mut matrix = Symmetric::zeros(n);
        for r in 0..17 {
            let vector: Vec<f64> = (0..n).map(|c| ((r * 31 + c * c * 7) as f64 * 0.71).sin()).collect();
            matrix.add_product(&vector);
        }
        let values = eigenvalues(matrix.clone());
        let squares: f64 = (0..n * n).map(|i| matrix.at(i / n, i % n).powi(2)).sum();
        assert!((values.iter().sum::<f64>() - matrix.trace()).abs() < 1e-9);
        assert!((values.iter().map(|v| v * v).sum::<f64>() - squares).abs() < 1e-8 * squares);
        assert!(values[..6].iter().all(|v| v.abs() < 1e-9), "17 vectors have 17 directions");
        for (i, (value, direction)) in widest(&matrix, 2).into_iter().enumerate() {
            assert!((value - values[n - 1 - i]).abs() < 1e-6 * value, "{i}: {value} {}", values[n - 1 - i]);
            for row in 0..n {
                let product: f64 = (0..n).map(|c| matrix.at(row, c) * direction[c]).sum();
                assert!((product - value * direction[row]).abs() < 1e-3 * value);
            }
        }
    }
}
