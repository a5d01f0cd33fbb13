//! One run: a strategy on a stream.

mod scoring;

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use burn::module::Module;
use kirie_data::write_atomic;
use kirie_engine::random::Streams;
use kirie_engine::{Plan, train};
use kirie_run::RunFolder;
use kirie_sam::checkpoint::{FloatFormat, StateDict, load, state_dict_of, write_safetensors_to};
use rand::Rng;
use rand::seq::SliceRandom;
use serde_json::Value;

use super::figures::{Row, SetRow, Summary, summarise};
use super::{Study, read_json, write_json};
use crate::adapter::Adapter;
use crate::base::{count_numbers, made};
use crate::config::{ExemplarConfig, ExemplarKind};
use crate::data::Picture;
use crate::error::ContinualError;
use crate::evaluate::ByPrompt;
use crate::prompts::{Pick, PromptPool};
use crate::router::{Centroids, Lessons, Portrait, Router, RouterConfig, RouterFeatures};
use crate::store::{ADAPTER, DomainState, Notes, Snapshot, exemplar_file};
use crate::strategy::{EwcMerge, Strategy};
use crate::train::{DomainMethod, Ewc, Hold, Stored};

/// Pictures held out that a training's log shows the score of.
const SHOWN: usize = 20;
/// What EWC remembers.
const EWC: &str = "ewc.safetensors";
/// A step's scores.
const ROW: &str = "row.json";

/// A run as far as it is.
pub(super) struct Stream<'s, 'a> {
    study: &'s Study<'a>,
    path: PathBuf,
    strategy: Strategy,
    order: Vec<usize>,
    order_name: String,
    seed: u64,
    streams: Streams,
    /// Routed strategies: one a domain, in order; others: the latest.
    adapters: Vec<Adapter>,
    memory: Memory,
    telling: Telling<'s>,
    scored: Scored,
}

/// What a strategy keeps of the domains before, beside what it trained.
enum Memory {
    Nothing,
    /// MoDA: the domains' states.
    Domains(Vec<DomainState>),
    /// S-Prompts: the domains' centroids.
    Centroids(Vec<Centroids>),
    /// EWC: from the first domain on.
    Ewc(Option<Ewc>),
    /// Replay: pictures to be looked at again.
    Pictures(Vec<Stored>),
}

impl Memory {
    fn new(strategy: Strategy) -> Self {
        match strategy {
            Strategy::Moda => Self::Domains(Vec::new()),
            Strategy::SPrompts => Self::Centroids(Vec::new()),
            Strategy::Ewc => Self::Ewc(None),
            replaying if replaying.replays() => Self::Pictures(Vec::new()),
            _ => Self::Nothing,
        }
    }

    fn states(&self) -> &[DomainState] {
        if let Self::Domains(states) = self { states } else { &[] }
    }

    fn pictures(&self) -> &[Stored] {
        if let Self::Pictures(stored) = self { stored } else { &[] }
    }
}

/// How MoDA tells domains apart.
#[derive(Clone, Copy)]
pub(super) struct Telling<'s> {
    pub(super) router: RouterConfig,
    pub(super) exemplars: ExemplarConfig,
    /// Features of pictures that the base is to answer.
    pub(super) reference: &'s [RouterFeatures],
}

/// Routed strategies: scores by set, case and domain that answers. Adapters do not change, so they hold for a whole run.
pub(super) type Scored = HashMap<(usize, usize, usize), ByPrompt>;

/// What a finished training left.
struct Learned {
    seconds: f64,
    pictures: usize,
}

impl<'s, 'a> Stream<'s, 'a> {
    pub(super) fn new(
        study: &'s Study<'a>,
        path: &Path,
        strategy: Strategy,
        order: usize,
        seed: u64,
    ) -> Result<Self, ContinualError> {
        Ok(Self {
            study,
            path: path.to_owned(),
            strategy,
            order: study.config.order(order, seed)?,
            order_name: study.config.order_name(order),
            seed,
            streams: Streams::new(seed),
            adapters: Vec::new(),
            memory: Memory::new(strategy),
            telling: Telling {
                router: study.config.router,
                exemplars: study.config.exemplars,
                reference: &study.reference,
            },
            scored: HashMap::new(),
        })
    }

    /// What a finished run of MoDA would have come to if it had told its domains apart otherwise: its adapters as they are, another
    /// router after each of them. `scored` holds what its adapters were measured at before, and comes back with more.
    pub(super) fn told_apart_by(
        mut self,
        telling: Telling<'s>,
        scored: Scored,
    ) -> Result<(Summary, Scored), ContinualError> {
        (self.telling, self.scored) = (telling, scored);
        let mut rows = Vec::new();
        for t in 0..self.order.len() {
            let folder = self.step_folder(t);
            let row: Option<Row> = read_json(&folder.join(ROW))?;
            let row =
                row.ok_or_else(|| ContinualError::state(folder.join(ROW), "expected the step's scores"))?;
            self.restore(t, &folder)?;
            rows.push(Row { sets: self.scores(t)?, ..row });
        }
        let summary = summarise(self.strategy, self.order_name.clone(), self.seed, self.of_base(), rows)?;
        Ok((summary, self.scored))
    }

    fn step_folder(&self, t: usize) -> PathBuf {
        let name = &self.study.items.domains()[self.order[t]].name;
        self.path.join("steps").join(format!("{t:02}-{name}"))
    }

    /// Scores of the base.
    fn of_base(&self) -> Vec<SetRow> {
        self.sets_in_order(|set| {
            let scores = self.study.zero_shot[set].clone();
            let routed = vec![None; scores.len()];
            (scores, routed, None)
        })
    }

    /// Does what is left of the run; `None` if it was asked to stop.
    pub(super) fn run(mut self) -> Result<Option<Summary>, ContinualError> {
        let mut rows = Vec::new();
        let steps: Vec<usize> = match self.strategy {
            Strategy::Joint => vec![self.order.len() - 1],
            _ => (0..self.order.len()).collect(),
        };
        for t in steps {
            let folder = self.step_folder(t);
            fs::create_dir_all(&folder).map_err(ContinualError::io("make", &folder))?;
            if let Some(row) = read_json::<Row>(&folder.join(ROW))? {
                self.restore(t, &folder)?;
                rows.push(row);
                continue;
            }
            if self.study.stop.requested() {
                return Ok(None);
            }
            let Some(learned) = self.learn(t, &folder)? else { return Ok(None) };
            let row = self.finish(t, &folder, &learned)?;
            write_json(&folder.join(ROW), &row)?;
            rows.push(row);
        }
        let stored = match self.strategy {
            Strategy::ZeroShot => 0,
            strategy if strategy.is_routed() => rows.iter().map(|row| row.stored_bytes).sum(),
            _ => self.stored_bytes(&self.order, &self.step_folder(self.order.len() - 1)),
        };
        let summary = summarise(self.strategy, self.order_name.clone(), self.seed, self.of_base(), rows)?;
        Ok(Some(Summary { stored_bytes: Some(stored), ..summary }))
    }

    /// What is trained in step t, as it begins.
    fn fresh(&self, t: usize) -> Result<Adapter, ContinualError> {
        let (config, base) = (self.study.config, self.study.base);
        // A prompt or adapter of its own for each domain; otherwise one beginning for the whole stream.
        let place = if self.strategy.is_routed() { t as u64 } else { 0 };
        let mut rng = self.streams.stream("adapter", &[place]);
        let seed = rng.next_u64();
        if !self.strategy.is_prompts() {
            return Adapter::new(&config.adapter, base, seed);
        }
        let device = base.device().clone().autodiff();
        device.seed(seed);
        let (dim, domains) = (base.sizes().prompt_encoder.dim, self.order.len());
        let pool = match self.strategy {
            Strategy::L2p => PromptPool::l2p(&config.prompts, dim, &device),
            Strategy::DualPrompt => PromptPool::dual(&config.prompts, domains, dim, &device),
            Strategy::CodaPrompt => PromptPool::coda(&config.prompts, domains, dim, &mut rng, &device),
            _ => PromptPool::single(&config.prompts, dim, &device),
        };
        Ok(made(Adapter::of_prompts(pool)))
    }

    /// Domains that are learned from in step t.
    fn learned_from(&self, t: usize) -> Vec<usize> {
        match self.strategy {
            Strategy::Joint | Strategy::Cumulative => self.order[..=t].to_vec(),
            _ => vec![self.order[t]],
        }
    }

    /// Pictures of a domain that are kept for later.
    fn chosen(&self, purpose: &str, domain: usize, count: usize) -> Vec<usize> {
        let train = &self.study.items.domains()[domain].train;
        let mut order: Vec<usize> = train.clone();
        order.shuffle(&mut self.streams.stream(purpose, &[domain as u64]));
        order.truncate(count);
        order.sort_unstable();
        order
    }

    fn method(&self, t: usize) -> DomainMethod<'s> {
        let (config, items) = (self.study.config, &self.study.items);
        let domains = self.learned_from(t);
        let pictures = |of: &dyn Fn(usize) -> Vec<usize>| -> Vec<(usize, usize)> {
            domains.iter().flat_map(|domain| of(*domain).into_iter().map(move |at| (*domain, at))).collect()
        };
        let hold = match (self.strategy, &self.memory) {
            (_, Memory::Ewc(Some(ewc))) => Hold::Ewc(ewc.clone()),
            (Strategy::Lwf, _) if t > 0 => {
                self.adapters.last().map_or(Hold::Nothing, |old| Hold::Lwf(Box::new(old.valid())))
            }
            (Strategy::Er, Memory::Pictures(stored)) => Hold::Replay(stored.clone()),
            (strategy, Memory::Pictures(stored)) => {
                Hold::Dark { stored: stored.clone(), labels: strategy == Strategy::DerPp }
            }
            _ => Hold::Nothing,
        };
        let name = &items.domains()[self.order[t]].name;
        DomainMethod {
            items,
            sources: pictures(&|domain| items.domains()[domain].train.clone()),
            held_out: pictures(&|domain| {
                items.domains()[domain].held_out.iter().take(SHOWN).copied().collect()
            }),
            hold,
            pick: Pick { seen: t + 1, training: true },
            lesson: config.train.clone(),
            settings: config.settings,
            pull: config.prompts.pull,
            streams: self.streams,
            title: format!("{}: {name}", self.strategy.name()),
        }
    }

    /// The training of the first step alone, for so many steps: what a process that is killed leaves.
    #[cfg(test)]
    pub(super) fn train_only(&self, run: &RunFolder, steps: u64) -> Result<(), ContinualError> {
        let plan = Plan { steps, ..self.study.config.plan.clone() };
        let (device, stop) = (self.study.base.device(), self.study.stop);
        train(&self.method(0), self.fresh(0)?, &plan, run, device, stop, self.study.mode)?;
        Ok(())
    }

    /// Trains step t, or goes on with it; `None` if it was asked to stop.
    fn learn(&mut self, t: usize, folder: &Path) -> Result<Option<Learned>, ContinualError> {
        if self.strategy == Strategy::ZeroShot {
            return Ok(Some(Learned { seconds: 0.0, pictures: 0 }));
        }
        let (study, device) = (self.study, self.study.base.device());
        study.items.make_room(&self.learned_from(t));
        let start = match self.adapters.last() {
            Some(last) if !self.strategy.is_routed() => last.clone().train().for_domain(t),
            _ => self.fresh(t)?,
        };
        let method = self.method(t);
        let pictures = method.sources.len() + self.memory.pictures().len();
        let file = folder.join(ADAPTER);
        let times = folder.join("seconds.json");
        let (adapter, seconds) = if file.is_file() {
            // Stopped after the training, before the scores.
            let adapter = load(start.valid(), &StateDict::open(&file)?, "the step's adapter", device)?;
            (adapter, read_json(&times)?.unwrap_or(0.0))
        } else {
            let path = folder.join("training");
            let run: RunFolder = study.training_folder(&path)?;
            let steps = if self.strategy == Strategy::Joint { self.order.len() as u64 } else { 1 };
            let plan = Plan { steps: study.config.plan.steps * steps, ..study.config.plan.clone() };
            let before: f64 = read_json(&times)?.unwrap_or(0.0);
            // Pictures are encoded before the clock starts: which strategy comes first must not matter.
            for &(domain, picture) in &method.sources {
                for n in 0..study.config.augment.views {
                    study.items.get(domain, picture, n)?;
                }
            }
            let began = Instant::now();
            let outcome = train(&method, start, &plan, &run, device, study.stop, study.mode)?;
            let seconds = before + began.elapsed().as_secs_f64();
            write_json(&times, &seconds)?;
            if !outcome.complete {
                return Ok(None);
            }
            let adapter = outcome.model;
            if let Memory::Ewc(earlier) = &self.memory {
                let earlier =
                    earlier.as_ref().filter(|_| study.config.settings.ewc_merge == EwcMerge::Online);
                let decay = study.config.settings.ewc_decay;
                let ewc = Ewc::after(earlier, method.fisher(&adapter)?, &adapter, decay);
                let tensors = ewc.to_tensors()?;
                write_atomic(folder.join(EWC), |file| {
                    write_safetensors_to(file, &tensors, &BTreeMap::new(), FloatFormat::F32)
                })?;
            }
            let tensors = state_dict_of(&adapter);
            write_atomic(&file, |file| {
                write_safetensors_to(file, &tensors, &BTreeMap::new(), FloatFormat::F32)
            })?;
            drop(run);
            // What was learned is in its file; optimiser states of every domain would fill the disk.
            let checkpoints = path.join("checkpoints");
            fs::remove_dir_all(&checkpoints).map_err(ContinualError::io("remove", checkpoints))?;
            (adapter, seconds)
        };
        self.remember(t, folder, adapter)?;
        Ok(Some(Learned { seconds, pictures }))
    }

    /// Takes up a step that was done before.
    fn restore(&mut self, t: usize, folder: &Path) -> Result<(), ContinualError> {
        if self.strategy == Strategy::ZeroShot {
            return Ok(());
        }
        let fresh = self.fresh(t)?.valid();
        let file = StateDict::open(folder.join(ADAPTER))?;
        let adapter = load(fresh, &file, "the step's adapter", self.study.base.device())?;
        self.remember(t, folder, adapter)
    }

    /// Keeps what later steps need of step t.
    fn remember(&mut self, t: usize, folder: &Path, adapter: Adapter) -> Result<(), ContinualError> {
        let (study, domain) = (self.study, self.order[t]);
        if !self.strategy.is_routed() {
            self.adapters.clear();
        }
        self.adapters.push(adapter);
        match &self.memory {
            Memory::Nothing => {}
            Memory::Domains(_) => {
                let state = self.state(t)?;
                if let Memory::Domains(states) = &mut self.memory {
                    states.push(state);
                }
            }
            Memory::Centroids(_) => {
                let count = study.config.settings.centroids;
                let new = Centroids::new(&self.seen(domain)?, count, &self.streams, domain as u64);
                if let Memory::Centroids(centroids) = &mut self.memory {
                    centroids.push(new);
                }
            }
            Memory::Ewc(_) => {
                let file = StateDict::open(folder.join(EWC))?;
                self.memory = Memory::Ewc(Some(Ewc::from_file(&file, study.base.device())?));
            }
            Memory::Pictures(_) => {
                let pictures = self.chosen("memory", domain, study.config.settings.memory);
                let pictures: Vec<_> = pictures.into_iter().map(|at| (domain, at)).collect();
                let adapter = &self.adapters[self.adapters.len() - 1];
                let new = if self.strategy == Strategy::Er {
                    let each = |(domain, picture)| Stored { domain, picture, logits: Vec::new() };
                    pictures.into_iter().map(each).collect()
                } else {
                    self.method(t).dark_logits(adapter, &pictures)?
                };
                if let Memory::Pictures(stored) = &mut self.memory {
                    stored.extend(new);
                }
            }
        }
        Ok(())
    }

    /// What the router sees of all training pictures of a domain.
    fn seen(&self, domain: usize) -> Result<Vec<RouterFeatures>, ContinualError> {
        let items = &self.study.items;
        let train = items.domains()[domain].train.iter();
        train.map(|at| items.seen(domain, *at)).collect()
    }

    /// MoDA: the state of the domain of step t, with a router that knows the domains up to it.
    fn state(&self, t: usize) -> Result<DomainState, ContinualError> {
        let (study, config, at) = (self.study, self.study.config, self.order[t]);
        let (states, telling) = (self.memory.states(), &self.telling);
        let domain = &study.items.domains()[at];
        let portrait = Portrait::new(&self.seen(at)?, telling.router.quantile, telling.router.slack)?;
        let chosen = self.chosen("exemplars", at, telling.exemplars.count);
        let (mut exemplars, mut pictures) = (Vec::new(), Vec::new());
        for (n, picture) in chosen.into_iter().enumerate() {
            match telling.exemplars.kind {
                ExemplarKind::Features => exemplars.push(study.items.seen(at, picture)?),
                ExemplarKind::Pictures => {
                    // Views go by the file's name, and are to be the same when it is read again.
                    let read = domain.part.read(picture)?;
                    let picture = Picture { name: exemplar_file(n), ignore: None, ..read };
                    for view in 0..config.augment.views {
                        exemplars.push(study.items.maker().item(&picture, view)?.router);
                    }
                    pictures.push(picture);
                }
            }
        }
        let mut lessons = Lessons { domains: Vec::new(), reference: telling.reference.to_vec() };
        lessons.domains.extend(states.iter().map(|state| state.exemplars.clone()));
        lessons.domains.push(exemplars.clone());
        let mut portraits: Vec<Portrait> = states.iter().map(|state| state.portrait.clone()).collect();
        portraits.push(portrait.clone());
        let seed = self.streams.stream("router", &[t as u64]).next_u64();
        let router = Router::fit(&telling.router, &lessons, portraits, study.base, seed)?;
        let adapter = self.adapters[self.adapters.len() - 1].clone();
        let mut state = DomainState {
            name: domain.name.clone(),
            config: config.adapter,
            adapter,
            portrait,
            exemplars,
            pictures,
            snapshot: Snapshot {
                known: Vec::new(),
                reader: router.reader,
                has_reference: router.has_reference,
            },
            reference: telling.reference.to_vec(),
            router: telling.router,
            seed,
            augment: config.augment,
        };
        let known = states.iter().map(DomainState::known).chain([state.known()]);
        state.snapshot.known = known.collect();
        Ok(state)
    }

    /// Bytes that a strategy without domain folders keeps after a step, of the memory only what is of these domains: what it
    /// trained, what EWC remembers, pictures to be looked at again and what was answered on them.
    fn stored_bytes(&self, domains: &[usize], folder: &Path) -> u64 {
        let kept = self.memory.pictures().iter().filter(|kept| domains.contains(&kept.domain)).map(|kept| {
            let picture = self.study.items.domains()[kept.domain].part.path(kept.picture);
            length_of(picture) + 4 * kept.logits.len() as u64
        });
        length_of(&folder.join(ADAPTER)) + length_of(&folder.join(EWC)) + kept.sum::<u64>()
    }

    /// Scores step t and writes what an operator needs of it.
    fn finish(&mut self, t: usize, folder: &Path, learned: &Learned) -> Result<Row, ContinualError> {
        let sets = self.scores(t)?;
        let domain = &self.study.items.domains()[self.order[t]];
        if let (Strategy::Moda, Some(state)) = (self.strategy, self.memory.states().last()) {
            let own = &sets[t];
            let mut notes = Notes {
                description: format!("learned from {} pictures", learned.pictures),
                ..Notes::default()
            };
            let training = [
                ("seed", Value::from(self.seed)),
                ("steps", Value::from(self.study.config.plan.steps)),
                ("pictures", Value::from(learned.pictures)),
                ("seconds", Value::from(learned.seconds)),
            ];
            notes.training.extend(training.map(|(name, value)| (name.to_owned(), value)));
            for (kind, scores) in &own.scores {
                notes.scores.insert(format!("iou.{}", kind.name()), scores.iou);
                notes.scores.insert(format!("boundary_iou.{}", kind.name()), scores.boundary_iou);
            }
            let names =
                self.order.iter().map(|at| self.study.items.domains()[*at].name.as_str()).chain(["base"]);
            let chosen = names.zip(&own.routed).filter(|(_, count)| **count > 0);
            notes.chosen = chosen.map(|(name, count)| (name.to_owned(), *count)).collect();
            state.save(&folder.join("domain"), self.study.base, &notes)?;
        }
        let stored_bytes = match self.strategy {
            Strategy::ZeroShot => 0,
            Strategy::Moda => size_of(&folder.join("domain")),
            _ => self.stored_bytes(&[self.order[t]], folder),
        };
        Ok(Row {
            domain: domain.name.clone(),
            sets,
            parameters: self.adapters.last().map_or(0, count_numbers),
            stored_bytes,
            pictures: learned.pictures,
            seconds: learned.seconds,
        })
    }
}

/// Bytes of a file.
fn length_of(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |file| file.len())
}

/// Bytes of the files in a folder.
fn size_of(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    entries.flatten().filter_map(|entry| entry.metadata().ok()).map(|data| data.len()).sum()
}
