//! Continual adaptation: domains arrive one after another, their pictures go away, and nobody says later which domain a picture is of.
//!
//! MoDA ("Continual Learning for Segment Anything Model Adaptation", Yang et al., 2024): one [adapter] for each domain on a
//! [base] that never changes, and a [router] of a trained feature token and its assistants that chooses among them, or leaves a picture
//! that is like none of them to the base. Beside it the [strategies](strategy) it is held against, on the CoSAM protocol.
//!
//! ```text
//! config -> data: pictures with one mask each -> views, items: as the base sees them
//!        -> run: domain after domain: train, store, evaluate -> report
//! store: a domain's folder of files -> pool: picture and prompts to masks
//! ```
//!
//! | module | part |
//! | --- | --- |
//! | [`base`], [`encoder`] | the frozen model; its encoder with adapters inside |
//! | [`adapter`], [`prompts`] | what is trained |
//! | [`router`] | which domain, or none |
//! | [`strategy`], [`train`], [`run`] | what is trained on what, and the runs of a study |
//! | [`evaluate`], [`report`] | figures, pages |
//! | [`registry`], [`rank`] | domains kept on disk for an operator; which pictures to label next |
//! | [`store`], [`pool`], [`measure`] | a domain on disk; several of them at work, and measured |
//! | [`together`], [`gate`] | one router for domains that were learned apart; whether a newcomer is in the way of the others |

pub mod adapter;
pub mod base;
pub mod config;
pub mod data;
pub mod encoder;
mod error;
pub mod evaluate;
pub mod gate;
pub mod items;
pub mod loss;
pub mod measure;
pub mod pool;
pub mod prompts;
pub mod rank;
pub mod registry;
pub mod report;
pub mod router;
pub mod run;
pub mod store;
pub mod strategy;
#[cfg(test)]
mod testing;
pub mod together;
pub mod train;
pub mod views;

pub use error::ContinualError;
