//! From `--model` and `--weights` to something that runs.

use anyhow::Context;
use burn::tensor::Device;
use kirie_sam::checkpoint::StateDict;
use kirie_sam::registry::{self, EverythingDefaults, RemoteFile, Variant};
use kirie_sam::{BurnEngine, Engine, hub};

use crate::args::ModelArgs;
use crate::report;

/// The model that runs when none is named.
pub(crate) const DEFAULT_MODEL: &str = "kirie-small";

/// The variant of a name; a name that is none is wrong usage.
pub(crate) fn variant(name: &str) -> anyhow::Result<&'static Variant> {
    registry::variant(name).map_err(|e| report::usage(e.to_string()))
}

/// Loads the model that the arguments name, to answer prompts.
pub(crate) fn load(args: &ModelArgs) -> anyhow::Result<BurnEngine> {
    load_at(args, |_| None)
}

/// The same for `--everything`, which some models do at another input.
pub(crate) fn load_for_everything(args: &ModelArgs) -> anyhow::Result<BurnEngine> {
    load_at(args, |variant| variant.everything.input)
}

/// `preferred` is an input for models that can take it.
fn load_at(args: &ModelArgs, preferred: impl Fn(&Variant) -> Option<u32>) -> anyhow::Result<BurnEngine> {
    let named = args.model.as_deref().map(variant).transpose()?;
    let device = args.machine.device.open()?;
    let (variant, weights) = match (&args.weights, named) {
        (Some(path), named) => {
            let weights = StateDict::open(path)?;
            match named.or_else(|| registry::identify(&weights, &device)) {
                Some(variant) => (variant, weights),
                None => anyhow::bail!(
                    "weights {} fit no model of `kirie models list`; with --model NAME you are told what differs",
                    path.display()
                ),
            }
        }
        (None, named) => {
            let variant = named.map_or_else(|| self::variant(DEFAULT_MODEL), Ok)?;
            (variant, at_hand(variant)?)
        }
    };
    let (sizes, made_for) = variant.sizes_of(&weights);
    let possible = |input: &u32| sizes.clone().for_input(made_for, *input).check(*input as usize).is_ok();
    let input = args.input.or_else(|| preferred(variant).filter(possible));
    Ok(BurnEngine::at_input(variant, &weights, input, &device)?)
}

/// The weights of a model that the program carries or that were fetched before.
pub(crate) fn at_hand(variant: &Variant) -> anyhow::Result<StateDict> {
    match (variant.built_in, &variant.remote) {
        (Some(bytes), _) => Ok(StateDict::from_gzip(variant.name, bytes)?),
        (None, Some(remote)) => {
            let cache = hub::cache_dir()?;
            let path = hub::cached(remote, &cache)
                .with_context(|| how_to_get(variant.name, remote, &cache.display().to_string()))?;
            Ok(StateDict::open(path)?)
        }
        (None, None) => anyhow::bail!(
            "this build has no weights for {}: its feature `built-in` is off; pass some with --weights FILE",
            variant.name
        ),
    }
}

/// What a model does with `--everything` if nobody says otherwise.
pub(crate) fn everything_defaults(engine: &BurnEngine) -> EverythingDefaults {
    registry::variant(engine.model()).map_or(EverythingDefaults::SAM, |variant| variant.everything)
}

/// A model with weights by formula, to measure speed with.
pub(crate) fn by_formula(variant: &Variant, device: &Device) -> anyhow::Result<BurnEngine> {
    let keys = kirie_sam::checkpoint::module_keys(&variant.config().init(device));
    Ok(BurnEngine::from_state_dict(variant, &StateDict::by_formula(keys), device)?)
}

fn how_to_get(name: &str, remote: &RemoteFile, cache: &str) -> String {
    format!(
        "there are no weights for {name} on this machine. Ways to get them:\n  \
         `kirie models pull {name}` fetches them once into {cache}\n  \
         `--weights FILE` uses a .pt, .pth or .safetensors that you have\n  \
         without a network, download {url}\n  on another machine and put it at {cache}/{file}",
        url = remote.url,
        file = remote.file,
    )
}
