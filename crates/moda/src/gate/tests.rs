use std::fs;

use super::*;
use crate::store::{ADAPTER, EXEMPLARS};
use crate::testing::{self, learned};

fn told(probes: &[Probe]) -> Vec<(&str, Option<usize>, usize)> {
    probes.iter().map(|probe| (probe.domain.as_str(), probe.before, probe.after)).collect()
}

#[test]
fn a_newcomer_is_in_nobodys_way_or_is_objected_to() {
    let place = tempfile::tempdir().unwrap();
    testing::draw_stream(place.path());
    let base = testing::base(false);
    let folder =
        |run: &str, name: &str, path: &str| learned(place.path(), run, &base, &[(name, path)]).pop().unwrap();
    let discs = folder("one", "discs", "discs");
    let bars = folder("two", "bars", "bars");
    let again = folder("three", "again", "discs");
    let try_out = |there: &[&PathBuf], replaced: Option<&Path>, new: &Path| {
        let there: Vec<PathBuf> = there.iter().map(|folder| (*folder).clone()).collect();
        probe(&base, &there, replaced, new, None)
    };

    let found = try_out(&[&discs], None, &bars).unwrap();
    assert_eq!(told(&found.probes), [("discs", Some(3), 3), ("bars", None, 3)]);
    assert_eq!((found.objection(0.0), found.left_out.len()), (None, 0));

    // The same pictures under another name: each can go to one of the two alone.
    let found = try_out(&[&bars, &discs], None, &again).unwrap();
    let by_name = |name: &str| found.probes.iter().find(|probe| probe.domain == name).unwrap();
    assert!(by_name("discs").after + by_name("again").after <= 3, "{:?}", found.probes);
    assert_eq!(by_name("bars").after, 3);
    let objection = found.objection(10.0).unwrap();
    assert!(objection.contains("exemplars") && !objection.contains("bars"), "{objection}");
    assert_eq!(found.objection(100.0), None);

    // In its own place it is a new version.
    let found = try_out(&[&bars], Some(&discs), &discs).unwrap();
    assert_eq!(told(&found.probes), [("bars", Some(3), 3), ("discs", Some(3), 3), ("discs", None, 3)]);
    let error = try_out(&[&bars, &discs], None, &discs).unwrap_err().to_string();
    assert_eq!(error, "domain \"discs\": is there twice, expected once");

    // What is damaged is left out, unless it is the newcomer.
    fs::write(discs.join(ADAPTER), "").unwrap();
    let found = try_out(&[&discs], None, &bars).unwrap();
    assert_eq!(told(&found.probes), [("bars", None, 3)]);
    assert_eq!(found.left_out[0].folder, discs);
    assert!(try_out(&[&bars], None, &discs).is_err());
    fs::remove_file(bars.join(EXEMPLARS)).unwrap();
    assert!(try_out(&[], None, &bars).unwrap_err().to_string().contains(EXEMPLARS));
}

#[test]
fn losses_are_counted_in_exemplars() {
    let probe = |exemplars, before, after| Probe { domain: "a".to_owned(), exemplars, before, after };
    // One of ten is ten percent, not more.
    assert!(!probe(10, Some(4), 3).loses_more_than(10.0));
    assert!(probe(10, Some(4), 2).loses_more_than(10.0));
    assert!(!probe(10, Some(4), 6).loses_more_than(0.0));
    assert!(probe(3, None, 2).loses_more_than(10.0), "of a newcomer all are its own to lose");
    assert!(!probe(3, None, 3).loses_more_than(0.0));
    let probed = Probed { probes: vec![probe(10, Some(9), 4), probe(5, None, 0)], left_out: Vec::new() };
    assert_eq!(
        probed.objection(10.0).unwrap(),
        "a would answer 4 of its 10 exemplars, and answers 9 now; it would answer 0 of its own 5 exemplars"
    );
}
