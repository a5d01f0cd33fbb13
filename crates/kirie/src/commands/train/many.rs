//! What sweeps whose runs have processes of their own share.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::Context;
use kirie_data::write_atomic;
use kirie_run::sweep::{RESULT_FILE, RunFailure};
use kirie_run::{Progress, ProgressMode, RunFolder, Stop, config};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::args::MachineArgs;
use crate::report;

/// How often a running process is looked at.
const GLANCE: Duration = Duration::from_millis(100);

/// Tells which of a sweep's runs is on its way, what failed, and how far the sweep is.
pub(super) struct Telling<'a> {
    names: Vec<&'a str>,
    position: u64,
    progress: Progress,
    stop: &'a Stop,
}

impl<'a> Telling<'a> {
    /// For runs of these names, of which those that left a result in `folder` are behind.
    pub(super) fn new(folder: &Path, names: impl Iterator<Item = &'a str>, stop: &'a Stop) -> Self {
        let names: Vec<&str> = names.collect();
        let done = names.iter().filter(|name| folder.join(name).join(RESULT_FILE).exists()).count() as u64;
        let progress = Progress::new("run", names.len() as u64, done, ProgressMode::Plain);
        Self { names, position: done, progress, stop }
    }

    /// Does a run, which gets its number.
    pub(super) fn run<F>(
        &mut self,
        name: &str,
        start: impl FnOnce(usize) -> anyhow::Result<F>,
    ) -> Result<F, RunFailure> {
        let at = self.names.iter().position(|other| *other == name).unwrap_or(0);
        let what = format!("run {} of {}: {name}", at + 1, self.names.len());
        self.progress.line(&what);
        let figures = start(at);
        if let Err(error) = &figures {
            self.progress.line(&format!("{what}: {error:#}"));
        }
        if !self.stop.requested() {
            self.position += 1;
            self.progress.set(self.position, name);
        }
        figures.map_err(RunFailure::from)
    }

    pub(super) fn finish(self) {
        self.progress.finish();
    }
}

/// The settings of a run into its folder, or, where an interrupted try left them, the assurance that they are the same.
pub(super) fn settle<T: DeserializeOwned + Serialize + PartialEq>(
    place: &Path,
    config: &T,
) -> anyhow::Result<()> {
    let settings = place.join("config.toml");
    if settings.exists() {
        let found = config::load::<T>(Some(&settings), &[])?.value;
        anyhow::ensure!(
            found == *config,
            "{} is of a run with other settings; take another folder, or remove it to run it anew",
            settings.display()
        );
        // Whether another process works on it.
        drop(RunFolder::open(place)?);
        return Ok(());
    }
    let text = config::to_toml(config)?;
    Ok(write_atomic(&settings, |file| file.write_all(text.as_bytes()))?)
}

/// This program once more, with a command, on the same device and as many threads; its messages are passed on. `None` if it was asked
/// to stop: then whatever it left counts for nothing.
///
/// # Errors
/// What it says when it fails.
pub(super) fn child<I: AsRef<std::ffi::OsStr>>(
    arguments: impl IntoIterator<Item = I>,
    machine: &MachineArgs,
    stop: &Stop,
) -> anyhow::Result<Option<()>> {
    let program = std::env::current_exe().context("where this program lies cannot be found out")?;
    let mut command = Command::new(program);
    command.args(arguments).args(["--device", &machine.device.name()]);
    if let Some(threads) = machine.threads {
        command.args(["--threads", &threads.to_string()]);
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let child = command.spawn().context("a run's process cannot be started")?;
    let (status, said) = attend(child, stop)?;
    if stop.requested() {
        return Ok(None);
    }
    if !status.success() {
        anyhow::bail!("{}", said.unwrap_or_else(|| format!("its process ended with {status}")));
    }
    Ok(Some(()))
}

/// A file of JSON that a run's process left.
pub(super) fn read<T: DeserializeOwned>(path: &Path) -> anyhow::Result<T> {
    let text = std::fs::read(path).with_context(|| format!("{} cannot be read", path.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("{} is damaged", path.display()))
}

/// Passes on what a process says, and that it should stop; how it ended, and its last word.
fn attend(mut child: Child, stop: &Stop) -> anyhow::Result<(ExitStatus, Option<String>)> {
    let messages = child.stderr.take();
    std::thread::scope(|scope| {
        let listener = scope.spawn(move || {
            let mut last = None;
            for line in
                messages.into_iter().flat_map(|pipe| BufReader::new(pipe).lines()).map_while(Result::ok)
            {
                report::tell(&format!("  {line}"));
                last = line.strip_prefix("kirie: ").map(str::to_owned).or(last);
            }
            last
        });
        let mut asked = false;
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break status;
            }
            if stop.requested() && !asked {
                asked = true;
                ask_to_stop(&mut child);
            }
            std::thread::sleep(GLANCE);
        };
        Ok((status, listener.join().unwrap_or_default()))
    })
}

/// A process that was started from a terminal is stopped by Ctrl-C as this one is; one whose parent was asked to stop is not.
#[cfg(unix)]
fn ask_to_stop(child: &mut Child) {
    use rustix::process::{Pid, Signal, kill_process};
    // It may have ended by itself.
    let _ = kill_process(Pid::from_child(child), Signal::TERM);
}

#[cfg(not(unix))]
fn ask_to_stop(_child: &mut Child) {
    // Ctrl-C, the only way to ask there, reaches it too.
}
