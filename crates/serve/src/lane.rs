//! Where the model works: threads of their own, each with a queue that ends.
//!
//! Clicks, pictures to encode and whole pictures to search each have a lane, so that a click does not stand behind a
//! minute of other work. What nobody waits for any more is not begun.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use rayon::ThreadPoolBuilder;
use tokio::sync::oneshot;

use crate::ServeError;
use crate::error::{ApiError, ApiResult};

type Work = Box<dyn FnOnce() + Send>;
/// Waits for a lane's work.
type Awaited<T> = Pin<Box<dyn Future<Output = ApiResult<T>> + Send>>;

/// A thread with a queue.
#[derive(Clone, Debug)]
pub(crate) struct Lane {
    queue: SyncSender<Work>,
    /// What a client that finds it full is told, seconds.
    retry_after: u32,
}

impl Lane {
    /// Starts the thread. Its parallel work has `threads` threads of its own, so that lanes share the processor, not each other's
    /// queues.
    pub(crate) fn new(
        name: &str,
        waiting: usize,
        threads: usize,
        retry_after: u32,
    ) -> Result<Self, ServeError> {
        let (queue, work) = sync_channel::<Work>(waiting);
        let pool = ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name({
                let name = name.to_owned();
                move |at| format!("{name}-{at}")
            })
            .build()
            .map_err(|error| ServeError::System(std::io::Error::other(error)))?;
        thread::Builder::new().name(name.to_owned()).spawn(move || {
            for job in work {
                // A panic is caught where the job is made; this one is of the pool itself.
                let _ = catch_unwind(AssertUnwindSafe(|| pool.install(job)));
            }
        })?;
        Ok(Self { queue, retry_after })
    }

    /// Has `work` done, after what is in the queue before it.
    ///
    /// # Errors
    /// [`ApiError::Busy`] at once when the queue is full; [`ApiError::Internal`] when the work panics.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> ApiResult<T> {
        self.start(work)?.await
    }

    /// Puts `work` into the queue; what is returned waits for it, and when that is dropped before the work began, it never does.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub(crate) fn start<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> ApiResult<Awaited<T>> {
        let (sender, receiver) = oneshot::channel();
        let job = move || {
            if !sender.is_closed() {
                // Nothing that a job shares is left half-changed: caches change in one step.
                let _ = sender.send(catch_unwind(AssertUnwindSafe(work)));
            }
        };
        self.queue.try_send(Box::new(job)).map_err(|error| match error {
            TrySendError::Full(_) => ApiError::Busy { retry_after: self.retry_after },
            TrySendError::Disconnected(_) => ApiError::Stopping,
        })?;
        Ok(Box::pin(async {
            match receiver.await {
                Ok(Ok(done)) => Ok(done),
                Ok(Err(panic)) => {
                    Err(ApiError::Internal(format!("a fault in the program: {}", words(&*panic))))
                }
                Err(_) => Err(ApiError::Stopping),
            }
        }))
    }
}

fn words(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("no words")
}

/// Milliseconds since `start`, to a hundredth.
pub(crate) fn milliseconds(start: Instant) -> f64 {
    let elapsed: Duration = start.elapsed();
    (elapsed.as_secs_f64() * 1e5).round() / 100.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    #[tokio::test]
    async fn full_is_said_at_once_and_abandoned_work_is_not_begun() {
        let lane = Lane::new("test", 1, 1, 3).unwrap();
        let (open, gate) = channel::<()>();
        let (began, begun) = channel::<()>();
        let first = tokio::spawn({
            let lane = lane.clone();
            async move {
                lane.run(move || {
                    began.send(()).unwrap();
                    gate.recv().unwrap();
                    1
                })
                .await
            }
        });
        tokio::task::yield_now().await;
        begun.recv().unwrap();
        // One may wait; whoever asked for it goes away.
        let (ran, runs) = channel::<()>();
        let second = tokio::spawn({
            let lane = lane.clone();
            async move { lane.run(move || ran.send(()).unwrap()).await }
        });
        tokio::task::yield_now().await;
        assert!(matches!(lane.run(|| 2).await, Err(ApiError::Busy { retry_after: 3 })));
        second.abort();
        let _ = second.await;
        open.send(()).unwrap();
        assert_eq!(first.await.unwrap().unwrap(), 1);
        assert!(runs.recv().is_err(), "abandoned work ran");
        let mut found = lane.run(|| panic!("on purpose")).await;
        while matches!(found, Err(ApiError::Busy { .. })) {
            found = lane.run(|| panic!("on purpose")).await;
        }
        assert!(found.unwrap_err().to_string().contains("on purpose"));
        assert_eq!(lane.run(|| 4).await.unwrap(), 4);
    }
}
