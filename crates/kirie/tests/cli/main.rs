//! The program as its users meet it: started as a process, judged by exit code, messages and files.
//!
//! One binary of several files, because linking the models is slow. The weights are made by formula
//! (`kirie_sam::formula`), so masks mean nothing as pictures, but every number can be compared with the goldens of
//! the reference that `kirie-sam` carries.

#![allow(clippy::unwrap_used, reason = "clippy knows tests, but not what they call")]

mod adapters;
mod bad_input;
mod common;
mod continual;
mod contract;
mod contrastive;
mod data;
mod evaluate;
mod folders;
mod formats;
mod hub;
mod models;
mod runs;
mod semantic;
mod torch;
mod train;
mod train_faults;
mod weak;
