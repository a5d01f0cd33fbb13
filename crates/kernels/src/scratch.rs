//! Reusable memory of each thread, and the static division of work.

use std::cell::RefCell;

thread_local! {
    static FREE: RefCell<Vec<Vec<f32>>> = const { RefCell::new(Vec::new()) };
}

/// Bytes of a cache line, in floats.
const LINE: usize = 16;

/// Calls `f` with `len` floats that start on a cache line and hold anything. The memory stays with the thread for the
/// next call; nested calls get memory of their own.
pub(crate) fn with_scratch<R>(len: usize, f: impl FnOnce(&mut [f32]) -> R) -> R {
    let mut buffer = FREE.with_borrow_mut(Vec::pop).unwrap_or_default();
    if buffer.len() < len + LINE {
        buffer.resize((len + LINE).next_multiple_of(1024), 0.0);
    }
    let skip = buffer.as_ptr().align_offset(4 * LINE).min(LINE);
    let result = f(&mut buffer[skip..skip + len]);
    FREE.with_borrow_mut(|free| free.push(buffer));
    result
}

/// Part `index` of `0..len` cut into `parts` nearly equal ranges whose bounds are multiples of `unit`.
pub(crate) fn part(len: usize, parts: usize, index: usize, unit: usize) -> std::ops::Range<usize> {
    let units = len.div_ceil(unit);
    let at = |i: usize| (units * i / parts * unit).min(len);
    at(index)..at(index + 1)
}
