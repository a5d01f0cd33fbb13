//! `kirie serve` as a process: killed while people work, fine-tuning for real, and the page in a real browser.

#![allow(clippy::unwrap_used, reason = "clippy knows tests, but not what they call")]

mod browser;
mod common;
mod process;
