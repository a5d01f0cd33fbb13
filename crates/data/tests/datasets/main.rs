//! Datasets of every layout, made in temporary folders: read, refused, inspected, converted, drawn.

// clippy.toml frees tests of this lint, but not the helpers beside them.
#![allow(clippy::unwrap_used)]

mod convert;
mod folder;
mod inspect;
mod malformed;
mod read;
mod shared;
