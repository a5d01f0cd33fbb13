//! Every change, failing or killed at every file operation.

use std::process::Command;

use super::*;
use crate::registry::files::fault::{self, Fault};
use crate::registry::files::{UNFINISHED, names};

/// Changes a registry, with a folder of packages at hand.
type Change = fn(&Path, &Path) -> Result<(), RegistryError>;

/// What is done while things go wrong: every kind of change.
fn changes() -> Vec<(&'static str, Change)> {
    fn new_package(packages: &Path) -> Package {
        Package::new_domain(&packages.join("new")).unwrap()
    }
    vec![
        ("add", |registry, packages| add(registry, &new_package(packages), AddOptions::default()).map(drop)),
        ("new version", |registry, packages| {
            let mut package = new_package(packages);
            package.set_name("a");
            add(registry, &package, AddOptions { new_version: true, disabled: false }).map(drop)
        }),
        ("disable", |registry, _| Writer::open(registry)?.disable(&strings(&["a"]), None).map(drop)),
        ("roll back", |registry, _| Writer::open(registry)?.roll_back_to(Some(1)).map(drop)),
        ("collect", |registry, _| Writer::open(registry)?.collect(Some(1)).map(drop)),
    ]
}

/// A registry of two domains, one with an earlier version and its leftovers.
fn prepared(place: &Place) {
    place.add("a", 1);
    place.add("b", 2);
    let new_version = AddOptions { new_version: true, disabled: false };
    add(&place.path("registry"), &place.package("a", 3), new_version).unwrap();
    fs::create_dir_all(place.path("registry/.unfinished-x-v1")).unwrap();
    package_in(&place.path("packages/new"), "new", 7);
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// The registry must work as before or as after the change, and take the change when it is made again.
fn check_whole(path: &Path, packages: &Path, what: &str, step: usize, before: &str, after: &str) {
    let live = Registry::open(path).and_then(|registry| registry.live()).unwrap();
    assert!(live.damaged.is_empty(), "{what}, step {step}: {:?}", live.damaged);
    let found = state(&live.index);
    assert!([before, after].contains(&found.as_str()), "{what}, step {step}: {found}");
    let (_, change) = changes().into_iter().find(|(name, _)| *name == what).unwrap();
    // An operation that was done already is refused or does the same again.
    if found == before {
        change(path, packages).unwrap();
        let live = Registry::open(path).unwrap().live().unwrap();
        let again = state(&live.index);
        // A version that never came to count keeps its number.
        let unnumbered = |state: &str| state.replace(|c: char| c.is_ascii_digit(), "");
        assert_eq!(unnumbered(&again), unnumbered(after), "{what}, step {step}");
        assert_eq!(again == before, after == before, "{what}, step {step}: {again}");
        assert!(live.damaged.is_empty(), "{:?}", live.damaged);
    }
    Writer::open(path).unwrap().collect(None).unwrap();
    let all = Registry::open(path).unwrap().verified(true).unwrap();
    assert!(all.iter().all(|found| found.problem.is_none()), "{what}, step {step}: {all:?}");
    let hidden = |name: &String| name.starts_with(UNFINISHED);
    assert!(!names(path).unwrap().iter().any(hidden), "{what}, step {step}");
}

#[test]
fn a_change_that_fails_anywhere_is_none() {
    let place = Place::new();
    prepared(&place);
    let (original, packages) = (place.path("registry"), place.path("packages"));
    let before = state(&Registry::open(&original).unwrap().current().unwrap());
    for (what, change) in changes() {
        let mut steps = 0;
        let after = loop {
            let path = place.path(&format!("{what}-{steps}"));
            copy_folder(&original, &path);
            fault::plan(Some((steps, Fault::Error)));
            let result = change(&path, &packages);
            let pending = fault::is_pending();
            fault::plan(None);
            if pending {
                result.unwrap();
                break state(&Registry::open(&path).unwrap().current().unwrap());
            }
            let error = said(result);
            assert!(error.contains("no storage space"), "{error}");
            let found = Registry::open(&path).unwrap().live().unwrap();
            assert_eq!(
                (state(&found.index), found.damaged.len()),
                (before.clone(), 0),
                "{what}, step {steps}"
            );
            steps += 1;
        };
        assert!(steps > 3, "{what} has {steps} steps");
        for step in 0..steps {
            check_whole(&place.path(&format!("{what}-{step}")), &packages, what, step, &before, &after);
        }
    }
}

/// The process that the next test kills; alone it does nothing.
#[test]
fn the_process_that_is_killed() {
    let variable = |name: &str| std::env::var(format!("KIRIE_TEST_{name}")).ok();
    let Some(step) = variable("STEP").and_then(|step| step.parse().ok()) else { return };
    let (what, path) = (variable("CHANGE").unwrap(), PathBuf::from(variable("REGISTRY").unwrap()));
    let (_, change) = changes().into_iter().find(|(name, _)| *name == what).unwrap();
    fault::plan(Some((step, Fault::Kill)));
    change(&path, &PathBuf::from(variable("PACKAGES").unwrap())).unwrap();
}

#[test]
fn a_process_killed_anywhere_leaves_a_registry_that_works() {
    let place = Place::new();
    prepared(&place);
    let (original, packages) = (place.path("registry"), place.path("packages"));
    let before = state(&Registry::open(&original).unwrap().current().unwrap());
    for (what, _) in changes() {
        let mut steps = 0;
        let after = loop {
            let path = place.path(&format!("{what}-{steps}"));
            copy_folder(&original, &path);
            let output = Command::new(std::env::current_exe().unwrap())
                .args(["registry::tests::faults::the_process_that_is_killed", "--exact"])
                .env("KIRIE_TEST_STEP", steps.to_string())
                .env("KIRIE_TEST_CHANGE", what)
                .env("KIRIE_TEST_REGISTRY", &path)
                .env("KIRIE_TEST_PACKAGES", &packages)
                .output()
                .unwrap();
            if output.status.success() {
                break state(&Registry::open(&path).unwrap().current().unwrap());
            }
            assert!(output.status.code().is_none(), "{what}, step {steps}: not killed, but {output:?}");
            steps += 1;
        };
        assert!(steps > 3, "{what} has {steps} steps");
        for step in 0..steps {
            check_whole(&place.path(&format!("{what}-{step}")), &packages, what, step, &before, &after);
        }
    }
}
