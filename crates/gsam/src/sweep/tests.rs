//! A sweep goes on where it was left, and its tables say what the runs say.

use std::fs;

use serde_json::json;

use super::*;

fn spec(method: &str, input: &str, seed: u64) -> RunSpec {
    RunSpec {
        name: format!("{method}-{input}-{seed}"),
        set: "drawn".to_owned(),
        method: method.to_owned(),
        input: input.to_owned(),
        augmentation: "flip".to_owned(),
        seed,
        settings: json!({ "lr": 0.1, "seed": seed }),
    }
}

fn figures(miou: f64, macs: u64) -> RunFigures {
    RunFigures {
        miou_before: Some(0.1),
        miou: Some(miou),
        pixel_accuracy: Some(0.9),
        classes: vec![
            ClassScore { name: "a, b".to_owned(), iou: Some(miou) },
            ClassScore { name: "c".to_owned(), iou: None },
        ],
        trained_parameters: 1000,
        stored_parameters: 1200,
        macs_per_picture: macs,
        peak_memory_bytes: Some(1 << 28),
        seconds_per_step: Some(0.5),
        seconds_per_inference: None,
        cpu_seconds: Some(12.5),
        steps: 10,
        pictures_seen: 80,
    }
}

#[test]
fn finished_runs_are_not_run_again() {
    let place = tempfile::tempdir().unwrap();
    let specs = [spec("lora", "crop128", 0), spec("lora", "crop256", 0), spec("gsam", "crop128", 0)];
    let mut started = Vec::new();
    let first = sweep(place.path(), "a sweep", &specs, &Stop::never(), |spec, folder| {
        assert_eq!(folder, place.path().join(&spec.name));
        assert!(folder.is_dir());
        started.push(spec.name.clone());
        if spec.input == "crop256" { Err("out of memory".into()) } else { Ok(figures(0.6, 100)) }
    })
    .unwrap();
    assert_eq!(started, ["lora-crop128-0", "lora-crop256-0", "gsam-crop128-0"]);
    assert_eq!(
        first.failed,
        [FailedRun { name: "lora-crop256-0".to_owned(), reason: "out of memory".to_owned() }]
    );
    assert_eq!((first.runs.len(), first.open.len(), first.is_complete()), (2, 0, false));
    let html = fs::read_to_string(place.path().join("sweep.html")).unwrap();
    assert!(html.contains("out of memory") && html.contains("Score by MACs"));

    let mut started = Vec::new();
    let second = sweep(place.path(), "a sweep", &specs, &Stop::never(), |spec, _| {
        started.push(spec.name.clone());
        Ok(figures(0.7, 400))
    })
    .unwrap();
    assert_eq!(started, ["lora-crop256-0"]);
    assert!(second.is_complete());
    assert_eq!(second.runs[1].figures.miou, Some(0.7));
    assert_eq!(kirie_run::sweep::collect::<RunSpec, RunFigures>(place.path()).unwrap().len(), 3);
    let stored: Sweep = serde_json::from_slice(&fs::read(place.path().join("sweep.json")).unwrap()).unwrap();
    assert_eq!(stored, second);

    // Other settings under the same name are not taken for the same run.
    let mut other = specs.clone();
    other[0].settings = json!({ "lr": 0.2, "seed": 0 });
    let error = sweep(place.path(), "", &other, &Stop::never(), |_, _| Ok(figures(0.5, 1))).unwrap_err();
    assert!(error.to_string().contains("with other settings than those asked for"), "{error}");
    fs::write(place.path().join("lora-crop128-0/result.json"), "{").unwrap();
    let error = sweep(place.path(), "", &specs, &Stop::never(), |_, _| Ok(figures(0.5, 1))).unwrap_err();
    assert!(error.to_string().contains("result.json: expected the result of a run"), "{error}");
}

#[test]
fn seeds_are_averaged_and_inputs_compared() {
    let run = |method: &str, input: &str, seed: u64, miou: f64, macs: u64| RunResult {
        spec: spec(method, input, seed),
        figures: figures(miou, macs),
    };
    let runs = [
        run("gsam", "full", 0, 0.80, 1000),
        run("gsam", "half", 0, 0.74, 250),
        run("gsam", "half", 1, 0.78, 250),
        run("lora", "full", 0, 0.70, 900),
    ];
    let groups = groups(&runs);
    assert_eq!(groups.iter().map(|group| group.runs).collect::<Vec<_>>(), [1, 2, 1]);
    let half = &groups[1];
    assert!((half.miou.unwrap() - 0.76).abs() < 1e-12);
    assert!((half.miou_deviation.unwrap() - (0.0008_f64).sqrt()).abs() < 1e-12);
    assert!((half.of_largest_miou.unwrap() - 0.95).abs() < 1e-12);
    assert_eq!((half.of_largest_macs, groups[2].of_largest_macs), (Some(0.25), Some(1.0)));
    assert_eq!((half.seconds_per_inference, half.classes[1].1, groups[0].miou_deviation), (None, None, None));

    let text = csv(&runs);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 5);
    assert!(lines[0].ends_with("steps,pictures_seen,\"iou.a, b\",iou.c"), "{}", lines[0]);
    assert_eq!(
        lines[1],
        "gsam-full-0,drawn,gsam,full,flip,0,0.1,0.8,0.9,1000,1200,1000,268435456,0.5,,12.5,10,80,0.8,"
    );

    let sweep = Sweep { runs: runs.to_vec(), failed: Vec::new(), open: vec!["one-more".to_owned()] };
    let html = page("methods by input", &sweep).unwrap().html();
    for expected in
        ["methods by input", "76.00 ± 2.83", "95.0", "Still to be done", "one-more", "class=\"front\""]
    {
        assert!(html.contains(expected), "{expected}");
    }
}
