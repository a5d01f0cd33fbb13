//! A few things kept for a while; the oldest go.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

/// Keeps the last so many things that were put into it.
#[derive(Debug)]
pub(crate) struct Kept<T> {
    most: usize,
    inner: Mutex<Inner<T>>,
}

#[derive(Debug)]
struct Inner<T> {
    things: HashMap<String, Arc<T>>,
    order: VecDeque<String>,
}

impl<T> Kept<T> {
    pub(crate) fn new(most: usize) -> Self {
        Self { most, inner: Mutex::new(Inner { things: HashMap::new(), order: VecDeque::new() }) }
    }

    pub(crate) fn get(&self, key: &str) -> Option<Arc<T>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).things.get(key).cloned()
    }

    pub(crate) fn put(&self, key: String, thing: T) -> Arc<T> {
        let thing = Arc::new(thing);
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.things.insert(key.clone(), Arc::clone(&thing)).is_none() {
            inner.order.push_back(key);
        }
        while inner.order.len() > self.most {
            if let Some(oldest) = inner.order.pop_front() {
                inner.things.remove(&oldest);
            }
        }
        thing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_go() {
        let kept = Kept::new(2);
        for (key, value) in [("a", 1), ("b", 2), ("a", 3), ("c", 4)] {
            kept.put(key.to_owned(), value);
        }
        assert_eq!(["a", "b", "c"].map(|key| kept.get(key).map(|v| *v)), [None, Some(2), Some(4)]);
    }
}
