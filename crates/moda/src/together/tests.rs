use std::fs;
use std::path::PathBuf;

use burn::tensor::Tensor;

use super::*;
use crate::testing::{self, learned};

fn tokens(router: &Router) -> Vec<f32> {
    router.reader.tokens.iter().flat_map(|t| t.val().into_data().iter::<f32>().collect::<Vec<_>>()).collect()
}

#[test]
fn a_router_for_domains_of_several_runs_is_trained_once() {
    let place = tempfile::tempdir().unwrap();
    testing::draw_stream(place.path());
    let base = testing::base(false);
    let mut folders = learned(place.path(), "one", &base, &[("discs", "discs")]);
    folders.extend(learned(place.path(), "two", &base, &[("bars", "bars")]));
    let load = |folder: &PathBuf| DomainState::load(folder, &base).unwrap();
    let states: Vec<DomainState> = folders.iter().map(load).collect();
    let kept = place.path().join("kept");
    let files = || -> Vec<PathBuf> {
        let entries = fs::read_dir(&kept).map(|entries| entries.map(|entry| entry.unwrap().path()).collect());
        entries.unwrap_or_default()
    };

    let (domains, plain) = assemble(states.clone(), &base, None).unwrap();
    assert!(files().is_empty());
    let names: Vec<&str> = domains.iter().map(|domain| domain.name.as_str()).collect();
    assert_eq!(names, ["bars", "discs"]);
    let (_, first) = assemble(states.clone(), &base, Some(&kept)).unwrap();
    assert_eq!(tokens(&first), tokens(&plain));
    let [file] = &files()[..] else { panic!("{:?}", files()) };
    // In another order it is the same router, and the file is read: here it holds tokens that no training would give.
    let zero = TokenReader {
        tokens: first.reader.tokens.iter().map(|t| t.clone().map(|t: Tensor<2>| t.zeros_like())).collect(),
        ..first.reader.clone()
    };
    keep(file, &zero, &base).unwrap();
    let backwards: Vec<DomainState> = states.iter().rev().cloned().collect();
    let (domains, read) = assemble(backwards, &base, Some(&kept)).unwrap();
    assert!(tokens(&read).iter().all(|value| *value == 0.0));
    assert_eq!((domains[0].name.as_str(), read.portraits.len(), read.has_reference), ("bars", 2, false));
    // A file that is damaged counts as not there, and is made again.
    fs::write(file, "nothing of the kind").unwrap();
    let (_, again) = assemble(states.clone(), &base, Some(&kept)).unwrap();
    assert_eq!(tokens(&again), tokens(&plain));
    assert_eq!(tokens(&assemble(states.clone(), &base, Some(&kept)).unwrap().1), tokens(&plain));
    assert_eq!(files().len(), 1);
    // Other domains, another file; none for those whose own tokens know them.
    assemble(states[..1].to_vec(), &base, Some(&kept)).unwrap();
    assert_eq!(files().len(), 1);
    let mut other = states[0].clone();
    other.name = "other".to_owned();
    assemble(vec![other, states[1].clone()], &base, Some(&kept)).unwrap();
    assert_eq!(files().len(), 2);
    // Where nothing can be kept, domains answer all the same.
    let (_, unkept) = assemble(states, &base, Some(file)).unwrap();
    assert_eq!(tokens(&unkept), tokens(&plain));
}
