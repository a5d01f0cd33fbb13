//! One file a subcommand.

pub(crate) mod adapters;
pub(crate) mod bench;
pub(crate) mod data;
pub(crate) mod embed;
pub(crate) mod evaluate;
pub(crate) mod export;
pub(crate) mod models;
pub(crate) mod segment;
pub(crate) mod serve;
pub(crate) mod train;
