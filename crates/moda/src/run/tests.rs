use std::collections::BTreeMap;
use std::path::PathBuf;

use kirie_run::log;
use kirie_sam::Prompt;

use super::*;
use crate::config::{ExemplarConfig, ExemplarKind};
use crate::data::Foreground;
use crate::evaluate::score;
use crate::pool::AdapterPool;
use crate::store::{ADAPTER, DomainState, NOTES, domain_folders};
use crate::testing;

fn go(config: &StudyConfig, base: &Base, path: &Path, stop: &Stop) -> Outcome {
    let folder = RunFolder::create(path).or_else(|_| RunFolder::open(path)).unwrap();
    folder.write_config(&to_toml(config).unwrap()).unwrap();
    study(config, base, &folder, stop, ProgressMode::Silent).unwrap()
}

/// Every file of a folder with its bytes.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.extend(files(&path));
        } else {
            all.insert(path.clone(), fs::read(&path).unwrap());
        }
    }
    all
}

#[test]
fn every_strategy_runs_and_is_measured() {
    let place = tempfile::tempdir().unwrap();
    testing::draw_stream(place.path());
    let base = testing::base(false);
    let config = testing::study(place.path(), &Strategy::ALL, 2);
    let out = place.path().join("out");
    let outcome = go(&config, &base, &out, &Stop::never());
    assert!(outcome.complete);
    assert_eq!(outcome.summaries.len(), Strategy::ALL.len());
    for summary in &outcome.summaries {
        let name = summary.strategy.name();
        assert_eq!(summary.domains, ["discs", "bars"], "{name}");
        assert_eq!(summary.rows.len(), if summary.strategy == Strategy::Joint { 1 } else { 2 }, "{name}");
        assert_eq!(summary.figures.len(), 2, "box and points");
        for row in &summary.rows {
            assert_eq!(row.sets.len(), 3, "{name}: two domains and the natural pictures");
            assert!(row.sets.iter().all(|set| set.scores.values().all(|s| (0.0..=1.0).contains(&s.iou))));
            assert_eq!(row.parameters == 0, summary.strategy == Strategy::ZeroShot, "{name}");
        }
        let routed = summary.strategy.is_routed();
        assert_eq!(summary.routing_accuracy.is_some(), routed, "{name}");
    }
    let zero = &outcome.summaries[0];
    assert_eq!(zero.rows[1].sets, zero.zero_shot, "nothing learned, nothing changed");
    let moda = outcome.summaries.iter().find(|s| s.strategy == Strategy::Moda).unwrap();
    assert_eq!(moda.routing_accuracy, Some(1.0), "{:?}", moda.rows[1]);
    let html = fs::read_to_string(out.join("report.html")).unwrap();
    assert!(html.contains("coda-prompt, order given, seed 1") && html.contains("Where pictures went"));
    let csv = fs::read_to_string(out.join(SCORES)).unwrap();
    // Without joint's first row: 13 strategies of 3 steps and one of 2, 3 sets, 2 prompts, and a heading.
    assert_eq!(csv.lines().count(), 1 + (13 * 3 + 2) * 3 * 2);
    // What is kept at the end: of one state that state, of a state for each domain all of them.
    for summary in &outcome.summaries {
        let stored: Vec<u64> = summary.rows.iter().map(|row| row.stored_bytes).collect();
        let expected = match summary.strategy {
            Strategy::Er | Strategy::Der | Strategy::DerPp => continue,
            strategy if strategy.is_routed() => stored.iter().sum(),
            _ => *stored.last().unwrap(),
        };
        assert_eq!(summary.stored_bytes, Some(expected), "{}", summary.strategy.name());
    }
    let table = fs::read_to_string(out.join(crate::report::STRATEGIES)).unwrap();
    assert_eq!(table.lines().count(), 1 + 14 * 2);
    let metrics: serde_json::Value =
        serde_json::from_slice(&fs::read(out.join("metrics.json")).unwrap()).unwrap();
    assert_eq!(metrics["report"]["verdicts"].as_array().unwrap().len(), 2 * 5 + 1);
    assert_eq!(metrics["report"]["routing"].as_array().unwrap().len(), 2 * 3, "moda and s-prompts");
    // Asked again, all is there.
    let again = go(&config, &base, &out, &Stop::never());
    assert_eq!(again.summaries, outcome.summaries);
}

#[test]
fn a_run_that_was_stopped_ends_as_if_it_had_not_been() {
    let place = tempfile::tempdir().unwrap();
    testing::draw_stream(place.path());
    let base = testing::base(false);
    let config = testing::study(place.path(), &[Strategy::Ewc, Strategy::DerPp, Strategy::Moda], 3);
    let whole = go(&config, &base, &place.path().join("whole"), &Stop::never());

    let path = place.path().join("cut");
    let stop = Stop::never();
    stop.request();
    // Stopped at once; then after single steps, by a plan that is shorter and then as long as it should be.
    assert!(!go(&config, &base, &path, &stop).complete);
    let step = path.join("runs/ewc-given-s1/steps/00-discs");
    let shorter = {
        let mut config = config.clone();
        config.plan.steps = 2;
        config
    };
    // A training that was cut off after two of three steps: its folder with a checkpoint, and nothing else.
    cut_training(&shorter, &base, &step);
    let resumed = go(&config, &base, &path, &Stop::never());
    assert!(resumed.complete);
    let logged = log::read(step.join("training/log.jsonl")).unwrap();
    assert!(logged.len() >= 3, "{logged:?}");

    for (a, b) in whole.summaries.iter().zip(&resumed.summaries) {
        for (a, b) in a.rows.iter().zip(&b.rows) {
            assert_eq!(a.sets, b.sets, "{}", a.domain);
        }
    }
    // Killed between training and scores: the row is made from the adapter that is there.
    let moda = path.join("runs/moda-given-s1");
    let before = files(&moda.join("steps/00-discs/domain"));
    let adapter = fs::read(moda.join("steps/01-bars").join(ADAPTER)).unwrap();
    fs::remove_file(moda.join("summary.json")).unwrap();
    fs::remove_file(moda.join("steps/01-bars/row.json")).unwrap();
    fs::remove_dir_all(moda.join("steps/01-bars/domain")).unwrap();
    let once_more = go(&config, &base, &path, &Stop::never());
    assert_eq!(once_more.summaries[2].rows[1].sets, whole.summaries[2].rows[1].sets);
    assert_eq!(fs::read(moda.join("steps/01-bars").join(ADAPTER)).unwrap(), adapter);
    assert_eq!(
        files(&moda.join("steps/00-discs/domain")),
        before,
        "an earlier domain's files stay as they are"
    );
}

#[test]
fn domains_are_told_apart_otherwise_without_training_again() {
    let place = tempfile::tempdir().unwrap();
    testing::draw_stream(place.path());
    let base = testing::base(false);
    let mut config = testing::study(place.path(), &[Strategy::Moda], 2);
    let path = place.path().join("out");
    let none = RunFolder::create(place.path().join("none")).unwrap();
    let error = ablate(&config, &base, &none, &Stop::never(), ProgressMode::Silent).unwrap_err().to_string();
    assert!(
        error.ends_with("expected a finished run of moda, found none; ablations leave adapters as they are")
    );
    let outcome = go(&config, &base, &path, &Stop::never());
    let before = files(&path.join("runs"));

    let folder = RunFolder::open(&path).unwrap();
    let all = ablate(&config, &base, &folder, &Stop::never(), ProgressMode::Silent).unwrap();
    let names: Vec<&str> = all.iter().map(|way| way.ablation.name.as_str()).collect();
    assert_eq!(
        names,
        [
            "as configured",
            "random tokens",
            "without abstaining",
            "1 exemplar",
            "5 exemplars",
            "10 exemplars",
            "50 exemplars",
            "pictures as exemplars",
        ]
    );
    assert_eq!(files(&path.join("runs")), before, "the run stays as it is");
    // Told apart as it was, everything is as it was.
    let [same] = &all[0].summaries[..] else { panic!("{} runs", all[0].summaries.len()) };
    assert_eq!(same.figures, outcome.summaries[0].figures);
    for (same, row) in same.rows.iter().zip(&outcome.summaries[0].rows) {
        assert_eq!((&same.sets, same.stored_bytes), (&row.sets, row.stored_bytes), "{}", row.domain);
    }
    assert_eq!(all[2].summaries[0].natural_to_base, Some(0.0), "nothing is left to the base");
    // What the right adapter would answer does not depend on who is asked.
    for way in &all {
        let oracle = |summary: &Summary| summary.rows[1].sets[0].oracle.clone().unwrap();
        assert_eq!(oracle(&way.summaries[0]), oracle(same), "{}", way.ablation.name);
    }
    assert_eq!(ablated(&path).unwrap().len(), all.len(), "kept for the report");
    let report = crate::report::write(&folder, &config, &outcome.summaries).unwrap();
    assert_eq!(report.ablation.len(), 8 * 2);
    let table = fs::read_to_string(path.join(crate::report::ABLATION)).unwrap();
    assert_eq!(table.lines().count(), 1 + 8 * 2);
    assert!(
        fs::read_to_string(path.join("report.html")).unwrap().contains("Telling domains apart otherwise")
    );

    // Those that are named, and nothing else; asked to stop, it does none.
    config.ablation = vec![Ablation { name: "two".to_owned(), count: Some(2), ..Ablation::default() }];
    let stop = Stop::never();
    stop.request();
    let named = ablate(&config, &base, &folder, &stop, ProgressMode::Silent).unwrap();
    assert!(named.len() == 2 && named.iter().all(|way| way.summaries.is_empty()), "{named:?}");
    let error = |ablation: Ablation| {
        let config = StudyConfig { ablation: vec![ablation], ..config.clone() };
        config.check().unwrap_err().to_string()
    };
    assert!(error(Ablation::none()).contains("a name of its own"));
    let empty = Ablation { name: "x".to_owned(), ..Ablation::default() };
    assert!(error(empty.clone()).contains("ablation \"x\" is empty"), "{}", error(empty.clone()));
    assert!(error(Ablation { count: Some(0), ..empty }).contains("count is 0"));
}

/// Trains the first domain of EWC with a shorter plan and leaves what a kill would have left.
fn cut_training(config: &StudyConfig, base: &Base, step: &Path) {
    let place = tempfile::tempdir().unwrap();
    let domains = open_domains(config).unwrap();
    let keep = Keep::needed(&config.adapter, base);
    let maker = Maker { base, augment: config.augment, grid: config.router.grid, keep };
    let study = Study {
        config,
        base,
        items: Items::new(maker, &domains),
        sets: Vec::new(),
        zero_shot: Vec::new(),
        reference: Vec::new(),
        stop: &Stop::never(),
        mode: ProgressMode::Silent,
    };
    let path = place.path().join("run");
    let stream = Stream::new(&study, &path, Strategy::Ewc, 0, 1).unwrap();
    let folder = study.training_folder(&step.join("training")).unwrap();
    stream.train_only(&folder, config.plan.steps).unwrap();
}

#[test]
fn domains_on_disk_answer_as_the_run_did_and_bad_ones_are_named() {
    let place = tempfile::tempdir().unwrap();
    testing::draw_stream(place.path());
    let base = testing::base(false);
    for kind in [ExemplarKind::Features, ExemplarKind::Pictures] {
        let mut config = testing::study(place.path(), &[Strategy::Moda], 2);
        config.exemplars = ExemplarConfig { kind, ..config.exemplars };
        let out = place.path().join(format!("{kind:?}"));
        go(&config, &base, &out, &Stop::never());
        let steps = out.join("runs/moda-given-s1/steps");
        let folders = [steps.join("00-discs/domain"), steps.join("01-bars/domain")];
        assert_eq!(domain_folders(&folders[0]).unwrap(), folders[..1]);
        assert_eq!(folders[0].join("exemplar-000.png").is_file(), kind == ExemplarKind::Pictures);

        let domains = open_domains(&config).unwrap();
        let (pool, refused) = AdapterPool::open(&base, &folders, None).unwrap();
        assert!(refused.is_empty(), "{refused:?}");
        assert_eq!(pool.names().collect::<Vec<_>>(), ["discs", "bars"]);
        // In another order on the command line the same domains answer.
        let backwards: Vec<PathBuf> = folders.iter().rev().cloned().collect();
        let (other, _) = AdapterPool::open(&base, &backwards, None).unwrap();
        let keep = Keep::needed(&config.adapter, &base);
        let maker = Maker { base: &base, augment: config.augment, grid: 2, keep };
        for (domain, own) in domains.iter().zip(["discs", "bars"]) {
            let picture = domain.test.read(0).unwrap();
            let bbox = picture.mask.bbox().unwrap();
            let prompt = Prompt::bbox(bbox.x0, bbox.y0, bbox.x1, bbox.y1);
            let answer = pool.answer(&picture.image, std::slice::from_ref(&prompt)).unwrap();
            assert_eq!(answer.domain, Some(own));
            let logits = &answer.predictions[0].low_res[0];
            assert_eq!(logits, &other.answer(&picture.image, &[prompt]).unwrap().predictions[0].low_res[0]);
            // What the run scored is what an operator gets.
            let case = crate::evaluate::Case::new(&maker, picture).unwrap();
            let state = pool.domains().iter().find(|state| state.name == own).unwrap();
            let kind = crate::views::PromptKind::Box;
            let scored = score(&maker, Some(&state.adapter), &[&case], kind, Pick::default()).unwrap();
            assert!((0.0..=1.0).contains(&scored[0].iou));
        }
        // Alone, a domain is still told from the rest, by tokens that are trained again.
        let (alone, _) = AdapterPool::open(&base, &folders[1..], None).unwrap();
        let picture = domains[1].test.read(1).unwrap();
        assert_eq!(alone.route(&picture.image).unwrap().unwrap().domain, Some(0));
        let strange = domains[0].test.read(1).unwrap();
        assert_eq!(alone.route(&strange.image).unwrap().unwrap().domain, None, "unlike bars");

        // A damaged file costs its domain and nothing else.
        let path = folders[0].join(ADAPTER);
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
        let (rest, refused) = AdapterPool::open(&base, &folders, None).unwrap();
        assert_eq!(rest.names().collect::<Vec<_>>(), ["bars"]);
        assert!(refused.len() == 1 && refused[0].folder == folders[0], "{refused:?}");
        fs::write(&path, &bytes).unwrap();
        let (pool, refused) =
            AdapterPool::open(&base, &[folders[0].clone(), folders[0].clone()], None).unwrap();
        assert_eq!(pool.names().count(), 1);
        assert!(refused[0].reason.contains("is there twice"), "{refused:?}");
        // Of another base.
        let vit = testing::base(true);
        let error = DomainState::load(&folders[0], &vit).unwrap_err();
        assert!(matches!(error, ContinualError::WrongBase { .. }), "{error}");
        let (none, refused) = AdapterPool::open(&vit, &folders, None).unwrap();
        assert_eq!((none.names().count(), refused.len()), (0, 2));
        assert_eq!(none.answer(&strange.image, &[Prompt::point(12.0, 10.0)]).unwrap().domain, None);
        assert!(fs::read_to_string(folders[1].join(NOTES)).unwrap().contains("[routing.chosen]"));
    }
}

#[test]
fn every_kind_of_adapter_learns_on_both_kinds_of_encoder() {
    use crate::adapter::{AdapterConfig, DecoderKind};
    use crate::encoder::EncoderKind;
    let place = tempfile::tempdir().unwrap();
    testing::draw_stream(place.path());
    let adapters = [
        (DecoderKind::Copy, None),
        (DecoderKind::Hq, None),
        (DecoderKind::Frozen, Some(EncoderKind::Lora { rank: 2 })),
        (DecoderKind::Frozen, Some(EncoderKind::AdaptFormer { ratio: 0.25 })),
        (DecoderKind::Hq, Some(EncoderKind::Gsam { ratio: 0.25 })),
    ];
    for vit in [false, true] {
        let base = testing::base(vit);
        for (n, (decoder, encoder)) in adapters.into_iter().enumerate() {
            let mut config = testing::study(place.path(), &[Strategy::Moda], 40);
            // Always the same views, all at once: what is learned is not lost among what is drawn.
            config.augment.views = 1;
            config.train.batch = 4;
            config.plan.optimizer.lr = 1e-2;
            config.adapter = AdapterConfig { decoder, encoder, hq_only: false };
            config.data.domains.truncate(1);
            config.train.prompts = vec![crate::views::PromptKind::Box];
            config.plan.checkpoint_every = 40;
            let outcome = go(&config, &base, &place.path().join(format!("{vit}-{n}")), &Stop::never());
            let summary = &outcome.summaries[0];
            let name = format!("{vit} {}", config.adapter.name());
            let training = format!("{vit}-{n}/runs/moda-given-s1/steps/00-discs/training/log.jsonl");
            let losses: Vec<f64> = log::read(place.path().join(training))
                .unwrap()
                .iter()
                .filter_map(|record| record.get("loss")?.as_f64())
                .collect();
            assert_eq!(losses.len(), 40, "{name}");
            let mean = |losses: &[f64]| losses.iter().sum::<f64>() / losses.len() as f64;
            assert!(mean(&losses[32..]) < mean(&losses[..8]), "{name}: {losses:?}");
            assert!(summary.rows[0].parameters > 0);
        }
    }
}

#[test]
fn an_adapter_that_learned_nothing_is_the_base() {
    use crate::adapter::{Adapter, AdapterConfig, DecoderKind};
    use crate::encoder::EncoderKind;
    use crate::evaluate::Case;
    use burn::module::Module;
    let place = tempfile::tempdir().unwrap();
    testing::draw_stream(place.path());
    for vit in [false, true] {
        let base = testing::base(vit);
        let config = testing::study(place.path(), &[Strategy::Moda], 1);
        let domains = open_domains(&config).unwrap();
        for (decoder, encoder) in [
            (DecoderKind::Copy, None),
            (DecoderKind::Frozen, Some(EncoderKind::Lora { rank: 2 })),
            (DecoderKind::Frozen, Some(EncoderKind::AdaptFormer { ratio: 0.5 })),
            (DecoderKind::Copy, Some(EncoderKind::Gsam { ratio: 0.5 })),
        ] {
            let config_of = AdapterConfig { decoder, encoder, hq_only: false };
            let adapter = Adapter::new(&config_of, &base, 5).unwrap().valid();
            let keep = Keep::needed(&config_of, &base);
            let maker = Maker { base: &base, augment: config.augment, grid: 2, keep };
            let case = Case::new(&maker, domains[0].test.read(0).unwrap()).unwrap();
            for kind in [crate::views::PromptKind::Box, crate::views::PromptKind::NoisyMask] {
                let scores = |adapter| score(&maker, adapter, &[&case], kind, Pick::default()).unwrap();
                assert_eq!(scores(Some(&adapter)), scores(None), "{vit} {encoder:?} {kind:?}");
            }
        }
    }
}

#[test]
fn what_cannot_be_learned_is_named() {
    let place = tempfile::tempdir().unwrap();
    testing::draw_stream(place.path());
    let base = testing::base(false);
    let error = |config: &StudyConfig| {
        let out = tempfile::tempdir().unwrap();
        let folder = RunFolder::create(out.path().join("run")).unwrap();
        let outcome = study(config, &base, &folder, &Stop::never(), ProgressMode::Silent);
        outcome.unwrap_err().to_string()
    };
    let config = testing::study(place.path(), &[Strategy::Moda], 1);
    let mut twice = config.clone();
    twice.data.domains[1].name = "discs".to_owned();
    assert_eq!(error(&twice), "a domain's name is \"discs\" twice, expected each once");
    let mut missing = config.clone();
    missing.data.domains[0].path = "nowhere".into();
    assert!(error(&missing).contains("nowhere"), "{}", error(&missing));
    let mut leaking = config.clone();
    leaking.data.reference = leaking.data.natural.clone();
    assert!(error(&leaking).contains("no part that is measured on"), "{}", error(&leaking));
    let mut class = config.clone();
    class.data.domains[0].foreground = Foreground::Classes(vec!["cat".to_owned()]);
    assert!(error(&class).contains("expected of the classes of"), "{}", error(&class));
    // A set whose masks are all empty.
    let mut empty = config.clone();
    empty.data.domains[0].foreground = Foreground::Classes(Vec::new());
    assert!(
        error(&empty).starts_with("domain \"discs\":")
            && error(&empty).contains("no picture with a foreground")
    );
    let mut order = config.clone();
    order.orders = vec![crate::config::Order::Names(vec!["bars".to_owned()])];
    assert!(error(&order).contains("expected each of discs, bars once"), "{}", error(&order));
    let mut frozen = config;
    frozen.adapter.decoder = crate::adapter::DecoderKind::Frozen;
    assert!(error(&frozen).contains("adapter.decoder"), "{}", error(&frozen));
}

#[test]
fn a_domain_of_one_picture_is_learned() {
    let place = tempfile::tempdir().unwrap();
    testing::draw_stream(place.path());
    testing::draw_domain(place.path(), "lonely", testing::Look::Squares, 1, 1);
    let base = testing::base(false);
    let mut config = testing::study(place.path(), &[Strategy::Moda], 1);
    config.data.domains = vec![testing::domain("lonely"), testing::domain("bars")];
    config.data.natural.clear();
    let outcome = go(&config, &base, &place.path().join("out"), &Stop::never());
    assert_eq!(outcome.summaries[0].rows[0].pictures, 1);
    assert!(outcome.summaries[0].natural_to_base.is_none());
}
