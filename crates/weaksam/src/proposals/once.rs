//! A model that encodes a picture once: the grid asks about it, and then the cues do.

use std::sync::{Mutex, PoisonError};

use kirie_sam::engine::{LowResMasks, PromptBatch};
use kirie_sam::registry::Preprocess;
use kirie_sam::{DecodeMode, Embedding, Engine, HostTensor, SamError};

/// A model that remembers the last picture it has encoded.
pub(super) struct EncodesOnce<'a> {
    engine: &'a dyn Engine,
    /// Its pixels, and what came of them.
    last: Mutex<Option<(HostTensor, Embedding)>>,
}

impl<'a> EncodesOnce<'a> {
    pub(super) fn new(engine: &'a dyn Engine) -> Self {
        Self { engine, last: Mutex::new(None) }
    }
}

impl Engine for EncodesOnce<'_> {
    fn model(&self) -> &str {
        self.engine.model()
    }

    fn preprocess(&self) -> Preprocess {
        self.engine.preprocess()
    }

    fn mask_side(&self) -> usize {
        self.engine.mask_side()
    }

    fn encode(&self, pixels: HostTensor) -> Result<Embedding, SamError> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((seen, embedding)) = last.as_ref()
            && *seen == pixels
        {
            return Ok(embedding.clone());
        }
        let embedding = self.engine.encode(pixels.clone())?;
        *last = Some((pixels, embedding.clone()));
        Ok(embedding)
    }

    fn decode(
        &self,
        embedding: &Embedding,
        prompts: &PromptBatch,
        mode: DecodeMode,
    ) -> Result<LowResMasks, SamError> {
        self.engine.decode(embedding, prompts, mode)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Counts how often it encodes, and answers with what it was given.
    struct Counts(AtomicUsize);

    impl Engine for Counts {
        fn model(&self) -> &'static str {
            "counts"
        }
        fn preprocess(&self) -> Preprocess {
            Preprocess { size: 1, frame: 1, mean: [0.0; 3], std: [1.0; 3] }
        }
        fn mask_side(&self) -> usize {
            1
        }
        fn encode(&self, pixels: HostTensor) -> Result<Embedding, SamError> {
            self.0.fetch_add(1, Ordering::Relaxed);
            Ok(Embedding { image: pixels, hq_features: None })
        }
        fn decode(&self, _: &Embedding, _: &PromptBatch, _: DecodeMode) -> Result<LowResMasks, SamError> {
            Err(SamError::NoImage)
        }
    }

    #[test]
    fn the_same_picture_is_encoded_once() {
        let counts = Counts(AtomicUsize::new(0));
        let once = EncodesOnce::new(&counts);
        let picture = |value: f32| HostTensor::new(vec![1, 2], vec![value, 2.0]).unwrap();
        for (value, times) in [(1.0, 1), (1.0, 1), (3.0, 2), (1.0, 3)] {
            assert_eq!(once.encode(picture(value)).unwrap().image, picture(value));
            assert_eq!(counts.0.load(Ordering::Relaxed), times, "{value}");
        }
    }
}
