//! What every training method shares.
//!
//! A method owns its model and its loss; this crate owns everything around a step that is easy to get subtly wrong:
//!
//! - [`random`]: one seed per run, and for every purpose, step and sample a stream of its own, so that nothing random has
//!   to be saved or replayed;
//! - [`schedule`]: the learning rate of a step;
//! - [`optim`]: update rules over named groups of parameters, gradients clipped by value or by their global norm;
//! - [`average`]: the moving average of the weights;
//! - [`loader`]: batches made ahead on other threads, in order;
//! - [`mod@train`]: the loop itself: accumulation, log, checkpoints, resume, stop.
//!
//! Files, terminal and signals are `kirie_run`'s.

pub mod average;
mod error;
pub mod loader;
pub mod named;
pub mod optim;
pub mod random;
pub mod schedule;
mod session;
pub mod train;

pub use error::EngineError;
pub use train::{Method, Outcome, Plan, Step, train};
