use std::collections::BTreeMap;

use super::*;
use crate::config::{Order, OrderRule};
use crate::evaluate::Scores;
use crate::run::{Row, SetRow, summarise};
use crate::strategy::Strategy;
use crate::testing;

/// A set's row, with IoU `iou` by box and by points.
fn set(name: &str, iou: f64, routed: &[u64], oracle: Option<f64>) -> SetRow {
    let scores = |iou: f64| {
        let scores = Scores { iou, boundary_iou: iou / 2.0 };
        BTreeMap::from([(PromptKind::Box, scores), (PromptKind::Points, scores)])
    };
    SetRow {
        name: name.to_owned(),
        natural: name == "squares",
        pictures: 100,
        empty: 0,
        scores: scores(iou),
        routed: routed.to_vec(),
        oracle: oracle.map(scores),
    }
}

fn row(domain: &str, sets: Vec<SetRow>) -> Row {
    Row {
        domain: domain.to_owned(),
        sets,
        parameters: 10,
        stored_bytes: 1_000_000,
        pictures: 5,
        seconds: 2.0,
    }
}

/// A run over discs and bars in which discs end at `discs`, bars at 0.70 and the natural squares at `squares`.
fn run_of(strategy: Strategy, seed: u64, discs: f64, squares: f64) -> Summary {
    let routed = |counts: [u64; 3]| if strategy.is_routed() { counts.to_vec() } else { Vec::new() };
    let sets = |discs: f64, bars: f64, squares: f64| {
        vec![
            set("discs", discs, &routed([95, 4, 1]), Some(0.80)),
            set("bars", bars, &routed([0, 100, 0]), Some(0.70)),
            set("squares", squares, &routed([0, 20, 80]), None),
        ]
    };
    let base =
        vec![set("discs", 0.4, &[], None), set("bars", 0.3, &[], None), set("squares", 0.6, &[], None)];
    let mut rows = vec![row("discs", sets(0.80, 0.30, 0.60)), row("bars", sets(discs, 0.70, squares))];
    if strategy == Strategy::Joint {
        rows.remove(0);
    }
    let summary = summarise(strategy, "given".to_owned(), seed, base, rows).unwrap();
    Summary { stored_bytes: Some(2_000_000), ..summary }
}

fn config(strategies: &[Strategy]) -> StudyConfig {
    testing::study(std::path::Path::new("nowhere"), strategies, 1)
}

/// The verdict whose target begins so, asked by box where prompts play a part.
fn verdict<'a>(all: &'a [Verdict], start: &str) -> &'a Verdict {
    let found =
        all.iter().find(|v| v.target.starts_with(start) && v.prompt.is_none_or(|p| p == PromptKind::Box));
    found.unwrap_or_else(|| panic!("no verdict on {start} in {all:#?}"))
}

#[track_caller]
fn near(found: f64, expected: f64) {
    assert!((found - expected).abs() < 1e-9, "{found}, expected {expected}");
}

#[test]
fn spreads_are_those_of_a_sample() {
    let spread = Spread::of(&[1.0, 2.0, 6.0]).unwrap();
    assert_eq!((spread.runs, spread.mean, spread.least, spread.most), (3, 3.0, 1.0, 6.0));
    near(spread.deviation.unwrap(), 7.0_f64.sqrt());
    let turned = spread.scaled(-10.0);
    assert_eq!((turned.mean, turned.least, turned.most), (-30.0, -60.0, -10.0));
    near(turned.deviation.unwrap(), 10.0 * 7.0_f64.sqrt());
    assert_eq!(spread.shown(1), "3.0 ±2.6");
    assert_eq!(Spread::of(&[0.0]).unwrap().scaled(-100.0).shown(2), "0.00");
    assert_eq!(Spread::of(&[]), None);
}

#[test]
fn targets_are_judged_by_the_mean_over_runs() {
    let strategies = [Strategy::Moda, Strategy::Joint];
    let config = config(&strategies);
    // 0.2 and 1.2 points forgotten; 0.5 points of the natural pictures lost, then none.
    let mut summaries = vec![run_of(Strategy::Moda, 0, 0.798, 0.595), run_of(Strategy::Moda, 1, 0.788, 0.60)];
    let all = verdicts(&config, &summaries);
    let forgetting = verdict(&all, "forgetting");
    near(forgetting.measured.unwrap().mean, 0.7);
    near(forgetting.measured.unwrap().most, 1.2);
    assert_eq!(forgetting.reached, Reached::No);
    assert_eq!(
        forgetting.to_string(),
        "missed: forgetting (FF-IoU) at most 0.5 points, asked by box: 0.70 ±0.71 (worst of 2 runs 1.20)"
    );
    let joint = verdict(&all, "Last-IoU at most");
    assert_eq!(joint.reached, Reached::NotMeasurable);
    assert!(joint.why.contains("joint has no finished run"), "{joint}");
    let natural = verdict(&all, "natural pictures");
    near(natural.measured.unwrap().mean, 0.25);
    assert_eq!(natural.reached, Reached::Yes);
    near(verdict(&all, "squares (unseen)").measured.unwrap().most, 0.5);
    // 195 of 200.
    let routing = verdict(&all, "routing");
    near(routing.measured.unwrap().mean, 97.5);
    assert_eq!(routing.reached, Reached::Yes);

    // Pairs of the same seed: joint ends at (0.80 + 0.70) / 2 in both, 0.1 and 0.6 points above.
    summaries.extend([0, 1].map(|seed| run_of(Strategy::Joint, seed, 0.80, 0.60)));
    let all = verdicts(&config, &summaries);
    let joint = verdict(&all, "Last-IoU at most");
    near(joint.measured.unwrap().mean, 0.35);
    assert_eq!((joint.measured.unwrap().runs, joint.reached), (2, Reached::Yes));
    // A seed that MoDA has not run is not held against it.
    summaries.push(run_of(Strategy::Joint, 7, 1.0, 0.60));
    near(verdict(&verdicts(&config, &summaries), "Last-IoU at most").measured.unwrap().mean, 0.35);
}

#[test]
fn being_above_all_others_needs_all_others() {
    let mut summaries = vec![run_of(Strategy::Moda, 0, 0.798, 0.6)];
    let above = |summaries: &[Summary]| {
        let all = verdicts(&config(&[Strategy::Moda]), summaries);
        verdict(&all, "Last-IoU above").clone()
    };
    assert!(above(&summaries).why.contains("no other strategy"), "{}", above(&summaries));
    let others: Vec<Strategy> =
        Strategy::ALL.into_iter().filter(|s| !matches!(s, Strategy::Moda | Strategy::Joint)).collect();
    for (n, other) in others.iter().enumerate() {
        summaries.push(run_of(*other, 0, 0.7 - 0.01 * n as f64, 0.6));
        let verdict = above(&summaries);
        let last = n + 1 == others.len();
        assert_eq!(verdict.reached, if last { Reached::Yes } else { Reached::NotMeasurable }, "{verdict}");
        assert_eq!(verdict.why.contains("not run"), !last, "{verdict}");
        // Zero-shot came first and is the nearest: (0.798 - 0.7) / 2.
        near(verdict.measured.unwrap().mean, 4.9);
        assert!(verdict.why.starts_with("nearest: zero-shot, one run"), "{verdict}");
    }
    // One that is not below settles it, whoever is missing.
    let verdict = above(&[run_of(Strategy::Moda, 0, 0.798, 0.6), run_of(Strategy::Er, 0, 0.9, 0.6)]);
    assert_eq!(verdict.reached, Reached::No);
    assert!(verdict.why.contains("not below moda: er"), "{verdict}");
}

#[test]
fn what_cannot_be_measured_says_why() {
    let mut config = config(&[Strategy::Moda]);
    assert!(verdicts(&config, &[]).iter().all(|verdict| verdict.reached == Reached::NotMeasurable
        && verdict.why == "no run of moda is finished"
        || verdict.target.starts_with("Last-IoU above")));
    let mut summary = run_of(Strategy::Moda, 0, 0.8, 0.6);
    summary.figures.values_mut().for_each(|figures| figures.natural = None);
    config.data.natural.clear();
    let natural = |config: &StudyConfig| {
        let all = verdicts(config, std::slice::from_ref(&summary));
        verdict(&all, "natural pictures").why.clone()
    };
    assert_eq!(natural(&config), "data.natural names no set");
    config.data.measure_held_out = true;
    assert!(natural(&config).contains("data.measure_held_out"));
    config.strategies = vec![Strategy::Naive];
    assert!(verdicts(&config, &[]).is_empty());
}

#[test]
fn natural_sets_are_told_one_by_one_with_what_was_seen_of_them() {
    let mut config = config(&[Strategy::Moda]);
    config.data.natural[0].seen = Some("the base, its train list".to_owned());
    let summaries = [run_of(Strategy::Moda, 0, 0.8, 0.58), run_of(Strategy::Naive, 0, 0.8, 0.5)];
    let report = Report::new(&config, &summaries, &[]);
    let [naive, moda, ..] = &report.retention[..] else { panic!("{:?}", report.retention) };
    assert_eq!((naive.strategy, moda.strategy), (Strategy::Naive, Strategy::Moda));
    near(moda.change.mean, -0.02);
    assert_eq!(moda.seen.as_deref(), Some("the base, its train list"));
    let lost = verdict(&report.verdicts, "squares (seen: the base, its train list)");
    near(lost.measured.unwrap().mean, 2.0);
    assert_eq!(lost.reached, Reached::No);
    let sheet = compared::retention_sheet(&report.retention, PromptKind::Box);
    assert_eq!(sheet.rows[1], ["moda", "squares", "60.0", "58.0", "-2.0", "the base, its train list"]);
}

#[test]
fn pictures_are_followed_by_name_whatever_the_order() {
    let mut config = config(&[Strategy::Moda]);
    config.orders = vec![Order::Rule(OrderRule::Given), Order::Rule(OrderRule::Reverse)];
    let given = run_of(Strategy::Moda, 0, 0.79, 0.6);
    // The same, with the domains the other way round.
    let mut reverse = given.clone();
    reverse.order = "reverse".to_owned();
    reverse.domains.reverse();
    for row in &mut reverse.rows {
        row.sets.swap(0, 1);
        row.sets.iter_mut().for_each(|set| set.routed.swap(0, 1));
    }
    let all = routing(&config, &[given, reverse]);
    let names: Vec<&str> = all.iter().map(|row| row.set.as_str()).collect();
    assert_eq!(names, ["discs", "bars", "squares"]);
    let discs = &all[0];
    let own = discs.own.unwrap();
    assert_eq!((own.runs, own.deviation), (2, Some(0.0)));
    near(own.mean, 0.95);
    near(discs.base.mean, 0.01);
    assert_eq!(discs.others.len(), 1);
    assert_eq!(discs.others[0].0, "bars");
    near(discs.others[0].1, 0.04);
    let squares = &all[2];
    assert!(squares.own.is_none() && squares.oracle.is_empty());
    near(squares.base.mean, 0.8);
    let sheet = routing::sheet(&all, PromptKind::Box);
    assert_eq!(
        sheet.rows[0],
        ["moda", "discs", "100", "95.0 ±0.0", "1.0 ±0.0", "79.0 ±0.0", "80.0 ±0.0", "1.0", "bars 4.0"]
    );
    assert_eq!(sheet.rows[2][8], "bars 20.0");
}

#[test]
fn strategies_stand_side_by_side_as_table_and_file() {
    let config = config(&[Strategy::Moda, Strategy::Naive, Strategy::Joint]);
    let summaries = [
        run_of(Strategy::Naive, 0, 0.60, 0.50),
        run_of(Strategy::Naive, 1, 0.64, 0.50),
        run_of(Strategy::Moda, 0, 0.80, 0.60),
        run_of(Strategy::Joint, 0, 0.80, 0.60),
    ];
    let groups = strategies(&config, &summaries);
    let names: Vec<&str> = groups.iter().map(|group| group.name.as_str()).collect();
    assert_eq!(names, ["naive", "joint", "moda", "naive", "joint", "moda"], "by box, then by points");
    // (0.60 + 0.70) / 2 and (0.64 + 0.70) / 2
    let last = groups[0].figures["last_iou"];
    near(last.mean, 0.66);
    near(last.deviation.unwrap(), 0.01 * 2.0_f64.sqrt());
    // One domain after the other changes the same numbers; MoDA has its own for each.
    assert_eq!(groups[0].figures["trained_numbers"].mean, 10.0);
    assert_eq!(groups[2].figures["trained_numbers"].mean, 20.0);
    assert_eq!(groups[1].figures["seconds"].mean, 2.0);
    assert!(!groups[1].figures.contains_key("ff_iou"), "joint has no steps");
    assert!(!groups[0].figures.contains_key("routed_own"));

    let sheets = compared::sheets("Strategy", &groups, true);
    assert_eq!(sheets.len(), 5, "IoU and boundary IoU for each prompt, and the rest once");
    assert!(sheets.iter().all(|sheet| sheet.rows.iter().all(|row| row.len() == sheet.headers.len())));
    assert_eq!(sheets[0].rows[0][..3], ["naive", "2", "66.0 ±1.4"]);
    assert_eq!(sheets[4].rows[2][2..], ["97.5", "80.0", "20", "2.00", "4"]);

    let csv = compared::csv("strategy", &groups);
    let lines: Vec<Vec<&str>> = csv.lines().map(|line| line.split(',').collect()).collect();
    assert_eq!(lines.len(), 7);
    assert!(lines.iter().all(|line| line.len() == lines[0].len()), "{csv}");
    assert_eq!(lines[0][..5], ["strategy", "prompt", "runs", "last_iou", "last_iou_sd"]);
    assert_eq!(lines[1][..5], ["naive", "box", "2", "0.660000", "0.014142"]);
    assert_eq!(lines[2][..5], ["joint", "box", "1", "0.750000", ""]);
}
