//! Files that are right, and what is said of those that are not.

use std::fs;

use super::*;

/// A configuration as the command line reads it; its model is nothing.
fn read(text: &str) -> Result<TrainConfig<Option<bool>>, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("c.toml");
    fs::write(&path, text).unwrap();
    let config = kirie_run::config::load::<TrainConfig<Option<bool>>>(Some(&path), &[]);
    let config = config.map_err(|e| e.to_string())?;
    // What a run folder keeps must be read back as the same.
    let stored = config.to_toml().map_err(|e| e.to_string())?;
    fs::write(&path, &stored).unwrap();
    let again = kirie_run::config::load::<TrainConfig<Option<bool>>>(Some(&path), &[]).unwrap();
    assert_eq!(again.value, config.value, "{stored}");
    config.value.check().map_err(|e| e.to_string())?;
    Ok(config.value)
}

const PLAN: &str = r#"
[plan]
steps = 10
schedule = { decay = { kind = "cosine" } }
[plan.optimizer]
rule = { kind = "adamw" }
lr = 1e-4
"#;

#[test]
fn everything_has_a_default_but_sets_and_plan() {
    let config = read(&format!("data = {{ sets = [{{ path = \"a\" }}] }}\n{PLAN}")).unwrap();
    assert_eq!(config.data.hold_out, HoldOut::Folds { folds: 5, fold: 0 });
    assert_eq!(config.data.sets[0].split, "train");
    assert_eq!(config.input, InputConfig::default());
    assert_eq!(config.test.mode, TestMode::Whole);
}

#[test]
fn a_full_file_is_read() {
    let text = format!(
        r#"
        seed = 3
        [data]
        sets = [{{ path = "camvid", split = "train", ignore = [11] }}]
        classes = ["Road", "Car"]
        merge = {{ Truck = "Car", "*" = "ignore" }}
        hold_out = {{ kind = "split", split = "val" }}
        [input]
        resize = {{ kind = "longest", side = [256, 512] }}
        multi_scale = [0.5, 2.0]
        crop = [128, 192]
        rotate = 90.0
        colour = {{ brightness = 0.1, hue = 18.0 }}
        [loss]
        dice = 0.5
        focal = 1.0
        class_weights = "inverse-frequency"
        [test]
        resize = {{ kind = "exact", size = [360, 480] }}
        mode = {{ kind = "slide", window = [128, 192], stride = [96, 96], blend = "tapered" }}
        flip = true
        scales = [0.75, 1.0]
        {PLAN}"#
    );
    let config = read(&text).unwrap();
    assert_eq!(config.loss.class_weights, ClassWeights::Rule(WeightRule::InverseFrequency));
    assert_eq!(config.input.crop, Some([128, 192]));
    let given = read(&text.replace("\"inverse-frequency\"", "[1.0, 2.5]")).unwrap();
    assert_eq!(given.loss.class_weights, ClassWeights::Given(vec![1.0, 2.5]));
}

#[test]
fn wrong_values_are_named() {
    for (line, said) in [
        ("input.crop = [16, 64]", "input.crop is [16, 64], expected height and width from 32"),
        ("input.flip = 1.5", "input.flip is 1.5, expected 0 to 1"),
        ("input.resize = { kind = \"scale\", factor = [2.0, 1.0] }", "input.resize.factor is [2, 1]"),
        ("input.resize = { kind = \"longest\", side = [64, 32] }", "rising lengths"),
        ("input.rotate = 200.0", "0 to 180 degrees"),
        ("input.category_max_ratio = 0.0", "above 0 to 1"),
        ("input.misspelt = 1", "unknown field"),
        ("loss.cross_entropy = 0.0", "not all of them 0"),
        ("loss.gamma = 0.5", "1 to 10"),
        ("loss.class_weights = [-1.0]", "numbers of 0 or more"),
        ("test.scales = []", "at least one factor"),
        ("test.resize = { kind = \"longest\", side = [32, 64] }", "not a range"),
        (
            "test.mode = { kind = \"slide\", window = [64, 64], stride = [65, 64] }",
            "otherwise windows leave gaps",
        ),
        ("data.hold_out = { kind = \"folds\", folds = 3, fold = 3 }", "fold 3 of 3"),
        ("data.hold_out = { kind = \"split\", split = \"train\" }", "another part than is learned from"),
        ("data.hold_out = { kind = \"split\", split = \"test\" }", "a test list is for the final score"),
        ("data.classes = [\"a\", \"a\"]", "every class once"),
        ("data.merge = { a = \"b\", b = \"c\" }", "the last one of such a chain"),
        ("data.batch = 0", "1 or more"),
    ] {
        let error = read(&format!("data.sets = [{{ path = \"a\" }}]\n{line}\n{PLAN}")).unwrap_err();
        assert!(error.contains(said), "{line}: {error}");
    }
}
