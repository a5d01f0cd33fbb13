//! `kirie adapters`, declared.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::MachineArgs;

#[derive(Debug, Args)]
#[command(
    after_help = "Every change is whole or not at all, can be undone with rollback, and touches no file of another domain.
Programs that read the registry meanwhile see it before or after.

Examples:
  kirie adapters add adapters/ runs/hall3/domain
  kirie adapters list adapters/
  kirie adapters disable adapters/ hall3 --reason \"new lamps\"
  kirie adapters rollback adapters/ hall3
  kirie adapters export adapters/ hall3 -o hall3.zip"
)]
pub(crate) struct AdaptersArgs {
    #[command(subcommand)]
    pub(crate) command: AdaptersCommand,
}

/// The registry a command is about.
#[derive(Debug, Args)]
pub(crate) struct RegistryArg {
    /// The registry's folder
    #[arg(value_name = "REGISTRY")]
    pub(crate) registry: PathBuf,
}

/// How something is added.
#[derive(Debug, Args)]
pub(crate) struct HowAdded {
    /// A new version of the domain of that name, instead of a new domain
    #[arg(long)]
    pub(crate) new_version: bool,
    /// Not in use before `kirie adapters enable`
    #[arg(long)]
    pub(crate) disabled: bool,
    #[command(flatten)]
    pub(crate) gate: GateArgs,
}

/// What must hold before pictures are routed to a domain.
#[derive(Debug, Args)]
pub(crate) struct GateArgs {
    /// Use it without looking whether the domains still answer their own exemplars with it there
    #[arg(long)]
    pub(crate) force: bool,
    /// Exemplars that a domain may lose by it, percent
    #[arg(long, value_name = "PERCENT", default_value_t = 10, value_parser = clap::value_parser!(u8).range(0..=100))]
    pub(crate) may_lose: u8,
    /// Weights of the base that the registry is of, where the program has them not and they were not fetched
    #[arg(long, value_name = "FILE")]
    pub(crate) weights: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) machine: MachineArgs,
}

#[derive(Debug, Subcommand)]
pub(crate) enum AdaptersCommand {
    /// Add a domain: a folder with domain.toml and its files; makes the registry where there is none
    Add {
        #[command(flatten)]
        registry: RegistryArg,
        /// What was learnt, with a domain.toml
        #[arg(value_name = "DIR")]
        folder: PathBuf,
        #[command(flatten)]
        how: HowAdded,
        /// Machine-readable
        #[arg(long)]
        json: bool,
    },
    /// Add a domain that was exported from another registry, compared byte for byte
    Import {
        #[command(flatten)]
        registry: RegistryArg,
        /// What `kirie adapters export` wrote, folder or .zip
        #[arg(value_name = "DIR|FILE")]
        package: PathBuf,
        /// Under another name
        #[arg(long = "as", value_name = "NAME")]
        name: Option<String>,
        #[command(flatten)]
        how: HowAdded,
        /// Machine-readable
        #[arg(long)]
        json: bool,
    },
    /// The domains in their order
    List {
        #[command(flatten)]
        registry: RegistryArg,
        /// All changes so far instead
        #[arg(long)]
        history: bool,
        /// Machine-readable
        #[arg(long)]
        json: bool,
    },
    /// All that is known of a domain; its files are read and compared
    Show {
        #[command(flatten)]
        registry: RegistryArg,
        /// The domain
        #[arg(value_name = "NAME")]
        name: String,
        /// A version other than the one in use
        #[arg(long, value_name = "N")]
        version: Option<u32>,
        /// Machine-readable
        #[arg(long)]
        json: bool,
    },
    /// Take domains out of use
    Disable {
        #[command(flatten)]
        registry: RegistryArg,
        /// The domains
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
        /// Why, for those who look later
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
        /// Machine-readable
        #[arg(long)]
        json: bool,
    },
    /// Take domains into use again; their files are read and compared first
    Enable {
        #[command(flatten)]
        registry: RegistryArg,
        /// The domains
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
        #[command(flatten)]
        gate: GateArgs,
        /// Machine-readable
        #[arg(long)]
        json: bool,
    },
    /// Back to an earlier version of a domain, or to an earlier state of the whole registry; without either, the last change undone
    Rollback {
        #[command(flatten)]
        registry: RegistryArg,
        /// This domain alone: to the version it had before
        #[arg(value_name = "NAME")]
        name: Option<String>,
        /// To this version of the domain
        #[arg(long, value_name = "N", requires = "name")]
        to_version: Option<u32>,
        /// The whole registry as it was at this number of `kirie adapters list --history`
        #[arg(long, value_name = "N", conflicts_with = "name")]
        to_index: Option<u64>,
        /// Machine-readable
        #[arg(long)]
        json: bool,
    },
    /// Put the domains into another order
    Reorder {
        #[command(flatten)]
        registry: RegistryArg,
        /// Every domain once
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
        /// Machine-readable
        #[arg(long)]
        json: bool,
    },
    /// Take domains out of the list; their files stay until `kirie adapters gc --keep`
    Remove {
        #[command(flatten)]
        registry: RegistryArg,
        /// The domains
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
        /// Machine-readable
        #[arg(long)]
        json: bool,
    },
    /// Write one domain to a new folder or a .zip, for another registry
    Export {
        #[command(flatten)]
        registry: RegistryArg,
        /// The domain
        #[arg(value_name = "NAME")]
        name: String,
        /// A version other than the one in use
        #[arg(long, value_name = "N")]
        version: Option<u32>,
        /// A new folder, or a .zip file
        #[arg(short, long, value_name = "OUT")]
        output: PathBuf,
        /// Machine-readable
        #[arg(long)]
        json: bool,
    },
    /// Read every file and compare it with what was written; a damaged domain is named and disabled. Exit code 1 if there are any
    Verify {
        #[command(flatten)]
        registry: RegistryArg,
        /// Earlier versions too
        #[arg(long)]
        all: bool,
        /// Disable nothing
        #[arg(long)]
        check_only: bool,
        /// Machine-readable
        #[arg(long)]
        json: bool,
    },
    /// Remove what killed programs left behind and, with --keep, what only older states need
    Gc {
        #[command(flatten)]
        registry: RegistryArg,
        /// States that can still be rolled back to, the one in use among them; all without this
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
        keep: Option<u32>,
        /// Machine-readable
        #[arg(long)]
        json: bool,
    },
    /// Pages for people: registry.html, and domain-NAME.html for each domain
    Report {
        #[command(flatten)]
        registry: RegistryArg,
        /// Only these domains
        #[arg(value_name = "NAME")]
        names: Vec<String>,
        /// The folder for the pages
        #[arg(short, long, value_name = "OUT")]
        output: PathBuf,
        /// Machine-readable: the files
        #[arg(long)]
        json: bool,
    },
}
