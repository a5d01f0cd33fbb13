//! Batches made ahead on other threads.

use std::ops::Range;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::{Scope, ScopedJoinHandle};

/// Makes the items of a range on `workers` threads and hands them out in order.
///
/// Worker `w` of `n` makes every nth item, so that what comes out does not depend on which thread is fast. At most
/// `ahead` finished items wait for each worker.
pub struct Prefetch<'scope, T> {
    channels: Vec<Receiver<T>>,
    next: u64,
    end: u64,
    start: u64,
    _threads: Vec<ScopedJoinHandle<'scope, ()>>,
}

impl<'scope, T: Send + 'scope> Prefetch<'scope, T> {
    /// Starts the threads. They end when the range is done or the `Prefetch` is dropped.
    pub fn new<'env>(
        scope: &'scope Scope<'scope, 'env>,
        range: Range<u64>,
        workers: usize,
        ahead: usize,
        make: impl Fn(u64) -> T + Send + Sync + Copy + 'scope,
    ) -> Self {
        let workers = workers.max(1) as u64;
        let (mut channels, mut threads) = (Vec::new(), Vec::new());
        for worker in 0..workers {
            let (sender, receiver) = sync_channel(ahead.max(1));
            channels.push(receiver);
            let mine = (range.start + worker..range.end).step_by(workers as usize);
            threads.push(scope.spawn(move || {
                for item in mine {
                    if sender.send(make(item)).is_err() {
                        return;
                    }
                }
            }));
        }
        Self { channels, next: range.start, start: range.start, end: range.end, _threads: threads }
    }
}

impl<T> Iterator for Prefetch<'_, T> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        if self.next >= self.end {
            return None;
        }
        let worker = (self.next - self.start) % self.channels.len() as u64;
        self.next += 1;
        // A worker that panicked closes its channel; its panic is passed on when the scope ends.
        self.channels[worker as usize].recv().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_come_in_order_whatever_the_workers() {
        for workers in [1, 2, 5] {
            let items: Vec<u64> = std::thread::scope(|scope| {
                Prefetch::new(scope, 7..40, workers, 2, |i| {
                    std::thread::sleep(std::time::Duration::from_micros((i * 7919) % 500));
                    i
                })
                .collect()
            });
            assert_eq!(items, (7..40).collect::<Vec<_>>());
        }
    }

    #[test]
    fn dropping_it_ends_the_threads() {
        let first = std::thread::scope(|scope| Prefetch::new(scope, 0..u64::MAX, 3, 1, |i| i).next());
        assert_eq!(first, Some(0));
    }
}
