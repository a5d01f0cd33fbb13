//! `kirie serve`, declared.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::Args;

use super::{ModelArgs, ZoomArg};

#[derive(Debug, Args)]
#[command(
    after_help = "Annotations, uploads and fine-tuned models are kept in the folder `.kirie` of the served folder (or --store). A change \
that was answered is on the disk. Ctrl-C ends the service; a run of fine-tuning saves first and can go on the next time.

Examples:
  kirie serve photos
  kirie serve photos --port 9000 --model efficientvit-sam-l0
  KIRIE_TOKEN=$(openssl rand -hex 16) kirie serve photos --address 0.0.0.0"
)]
pub(crate) struct ServeArgs {
    /// The folder whose pictures are served, folders in it included; without it only what is uploaded
    #[arg(value_name = "FOLDER")]
    pub(crate) folder: Option<PathBuf>,
    /// Port; 0 takes a free one
    #[arg(long, default_value_t = 8420, value_name = "N")]
    pub(crate) port: u16,
    /// Address to listen on; any but this machine's own needs a token
    #[arg(long, default_value = "127.0.0.1", value_name = "IP")]
    pub(crate) address: IpAddr,
    /// The file that holds the token whoever asks must know; KIRIE_TOKEN may hold it instead
    #[arg(long, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// Where annotations, uploads, kept embeddings and runs are kept [default: FOLDER/.kirie, or ./.kirie]
    #[arg(long, value_name = "DIR")]
    pub(crate) store: Option<PathBuf>,
    /// Look at a box closely: answer it from a window so many times as large as the box, or `off` for the whole picture
    #[arg(long, default_value = "auto", value_name = "auto|off|FACTOR")]
    pub(crate) zoom: ZoomArg,
    /// Largest upload, megabytes
    #[arg(long, default_value_t = 64, value_name = "MB", value_parser = clap::value_parser!(u32).range(1..=2000))]
    pub(crate) max_upload: u32,
    /// Largest picture, megapixels
    #[arg(long, default_value_t = 100, value_name = "MP", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) max_pixels: u32,
    /// Memory for pictures and embeddings that are ready for clicks, megabytes
    #[arg(long, default_value_t = 1024, value_name = "MB")]
    pub(crate) cache_memory: u32,
    /// Disk for embeddings, megabytes; 0 keeps none
    #[arg(long, default_value_t = 4096, value_name = "MB")]
    pub(crate) cache_disk: u32,
    /// Print the description of the HTTP interface, OpenAPI as JSON, and end
    #[arg(long)]
    pub(crate) openapi: bool,
    #[command(flatten)]
    pub(crate) model: ModelArgs,
}
