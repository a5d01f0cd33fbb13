//! `kirie serve`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::available_parallelism;

use anyhow::Context;
use kirie_run::Stop;
use kirie_sam::{BurnEngine, Engine};
use kirie_serve::{BaseModel, Engines, ServeConfig, ServeError, ServeLimits, Server};

use crate::args::ServeArgs;
use crate::domains::ServedDomains;
use crate::report;
use crate::weights;

/// How often a signal is looked for.
const TICK: std::time::Duration = std::time::Duration::from_millis(100);

/// Runs the command.
pub(crate) fn run(args: &ServeArgs) -> anyhow::Result<()> {
    let token = token(args)?;
    args.model.machine.set_threads()?;
    let (engine, everything) = engines(args)?;
    let (model, all_input) = (engine.model().to_owned(), everything.preprocess().size);
    let mega = |megabytes: u32| u64::from(megabytes) << 20;
    let limits = ServeLimits {
        upload_bytes: mega(args.max_upload) as usize,
        pixels: u64::from(args.max_pixels) * 1_000_000,
        memory_bytes: mega(args.cache_memory),
        disk_bytes: mega(args.cache_disk),
        ..ServeLimits::default()
    };
    let scratch = if args.openapi { Some(tempfile::tempdir()?) } else { None };
    let store = match (&scratch, &args.store, &args.folder) {
        (Some(scratch), ..) => scratch.path().to_owned(),
        (None, Some(store), _) => store.clone(),
        (None, None, Some(folder)) => {
            anyhow::ensure!(folder.is_dir(), "{} is no folder", folder.display());
            folder.join(".kirie")
        }
        (None, None, None) => PathBuf::from(".kirie"),
    };
    let port = if args.openapi { 0 } else { args.port };
    let config = ServeConfig {
        address: SocketAddr::new(args.address, port),
        token: token.clone(),
        folder: args.folder.clone().filter(|_| !args.openapi),
        store: store.clone(),
        zoom: args.zoom.context(&model),
        everything: weights::everything_defaults(&engine),
        threads: args
            .model
            .machine
            .threads
            .map_or_else(|| available_parallelism().map_or(1, usize::from), usize::from),
        program: std::env::current_exe().context("cannot find this program's own file")?,
        base: BaseModel {
            // What is small in a picture has to be seen for domains too.
            input: (all_input != weights::variant(&model)?.preprocess.size).then_some(all_input),
            weights: args.model.weights.clone(),
            name: model.clone(),
        },
        limits,
    };
    let domains = ServedDomains::new(&args.model, &model)?;
    let engines = Engines { prompts: engine, everything, domains: Some(Arc::new(domains)) };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let server = Server::bind(config, engines).await.map_err(explain)?;
        if args.openapi {
            return report::print(&server.openapi());
        }
        // Also what a program that started this one waits for.
        report::print(&format!("http://{}/", server.address()))?;
        if token.is_some() {
            report::note("the page asks for the token once");
        }
        report::note(&format!("annotations are kept in {}; Ctrl-C ends", store.display()));
        let stop = Stop::install()?;
        let asked = async {
            while !stop.requested() {
                tokio::time::sleep(TICK).await;
            }
            report::note("ending; a second Ctrl-C does not wait");
        };
        Ok(server.run(asked).await?)
    })
}

/// What answers prompts, and what finds everything: the same where the model does both at one input.
fn engines(args: &ServeArgs) -> anyhow::Result<(Arc<BurnEngine>, Arc<BurnEngine>)> {
    let engine = Arc::new(weights::load(&args.model)?);
    let other = args.model.input.is_none() && weights::everything_defaults(&engine).input.is_some();
    let everything =
        if other { Arc::new(weights::load_for_everything(&args.model)?) } else { Arc::clone(&engine) };
    Ok((engine, everything))
}

fn token(args: &ServeArgs) -> anyhow::Result<Option<String>> {
    let text = match &args.token_file {
        Some(path) => Some(
            std::fs::read_to_string(path)
                .with_context(|| format!("cannot read the token {}", path.display()))?,
        ),
        // Not an argument: every user of the machine can read those.
        None => std::env::var("KIRIE_TOKEN").ok(),
    };
    Ok(text.map(|text| text.trim().to_owned()).filter(|text| !text.is_empty()))
}

/// What to do about it, where there is something.
fn explain(error: ServeError) -> anyhow::Error {
    match &error {
        ServeError::TokenNeeded { .. } => report::usage(format!(
            "{error}; put one into a file for --token-file, or into KIRIE_TOKEN (`openssl rand -hex 16` makes one)"
        )),
        ServeError::WeakToken { .. } => report::usage(error.to_string()),
        ServeError::Bind { source, .. } if source.kind() == std::io::ErrorKind::AddrInUse => {
            anyhow::anyhow!("{error}; --port takes another, 0 a free one")
        }
        _ => error.into(),
    }
}
