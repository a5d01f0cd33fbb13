//! The HTTP service and its page: open pictures, click, get masks at once, correct and name them, export them, and fine-tune on
//! them.
//!
//! ```text
//! request -> guard (who, from where) -> api (checks, JSON) -> ready (picture encoded, kept) -> lane (the model's threads) -> answer
//!                                                          -> store (SQLite) / library (files) / jobs (child processes)
//! ```
//!
//! Where domains were taught (`domains`), `ready` asks which of them a picture is like, and its adapter answers.
//!
//! - [`ServeConfig`]: what it is told; [`Server`]: opens everything, listens, and ends without losing anything;
//! - `api`: the requests, each file with the forms of what it asks and answers; `/api/openapi.json` describes them;
//! - `label_studio`: the same model behind Label Studio's requests;
//! - `page/`: plain HTML, CSS and JavaScript modules, inside the program.

mod api;
mod app;
mod config;
mod domains;
mod error;
mod export;
mod guard;
mod jobs;
mod kept;
mod label_studio;
mod lane;
mod library;
mod page;
mod ready;
mod store;
mod survey;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use app::App;
pub use config::{BaseModel, ServeConfig, ServeLimits};
pub use domains::{DomainError, DomainSource, Domains, Engines};
pub use error::ServeError;

/// How long requests that are being answered may take once the service was asked to stop.
const LAST_ANSWERS: Duration = Duration::from_secs(10);

/// A service that listens.
pub struct Server {
    app: App,
    listener: TcpListener,
    address: SocketAddr,
}

impl Server {
    /// Opens the annotations and the pictures, warms the model up, and takes the address.
    ///
    /// # Errors
    /// Everything that would keep it from working: see [`ServeError`].
    pub async fn bind(config: ServeConfig, engines: impl Into<Engines>) -> Result<Self, ServeError> {
        let address = config.address;
        // First of all: an address that is taken should cost no time, and a free port of 0 is only known now.
        config.check()?;
        let taken = |source| ServeError::Bind { address: address.to_string(), source };
        let listener = TcpListener::bind(address).await.map_err(taken)?;
        let address = listener.local_addr().map_err(taken)?;
        let app = App::new(config, engines.into()).await?;
        Ok(Self { app, listener, address })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The description of its requests, OpenAPI as JSON.
    pub fn openapi(&self) -> String {
        let (_, description) = api::router(self.app.clone());
        description.to_pretty_json().unwrap_or_default()
    }

    /// Answers until `stop` is done; then no new request is taken, those that are being answered have some seconds, and a run of
    /// fine-tuning is asked to save.
    ///
    /// # Errors
    /// None yet: a connection that fails is that connection's business.
    pub async fn run(self, stop: impl Future<Output = ()>) -> Result<(), ServeError> {
        let Self { app, listener, .. } = self;
        let limits = app.config.limits.clone();
        let (router, _) = api::router(app.clone());
        let places = Arc::new(Semaphore::new(limits.connections));
        let graceful = GracefulShutdown::new();
        let mut http = hyper::server::conn::http1::Builder::new();
        // Both for a head that dribbles in and for a connection that nothing comes through.
        http.timer(TokioTimer::new()).header_read_timeout(Duration::from_secs(limits.seconds));
        let mut stop = std::pin::pin!(stop);
        loop {
            let accepted = tokio::select! {
                // Without a free place, connections wait in the system's queue.
                accepted = accept(&listener, &places) => accepted,
                () = &mut stop => break,
            };
            let Some((stream, place)) = accepted else { continue };
            let _ = stream.set_nodelay(true);
            let service = TowerToHyperService::new(router.clone());
            let connection = graceful.watch(http.serve_connection(TokioIo::new(stream), service));
            tokio::spawn(async move {
                // Clients go away all the time.
                let _ = connection.await;
                drop(place);
            });
        }
        drop(listener);
        let answers = tokio::time::timeout(LAST_ANSWERS, graceful.shutdown());
        let _ = tokio::join!(app.stop(), answers);
        Ok(())
    }
}

type Place = tokio::sync::OwnedSemaphorePermit;

async fn accept(listener: &TcpListener, places: &Arc<Semaphore>) -> Option<(tokio::net::TcpStream, Place)> {
    let place = Arc::clone(places).acquire_owned().await.ok()?;
    if let Ok((stream, _)) = listener.accept().await {
        return Some((stream, place));
    }
    // Most likely too many open files: that passes when some close.
    tokio::time::sleep(Duration::from_millis(100)).await;
    None
}
