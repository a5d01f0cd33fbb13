use burn::tensor::Device;

use super::*;

#[test]
fn a_share_takes_of_every_class() {
    let labels: Vec<u32> = (0..210).map(|i| if i < 200 { i % 2 } else { 3 }).collect();
    for (share, expected) in [(1.0, [100, 100, 10]), (0.1, [10, 10, 1]), (0.001, [1, 1, 1])] {
        let chosen = stratified(&labels, share, 7);
        let count = |class: u32| chosen.iter().filter(|i| labels[**i] == class).count();
        assert_eq!([count(0), count(1), count(3)], expected);
        assert!(chosen.is_sorted());
        assert_eq!(chosen, stratified(&labels, share, 7));
    }
    assert_ne!(stratified(&labels, 0.1, 7), stratified(&labels, 0.1, 8));
    assert!(stratified(&[], 0.5, 1).is_empty());
}

#[test]
fn the_middle_of_a_picture_is_judged() {
    // Red left, green middle, blue right.
    let raw = (0..60 * 20).flat_map(|i| match i % 60 {
        0..20 => [255, 0, 0],
        20..40 => [0, 255, 0],
        _ => [0, 0, 255],
    });
    let image = Image::from_raw(60, 20, raw.collect()).unwrap();
    for size in [8, 20, 40] {
        let view = centre_view(&image, size).unwrap();
        assert_eq!(view.len(), 3 * (size * size) as usize);
        let middle = 3 * (size * size / 2 + size / 2) as usize;
        assert_eq!(view[middle..middle + 3], [0, 255, 0]);
    }
    for (width, height) in [(1, 1), (1, 500), (500, 1), (7, 3)] {
        let image = Image::from_raw(width, height, vec![9; (3 * width * height) as usize]).unwrap();
        assert_eq!(centre_view(&image, 16).unwrap(), vec![9; 3 * 256]);
    }
}

/// Distances between pictures stay about as they are, which is what random directions are good for.
#[test]
fn random_projections_keep_distances() {
    let device = Device::flex();
    let projection = RandomProjection::new(8, 512, 3, &device);
    let views: Vec<Vec<u8>> = (0..6_usize)
        .map(|n| (0..192).map(|i| ((i * 37 + n * n * 91 + i * n) % 256) as u8).collect())
        .collect();
    let (rows, width) = features_of_views(&projection, &views, 8, &device, &mut |_| {});
    assert_eq!((width, rows.len()), (512, 6 * 512));
    let square =
        |a: &[f32], b: &[f32]| -> f64 { a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum() };
    let mut pixels = Vec::new();
    for view in &views {
        normalise(view, &mut pixels);
    }
    for (i, j) in [(0, 1), (1, 2), (3, 5), (0, 4)] {
        let of = |rows: &[f32], width: usize| {
            square(&rows[i * width..(i + 1) * width], &rows[j * width..(j + 1) * width])
        };
        // A mean of 512 squares of normal numbers: within five deviations (each the root of 2 / 512) of the truth.
        let ratio = of(&rows, 512) / (of(&pixels, 192) / 192.0);
        assert!((ratio - 1.0).abs() < 0.32, "{i}, {j}: {ratio}");
    }
    let (again, _) =
        features_of_views(&RandomProjection::new(8, 512, 3, &device), &views, 8, &device, &mut |_| {});
    assert_eq!(rows, again, "the same seed, the same directions");
    let (other, _) =
        features_of_views(&RandomProjection::new(8, 512, 4, &device), &views, 8, &device, &mut |_| {});
    assert_ne!(rows, other);
}

/// Features that are the labels, and some that say nothing.
#[test]
fn good_features_score_and_useless_ones_do_not() {
    let labels: Vec<u32> = (0..300).map(|i| i % 5).collect();
    let noise = |i: usize, c: usize| ((i * 7919 + c * 104_729 + i * i * 31) % 997) as f32 / 997.0 - 0.5;
    let make = |signal: f32, from: usize| Features {
        rows: labels
            .iter()
            .enumerate()
            .flat_map(|(i, label)| {
                (0..8).map(move |c| noise(i + from, c) + if c == *label as usize { signal } else { 0.0 })
            })
            .collect(),
        width: 8,
        labels: labels.clone(),
    };
    let classes: Vec<String> = (0..5).map(|c| c.to_string()).collect();
    let options = EvaluateOptions {
        size: 8,
        k: vec![20],
        temperature: 0.1,
        shares: vec![0.05, 1.0],
        draws: 3,
        linear: LinearOptions::default(),
        crops: 0,
        seed: 1,
    };
    let good = evaluate(&make(3.0, 0), &[], &make(3.0, 1000), &classes, &options).unwrap();
    assert_eq!(good.pictures, [300, 300]);
    assert!((good.chance - 0.2).abs() < 1e-9);
    assert_eq!(good.by_share.iter().map(|s| (s.labels, s.k)).collect::<Vec<_>>(), [(15, 15), (300, 20)]);
    assert!(
        good.by_share.iter().all(|s| s.knn[0] > 0.95 && s.linear.unwrap()[0] > 0.95),
        "{:?}",
        good.by_share
    );
    let useless = evaluate(&make(0.0, 0), &[], &make(0.0, 1000), &classes, &options).unwrap();
    assert!(
        useless.by_share[1].knn[0] < 0.4 && useless.by_share[1].linear.unwrap()[0] < 0.4,
        "{:?}",
        useless.by_share
    );
    assert_eq!(good, evaluate(&make(3.0, 0), &[], &make(3.0, 1000), &classes, &options).unwrap());
    // A number of neighbours for each share; the last holds for all that follow.
    let some = EvaluateOptions { k: vec![3, 50], shares: vec![0.05, 0.5, 1.0], ..options.clone() };
    let found = evaluate(&make(3.0, 0), &[], &make(3.0, 1000), &classes, &some).unwrap();
    assert_eq!(found.by_share.iter().map(|s| s.k).collect::<Vec<_>>(), [3, 50, 50]);
    let none = EvaluateOptions { k: vec![], ..options };
    assert!(evaluate(&make(3.0, 0), &[], &make(3.0, 1000), &classes, &none).is_err());
}

/// The neighbours' figures stand where the linear classifier has none.
#[test]
fn a_classifier_that_diverges_costs_its_own_figures_alone() {
    // Two classes that overlap, of features so long that a step throws the weights about.
    let labels: Vec<u32> = (0..120).map(|i| i % 2).collect();
    let rows = (0..120_u32).map(|i| ((i * 37 % 101) as f32 - 50.0) * 1e4).collect();
    let features = Features { rows, width: 1, labels };
    let classes = ["a".to_owned(), "b".to_owned()];
    let options = EvaluateOptions {
        size: 8,
        k: vec![5],
        temperature: 0.1,
        shares: vec![1.0],
        draws: 1,
        linear: LinearOptions::default(),
        crops: 0,
        seed: 1,
    };
    let found = evaluate(&features, &[], &features, &classes, &options).unwrap();
    let share = &found.by_share[0];
    assert!(share.linear.is_none() && (0.0..=1.0).contains(&share.knn[0]), "{share:?}");
    assert!(share.diverged.as_ref().unwrap().contains("diverged"), "{share:?}");
    let linear = LinearOptions { standardise: true, ..LinearOptions::default() };
    let share =
        &evaluate(&features, &[], &features, &classes, &EvaluateOptions { linear, ..options }).unwrap();
    assert!(share.by_share[0].linear.is_some() && share.by_share[0].diverged.is_none(), "{share:?}");
}
