//! What a sweep is told, and the runs that follow from it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use anyhow::Context;
use burn::tensor::Device;
use kirie_engine::random::Streams;
use kirie_gsam::config::SMALLEST_SIDE;
use kirie_gsam::data::Pictures;
use kirie_gsam::model::{MethodConfig, state_dict_hash};
use kirie_gsam::sweep::RunSpec;
use kirie_gsam::views::draw_geometry;
use kirie_run::config::{self, merge};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::super::semantic::{parts, resolve};
use crate::semantic::Config;

/// Pictures looked at to know how large those of a set are.
const LOOKED_AT: usize = 32;
/// Sides of crops are multiples of this, pixels.
const STEP: f64 = 8.0;

/// A sweep, as its file has it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    /// Heading of the report.
    title: Option<String>,
    /// The configuration that everything else is said over: a file, or a table.
    base: Option<Base>,
    /// What every run has, whatever its set's configuration says.
    #[serde(default)]
    settings: Map<String, Value>,
    /// The part of the sets that the finished models are scored on.
    #[serde(default = "test")]
    score: String,
    #[serde(default)]
    sets: Vec<SetItem>,
    #[serde(default)]
    methods: Vec<MethodItem>,
    #[serde(default)]
    inputs: Vec<InputItem>,
    #[serde(default)]
    augmentations: Vec<InputItem>,
    #[serde(default = "one_seed")]
    seeds: Vec<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Base {
    File(PathBuf),
    Table(Map<String, Value>),
}

/// Data, with a configuration of their own or parts of one.
#[derive(Debug, Deserialize)]
struct SetItem {
    name: String,
    config: Option<PathBuf>,
    #[serde(flatten)]
    over: Map<String, Value>,
}

/// A method's name, or one with a name of its own and parts of a configuration.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum MethodItem {
    Name(String),
    Item {
        name: String,
        method: Option<Value>,
        #[serde(flatten)]
        over: Map<String, Value>,
    },
}

/// Keys of `input`, for how long is learned from it, and how pictures are segmented afterwards.
#[derive(Debug, Default, Deserialize)]
struct InputItem {
    name: String,
    /// Side of the crop over the pictures'; 1 for whole pictures.
    crop_share: Option<f64>,
    plan: Option<Value>,
    test: Option<Value>,
    #[serde(flatten)]
    input: Map<String, Value>,
}

fn test() -> String {
    "test".to_owned()
}
fn one_seed() -> Vec<u64> {
    vec![0]
}

/// The runs of a sweep.
pub(super) struct Planned {
    pub(super) title: String,
    pub(super) score: String,
    pub(super) runs: Vec<PlannedRun>,
}

/// A run and what is known of it beforehand.
pub(super) struct PlannedRun {
    pub(super) spec: RunSpec,
    pub(super) config: Config,
    /// Height and width of what the network sees: the crop, or the set's typical picture.
    pub(super) size: [u32; 2],
    pub(super) trained: u64,
    pub(super) macs: u64,
}

/// A set's configuration and the folder that its paths start from.
struct Set {
    name: String,
    config: Value,
    folder: PathBuf,
}

/// Reads a sweep and makes and checks the configuration of each of its runs.
pub(super) fn read(
    path: &Path,
    settings: &[String],
    data: Option<&Path>,
    device: &Device,
) -> anyhow::Result<Planned> {
    let name = path.display();
    let mut file = config::load::<File>(Some(path), settings)?.value;
    let sets = sets(path, &file)?;
    if file.methods.is_empty() {
        file.methods.push(MethodItem::Item {
            name: "as-configured".to_owned(),
            method: Some(Value::Null),
            over: Map::new(),
        });
    }
    for items in [&mut file.inputs, &mut file.augmentations] {
        if items.is_empty() {
            items.push(InputItem { name: "as-configured".to_owned(), ..InputItem::default() });
        }
    }
    let mut hashes: HashMap<(String, Option<PathBuf>), String> = HashMap::new();
    let mut runs = Vec::new();
    for set in &sets {
        let mut typical: HashMap<String, [u32; 2]> = HashMap::new();
        for method in &file.methods {
            for input in &file.inputs {
                for augmentation in &file.augmentations {
                    for seed in &file.seeds {
                        let (method_name, run_name) = names(set, method, input, augmentation, *seed);
                        let about = || format!("{name}, run {run_name}");
                        let value = settle(set, method, input, augmentation, *seed, &file.settings);
                        let mut config: Config = serde_json::from_value(value).with_context(about)?;
                        resolve(&mut config, &set.folder, data)?;
                        let pictures = Pictures::open(&config.data).with_context(about)?;
                        let frame = format!("{:?} {}", config.input.resize, config.input.keep_aspect);
                        let whole = match typical.get(&frame) {
                            Some(size) => *size,
                            None => typical_size(&config, &pictures).with_context(about)?,
                        };
                        typical.insert(frame, whole);
                        if let Some(share) = input.crop_share.or(augmentation.crop_share) {
                            config.input.crop = crop(whole, share).with_context(about)?;
                        }
                        config.check().with_context(about)?;
                        let classes = pictures.classes();
                        let network = config.model.config(classes.len()).with_context(about)?;
                        parts(&config, classes, &file.score).with_context(about)?;
                        let key = (config.model.base.clone(), config.model.weights.clone());
                        let hash = match hashes.get(&key) {
                            Some(hash) => hash.clone(),
                            None => state_dict_hash(&config.model.open_base().with_context(about)?)?,
                        };
                        hashes.insert(key, hash.clone());
                        config.model.base_sha256 = Some(hash);
                        let size = config.input.crop.unwrap_or(whole);
                        let macs = network.macs(size[0] as usize, size[1] as usize, device)?.total();
                        let trained = network.counts(device)?.trained as u64;
                        let spec = RunSpec {
                            name: run_name.clone(),
                            set: set.name.clone(),
                            method: method_name,
                            input: input.name.clone(),
                            augmentation: augmentation.name.clone(),
                            seed: *seed,
                            settings: serde_json::to_value(&config)?,
                        };
                        runs.push(PlannedRun { spec, config, size, trained, macs });
                    }
                }
            }
        }
    }
    anyhow::ensure!(!runs.is_empty(), "{name}: there is nothing to run: seeds is empty");
    let title = file.title.unwrap_or_else(|| "Fine-tuning methods and inputs".to_owned());
    Ok(Planned { title, score: file.score, runs })
}

/// The configuration of each set.
fn sets(path: &Path, file: &File) -> anyhow::Result<Vec<Set>> {
    let name = path.display();
    let folder = path.parent().unwrap_or(Path::new("."));
    let open = |file: &Path| -> anyhow::Result<(Value, PathBuf)> {
        let file = folder.join(file);
        let value = Value::Object(config::load::<Map<String, Value>>(Some(&file), &[])?.value);
        Ok((value, file.parent().unwrap_or(folder).to_owned()))
    };
    let base = match &file.base {
        Some(Base::File(file)) => Some(open(file)?),
        Some(Base::Table(table)) => Some((Value::Object(table.clone()), folder.to_owned())),
        None => None,
    };
    if file.sets.is_empty() {
        let (config, folder) =
            base.with_context(|| format!("{name}: expected base or sets, found neither"))?;
        let first = config["data"]["sets"][0]["path"].as_str().unwrap_or_default();
        let stem = Path::new(first).file_stem().unwrap_or_default().to_string_lossy().into_owned();
        return Ok(vec![Set {
            name: if stem.is_empty() { "data".to_owned() } else { stem },
            config,
            folder,
        }]);
    }
    let mut sets = Vec::new();
    for item in &file.sets {
        let (mut config, folder) = match (&item.config, &base) {
            (Some(file), _) => open(file)?,
            (None, Some(base)) => base.clone(),
            (None, None) => {
                anyhow::bail!("{name}: set {:?} has no config, and there is no base", item.name)
            }
        };
        merge(&mut config, &Value::Object(item.over.clone()));
        sets.push(Set { name: item.name.clone(), config, folder });
    }
    Ok(sets)
}

/// The method's name, and the run's.
fn names(
    set: &Set,
    method: &MethodItem,
    input: &InputItem,
    augmentation: &InputItem,
    seed: u64,
) -> (String, String) {
    let (MethodItem::Name(method) | MethodItem::Item { name: method, .. }) = method;
    let run = format!("{}-{method}-{}-{}-s{seed}", set.name, input.name, augmentation.name);
    (method.clone(), run)
}

/// One run's configuration: the set's, over it what every run has, then the method's, the input's, the augmentation's.
fn settle(
    set: &Set,
    method: &MethodItem,
    input: &InputItem,
    augmentation: &InputItem,
    seed: u64,
    settings: &Map<String, Value>,
) -> Value {
    let mut config = set.config.clone();
    merge(&mut config, &Value::Object(settings.clone()));
    match method {
        MethodItem::Name(name) => merge(&mut config, &json!({ "model": { "method": { "name": name } } })),
        MethodItem::Item { name, method, over } => {
            let method = match method {
                Some(Value::Null) => None,
                Some(method) => Some(method.clone()),
                None => MethodConfig::named(name).is_ok().then(|| json!({ "name": name })),
            };
            if let Some(method) = method {
                merge(&mut config, &json!({ "model": { "method": method } }));
            }
            merge(&mut config, &Value::Object(over.clone()));
        }
    }
    for item in [input, augmentation] {
        if item.crop_share.is_some()
            && let Some(input) = config.get_mut("input").and_then(Value::as_object_mut)
        {
            input.remove("crop");
        }
        merge(&mut config, &json!({ "input": item.input }));
        for (key, value) in [("plan", &item.plan), ("test", &item.test)] {
            if let Some(value) = value {
                merge(&mut config, &json!({ key: value }));
            }
        }
    }
    merge(&mut config, &json!({ "seed": seed }));
    config
}

/// Height and width that half of the pictures have at least, after resizing, at the middle of a multi-scale range.
fn typical_size(config: &Config, pictures: &Pictures) -> anyhow::Result<[u32; 2]> {
    config.input.check()?;
    let mut input = config.input.clone();
    input.crop = None;
    input.multi_scale = [1.0, 1.0];
    let count = pictures.count().min(LOOKED_AT);
    let all: Vec<_> = pictures.training().collect();
    let mut sides = [Vec::new(), Vec::new()];
    for at in 0..count {
        let Some((set, sample)) = all.get(at * all.len() / count) else { continue };
        let mut rng = Streams::new(0).stream("size", &[at as u64]);
        let geometry = draw_geometry(&set.read(sample)?, &input, &mut rng)?;
        for (sides, side) in sides.iter_mut().zip(geometry.resized) {
            sides.push(side);
        }
    }
    Ok(sides.map(|mut sides| {
        sides.sort_unstable();
        sides.get(sides.len() / 2).copied().unwrap_or(SMALLEST_SIDE)
    }))
}

/// A crop of a share of the sides; none for whole pictures.
fn crop(whole: [u32; 2], share: f64) -> anyhow::Result<Option<[u32; 2]>> {
    anyhow::ensure!(share > 0.0 && share <= 1.0, "crop_share is {share}, expected above 0 to 1");
    if share >= 1.0 {
        return Ok(None);
    }
    let side = |side: u32| ((f64::from(side) * share / STEP).round() * STEP) as u32;
    Ok(Some(whole.map(|whole| side(whole).max(SMALLEST_SIDE))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crops_are_shares_of_the_sides() {
        assert_eq!(crop([360, 480], 0.5).unwrap(), Some([184, 240]));
        assert_eq!(crop([360, 480], 0.25).unwrap(), Some([88, 120]));
        assert_eq!(crop([40, 480], 0.25).unwrap(), Some([32, 120]));
        assert_eq!(crop([360, 480], 1.0).unwrap(), None);
        assert!(crop([360, 480], 0.0).is_err() && crop([360, 480], 1.5).is_err());
    }

    /// The encoders are the script's to name; everything else is said in the file.
    #[test]
    fn the_sweep_over_encoders_learns_from_a_twentieth_of_the_labels() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs/contrastive/label-share.toml");
        let methods = "methods=[{ name = \"scratch\", model = { weights = \"/w.safetensors\" } }, { name = \"built-in\" }]";
        let file = config::load::<File>(Some(&path), &[methods.to_owned()]).unwrap().value;
        let sets = sets(&path, &file).unwrap();
        assert_eq!((sets.len(), file.score.as_str(), file.seeds.len()), (1, "test", 3));
        for (method, weights) in file.methods.iter().zip([Some("/w.safetensors"), None]) {
            let none = InputItem::default();
            let value = settle(&sets[0], method, &none, &none, 2, &file.settings);
            let run: Config = serde_json::from_value(value).unwrap();
            run.check().unwrap();
            run.model.config(11).unwrap();
            assert_eq!((run.data.sets[0].one_in, run.seed), (20, 2));
            assert_eq!(run.model.weights.as_deref(), weights.map(Path::new));
            assert_eq!(run.model.method.name(), "full");
        }
    }

    #[test]
    fn the_configurations_that_come_with_kirie_are_right() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs/semantic");
        for name in ["sweep-methods.toml", "sweep-crops.toml"] {
            let file = config::load::<File>(Some(&folder.join(name)), &[]).unwrap().value;
            for item in &file.sets {
                let path = folder.join(item.config.as_ref().unwrap());
                let config = config::load::<Config>(Some(&path), &[]).unwrap().value;
                config.check().unwrap();
                config.model.config(2).unwrap();
                let value = config::load::<Value>(Some(&path), &[]).unwrap().value;
                let set = Set { name: item.name.clone(), config: value, folder: folder.clone() };
                for method in &file.methods {
                    for input in &file.inputs {
                        let value = settle(&set, method, input, &InputItem::default(), 7, &file.settings);
                        let run: Config = serde_json::from_value(value).unwrap();
                        run.check().unwrap();
                        run.model.config(2).unwrap();
                        let longer = match input.name.as_str() {
                            "half-longer" => 1000,
                            "quarter-longer" => 2000,
                            _ => 400,
                        };
                        assert_eq!((run.seed, run.data.batch, run.plan.steps), (7, 4, longer));
                        assert!(run.input.crop.is_none(), "the share decides");
                    }
                }
            }
        }
    }
}
