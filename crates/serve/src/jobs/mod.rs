//! Learning from the annotations: `kirie train semantic` or `kirie train continual` as a child process, so that it can be watched,
//! stopped and resumed, and takes nothing down with it.
//!
//! A job's folder holds `set/` (the pictures and labels as they were when it began), `config.toml`, `output.txt` and `run/`, the run
//! folder that training itself keeps.
//!
//! A continual run leaves a domain in its folder and touches nothing else. Only when it is adopted does `kirie adapters add` copy it
//! into the registry, `adapters/` of the store.

mod process;
mod settings;
mod view;

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kirie_data::write_atomic;
use tokio::process::Command;
use tokio::sync::watch;

use crate::ServeConfig;
use crate::domains::REGISTRY;
use crate::error::{ApiError, ApiResult};
use crate::export::Labels;
use crate::library::Library;
use crate::store::{Job, JobState, Store};
use process::{Ended, attend, have_done, last_words, step_back};
pub(crate) use settings::{JobKind, JobSettings};
pub(crate) use view::JobView;

/// Bytes of a run's last words that are looked at.
const LAST_WORDS: usize = 4000;

/// Starts, watches and ends runs.
#[derive(Clone)]
pub(crate) struct Jobs {
    shared: Arc<Shared>,
}

struct Shared {
    config: Arc<ServeConfig>,
    store: Store,
    library: Arc<Library>,
    folder: PathBuf,
    registry: PathBuf,
    running: Mutex<Option<Running>>,
    /// One start at a time.
    starting: tokio::sync::Mutex<()>,
}

/// A run whose process is there.
struct Running {
    id: i64,
    stop: watch::Sender<bool>,
    ended: watch::Receiver<bool>,
}

impl Jobs {
    /// Runs that an earlier service left are marked as stopped: they can go on. One whose domain is not among those at work (the
    /// service was killed before the registry had it, or somebody took it out) is not adopted.
    pub(crate) async fn new(
        config: Arc<ServeConfig>,
        store: Store,
        library: Arc<Library>,
        domains: &[String],
    ) -> ApiResult<Self> {
        let place = std::path::absolute(&config.store)?;
        let (folder, registry) = (place.join("jobs"), place.join(REGISTRY));
        for job in store.jobs().await?.into_iter().filter(|job| job.state == JobState::Running) {
            store.set_job(job.id, JobState::Stopped, "the service ended".to_owned()).await?;
        }
        for job in store.jobs().await?.into_iter().filter(|job| job.adopted) {
            let settings = JobSettings::of(&job);
            if settings.kind == JobKind::Continual && !domains.contains(&settings.name) {
                store.adopt(None, vec![job.id]).await?;
            }
        }
        let (running, starting) = (Mutex::default(), tokio::sync::Mutex::default());
        Ok(Self { shared: Arc::new(Shared { config, store, library, folder, registry, running, starting }) })
    }

    /// A job's folder.
    pub(crate) fn folder(&self, id: i64) -> PathBuf {
        self.shared.folder.join(id.to_string())
    }

    fn running(&self) -> MutexGuard<'_, Option<Running>> {
        self.shared.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check_idle(&self) -> ApiResult<()> {
        match &*self.running() {
            Some(other) => {
                Err(ApiError::Conflict(format!("job {} is running; one runs at a time", other.id)))
            }
            None => Ok(()),
        }
    }

    /// Starts a run on what is labelled now.
    pub(crate) async fn start(&self, mut settings: JobSettings) -> ApiResult<JobView> {
        settings.check()?;
        let _one = self.shared.starting.lock().await;
        self.check_idle()?;
        let mut labels = Labels::collect(&self.shared.store, &self.shared.library).await?;
        if labels.classes() == 0 {
            return Err(ApiError::Unprocessable(
                "there is nothing to learn from yet: cut out objects in a few pictures first".to_owned(),
            ));
        }
        if settings.kind == JobKind::Continual && settings.name.is_empty() {
            let last = self.shared.store.jobs().await?.first().map_or(0, |job| job.id);
            settings.name = format!("domain-{}", last + 1);
        }
        let config = settings.config(&self.shared.config.base, &labels)?;
        let json = serde_json::to_string(&settings).map_err(|error| ApiError::Internal(error.to_string()))?;
        let id = self.shared.store.add_job(settings.name.clone(), json).await?;
        let (folder, library) = (self.folder(id), Arc::clone(&self.shared.library));
        let staged = tokio::task::spawn_blocking(move || {
            // An id is never given twice, but a folder of that name may be left of a store that was deleted.
            let _ = fs::remove_dir_all(&folder);
            labels.stage(&library, &folder.join("set"))?;
            write_atomic(folder.join("config.toml"), |file| file.write_all(config.as_bytes()))?;
            Ok::<_, ApiError>(())
        });
        let begun = match staged.await? {
            Ok(()) => self.launch(id, settings, &["--config", "config.toml", "-o", "run"]),
            Err(error) => Err(error),
        };
        if let Err(error) = begun {
            self.shared.store.set_job(id, JobState::Failed, error.to_string()).await?;
            return Err(error);
        }
        self.view(id).await
    }

    /// Goes on with a run that was stopped, or that failed for a reason that is gone.
    pub(crate) async fn resume(&self, id: i64) -> ApiResult<JobView> {
        let _one = self.shared.starting.lock().await;
        self.check_idle()?;
        let job = self.shared.store.job(id).await?;
        if job.state == JobState::Done {
            return Err(ApiError::Conflict(format!("job {id} is done")));
        }
        // One that was stopped before its first checkpoint begins anew.
        let run = self.folder(id).join("run");
        let has_run = run.join("config.toml").exists();
        if !has_run {
            let _ = fs::remove_dir_all(run);
        }
        let arguments: &[&str] =
            if has_run { &["--resume", "run"] } else { &["--config", "config.toml", "-o", "run"] };
        self.shared.store.set_job(id, JobState::Running, String::new()).await?;
        if let Err(error) = self.launch(id, JobSettings::of(&job), arguments) {
            self.shared.store.set_job(id, JobState::Failed, error.to_string()).await?;
            return Err(error);
        }
        self.view(id).await
    }

    fn launch(&self, id: i64, settings: JobSettings, arguments: &[&str]) -> ApiResult<()> {
        let kind = match settings.kind {
            JobKind::Semantic => "semantic",
            JobKind::Continual => "continual",
        };
        let folder = self.folder(id);
        let output = File::options().create(true).append(true).open(folder.join("output.txt"))?;
        let mut command = Command::new(&self.shared.config.program);
        command
            .args(["train", kind])
            .args(arguments)
            .current_dir(&folder)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .kill_on_drop(true);
        // Ctrl-C at a terminal goes to the whole group, and a second one would end the run before it saved.
        #[cfg(unix)]
        command.process_group(0);
        let child = command.spawn()?;
        step_back(&child);
        let (stop, asked) = watch::channel(false);
        let (end, ended) = watch::channel(false);
        *self.running() = Some(Running { id, stop, ended });
        let jobs = self.clone();
        tokio::spawn(async move {
            let ended = attend(child, asked).await;
            let (state, message) = jobs.outcome(id, &settings, ended);
            // Where this fails the next start of the service says that the run was stopped.
            let _ = jobs.shared.store.set_job(id, state, message).await;
            *jobs.running() = None;
            let _ = end.send(true);
        });
        Ok(())
    }

    fn outcome(&self, id: i64, settings: &JobSettings, ended: Ended) -> (JobState, String) {
        let folder = self.folder(id);
        if ended == Ended::Badly {
            let output = fs::read(folder.join("output.txt")).unwrap_or_default();
            let words =
                String::from_utf8_lossy(&output[output.len().saturating_sub(LAST_WORDS)..]).into_owned();
            let message = last_words(&words).unwrap_or_else(|| "its process was killed".to_owned());
            return (JobState::Failed, message.replace(&*folder.to_string_lossy(), ""));
        }
        let state = if view::is_complete(&folder, settings) { JobState::Done } else { JobState::Stopped };
        (state, String::new())
    }

    /// Asks a run to finish its step, save and end; waits until it did.
    pub(crate) async fn stop(&self, id: i64) -> ApiResult<()> {
        let ended = match &*self.running() {
            Some(running) if running.id == id => {
                let _ = running.stop.send(true);
                Some(running.ended.clone())
            }
            _ => None,
        };
        let Some(mut ended) = ended else {
            self.shared.store.job(id).await?;
            return Err(ApiError::Conflict(format!("job {id} is not running")));
        };
        // An error says that the sender is gone, and with it the process.
        let _ = ended.wait_for(|ended| *ended).await;
        Ok(())
    }

    /// Ends whatever runs.
    pub(crate) async fn stop_all(&self) {
        let id = self.running().as_ref().map(|running| running.id);
        if let Some(id) = id {
            let _ = self.stop(id).await;
        }
    }

    /// Makes a semantic run's model the one that suggests, or adds a continual run's domain to the registry, as a new version where
    /// it has one of that name.
    pub(crate) async fn adopt(&self, id: i64) -> ApiResult<JobView> {
        let _one = self.shared.starting.lock().await;
        let job = self.shared.store.job(id).await?;
        let (settings, folder) = (JobSettings::of(&job), self.folder(id));
        if job.state != JobState::Done || !view::has_model(&folder, &settings) {
            return Err(ApiError::Conflict(format!("job {id} has no finished model")));
        }
        let others = self.shared.store.jobs().await?.into_iter().filter(|other| {
            let other = JobSettings::of(other);
            other.kind == settings.kind
                && (settings.kind == JobKind::Semantic || other.name.eq_ignore_ascii_case(&settings.name))
        });
        let (others, before): (Vec<i64>, Vec<bool>) = others.map(|other| (other.id, other.adopted)).unzip();
        // First said, then done: if the service is killed between the two, the next one finds that the registry has it not.
        self.shared.store.adopt(Some(id), others.clone()).await?;
        if settings.kind == JobKind::Continual {
            let mut command = self.adapters("add");
            command.arg(view::domain_folder(&folder, &settings)).arg("--new-version");
            if let Some(weights) = &self.shared.config.base.weights {
                command.arg("--weights").arg(weights);
            }
            if let Err(error) = have_done(&mut command, &self.shared.registry).await {
                let was = others.iter().zip(before).find_map(|(other, adopted)| adopted.then_some(*other));
                self.shared.store.adopt(was, others).await?;
                return Err(error);
            }
        }
        self.view(id).await
    }

    /// `kirie adapters DO REGISTRY`.
    fn adapters(&self, what: &str) -> Command {
        let mut command = Command::new(&self.shared.config.program);
        command.args(["adapters", what]).arg(&self.shared.registry);
        command
    }

    /// The semantic run whose model suggests.
    pub(crate) async fn suggesting(&self) -> ApiResult<Option<i64>> {
        let mut jobs = self.shared.store.jobs().await?.into_iter();
        let suggests = |job: &Job| job.adopted && JobSettings::of(job).kind == JobKind::Semantic;
        Ok(jobs.find(suggests).map(|job| job.id))
    }

    /// Removes a run and all it left. A domain that was adopted is taken out of the registry's list first; one that was not has never
    /// touched the registry.
    pub(crate) async fn discard(&self, id: i64) -> ApiResult<JobKind> {
        let _one = self.shared.starting.lock().await;
        let job = self.shared.store.job(id).await?;
        if self.running().as_ref().is_some_and(|running| running.id == id) {
            return Err(ApiError::Conflict(format!("job {id} is running; stop it first")));
        }
        let settings = JobSettings::of(&job);
        if settings.kind == JobKind::Continual && job.adopted {
            have_done(self.adapters("remove").arg(&settings.name), &self.shared.registry).await?;
        }
        self.shared.store.remove_job(id).await?;
        let folder = self.folder(id);
        tokio::task::spawn_blocking(move || {
            // What cannot be removed is in nobody's way.
            let _ = fs::remove_dir_all(folder);
        })
        .await?;
        Ok(settings.kind)
    }

    /// The model that a semantic run left.
    pub(crate) fn adapter(&self, id: i64) -> PathBuf {
        view::adapter(&self.folder(id))
    }

    /// What a continual run was told, and the folder of the domain that it left.
    pub(crate) async fn domain(&self, id: i64) -> ApiResult<(JobSettings, PathBuf)> {
        let job = self.shared.store.job(id).await?;
        let (settings, folder) = (JobSettings::of(&job), self.folder(id));
        if settings.kind != JobKind::Continual {
            return Err(ApiError::Conflict(format!("job {id} is no continual run; ask it for suggestions")));
        }
        if job.state != JobState::Done || !view::has_model(&folder, &settings) {
            return Err(ApiError::Conflict(format!("job {id} has no finished model")));
        }
        let domain = view::domain_folder(&folder, &settings);
        Ok((settings, domain))
    }

    /// All runs, the latest first.
    pub(crate) async fn list(&self) -> ApiResult<Vec<JobView>> {
        let jobs = self.shared.store.jobs().await?;
        let shared = self.clone();
        Ok(tokio::task::spawn_blocking(move || jobs.into_iter().map(|job| shared.describe(job)).collect())
            .await?)
    }

    /// One run.
    pub(crate) async fn view(&self, id: i64) -> ApiResult<JobView> {
        let job = self.shared.store.job(id).await?;
        let shared = self.clone();
        Ok(tokio::task::spawn_blocking(move || shared.describe(job)).await?)
    }
}
