use super::make::{connected, grid, moved, random_box};
use super::*;
use kirie_engine::random::Streams;
use kirie_mask::Mask;

/// Vectors of the reference notes (`samclr.md`, section 3.1).
#[test]
fn boxes_are_enlarged_as_published() {
    assert_eq!(enlarged([100, 50, 40, 30], 2.0, [2048, 1024]), [80, 35, 80, 60]);
    assert_eq!(enlarged([10, 10, 41, 31], 2.0, [200, 200]), [0, 0, 71, 56]);
    assert_eq!(enlarged([0, 0, 150, 150], 2.0, [200, 200]), [0, 0, 200, 200]);
    assert_eq!(enlarged([7, 9, 1, 1], 1.0, [20, 20]), [7, 9, 1, 1]);
    assert_eq!(enlarged([7, 9, 1, 1], 4.0, [20, 20]), [6, 8, 3, 3]);
    // What cannot be never panics.
    assert_eq!(enlarged([50, 50, 0, 0], 2.0, [20, 20]), [19, 19, 1, 1]);
    assert_eq!(enlarged([u32::MAX, 0, u32::MAX, 5], 100.0, [20, 20])[2], 1);
}

#[test]
fn filters() {
    let config = RegionsConfig { min_area: 24, max_share: 0.5, max_edges: 1, ..RegionsConfig::default() };
    let kept = |bbox| Region::of_box(bbox).is_kept(&config, [20, 20]);
    assert!(kept([2, 2, 5, 5]));
    assert!(!kept([2, 2, 6, 4]), "24 pixels are not more than 24");
    assert!(kept([0, 2, 5, 5]), "one edge");
    assert!(!kept([0, 0, 5, 6]), "two edges");
    assert!(!kept([1, 1, 15, 15]), "more than half of the picture");
    let one = Region::of_box([3, 3, 1, 1]);
    assert!(one.is_kept(&RegionsConfig { min_area: 0, ..RegionsConfig::default() }, [20, 20]));
    let line = Region::of_mask(Rle::from_mask(&Mask::from_fn(20, 20, |x, y| y == 3 && x > 1)));
    assert_eq!((line.bbox, line.area), ([2, 3, 18, 1], 18));
}

/// Chi squared over 100,000 draws, against the 99.9 % point of 4 degrees of freedom (18.47).
#[test]
fn regions_are_chosen_evenly_or_by_area() {
    let regions: Vec<Region> = [1, 2, 3, 4, 10].map(|w| Region::of_box([0, 0, w, 10])).to_vec();
    for (how, weights) in [(Choose::Evenly, [0.2; 5]), (Choose::ByArea, [0.05, 0.1, 0.15, 0.2, 0.5])] {
        let mut rng = Streams::new(11).stream("choose", &[]);
        let mut counts = [0_u32; 5];
        for _ in 0..100_000 {
            let chosen = choose(&regions, how, &mut rng).unwrap();
            counts[regions.iter().position(|region| region == chosen).unwrap()] += 1;
        }
        let squared: f64 = counts
            .iter()
            .zip(weights)
            .map(|(count, weight)| (f64::from(*count) - weight * 1e5).powi(2) / (weight * 1e5))
            .sum();
        assert!(squared < 18.47, "{how:?}: {counts:?}");
    }
    let mut rng = Streams::new(11).stream("choose", &[]);
    assert_eq!(choose(&[], Choose::Evenly, &mut rng), None);
    assert_eq!(choose(&[], Choose::ByArea, &mut rng), None);
}

#[test]
fn controls_stay_inside_and_keep_what_they_are_to_keep() {
    let mut rng = Streams::new(5).stream("boxes", &[]);
    let region = Region::of_box([3, 4, 12, 7]);
    let (mut places, mut shares) = (Vec::new(), Vec::new());
    for _ in 0..4000 {
        let other = moved(&region, [30, 20], &mut rng);
        let [x, y, w, h] = other.bbox;
        assert!(x + w <= 30 && y + h <= 20 && [w, h] == [12, 7]);
        places.push(x);
        let [x, y, w, h] = random_box([300, 200], [0.05, 0.4], &mut rng);
        assert!(w > 0 && h > 0 && x + w <= 300 && y + h <= 200);
        shares.push(f64::from(w * h) / 60_000.0);
    }
    places.sort_unstable();
    assert_eq!((places[0], places[3999]), (0, 18), "every place can come");
    // Evenly by logarithm: half of them below the geometric mean.
    shares.sort_by(f64::total_cmp);
    assert!((shares[2000] / (0.05_f64 * 0.4).sqrt() - 1.0).abs() < 0.08, "{}", shares[2000]);
    let cells = grid([31, 20], 2, 3);
    assert_eq!(cells.len(), 6);
    assert_eq!(cells.iter().map(|cell| cell.area).sum::<u64>(), 31 * 20);
}

#[test]
fn class_regions_fall_into_their_connected_parts() {
    let mask = Mask::from_fn(20, 10, |x, _| !(3..=15).contains(&x));
    let areas: Vec<u64> = connected(&mask, 0).iter().map(Rle::area).collect();
    assert_eq!(areas, [30, 40]);
}

#[test]
fn settings_out_of_range_are_named() {
    let good = RegionsConfig::default();
    for (bad, name) in [
        (RegionsConfig { containment: 0.0, ..good.clone() }, "regions.containment"),
        (RegionsConfig { max_share: 0.0, ..good.clone() }, "regions.max_share"),
        (RegionsConfig { max_edges: 5, ..good.clone() }, "regions.max_edges"),
        (RegionsConfig { box_scale: 0.5, ..good.clone() }, "regions.box_scale"),
        (
            RegionsConfig { source: Source::Random { count: 3, area: [0.5, 0.1] }, ..good.clone() },
            "regions.source.area",
        ),
        (RegionsConfig { source: Source::Grid { rows: 0, columns: 3 }, ..good.clone() }, "regions.source"),
    ] {
        assert!(bad.check().unwrap_err().to_string().starts_with(name), "{name}");
    }
}
