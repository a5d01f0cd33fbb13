//! One file a subcommand.

pub(crate) mod bench;
pub(crate) mod embed;
pub(crate) mod models;
pub(crate) mod segment;
