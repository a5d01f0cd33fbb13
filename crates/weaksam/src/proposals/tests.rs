use super::*;
use crate::classifier::StemConfig;
use crate::drawn::{ByColour, draw_set};
use crate::labels::DataConfig;
use crate::measure::Truth;
use recall::recall;

fn streams() -> Streams {
    Streams::new(1)
}

/// A classifier that has learned nothing, whose peaks are then anywhere.
fn classifier(device: &Device) -> (Classifier, ModelConfig) {
    let config =
        ModelConfig { stem: StemConfig::Patches { size: 8 }, input: 64, dim: 16, depth: 1, heads: 2 };
    (config.init(2, None, 1, device).unwrap(), config)
}

fn config() -> ProposalConfig {
    ProposalConfig {
        grid: GridOptions { points: 8, nms: 0.9, ..GridOptions::default() },
        maps: MapOptions { scales: vec![1.0], ..MapOptions::default() },
        ..ProposalConfig::default()
    }
}

#[test]
fn the_grid_finds_what_is_drawn_and_every_source_is_named() {
    let device = Device::flex();
    let folder = tempfile::tempdir().unwrap();
    draw_set(folder.path(), 6);
    let set = Tagged::open(&DataConfig::new(folder.path())).unwrap();
    let (model, sizes) = classifier(&device);
    let engine = ByColour::new();
    let tools = Tools {
        classes: &set.classes,
        classifier: Some((&model, &sizes)),
        engine: Some(&engine),
        device: &device,
        streams: streams(),
    };
    let path = folder.path().join("out/proposals.json");
    let never = Stop::never();
    let go = |config: &ProposalConfig| {
        propose(Part::Tagged(&set), &tools, config, &path, &never, ProgressMode::Silent).unwrap().0
    };
    let all = go(&config());
    assert_eq!(Proposals::read(&path).unwrap(), all);
    assert_eq!(std::fs::read_dir(folder.path().join("out")).unwrap().count(), 1, "parts are removed");
    assert_eq!(all.images[2].labels, ["disc", "bar"]);
    let truth = Truth::open(folder.path(), Some("train"), &set.classes).unwrap();
    let found = recall(&all, &truth, Some(&[Source::Grid])).unwrap();
    assert_eq!((found.best[0], found.best[1]), (1.0, 1.0), "{found:?}");
    for source in [Source::Coarse, Source::Fine, Source::Cross] {
        let one = go(&ProposalConfig { sources: vec![source], ..config() });
        assert!(one.images.iter().flat_map(|image| &image.source).any(|own| *own == source), "{source:?}");
    }
    let search = go(&ProposalConfig { sources: vec![Source::Search], ..config() });
    assert!(recall(&search, &truth, None).unwrap().best[0] > 0.9);

    let examples = Example::some(Part::Tagged(&set), &tools, &config(), &never).unwrap();
    let html = page(&all, &examples, &[]).unwrap().html();
    assert!(html.contains("coarse map of disc") && html.contains("images/p3.png"));
}

#[test]
fn where_the_model_finds_nothing_the_picture_is_the_proposal() {
    let device = Device::flex();
    let folder = tempfile::tempdir().unwrap();
    draw_set(folder.path(), 3);
    let set = Tagged::open(&DataConfig::new(folder.path())).unwrap();
    let engine = ByColour { finds: false, ..ByColour::new() };
    let tools = Tools {
        classes: &set.classes,
        classifier: None,
        engine: Some(&engine),
        device: &device,
        streams: streams(),
    };
    let config = ProposalConfig { sources: vec![Source::Grid], ..config() };
    let path = folder.path().join("proposals.json");
    let never = Stop::never();
    let pictures = Part::Tagged(&set);
    let (found, _) = propose(pictures, &tools, &config, &path, &never, ProgressMode::Silent).unwrap();
    for image in &found.images {
        assert_eq!(image.boxes, [[0.0, 0.0, 72.0, 64.0]]);
    }
    // Nothing to ask with is an error, and so is a picture that is gone.
    let cues = ProposalConfig { sources: vec![Source::Fine], ..config.clone() };
    assert!(propose(pictures, &tools, &cues, &path, &never, ProgressMode::Silent).is_err());
    std::fs::remove_file(folder.path().join("images/p1.png")).unwrap();
    let error =
        propose(pictures, &tools, &config, &path, &never, ProgressMode::Silent).unwrap_err().to_string();
    assert!(error.contains("p1.png"), "{error}");
}

#[test]
fn settings_are_checked() {
    assert!(ProposalConfig::default().check().is_ok());
    let bad = |config: ProposalConfig, name: &str| {
        assert!(config.check().unwrap_err().to_string().contains(name));
    };
    let peak = PeakOptions { kernel: 16, threshold: 0.9 };
    bad(ProposalConfig { cross: peak, ..config() }, "proposals.cross.kernel");
    bad(
        ProposalConfig { fine: PeakOptions { threshold: 1.5, kernel: 17 }, ..config() },
        "proposals.fine.threshold",
    );
    bad(ProposalConfig { sources: Vec::new(), ..config() }, "proposals.sources");
    bad(ProposalConfig { min_side: 0.0, ..config() }, "proposals.min_side");
    bad(
        ProposalConfig { grid: GridOptions { points: 0, ..GridOptions::default() }, ..config() },
        "grid.points",
    );
    let maps = MapOptions { scales: Vec::new(), ..MapOptions::default() };
    bad(ProposalConfig { maps, ..config() }, "proposals.maps.scales");
}
