//! RoI drop: which boxes' losses count.
//!
//! The repository's own branch cannot run (it joins a tensor with a tuple, and indexes a list of foreground boxes by the numbers
//! of all); what is here is what its variables and the paper's figure say, in both readings.

use super::config::{DropConfig, DropMode};

/// Whether the two losses of each box count.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Its cross-entropy.
    pub class: Vec<bool>,
    /// Its L1.
    pub regress: Vec<bool>,
}

impl Counted {
    /// How many of the losses do not.
    pub fn dropped(&self) -> [usize; 2] {
        [&self.class, &self.regress].map(|counts| counts.iter().filter(|counts| !**counts).count())
    }
}

/// Decides by the losses of all sampled boxes: cross-entropies, and L1 (0 for background). `on` is whether the time for it has
/// come.
pub fn counted(
    config: &DropConfig,
    on: bool,
    class: &[f32],
    regress: &[f32],
    foreground: &[bool],
) -> Counted {
    let high_class = |r: usize| class[r] > config.class;
    let high_regress = |r: usize| foreground[r] && regress[r] > config.regress;
    let count = class.len();
    let both = |wrong: &dyn Fn(usize) -> bool| (0..count).map(|r| !(on && wrong(r))).collect::<Vec<bool>>();
    match config.mode {
        DropMode::Off => Counted { class: vec![true; count], regress: vec![true; count] },
        DropMode::Independent => Counted { class: both(&high_class), regress: both(&high_regress) },
        DropMode::Both => {
            let counts = both(&|r| high_class(r) && high_regress(r));
            Counted { class: counts.clone(), regress: counts }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLASS: [f32; 5] = [5.0, 5.0, 1.0, 1.0, 4.0];
    const REGRESS: [f32; 5] = [5.0, 1.0, 5.0, 1.0, 0.0];
    const FOREGROUND: [bool; 5] = [true, true, true, true, false];

    fn config(mode: DropMode) -> DropConfig {
        DropConfig { mode, ..DropConfig::default() }
    }

    #[test]
    fn each_loss_by_its_own_threshold() {
        let found = counted(&config(DropMode::Independent), true, &CLASS, &REGRESS, &FOREGROUND);
        // The threshold itself is not above the threshold.
        assert_eq!(found.class, [false, false, true, true, true]);
        assert_eq!(found.regress, [false, true, false, true, true]);
        assert_eq!(found.dropped(), [2, 2]);
    }

    #[test]
    fn both_losses_where_both_are_high() {
        let found = counted(&config(DropMode::Both), true, &CLASS, &REGRESS, &FOREGROUND);
        assert_eq!(found.class, [false, true, true, true, true]);
        assert_eq!(found.regress, found.class);
        // Background has no regression loss, so it is never dropped this way.
        let background = counted(&config(DropMode::Both), true, &CLASS, &REGRESS, &[false; 5]);
        assert_eq!(background.dropped(), [0, 0]);
    }

    #[test]
    fn nothing_before_its_time_nor_when_off() {
        for (mode, on) in [(DropMode::Independent, false), (DropMode::Both, false), (DropMode::Off, true)] {
            assert_eq!(counted(&config(mode), on, &CLASS, &REGRESS, &FOREGROUND).dropped(), [0, 0]);
        }
        let endless = DropConfig { class: f32::INFINITY, regress: f32::INFINITY, ..DropConfig::default() };
        assert_eq!(counted(&endless, true, &CLASS, &REGRESS, &FOREGROUND).dropped(), [0, 0]);
    }
}
