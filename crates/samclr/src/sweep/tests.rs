//! The tables say what the runs say.

use serde_json::json;

use super::*;

fn by_share(share: f64, knn: f64, linear: Option<f64>) -> ByShare {
    ByShare {
        share,
        labels: (100.0 * share) as usize,
        k: 20,
        knn: [knn, 0.01],
        linear: linear.map(|linear| [linear, 0.0]),
        diverged: linear.is_none().then(|| "it diverged".to_owned()),
    }
}

fn run(method: &str, source: &str, seed: u64, knn: f64, linear: Option<f64>) -> RunResult {
    let score = |set: &str, knn: f64| SetScore {
        set: set.to_owned(),
        chance: 0.1,
        by_share: vec![by_share(0.05, knn / 2.0, Some(0.2)), by_share(1.0, knn, linear)],
    };
    RunResult {
        spec: RunSpec {
            name: format!("{method}-{source}-s{seed}"),
            method: method.to_owned(),
            source: source.to_owned(),
            seed,
            settings: json!({ "seed": seed }),
        },
        figures: RunFigures {
            sets: vec![score("small, things", knn), score("steel", 0.5)],
            steps: 1500,
            seconds_per_step: Some(0.5),
            regions: Some(RegionCount { pictures: 10, found: 40, kept: 25, ..RegionCount::default() }),
            training: BTreeMap::from([("health.spread".to_owned(), 0.75)]),
            warnings: Vec::new(),
        },
    }
}

fn runs() -> Vec<RunResult> {
    vec![
        run("untrained", "", 0, 0.2, Some(0.3)),
        run("simclr", "whole", 0, 0.40, Some(0.5)),
        run("simclr", "whole", 1, 0.44, Some(0.5)),
        run("simclr", "regions", 0, 0.46, Some(0.52)),
        run("simclr", "regions", 1, 0.48, None),
        run("moco", "regions", 0, 0.3, Some(0.4)),
    ]
}

#[test]
fn seeds_are_averaged_and_sources_compared_seed_by_seed() {
    let groups = groups(&runs(), "whole");
    let names: Vec<_> = groups.iter().map(|g| (g.method.as_str(), g.source.as_str(), g.runs)).collect();
    assert_eq!(
        names,
        [("untrained", "", 1), ("simclr", "whole", 2), ("simclr", "regions", 2), ("moco", "regions", 1)]
    );
    let near = |found: Option<Spread>, mean: f64, deviation: f64| {
        let found = found.unwrap();
        assert!((found.mean - mean).abs() < 1e-12, "{found:?}");
        assert!((found.deviation.unwrap() - deviation).abs() < 1e-12, "{found:?}");
    };
    let root = 2.0_f64.sqrt();
    // Sets by shares: the second is the first set with all of its labels.
    let whole = &groups[1].scores[1];
    assert_eq!((whole.set.as_str(), whole.share, whole.labels, whole.k), ("small, things", 1.0, 100, 20));
    near(whole.knn, 0.42, 0.04 / root);
    assert_eq!((whole.knn_gain, whole.linear_gain), (None, None), "nothing is held against itself");
    let regions = &groups[2].scores[1];
    near(regions.knn, 0.47, 0.02 / root);
    // Gains of 6 and of 4 points.
    near(regions.knn_gain, 0.05, 0.02 / root);
    assert_eq!((regions.linear, regions.linear_gain), (None, None), "one of its seeds has none");
    // A single seed has no deviation, and what there is no counterpart of no gain.
    assert_eq!(groups[3].scores[1].knn, Some(Spread { mean: 0.3, deviation: None }));
    assert_eq!((groups[3].scores[1].knn_gain, groups[0].scores[1].knn_gain), (None, None));
    assert_eq!((groups[2].health, groups[2].regions), (Some(0.75), Some(2.5)));
}

#[test]
fn a_line_a_run_set_and_share() {
    let text = csv(&runs()[..2]);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 1 + 2 * 2 * 2);
    assert_eq!(lines[6], "simclr-whole-s0,simclr,whole,0,1500,\"small, things\",0.1,1,100,20,0.4,0.01,0.5,0");
    assert!(csv(&runs()).contains("regions-s1") && csv(&runs()).contains(",0.48,0.01,,\n"));
}

#[test]
fn the_page_shows_mean_spread_and_gain() {
    let mut runs = runs();
    runs[1].figures.warnings.push("the run has collapsed".to_owned());
    let sweep = Sweep { runs, failed: Vec::new(), open: vec!["one-more".to_owned()] };
    let html = page("what regions gain", "whole", &sweep).unwrap().html();
    for expected in [
        "what regions gain",
        "small, things, 5 % of its labels",
        "small, things, 100 % of its labels",
        "42.00 ± 2.83",
        "+5.00 ± 1.41",
        "the run has collapsed",
        "Still to be done",
        "one-more",
    ] {
        assert!(html.contains(expected), "{expected}");
    }
}

#[test]
fn a_sweep_keeps_what_is_done() {
    let place = tempfile::tempdir().unwrap();
    let all = runs();
    let specs: Vec<RunSpec> = all.iter().map(|run| run.spec.clone()).collect();
    let figures = |spec: &RunSpec| all.iter().find(|run| run.spec == *spec).unwrap().figures.clone();
    let start = |spec: &RunSpec, _: &Path| Ok(figures(spec));
    let found = sweep(place.path(), "title", "whole", &specs, &Stop::never(), start).unwrap();
    assert!(found.is_complete() && found.runs == all);
    for file in ["sweep.json", "sweep.csv", "sweep.html", "simclr-whole-s1/result.json"] {
        assert!(place.path().join(file).is_file(), "{file}");
    }
    let never = |_: &RunSpec, _: &Path| -> Result<RunFigures, RunFailure> { Err("done before".into()) };
    assert_eq!(sweep(place.path(), "title", "whole", &specs, &Stop::never(), never).unwrap(), found);
    let mut other = specs;
    other[1].settings = json!({ "seed": 0, "rate": 1.0 });
    let error = sweep(place.path(), "", "whole", &other, &Stop::never(), never).unwrap_err().to_string();
    assert!(error.contains("the result of simclr (views from whole, seed 0) with other settings"), "{error}");
}
