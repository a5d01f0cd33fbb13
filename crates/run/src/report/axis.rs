//! Axes: where a value stands, and at which round values the ticks are.

/// One axis of a chart.
#[derive(Clone, Debug)]
pub(super) struct Axis {
    low: f64,
    high: f64,
    log: bool,
    /// Round values within the range, and how they are written.
    pub(super) ticks: Vec<(f64, String)>,
}

impl Axis {
    /// An axis for these values; those it cannot show ([`Self::shows`]) are passed over. `snap` widens the range to
    /// full ticks.
    pub(super) fn new(values: impl Iterator<Item = f64>, log: bool, snap: bool) -> Self {
        let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
        for value in values.filter(|value| showable(*value, log)) {
            (low, high) = (low.min(value), high.max(value));
        }
        if low > high {
            (low, high) = if log { (0.1, 1.0) } else { (0.0, 1.0) };
        }
        if log { Self::logarithmic(low, high, snap) } else { Self::linear(low, high, snap) }
    }

    fn linear(mut low: f64, mut high: f64, snap: bool) -> Self {
        // A single value, or values that only rounding tells apart, stand in the middle.
        if high - low <= 1e-9 * low.abs().max(high.abs()) || high - low < SMALLEST {
            let margin = if low.abs() < SMALLEST { 1.0 } else { low.abs() / 2.0 };
            (low, high) = (low - margin, high + margin);
        }
        let step = round_step((high - low) / 5.0);
        let (mut first, mut last) = ((low / step).ceil(), (high / step).floor());
        if snap {
            (first, last) = ((low / step).floor(), (high / step).ceil());
            (low, high) = (first * step, last * step);
        }
        // At most seven by the choice of the step.
        let count = (last - first).clamp(0.0, 20.0) as u32;
        let values: Vec<f64> = (0..=count).map(|i| (first + f64::from(i)) * step).collect();
        let largest = low.abs().max(high.abs());
        let ticks = values.into_iter().map(|value| (value, tick_text(value, step, largest))).collect();
        Self { low, high, log: false, ticks }
    }

    fn logarithmic(mut low: f64, mut high: f64, snap: bool) -> Self {
        if snap || low == high {
            (low, high) = (one_two_five(low, -1), one_two_five(high, 1));
            if low == high {
                (low, high) = (low / 2.0, high * 2.0);
            }
        }
        let (first, last) = (low.log10().floor() as i32, high.log10().ceil() as i32);
        // Beyond two powers of ten only they get a tick, and at most about six of them.
        let (digits, stride): (&[f64], usize) = if last - first <= 2 {
            (&[1.0, 2.0, 5.0], 1)
        } else {
            (&[1.0], ((last - first) as usize).div_ceil(6))
        };
        let values = (first..=last)
            .step_by(stride)
            .flat_map(|power| digits.iter().map(move |digit| digit * ten(power)));
        let within = |value: &f64| (low * (1.0 - 1e-9)..=high * (1.0 + 1e-9)).contains(value);
        let ticks = values.filter(within).map(|value| (value, number(value))).collect();
        Self { low, high, log: true, ticks }
    }

    /// Whether the axis has a place for this value: it is finite, and positive if the axis is logarithmic.
    pub(super) fn shows(&self, value: f64) -> bool {
        showable(value, self.log)
    }

    /// Where the value stands: 0 at the low end, 1 at the high end.
    pub(super) fn at(&self, value: f64) -> f64 {
        if self.log {
            (value / self.low).ln() / (self.high / self.low).ln()
        } else {
            (value - self.low) / (self.high - self.low)
        }
    }
}

/// What is smaller counts as nothing, or steps between ticks would be too small for a number.
const SMALLEST: f64 = 1e-300;

/// Values beyond 1e300 would overflow where they are subtracted; no figure of a run is meant so.
fn showable(value: f64, log: bool) -> bool {
    value.abs() < 1e300 && (!log || value > SMALLEST)
}

fn ten(power: i32) -> f64 {
    10f64.powi(power)
}

/// The next larger of 1, 2, 5 times a power of ten.
fn round_step(least: f64) -> f64 {
    one_two_five(least, 1)
}

/// The value itself if it is 1, 2 or 5 times a power of ten, or else the next such number up (1) or down (-1).
fn one_two_five(value: f64, direction: i32) -> f64 {
    let power = value.log10().floor() as i32;
    let candidates = [1.0, 2.0, 5.0, 10.0].map(|digit| digit * ten(power));
    let slack = 1e-9 * value;
    let found = if direction > 0 {
        candidates.into_iter().find(|candidate| *candidate >= value - slack)
    } else {
        candidates.into_iter().rev().find(|candidate| *candidate <= value + slack)
    };
    found.unwrap_or(value)
}

/// A tick with as many digits as tell it from its neighbours.
fn tick_text(value: f64, step: f64, largest: f64) -> String {
    if value.abs() < step / 2.0 {
        return "0".to_owned();
    }
    let power = |v: f64| (v * (1.0 + 1e-9)).log10().floor() as i32;
    if (1e-3..1e6).contains(&largest) {
        format!("{value:.*}", (-power(step)).max(0) as usize)
    } else {
        without_zeros(&format!("{value:.*e}", (power(value.abs()) - power(step)).max(0) as usize))
    }
}

/// A number for a person: four significant digits, and a dash for what is none.
pub(super) fn number(value: f64) -> String {
    if !value.is_finite() {
        return "–".to_owned();
    }
    let size = value.abs();
    let text = if size == 0.0 {
        return "0".to_owned();
    } else if (1e-3..1e6).contains(&size) {
        format!("{value:.*}", (3 - size.log10().floor() as i32).max(0) as usize)
    } else {
        format!("{value:.3e}")
    };
    without_zeros(&text)
}

/// 1.50e-4 as 1.5e-4, and 2.000 as 2.
fn without_zeros(text: &str) -> String {
    let (digits, exponent) =
        text.split_once('e').map_or((text, None), |(digits, power)| (digits, Some(power)));
    let digits =
        if digits.contains('.') { digits.trim_end_matches('0').trim_end_matches('.') } else { digits };
    exponent.map_or(digits.to_owned(), |exponent| format!("{digits}e{exponent}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticks(values: &[f64], log: bool, snap: bool) -> Vec<String> {
        Axis::new(values.iter().copied(), log, snap).ticks.into_iter().map(|tick| tick.1).collect()
    }

    #[test]
    fn ticks_are_round() {
        assert_eq!(ticks(&[0.03, 0.97], false, true), ["0", "0.2", "0.4", "0.6", "0.8", "1.0"]);
        assert_eq!(ticks(&[1.0, 4000.0], false, false), ["1000", "2000", "3000", "4000"]);
        assert_eq!(ticks(&[0.0, 1e-4], false, true), ["0", "2e-5", "4e-5", "6e-5", "8e-5", "1e-4"]);
        assert_eq!(ticks(&[-3.0, 12.0], false, true), ["-5", "0", "5", "10", "15"]);
        assert_eq!(ticks(&[2e6, 8e6], false, true), ["2e6", "4e6", "6e6", "8e6"]);
        assert_eq!(ticks(&[5.0], false, true), ["2", "3", "4", "5", "6", "7", "8"]);
        assert_eq!(ticks(&[], false, true), ["0", "0.2", "0.4", "0.6", "0.8", "1.0"]);
        assert_eq!(ticks(&[0.02, 0.9], true, true), ["0.02", "0.05", "0.1", "0.2", "0.5", "1"]);
        assert_eq!(ticks(&[1e-5, 3.0], true, true), ["1e-5", "1e-4", "0.001", "0.01", "0.1", "1"]);
        assert_eq!(ticks(&[2.0, -1.0, 0.0], true, true), ["1", "2"]);
    }

    #[test]
    fn any_values_give_a_sound_axis() {
        let all = [
            0.0,
            -0.0,
            1.0,
            -1.0,
            1e-310,
            5e-324,
            1e299,
            -1e299,
            f64::MAX,
            f64::NAN,
            f64::INFINITY,
            0.1 + 0.2,
            0.3,
            1e15,
            1e15 + 1.0,
        ];
        for a in all {
            for b in all {
                for (log, snap) in [(false, false), (false, true), (true, false), (true, true)] {
                    let axis = Axis::new([a, b].into_iter(), log, snap);
                    for v in [a, b].into_iter().filter(|v| axis.shows(*v)) {
                        let at = axis.at(v);
                        assert!((-1e-6..=1.0 + 1e-6).contains(&at), "{a} {b} {log} {snap}: {v} at {at}");
                    }
                    assert!(axis.ticks.len() <= 12, "{a} {b}: {:?}", axis.ticks);
                    for (tick, _) in &axis.ticks {
                        assert!(
                            (-1e-6..=1.0 + 1e-6).contains(&axis.at(*tick)),
                            "{a} {b} {log} {snap}: {axis:?}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn numbers_are_short() {
        let texts =
            [0.0, 1.0, -0.31249, 12.5, 123_456.0, 1e7, 1e-4, 0.000_123_45, f64::NAN, 0.9999].map(number);
        assert_eq!(texts, ["0", "1", "-0.3125", "12.5", "123456", "1e7", "1e-4", "1.234e-4", "–", "0.9999"]);
    }
}
