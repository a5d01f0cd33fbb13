use burn::tensor::{Device, Distribution, TensorData};
use kirie_engine::random::Streams;

use super::*;
use crate::testing;

/// Features of a made-up encoder: places around a centre of the domain's own.
fn features(domain: usize, picture: u64, apart: f32) -> RouterFeatures {
    let mut rng = Streams::new(domain as u64).stream("features", &[picture]);
    let mut unit = || kirie_engine::random::unit(&mut rng) as f32 - 0.5;
    // The widths of the tiny convolutional base's stages.
    let stages = [8, 8, 12].map(|dim| {
        let value = |at: usize, unit: &mut dyn FnMut() -> f32| {
            let centre = if at % dim % 3 == domain { apart } else { 0.3 };
            centre + unit()
        };
        let values = (0..4 * dim).map(|at| value(at, &mut unit)).collect();
        StageFeatures { dim, values }
    });
    RouterFeatures { stages: stages.to_vec() }
}

fn group(domain: usize, pictures: std::ops::Range<u64>) -> Vec<RouterFeatures> {
    pictures.map(|picture| features(domain, picture, 1.5)).collect()
}

fn lessons(domains: usize) -> (Lessons, Vec<Portrait>) {
    let domains: Vec<_> = (0..domains).map(|domain| group(domain, 0..10)).collect();
    let portraits = domains.iter().map(|pictures| Portrait::new(pictures, 0.99, 1.3).unwrap()).collect();
    (Lessons { domains, reference: Vec::new() }, portraits)
}

fn config() -> RouterConfig {
    RouterConfig { steps: 60, assistants: 3, ..RouterConfig::default() }
}

#[test]
fn pictures_find_their_domain_and_strange_ones_the_base() {
    let base = testing::base(false);
    let (lessons, portraits) = lessons(3);
    let router = Router::fit(&config(), &lessons, portraits, &base, 7).unwrap();
    for domain in 0..3 {
        for picture in 100..110 {
            let route = router.route(&features(domain, picture, 1.5), &base);
            assert_eq!((route.domain, route.likeliest), (Some(domain), domain), "{picture}: {route:?}");
        }
    }
    let strange = router.route(&features(0, 3, -6.0), &base);
    assert!(strange.domain.is_none() && strange.strangeness > 1.0, "{strange:?}");
    let bold = Router { abstain: false, ..router.clone() };
    assert!(bold.route(&features(0, 3, -6.0), &base).domain.is_some());
    let nothing = RouterFeatures {
        stages: [8, 8, 12].map(|dim| StageFeatures { dim, values: vec![f32::NAN; 4 * dim] }).to_vec(),
    };
    assert_eq!(router.route(&nothing, &base).domain, None);
}

#[test]
fn tokens_are_trained_and_left_random_when_asked() {
    let base = testing::base(false);
    let (lessons, portraits) = lessons(2);
    let fit = |learn_tokens, steps| {
        let config = RouterConfig { learn_tokens, steps, ..config() };
        Router::fit(&config, &lessons, portraits.clone(), &base, 7).unwrap()
    };
    let tokens = |router: &Router| -> Vec<f32> {
        router
            .reader
            .tokens
            .iter()
            .flat_map(|t| t.val().into_data().iter::<f32>().collect::<Vec<_>>())
            .collect()
    };
    let (trained, random, barely) = (fit(true, 40), fit(false, 40), fit(false, 1));
    assert_eq!(tokens(&random), tokens(&barely));
    assert_ne!(tokens(&trained), tokens(&random));
    assert_eq!(tokens(&trained), tokens(&fit(true, 40)), "the same seed gives the same tokens");
}

#[test]
fn a_reference_is_a_class_of_its_own() {
    let base = testing::base(false);
    let (mut lessons, portraits) = lessons(2);
    lessons.reference = group(2, 0..6);
    let router = Router::fit(&config(), &lessons, portraits, &base, 7).unwrap();
    assert!(router.has_reference);
    for picture in 100..105 {
        assert_eq!(router.route(&features(2, picture, 1.5), &base).domain, None);
        assert_eq!(router.route(&features(1, picture, 1.5), &base).domain, Some(1));
    }
}

#[test]
fn one_domain_has_nothing_to_be_told_from() {
    let base = testing::base(false);
    let (lessons, portraits) = lessons(1);
    let router = Router::fit(&config(), &lessons, portraits, &base, 7).unwrap();
    assert_eq!(router.route(&features(0, 100, 1.5), &base).domain, Some(0));
    assert_eq!(router.route(&features(0, 100, -6.0), &base).domain, None);
    let none = Router::fit(&config(), &Lessons::default(), Vec::new(), &base, 7);
    assert!(none.unwrap_err().to_string().contains("expected some of each domain"));
}

/// On a ViT the tokens go through the frozen blocks, and learn there.
#[test]
fn tokens_go_through_the_blocks_of_a_vit() {
    let base = testing::base(true);
    let device = Device::flex();
    let draw = |shift: f64| {
        let pixels = Tensor::<4>::random([4, 3, 32, 32], Distribution::Normal(shift, 1.0), &device);
        let stages = base.encode(pixels, None).stages;
        assert_eq!(stages.len(), 3);
        pooled(&stages, &[[1.0, 0.75]; 4], 2).unwrap()
    };
    let (a, b) = (draw(-1.0), draw(1.0));
    let portraits = [&a, &b].map(|group| Portrait::new(group, 1.0, 3.0).unwrap()).to_vec();
    let lessons = Lessons { domains: vec![a.clone(), b.clone()], reference: Vec::new() };
    let config = RouterConfig { grid: 2, ..config() };
    let router = Router::fit(&config, &lessons, portraits, &base, 3).unwrap();
    assert_eq!(router.reader.tokens.len(), 1);
    assert_eq!(router.reader.tokens[0].dims(), [4, 16]);
    for (at, group) in [a, b].iter().enumerate() {
        assert!(group.iter().all(|features| router.route(features, &base).likeliest == at));
    }
}

#[test]
fn pooling_leaves_padding_out() {
    let device = Device::flex();
    // A map of 4x4 whose lower half is padding.
    let values: Vec<f32> = (0..16).map(|at| if at < 8 { at as f32 } else { 1e6 }).collect();
    let stage = Tensor::<4>::from_data(TensorData::new(values, [1, 1, 4, 4]), &device);
    let found = pooled(std::slice::from_ref(&stage), &[[1.0, 0.5]], 2).unwrap();
    assert_eq!(found[0].stages[0].values, [0.5, 2.5, 4.5, 6.5]);
    // More places than the map has: some see the same.
    let found = pooled(&[stage], &[[0.5, 0.25]], 4).unwrap();
    assert_eq!(found[0].stages[0].values[..4], [0.0, 0.0, 1.0, 1.0]);
    assert_eq!(found[0].stages[0].places(), 16);
}

#[test]
fn a_portrait_of_one_picture_still_knows_it() {
    let portrait = Portrait::new(&group(0, 0..1), 0.99, 1.2).unwrap();
    assert!(portrait.strangeness(&features(0, 0, 1.5)) <= 1.0);
    assert!(portrait.threshold.is_finite() && portrait.deviation.iter().all(|d| *d > 0.0));
    assert!(Portrait::new(&[], 0.99, 1.2).is_err());
}

#[test]
fn centroids_are_near_their_own() {
    let streams = Streams::new(1);
    let centroids = [0, 1].map(|domain| Centroids::new(&group(domain, 0..8), 3, &streams, domain as u64));
    for domain in 0..2 {
        let seen = features(domain, 200, 1.5);
        assert!(centroids[domain].distance(&seen) < centroids[1 - domain].distance(&seen));
    }
}
