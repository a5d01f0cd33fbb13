//! The program as a child process: watched, asked to stop, and never in the way of clicks.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::{Child, Command};
use tokio::sync::watch;

use crate::error::{ApiError, ApiResult};

/// How long a run that was asked to stop may take to finish its step and save.
const PATIENCE: Duration = Duration::from_mins(1);
/// How long a change of the registry may take: it may have to train a router.
const REGISTRY_PATIENCE: Duration = Duration::from_mins(8);

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Ended {
    /// By itself, or as it was asked to.
    Well,
    /// With an error, or killed by somebody else.
    Badly,
}

/// Waits for the process, and passes on that it should stop.
pub(super) async fn attend(mut child: Child, mut asked: watch::Receiver<bool>) -> Ended {
    tokio::select! {
        ended = child.wait() => {
            return if ended.is_ok_and(|status| status.success()) { Ended::Well } else { Ended::Badly };
        }
        _ = asked.wait_for(|asked| *asked) => {}
    }
    interrupt(&child);
    // Whatever it takes and says, it was asked to end; what it saved before is whole.
    if tokio::time::timeout(PATIENCE, child.wait()).await.is_err() {
        let _ = child.kill().await;
    }
    Ended::Well
}

#[cfg(unix)]
fn process(child: &Child) -> Option<rustix::process::Pid> {
    rustix::process::Pid::from_raw(child.id()?.try_into().ok()?)
}

/// Asks it to finish its step, save and end.
#[cfg(unix)]
fn interrupt(child: &Child) {
    if let Some(pid) = process(child) {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::INT);
    }
}

/// Clicks go before training.
#[cfg(unix)]
pub(super) fn step_back(child: &Child) {
    if let Some(pid) = process(child) {
        let _ = rustix::process::setpriority_process(Some(pid), 10);
    }
}

// Elsewhere a run is killed, and goes on from its last checkpoint.
#[cfg(not(unix))]
fn interrupt(_: &Child) {}

#[cfg(not(unix))]
pub(super) fn step_back(_: &Child) {}

/// Has the program do something short; what it says on standard error where it fails, in one line and without `hidden`'s path.
pub(super) async fn have_done(command: &mut Command, hidden: &Path) -> ApiResult<()> {
    command.stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(REGISTRY_PATIENCE, command.output());
    let output = output.await.map_err(|_| ApiError::Timeout)??;
    if output.status.success() {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&output.stderr);
    let words = last_words(&words).unwrap_or_else(|| "its process was killed".to_owned());
    Err(ApiError::Unprocessable(words.replace(&*hidden.to_string_lossy(), "")))
}

/// Why the program failed, in its own words.
pub(super) fn last_words(output: &str) -> Option<String> {
    output.lines().rev().find_map(|line| line.strip_prefix("kirie: ").map(str::to_owned))
}
