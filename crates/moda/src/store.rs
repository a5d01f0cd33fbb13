//! A domain's learned state as a folder of plain files.
//!
//! | file | content |
//! | --- | --- |
//! | `adapter.safetensors` | what was trained, by state-dict name; metadata: format, kind, base model, hash of the base's weights |
//! | `router.safetensors` | `portrait.{mean,deviation}`: what the domain's pictures are like; `reader.*`: the tokens as they were trained when the domain came, which tell it from the domains known then; `reference.{i}`: pictures for the base; metadata: the threshold, the domains known, the settings |
//! | `exemplars.safetensors` | `stage.{i}` `[exemplars, places, dim]`: the exemplars' pooled features |
//! | or `exemplar-NNN.png`, `exemplar-NNN.mask.png` | the exemplars themselves |
//! | `domain.toml` | name, kind, base, how it was trained, scores: for the registry and for people |
//!
//! A folder is written once. A later domain's folder holds tokens that know more domains; nothing in an earlier folder changes for it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use burn::module::Module;
use kirie_data::write::{mask_png, write_picture};
use kirie_data::{Limits, create_parent, read_image, read_mask_png, write_atomic};
use kirie_run::config::to_toml;
use kirie_sam::HostTensor;
use kirie_sam::checkpoint::{
    CheckpointError, FloatFormat, StateDict, compare, load, module_keys, state_dict_of, write_safetensors_to,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::adapter::{Adapter, AdapterConfig};
use crate::base::Base;
use crate::data::Picture;
use crate::error::ContinualError;
use crate::items::{Keep, Maker};
use crate::router::{Portrait, RouterConfig, RouterFeatures, StageFeatures, TokenReader};
use crate::views::Augment;

/// What was trained.
pub const ADAPTER: &str = "adapter.safetensors";
/// How its pictures are told from others.
pub const ROUTER: &str = "router.safetensors";
/// Features of exemplars.
pub const EXEMPLARS: &str = "exemplars.safetensors";
/// For the registry and for people.
pub const NOTES: &str = "domain.toml";
/// The entry of the files' metadata that says how large the base's input was, pixels.
const INPUT: &str = "input";

const ADAPTER_FORMAT: &str = "kirie-moda-adapter-1";
const ROUTER_FORMAT: &str = "kirie-moda-router-1";
const EXEMPLARS_FORMAT: &str = "kirie-moda-exemplars-1";

/// The file of the nth exemplar that is kept as a picture.
pub fn exemplar_file(n: usize) -> String {
    format!("exemplar-{n:03}.png")
}

/// A domain that tokens know, in the order of their classes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    /// Its name.
    pub name: String,
    /// Hash of its exemplars' features, so that another domain of the same name is not taken for it.
    pub exemplars: String,
}

/// Tokens, and what they were trained on.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The domains they tell apart, this one last.
    pub known: Vec<Known>,
    /// The tokens.
    pub reader: TokenReader,
    /// Whether they know a class beyond the domains, the base's.
    pub has_reference: bool,
}

/// A domain's learned state.
#[derive(Clone, Debug)]
pub struct DomainState {
    /// Its name.
    pub name: String,
    /// What kind of adapter.
    pub config: AdapterConfig,
    /// What was trained, without autodiff.
    pub adapter: Adapter,
    /// What its pictures are like.
    pub portrait: Portrait,
    /// Features of its exemplars (of pictures: of several views each).
    pub exemplars: Vec<RouterFeatures>,
    /// The exemplars themselves, where they are kept.
    pub pictures: Vec<Picture>,
    /// Tokens as of this domain.
    pub snapshot: Snapshot,
    /// Features of pictures that the base is to answer.
    pub reference: Vec<RouterFeatures>,
    /// How the tokens were trained, so that they can be again.
    pub router: RouterConfig,
    /// What the random numbers of that follow from.
    pub seed: u64,
    /// How views of pictures are cut.
    pub augment: Augment,
}

/// What is written into `domain.toml` beside what the state itself says.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Notes {
    /// For people.
    pub description: String,
    /// How it was trained.
    pub training: BTreeMap<String, serde_json::Value>,
    /// Figures, by name.
    pub scores: BTreeMap<String, f64>,
    /// Test pictures by where the router sent them: a domain's name, or `base`.
    pub chosen: BTreeMap<String, u64>,
}

/// The layout of `domain.toml`, which the adapter registry reads.
#[derive(Serialize)]
struct Description<'a> {
    name: &'a str,
    kind: String,
    #[serde(rename = "description")]
    for_people: &'a str,
    base: BaseName<'a>,
    training: &'a BTreeMap<String, serde_json::Value>,
    scores: &'a BTreeMap<String, f64>,
    routing: Routing<'a>,
}

#[derive(Serialize)]
struct BaseName<'a> {
    model: &'a str,
    sha256: &'a str,
}

#[derive(Serialize)]
struct Routing<'a> {
    chosen: &'a BTreeMap<String, u64>,
}

impl DomainState {
    /// What tokens know it by.
    pub fn known(&self) -> Known {
        Known { name: self.name.clone(), exemplars: fingerprint(&self.exemplars) }
    }

    /// Features of the exemplars as whole pictures, which is how pictures are routed; where pictures are kept, not of their other views.
    pub fn probes(&self) -> impl Iterator<Item = &RouterFeatures> {
        let views = if self.pictures.is_empty() { 1 } else { self.augment.views.max(1) };
        self.exemplars.iter().step_by(views)
    }

    /// Writes the folder. Files are written one by one, each whole or not at all, `domain.toml` last: a folder without it is not
    /// finished. (The registry makes adding a folder to it one step.)
    ///
    /// # Errors
    /// Files that cannot be written; an adapter whose values cannot be read from the device.
    pub fn save(&self, folder: &Path, base: &Base, notes: &Notes) -> Result<(), ContinualError> {
        create_parent(folder.join(NOTES))?;
        let about = |format: &str| {
            let mut metadata = about(format, base);
            metadata.insert("domain".to_owned(), self.name.clone());
            metadata
        };
        let mut metadata = about(ADAPTER_FORMAT);
        metadata.insert("kind".to_owned(), json(&self.config));
        write(&folder.join(ADAPTER), &state_dict_of(&self.adapter.valid()), &metadata)?;

        let mut metadata = about(ROUTER_FORMAT);
        metadata.insert("threshold".to_owned(), json(&self.portrait.threshold));
        metadata.insert("known".to_owned(), json(&self.snapshot.known));
        metadata.insert("has_reference".to_owned(), json(&self.snapshot.has_reference));
        metadata.insert("router".to_owned(), json(&self.router));
        metadata.insert("seed".to_owned(), self.seed.to_string());
        metadata.insert("augment".to_owned(), json(&self.augment));
        let line = |values: &[f32]| HostTensor { shape: vec![values.len()], values: values.to_vec() };
        let mut tensors = vec![
            ("portrait.mean".to_owned(), line(&self.portrait.mean)),
            ("portrait.deviation".to_owned(), line(&self.portrait.deviation)),
        ];
        tensors.extend(reader_tensors(&self.snapshot.reader));
        tensors.extend(features_to_tensors("reference.", &self.reference));
        write(&folder.join(ROUTER), &tensors, &metadata)?;

        if self.pictures.is_empty() {
            let tensors = features_to_tensors("stage.", &self.exemplars);
            write(&folder.join(EXEMPLARS), &tensors, &about(EXEMPLARS_FORMAT))?;
        }
        for (n, picture) in self.pictures.iter().enumerate() {
            write_picture(folder.join(exemplar_file(n)), &picture.image)?;
            let mask = mask_png(&picture.mask)?;
            write_atomic(folder.join(format!("exemplar-{n:03}.mask.png")), |file| file.write_all(&mask))?;
        }
        let description = Description {
            name: &self.name,
            kind: self.config.name(),
            for_people: &notes.description,
            base: BaseName { model: base.name(), sha256: base.hash() },
            training: &notes.training,
            scores: &notes.scores,
            routing: Routing { chosen: &notes.chosen },
        };
        let text = to_toml(&description)?;
        Ok(write_atomic(folder.join(NOTES), |file| file.write_all(text.as_bytes()))?)
    }

    /// Reads a folder.
    ///
    /// # Errors
    /// [`ContinualError::WrongBase`] for a domain of another base; [`ContinualError::State`] and others, by file, for what is missing
    /// or damaged.
    pub fn load(folder: &Path, base: &Base) -> Result<Self, ContinualError> {
        let path = folder.join(ADAPTER);
        let file = open(&path, ADAPTER_FORMAT, base)?;
        let config: AdapterConfig = entry(&file, "kind")?;
        let name = text(&file, "domain")?;
        let fresh = Adapter::new(&config, base, 0)?;
        let adapter = load(fresh.valid(), &file, &format!("an adapter of {}", base.name()), base.device())?;

        let path = folder.join(ROUTER);
        let file = open(&path, ROUTER_FORMAT, base)?;
        if text(&file, "domain")? != name {
            let reason = format!("is of domain {:?}, and {ADAPTER} of {name:?}", text(&file, "domain")?);
            return Err(ContinualError::state(path, reason));
        }
        let line = |key: &str| -> Result<Vec<f32>, ContinualError> { Ok(file.read(key)?.values) };
        let portrait = Portrait {
            mean: line("portrait.mean")?,
            deviation: line("portrait.deviation")?,
            threshold: entry(&file, "threshold")?,
        };
        let (router, augment): (RouterConfig, Augment) = (entry(&file, "router")?, entry(&file, "augment")?);
        let known: Vec<Known> = entry(&file, "known")?;
        let has_reference: bool = entry(&file, "has_reference")?;
        let reference = features_from_tensors("reference.", &file)?;
        let seed = entry(&file, "seed")?;
        let reader = reader_from(&path, base)?;

        let pictures = pictures_of(folder)?;
        let exemplars = if pictures.is_empty() {
            features_from_tensors("stage.", &open(&folder.join(EXEMPLARS), EXEMPLARS_FORMAT, base)?)?
        } else {
            let maker = Maker { base, augment, grid: router.grid, keep: Keep::Embedding };
            let views = pictures.iter().flat_map(|picture| (0..augment.views).map(move |n| (picture, n)));
            views
                .map(|(picture, n)| Ok(maker.item(picture, n)?.router))
                .collect::<Result<_, ContinualError>>()?
        };
        let snapshot = Snapshot { known, reader, has_reference };
        Ok(Self {
            name,
            config,
            adapter,
            portrait,
            exemplars,
            pictures,
            snapshot,
            reference,
            router,
            seed,
            augment,
        })
    }
}

/// Hash of features.
pub fn fingerprint(features: &[RouterFeatures]) -> String {
    let mut hash = Sha256::new();
    for stage in features.iter().flat_map(|features| &features.stages) {
        hash.update((stage.dim as u64).to_le_bytes());
        stage.values.iter().for_each(|value| hash.update(value.to_le_bytes()));
    }
    let mut text = String::new();
    for byte in hash.finalize().iter().take(16) {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// What every file says of itself.
pub(crate) fn about(format: &str, base: &Base) -> BTreeMap<String, String> {
    BTreeMap::from([
        ("format".to_owned(), format.to_owned()),
        ("base".to_owned(), base.name().to_owned()),
        ("base_sha256".to_owned(), base.hash().to_owned()),
        (INPUT.to_owned(), base.preprocess().size.to_string()),
    ])
}

pub(crate) fn json<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

pub(crate) fn write(
    path: &Path,
    tensors: &[(String, HostTensor)],
    metadata: &BTreeMap<String, String>,
) -> Result<(), ContinualError> {
    Ok(write_atomic(path, |file| write_safetensors_to(file, tensors, metadata, FloatFormat::F32))?)
}

pub(crate) fn open(path: &Path, format: &str, base: &Base) -> Result<StateDict, ContinualError> {
    let file = StateDict::open(path)?;
    let found = text(&file, "format")?;
    if found != format {
        let reason = format!("its format is {found:?}, expected {format:?}");
        return Err(ContinualError::state(path, reason));
    }
    let hash = text(&file, "base_sha256")?;
    if hash != base.hash() {
        return Err(ContinualError::WrongBase {
            path: path.to_owned(),
            expected_name: text(&file, "base")?,
            expected: hash,
            found_name: base.name().to_owned(),
            found: base.hash().to_owned(),
        });
    }
    let (learned, now) = (text(&file, INPUT)?, base.preprocess().size);
    if learned != now.to_string() {
        let reason = format!("it was learned at an input of {learned} pixels, and the base runs at {now}");
        return Err(ContinualError::state(path, reason));
    }
    Ok(file)
}

/// Side of the base's input that a domain was learned at, pixels, if its folder says so.
pub fn learned_input(folder: &Path) -> Option<u32> {
    StateDict::open(folder.join(ADAPTER)).ok()?.metadata().get(INPUT)?.parse().ok()
}

fn text(file: &StateDict, key: &str) -> Result<String, ContinualError> {
    let missing = || ContinualError::state(file.path(), format!("its metadata have no `{key}`"));
    file.metadata().get(key).cloned().ok_or_else(missing)
}

fn entry<T: DeserializeOwned>(file: &StateDict, key: &str) -> Result<T, ContinualError> {
    let value = text(file, key)?;
    serde_json::from_str(&value)
        .map_err(|error| ContinualError::state(file.path(), format!("its metadata `{key}`: {error}")))
}

/// The tokens among a file's tensors, as `reader.*`.
pub(crate) fn reader_from(path: &Path, base: &Base) -> Result<TokenReader, ContinualError> {
    let file = StateDict::open(path)?.part("reader.");
    let bad = |what: &str| ContinualError::state(path, format!("expected {what} among its tensors"));
    let mut dims = Vec::new();
    let mut count = 1;
    while let Some([tokens, dim]) = file.shape(&format!("tokens.{}", dims.len())) {
        dims.push(*dim);
        count = *tokens;
    }
    let Some([classes, _]) = file.shape("head.weight") else { return Err(bad("`reader.head.weight`")) };
    if dims.is_empty() || count == 0 {
        return Err(bad("`reader.tokens.0`"));
    }
    let reader = TokenReader::of_dims(count - 1, &dims, *classes, base.device());
    let mismatch = compare(&module_keys(&reader), &file);
    if !mismatch.is_empty() {
        return Err(CheckpointError::Mismatch {
            path: path.to_owned(),
            model: "the router's tokens".to_owned(),
            mismatch: Box::new(mismatch),
        }
        .into());
    }
    Ok(load(reader, &file, "the router's tokens", base.device())?)
}

/// What [`reader_from`] reads.
pub(crate) fn reader_tensors(reader: &TokenReader) -> Vec<(String, HostTensor)> {
    state_dict_of(reader).into_iter().map(|(name, tensor)| (format!("reader.{name}"), tensor)).collect()
}

fn features_to_tensors(prefix: &str, features: &[RouterFeatures]) -> Vec<(String, HostTensor)> {
    let stages = features.first().map_or(0, |features| features.stages.len());
    let tensor = |at: usize| {
        let StageFeatures { dim, .. } = features[0].stages[at];
        let places = features[0].stages[at].places();
        let values =
            features.iter().flat_map(|features| features.stages[at].values.iter().copied()).collect();
        (format!("{prefix}{at}"), HostTensor { shape: vec![features.len(), places, dim], values })
    };
    (0..stages).map(tensor).collect()
}

fn features_from_tensors(prefix: &str, file: &StateDict) -> Result<Vec<RouterFeatures>, ContinualError> {
    let mut all: Vec<RouterFeatures> = Vec::new();
    for at in 0.. {
        let key = format!("{prefix}{at}");
        let Some(shape) = file.shape(&key).map(<[usize]>::to_vec) else { break };
        let [count, places, dim] = shape[..] else {
            let reason = format!("{key} is {shape:?}, expected [exemplars, places, dim]");
            return Err(ContinualError::state(file.path(), reason));
        };
        if at == 0 {
            all = vec![RouterFeatures { stages: Vec::new() }; count];
        }
        if all.len() != count || places * dim == 0 {
            let reason = format!("{key} is {shape:?}, expected {} exemplars of something", all.len());
            return Err(ContinualError::state(file.path(), reason));
        }
        let values = file.read(&key)?.values;
        for (features, values) in all.iter_mut().zip(values.chunks_exact(places * dim)) {
            features.stages.push(StageFeatures { dim, values: values.to_vec() });
        }
    }
    Ok(all)
}

/// Pictures that are kept as exemplars, in the order of their names; none where features are.
fn pictures_of(folder: &Path) -> Result<Vec<Picture>, ContinualError> {
    let mut pictures = Vec::new();
    for n in 0.. {
        let path: PathBuf = folder.join(exemplar_file(n));
        if !path.is_file() {
            break;
        }
        let image = read_image(&path, &Limits::default())?;
        let mask_path = folder.join(format!("exemplar-{n:03}.mask.png"));
        let mask = read_mask_png(&mask_path, &Limits::default())?;
        if (mask.width(), mask.height()) != (image.width() as usize, image.height() as usize) {
            return Err(ContinualError::state(mask_path, "expected a mask of the picture's size"));
        }
        let name = path.display().to_string();
        pictures.push(Picture { name, image, mask, ignore: None });
    }
    Ok(pictures)
}

/// Folders that hold a finished domain: `path` itself, those below it by name, or those of a run of moda, `path/steps/*/domain`.
///
/// # Errors
/// A folder that cannot be read.
pub fn domain_folders(path: &Path) -> Result<Vec<PathBuf>, ContinualError> {
    if path.join(NOTES).is_file() {
        return Ok(vec![path.to_owned()]);
    }
    let steps = path.join("steps");
    let path = if steps.is_dir() { &steps } else { path };
    let entries = fs::read_dir(path).map_err(ContinualError::io("read", path))?;
    let mut folders = Vec::new();
    for entry in entries {
        let folder = entry.map_err(ContinualError::io("read", path))?.path();
        let inside = [folder.join("domain"), folder];
        folders.extend(inside.into_iter().find(|folder| folder.join(NOTES).is_file()));
    }
    folders.sort();
    Ok(folders)
}
