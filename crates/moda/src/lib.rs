//! Continual adaptation: domains arrive one after another, and nothing learnt before is lost.
//!
//! - [`registry`]: what was learnt of each domain, kept on disk so that an operator can add, disable and roll back;
//! - [`rank`]: which pictures to label next.

pub mod rank;
pub mod registry;
