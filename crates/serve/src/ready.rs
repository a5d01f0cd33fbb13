//! Pictures that are ready for clicks: encoded once, then held in memory and on the disk within a budget.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::SystemTime;

use kirie_data::Image;
use kirie_sam::checkpoint::{StateDict, write_safetensors};
use kirie_sam::predictor::encode;
use kirie_sam::{Embedding, EncodedImage, Engine, Predictor};
use tokio::sync::Semaphore;

use crate::domains::{AtWork, routed};
use crate::error::{ApiError, ApiResult};
use crate::lane::Lane;
use crate::library::{Entry, Library, Stamp};

/// Pictures decoded at a time: each may take hundreds of megabytes.
const DECODERS: usize = 2;

/// A picture that is ready.
pub(crate) struct Ready {
    pub(crate) predictor: Predictor<'static>,
    /// The domain whose adapter answers; of such a picture there is no closer look, since adapters learn from whole pictures.
    pub(crate) domain: Option<String>,
    /// Whether the pixels are there, where a close look at a box needs them.
    pub(crate) pixels: bool,
    bytes: u64,
}

/// Makes pictures ready and keeps them.
#[derive(Clone)]
pub(crate) struct Readiness {
    shared: Arc<Shared>,
}

struct Shared {
    engine: Arc<dyn Engine>,
    domains: AtWork,
    zoom: Option<f64>,
    library: Arc<Library>,
    encoder: Lane,
    decoders: Semaphore,
    /// Requests that may wait for a decoder.
    waiting: Semaphore,
    memory: Mutex<Memory>,
    disk: Disk,
    /// One task makes a picture ready; the others wait for it.
    making: Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>,
}

impl Readiness {
    #[allow(clippy::too_many_arguments, reason = "called once")]
    pub(crate) fn new(
        engine: Arc<dyn Engine>,
        domains: AtWork,
        zoom: Option<f64>,
        library: Arc<Library>,
        encoder: Lane,
        memory_bytes: u64,
        disk: Disk,
        queue: usize,
    ) -> Self {
        let memory = Mutex::new(Memory { budget: memory_bytes, ..Memory::default() });
        let (decoders, waiting) = (Semaphore::new(DECODERS), Semaphore::new(queue + DECODERS));
        let making = Mutex::default();
        Self {
            shared: Arc::new(Shared {
                engine,
                domains,
                zoom,
                library,
                encoder,
                decoders,
                waiting,
                memory,
                disk,
                making,
            }),
        }
    }

    /// The picture if it is ready now.
    pub(crate) fn at_hand(&self, entry: &Entry, pixels: bool) -> ApiResult<Option<Arc<Ready>>> {
        let key = key(entry, self.shared.library.stamp(entry)?);
        Ok(self.shared.remembered(&by(&key, self.shared.domains.get().0), pixels))
    }

    /// The picture, made ready if it is not; with its pixels if `pixels`.
    pub(crate) async fn get(&self, entry: &Arc<Entry>, pixels: bool) -> ApiResult<Arc<Ready>> {
        let (shared, entry) = (Arc::clone(&self.shared), Arc::clone(entry));
        // A task of its own: if the client goes away, what was begun still serves the next.
        tokio::spawn(async move { shared.make(entry, pixels).await }).await?
    }

    /// What the encoder makes of a picture, of whatever domain, from the disk if it is kept there; nothing is held in memory.
    pub(crate) async fn encoded(&self, entry: &Arc<Entry>) -> ApiResult<EncodedImage> {
        let key = key(entry, self.shared.library.stamp(entry)?);
        let held = self.shared.remembered(&by(&key, self.shared.domains.get().0), false);
        if let Some(ready) = held.filter(|ready| ready.domain.is_none()) {
            return Ok(ready.predictor.image()?.clone());
        }
        let disk = self.shared.disk.clone();
        let kept = tokio::task::spawn_blocking({
            let key = key.clone();
            move || disk.read(&key)
        });
        match kept.await? {
            Some(encoded) => Ok(encoded),
            None => Ok(self.shared.encode(&key, self.shared.decode(entry).await?).await?.0),
        }
    }

    /// The pixels, upright, decoded anew.
    pub(crate) async fn pixels(&self, entry: &Arc<Entry>) -> ApiResult<Image> {
        self.shared.decode(entry).await
    }

    /// Bytes held in memory.
    pub(crate) fn held(&self) -> u64 {
        self.shared.memory.lock().unwrap_or_else(PoisonError::into_inner).held
    }
}

fn key(entry: &Entry, stamp: Stamp) -> String {
    format!("{}-{}", entry.id, stamp.text())
}

/// The key in memory: other domains at work may answer otherwise.
fn by(key: &str, generation: u64) -> String {
    format!("{key}-{generation}")
}

impl Shared {
    fn remembered(&self, key: &str, pixels: bool) -> Option<Arc<Ready>> {
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        memory.get(key).filter(|ready| ready.pixels || !pixels)
    }

    async fn make(self: Arc<Self>, entry: Arc<Entry>, pixels: bool) -> ApiResult<Arc<Ready>> {
        let key = key(&entry, self.library.stamp(&entry)?);
        let (generation, domains) = self.domains.get();
        let held_as = by(&key, generation);
        if let Some(ready) = self.remembered(&held_as, pixels) {
            return Ok(ready);
        }
        let turn = {
            let mut making = self.making.lock().unwrap_or_else(PoisonError::into_inner);
            making.retain(|_, turn| turn.strong_count() > 0);
            let known = making.get(&held_as).and_then(Weak::upgrade);
            let turn = known.unwrap_or_default();
            making.insert(held_as.clone(), Arc::downgrade(&turn));
            turn
        };
        let _turn = turn.lock().await;
        if let Some(ready) = self.remembered(&held_as, pixels) {
            return Ok(ready);
        }

        let mut decoded = None;
        let known = self.remembered(&held_as, false);
        // One that is known without its pixels is of no domain.
        if let Some(domains) = domains.filter(|_| known.is_none()) {
            let image = self.decode(&entry).await?;
            let adapted = self.encoder.run(move || {
                let Some((domain, engine)) = routed(Some(&domains), &image)? else {
                    return Ok::<_, ApiError>((None, image));
                };
                let encoded = encode(&*engine, &image)?;
                Ok((Some(Ready::of_domain(engine, domain, encoded)), image))
            });
            let (adapted, image) = adapted.await??;
            if let Some(ready) = adapted {
                return Ok(self.hold(held_as, ready));
            }
            decoded = Some(image);
        }
        let encoded = if let Some(ready) = known {
            Some(ready.predictor.image()?.clone())
        } else {
            let (disk, key) = (self.disk.clone(), key.clone());
            tokio::task::spawn_blocking(move || disk.read(&key)).await?
        };
        let ready = match encoded {
            Some(encoded) if !pixels => self.ready(None, encoded)?,
            known => {
                let image = match decoded {
                    Some(image) => image,
                    None => self.decode(&entry).await?,
                };
                let (encoded, image) = match known {
                    Some(encoded) => (encoded, image),
                    None => self.encode(&key, image).await?,
                };
                self.ready(Some(image).filter(|_| pixels || self.zoom.is_some()), encoded)?
            }
        };
        Ok(self.hold(held_as, ready))
    }

    fn hold(&self, key: String, ready: Ready) -> Arc<Ready> {
        let ready = Arc::new(ready);
        self.memory.lock().unwrap_or_else(PoisonError::into_inner).put(key, Arc::clone(&ready));
        ready
    }

    /// Runs the encoder, and keeps what it made.
    async fn encode(&self, key: &str, image: Image) -> ApiResult<(EncodedImage, Image)> {
        let engine = Arc::clone(&self.engine);
        let both = self.encoder.run(move || Ok::<_, ApiError>((encode(&*engine, &image)?, image)));
        let (encoded, image) = both.await??;
        let (disk, key, kept) = (self.disk.clone(), key.to_owned(), encoded.clone());
        tokio::task::spawn_blocking(move || disk.write(&key, &kept));
        Ok((encoded, image))
    }

    async fn decode(self: &Arc<Self>, entry: &Arc<Entry>) -> ApiResult<Image> {
        let _place = self.waiting.try_acquire().map_err(|_| ApiError::Busy { retry_after: 2 })?;
        let _decoder = self.decoders.acquire().await.map_err(|_| ApiError::Stopping)?;
        let (shared, entry) = (Arc::clone(self), Arc::clone(entry));
        tokio::task::spawn_blocking(move || shared.library.read_image(&entry)).await?
    }

    fn ready(&self, image: Option<Image>, encoded: EncodedImage) -> ApiResult<Ready> {
        let mut bytes = size_of_encoded(&encoded);
        let mut predictor = Predictor::new(Arc::clone(&self.engine)).with_zoom(self.zoom);
        let pixels = image.is_some();
        match image {
            Some(image) => {
                bytes += image.as_raw().len() as u64;
                predictor.set_image_encoded(image, encoded)?;
            }
            None => predictor.set_encoded(encoded),
        }
        Ok(Ready { predictor, domain: None, pixels, bytes })
    }
}

impl Ready {
    fn of_domain(engine: Arc<dyn Engine>, domain: String, encoded: EncodedImage) -> Self {
        let bytes = size_of_encoded(&encoded);
        let mut predictor = Predictor::new(engine);
        predictor.set_encoded(encoded);
        Self { predictor, domain: Some(domain), pixels: true, bytes }
    }
}

/// Bytes that an encoded picture takes in memory.
fn size_of_encoded(encoded: &EncodedImage) -> u64 {
    let floats = encoded.embedding.image.values.len()
        + encoded.embedding.hq_features.as_ref().map_or(0, |features| features.values.len());
    // The tables for enlarging masks: up to four entries a row and a column.
    4 * floats as u64 + 96 * (u64::from(encoded.width) + u64::from(encoded.height))
}

/// What is held in memory; what was not asked for longest goes first.
#[derive(Default)]
struct Memory {
    budget: u64,
    held: u64,
    clock: u64,
    entries: HashMap<String, (u64, Arc<Ready>)>,
    /// Keys by when they were asked for.
    order: BTreeMap<u64, String>,
}

impl Memory {
    fn get(&mut self, key: &str) -> Option<Arc<Ready>> {
        let (used, ready) = self.entries.get_mut(key)?;
        self.clock += 1;
        self.order.remove(used);
        *used = self.clock;
        self.order.insert(self.clock, key.to_owned());
        Some(Arc::clone(ready))
    }

    fn put(&mut self, key: String, ready: Arc<Ready>) {
        self.clock += 1;
        self.held += ready.bytes;
        if let Some((used, old)) = self.entries.insert(key.clone(), (self.clock, ready)) {
            self.order.remove(&used);
            self.held -= old.bytes;
        }
        self.order.insert(self.clock, key);
        // The newest stays even if it is larger than the budget: somebody works on it.
        while self.held > self.budget && self.order.len() > 1 {
            let Some((_, oldest)) = self.order.pop_first() else { break };
            if let Some((_, gone)) = self.entries.remove(&oldest) {
                self.held -= gone.bytes;
            }
        }
    }
}

/// Embeddings kept as files, `KEY.safetensors` with the tensors that `kirie embed` writes.
#[derive(Clone, Debug)]
pub(crate) struct Disk {
    /// Of one model: another model's embeddings are in another folder.
    folder: PathBuf,
    budget: u64,
}

impl Disk {
    /// `model` tells one model's embeddings from another's.
    pub(crate) fn new(store: &Path, model: &str, budget: u64) -> std::io::Result<Self> {
        let plain: String = model.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
        let folder = store.join("embeddings").join(plain);
        fs::create_dir_all(&folder)?;
        Ok(Self { folder, budget })
    }

    fn path(&self, key: &str) -> PathBuf {
        self.folder.join(format!("{key}.safetensors"))
    }

    /// What is kept under a key. A damaged file is as good as none.
    fn read(&self, key: &str) -> Option<EncodedImage> {
        let path = self.path(key);
        let file = StateDict::open(&path).ok()?;
        let number = |name: &str| file.metadata().get(name)?.parse().ok();
        let hq_features = match file.shape("hq_features") {
            Some(_) => Some(file.read("hq_features").ok()?),
            None => None,
        };
        let embedding = Embedding { image: file.read("embedding").ok()?, hq_features };
        // Says that it was used; the oldest go first.
        let touched =
            fs::File::options().append(true).open(&path).and_then(|f| f.set_modified(SystemTime::now()));
        touched.ok()?;
        Some(EncodedImage { width: number("width")?, height: number("height")?, embedding })
    }

    /// Keeps an embedding, and drops the oldest beyond the budget. A disk that is full costs the next start some time, no more.
    fn write(&self, key: &str, encoded: &EncodedImage) {
        let mut tensors = vec![("embedding".to_owned(), encoded.embedding.image.clone())];
        tensors.extend(
            encoded.embedding.hq_features.clone().map(|features| ("hq_features".to_owned(), features)),
        );
        let metadata = BTreeMap::from([
            ("width".to_owned(), encoded.width.to_string()),
            ("height".to_owned(), encoded.height.to_string()),
        ]);
        if self.budget > 0 && write_safetensors(self.path(key), &tensors, &metadata).is_ok() {
            self.shrink();
        }
    }

    fn shrink(&self) {
        let Ok(entries) = fs::read_dir(&self.folder) else { return };
        let mut files: Vec<(SystemTime, u64, PathBuf)> = entries
            .flatten()
            .filter_map(|entry| {
                let data = entry.metadata().ok()?;
                Some((data.modified().ok()?, data.len(), entry.path()))
            })
            .collect();
        let mut held: u64 = files.iter().map(|(_, bytes, _)| bytes).sum();
        files.sort();
        for (_, bytes, path) in files {
            if held <= self.budget {
                return;
            }
            if fs::remove_file(path).is_ok() {
                held -= bytes;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kirie_sam::HostTensor;

    fn encoded(value: f32) -> EncodedImage {
        let image = HostTensor::new(vec![1, 2, 3, 4], vec![value; 24]).unwrap();
        EncodedImage { width: 30, height: 20, embedding: Embedding { image, hq_features: None } }
    }

    #[test]
    fn the_disk_keeps_what_it_is_given_within_its_budget() {
        let store = tempfile::tempdir().unwrap();
        let disk = Disk::new(store.path(), "some/../model", 1000).unwrap();
        disk.write("a", &encoded(1.0));
        let found = disk.read("a").unwrap();
        assert_eq!((found.width, found.height), (30, 20));
        assert_eq!(found.embedding, encoded(1.0).embedding);
        let one = fs::metadata(disk.path("a")).unwrap().len();
        assert!(one < 500);
        for key in ["b", "c", "d", "e"] {
            std::thread::sleep(std::time::Duration::from_millis(5));
            assert!(disk.read("a").is_some(), "what is used stays");
            disk.write(key, &encoded(2.0));
        }
        let held: u64 =
            fs::read_dir(&disk.folder).unwrap().map(|e| e.unwrap().metadata().unwrap().len()).sum();
        assert!(held <= 1000 && disk.read("b").is_none() && disk.read("e").is_some());

        fs::write(disk.path("e"), b"not an embedding").unwrap();
        assert!(disk.read("e").is_none());
        let cut = fs::read(disk.path("a")).unwrap();
        fs::write(disk.path("a"), &cut[..cut.len() - 7]).unwrap();
        assert!(disk.read("a").is_none());
    }
}
