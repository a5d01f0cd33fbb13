//! `kirie serve` as a process: killed while people work, fine-tuning for real, and the page in a real browser.

#![allow(clippy::unwrap_used, reason = "clippy knows tests, but not what they call")]
#![allow(clippy::print_stderr, reason = "a test that skips says so, and figures are worth seeing")]

mod browser;
mod common;
mod process;
