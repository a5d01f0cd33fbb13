//! A clean end on Ctrl-C or termination.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::SIGINT;
#[cfg(unix)]
use signal_hook::consts::SIGTERM;
use signal_hook::flag;

use crate::RunError;

/// Tells whether the run should end after the current step. Clones tell the same.
#[derive(Clone, Debug, Default)]
pub struct Stop {
    requested: Arc<AtomicBool>,
}

impl Stop {
    /// Watches for SIGINT (Ctrl-C) and SIGTERM (what a cluster sends before the time is up), once per process: a second
    /// call adds a second flag and is harmless. The second SIGINT ends the process at once, with exit code 130.
    /// Windows knows Ctrl-C only.
    ///
    /// # Errors
    /// [`RunError::Signals`].
    pub fn install() -> Result<Self, RunError> {
        let stop = Self::default();
        // Set by SIGINT alone: whoever presses Ctrl-C after a SIGTERM still gets the clean end first.
        let interrupted = Arc::new(AtomicBool::new(false));
        let watch = || {
            // In this order: the first SIGINT finds the flag down and then sets it.
            flag::register_conditional_shutdown(SIGINT, 130, Arc::clone(&interrupted))?;
            flag::register(SIGINT, interrupted)?;
            flag::register(SIGINT, Arc::clone(&stop.requested))?;
            #[cfg(unix)]
            flag::register(SIGTERM, Arc::clone(&stop.requested))?;
            Ok(())
        };
        watch().map_err(|source| RunError::Signals { source })?;
        Ok(stop)
    }

    /// One that no signal reaches: for tests, and programs that have their own way to stop.
    pub fn never() -> Self {
        Self::default()
    }

    /// Asks the run to end, as a signal would.
    pub fn request(&self) {
        self.requested.store(true, Ordering::Relaxed);
    }

    /// Whether the run has been asked to end.
    pub fn requested(&self) -> bool {
        self.requested.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_reaches_every_clone() {
        let stop = Stop::never();
        let clone = stop.clone();
        assert!(!clone.requested());
        stop.request();
        assert!(clone.requested() && !Stop::never().requested());
    }
}
