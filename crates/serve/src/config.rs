//! What the service is told when it starts.

use std::net::SocketAddr;
use std::path::PathBuf;

use kirie_sam::registry::EverythingDefaults;

use crate::ServeError;

/// Fewest characters of a token.
const TOKEN_LENGTH: usize = 16;

/// How to serve.
#[derive(Clone, Debug)]
pub struct ServeConfig {
    /// Where to listen; port 0 takes a free one.
    pub address: SocketAddr,
    /// Whoever asks must know it. Needed for any address that is not loopback.
    pub token: Option<String>,
    /// Pictures of this folder and the folders in it are served; `None` for uploads alone.
    pub folder: Option<PathBuf>,
    /// Where annotations, uploads, kept embeddings and runs lie.
    pub store: PathBuf,
    /// Boxes are answered from a window so many times as large as the box; see [`kirie_sam::Predictor::with_zoom`].
    pub zoom: Option<f64>,
    /// What finding everything does if nobody says otherwise.
    pub everything: EverythingDefaults,
    /// Threads of one piece of the model's work.
    pub threads: usize,
    /// This program: jobs run it as a child process.
    pub program: PathBuf,
    /// `--model` and `--weights` for such a child, as this process was given them.
    pub base: BaseModel,
    /// What is too much.
    pub limits: ServeLimits,
}

/// The model that fine-tuning starts from.
#[derive(Clone, Debug, Default)]
pub struct BaseModel {
    /// Its name.
    pub name: String,
    /// Its weights, where they are not those that come with the program or were fetched.
    pub weights: Option<PathBuf>,
    /// Side of the encoder's input that domains are learned at, pixels, where it is not the registered one.
    pub input: Option<u32>,
}

/// What is too much.
#[derive(Clone, Debug)]
pub struct ServeLimits {
    /// Bytes of an uploaded picture.
    pub upload_bytes: usize,
    /// Bytes that all uploads together may take on the disk.
    pub all_uploads_bytes: u64,
    /// Pixels of a picture.
    pub pixels: u64,
    /// Bytes of pictures and embeddings held in memory.
    pub memory_bytes: u64,
    /// Bytes of embeddings kept on the disk.
    pub disk_bytes: u64,
    /// Requests that may wait for the model, of each kind.
    pub queue: usize,
    /// Connections at a time.
    pub connections: usize,
    /// Seconds for a request's head, for each piece of its body, and for its answer.
    pub seconds: u64,
}

impl Default for ServeLimits {
    fn default() -> Self {
        Self {
            upload_bytes: 64 << 20,
            all_uploads_bytes: 20 << 30,
            pixels: 100_000_000,
            memory_bytes: 1 << 30,
            disk_bytes: 4 << 30,
            queue: 32,
            connections: 256,
            seconds: 30,
        }
    }
}

impl ServeConfig {
    /// Checks what only the whole of it shows.
    pub(crate) fn check(&self) -> Result<(), ServeError> {
        match &self.token {
            None if !self.address.ip().is_loopback() => {
                Err(ServeError::TokenNeeded { address: self.address.to_string() })
            }
            Some(token) if token.chars().count() < TOKEN_LENGTH => {
                Err(ServeError::WeakToken { found: token.chars().count(), expected: TOKEN_LENGTH })
            }
            _ => Ok(()),
        }
    }
}
