//! What all requests share.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use kirie_data::{Image, resize_bilinear};
use kirie_sam::predictor::encode;
use kirie_sam::{Engine, SamError};
use sha2::{Digest, Sha256};

use crate::domains::{AtWork, Engines};
use crate::jobs::Jobs;
use crate::kept::Kept;
use crate::lane::Lane;
use crate::library::Library;
use crate::ready::{Disk, Readiness};
use crate::store::Store;
use crate::survey::Survey;
use crate::{ServeConfig, ServeError};

/// Answers whose logits are kept to be the next prompt's mask input.
const LOGITS_KEPT: usize = 512;
/// Thumbnails kept in memory, a few kilobytes each.
const THUMBNAILS_KEPT: usize = 4096;

/// Low-resolution logits of an answer.
pub(crate) struct Logits {
    pub(crate) image: String,
    /// The domain that answered.
    pub(crate) domain: Option<String>,
    pub(crate) values: Vec<f32>,
}

/// What all requests share.
#[derive(Clone)]
pub(crate) struct App {
    pub(crate) config: Arc<ServeConfig>,
    /// Answers prompts, of no domain.
    pub(crate) engine: Arc<dyn Engine>,
    /// Finds everything, in pictures of no domain.
    pub(crate) everything: Arc<dyn Engine>,
    pub(crate) domains: AtWork,
    pub(crate) library: Arc<Library>,
    pub(crate) store: Store,
    pub(crate) ready: Readiness,
    /// Answers clicks.
    pub(crate) clicks: Lane,
    /// Finds everything in a picture.
    pub(crate) search: Lane,
    /// Low-resolution logits of answers, by number.
    pub(crate) logits: Arc<Kept<Logits>>,
    /// Small pictures, JPEG, by file.
    pub(crate) thumbnails: Arc<Kept<Vec<u8>>>,
    pub(crate) jobs: Jobs,
    pub(crate) survey: Survey,
    stopping: Arc<AtomicBool>,
}

impl App {
    /// Opens the annotations, looks at the pictures, and starts the threads.
    pub(crate) async fn new(config: ServeConfig, engines: Engines) -> Result<Self, ServeError> {
        config.check()?;
        let Engines { prompts: engine, everything, domains } = engines;
        let domains = AtWork::new(&config.store, domains);
        let store = Store::open(&config.store)?;
        let uploads = store.uploads().map_err(broken)?;
        let library =
            Arc::new(Library::new(config.folder.as_deref(), &config.store, &config.limits, &uploads)?);
        let queue = config.limits.queue;
        let lane = |name: &str, queue, retry_after| Lane::new(name, queue, config.threads, retry_after);
        let (clicks, encoder) = (lane("clicks", queue, 1)?, lane("encoder", queue, 2)?);
        let search = lane("search", 4, 20)?;
        let fingerprint = fingerprint(&*engine).map_err(broken)?;
        let folder = |source| ServeError::Folder { path: config.store.clone(), source };
        let disk = Disk::new(&config.store, &fingerprint, config.limits.disk_bytes).map_err(folder)?;
        let reading = domains.clone();
        tokio::task::spawn_blocking(move || reading.read()).await.map_err(broken)?;
        let ready = Readiness::new(
            Arc::clone(&engine),
            domains.clone(),
            config.zoom,
            Arc::clone(&library),
            encoder,
            config.limits.memory_bytes,
            disk,
            queue,
        );
        let config = Arc::new(config);
        let jobs = Jobs::new(Arc::clone(&config), store.clone(), Arc::clone(&library), &domains.names())
            .await
            .map_err(broken)?;
        Ok(Self {
            config,
            engine,
            everything,
            domains,
            library,
            store,
            ready,
            clicks,
            search,
            logits: Arc::new(Kept::new(LOGITS_KEPT)),
            thumbnails: Arc::new(Kept::new(THUMBNAILS_KEPT)),
            jobs,
            survey: Survey::default(),
            stopping: Arc::default(),
        })
    }

    /// Ends work that would otherwise run on: searches are told to stop, a run of fine-tuning saves.
    pub(crate) async fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
        self.jobs.stop_all().await;
    }

    /// Whether the service is on its way to its end.
    pub(crate) fn stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    /// A file of a run.
    pub(crate) fn run_file(&self, job: i64, name: &str) -> PathBuf {
        self.jobs.folder(job).join("run").join(name)
    }
}

fn broken(error: impl std::error::Error + Send + Sync + 'static) -> ServeError {
    ServeError::System(std::io::Error::other(error))
}

/// Tells one model, with its weights and input, from another by what it makes of one picture; and warms it up.
fn fingerprint(engine: &dyn Engine) -> Result<String, SamError> {
    use std::fmt::Write;
    let pixels = [12, 200, 90, 250, 3, 77, 140, 140, 9, 60, 180, 255].to_vec();
    let picture = resize_bilinear(&Image::from_raw(2, 2, pixels)?, 96, 64)?;
    let seen = encode(engine, &picture)?;
    let mut hash = Sha256::new();
    for value in &seen.embedding.image.values {
        hash.update(value.to_le_bytes());
    }
    let mut name = engine.model().to_owned();
    for byte in hash.finalize().iter().take(6) {
        let _ = write!(name, "{}{byte:02x}", if name.len() == engine.model().len() { "-" } else { "" });
    }
    Ok(name)
}
