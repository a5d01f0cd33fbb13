//! `adapters`: what an operator does, as a process; and that a registry is left alone by what fails.

use std::collections::BTreeMap;
use std::fs;
use std::process::Stdio;
use std::time::SystemTime;

use kirie_data::Image;
use kirie_data::write::write_picture;
use serde_json::json;

use crate::common::{Place, fields};

const SHA: &str = "5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef";

/// A folder with a domain to add.
fn domain(place: &Place, folder: &str, name: &str, iou: f64) {
    let toml = format!(
        "name = \"{name}\"\nkind = \"lora\"\ndescription = \"Drawn for a test\"\n\n[base]\nmodel = \"kirie-small\"\n\
         sha256 = \"{SHA}\"\n\n[training]\nsteps = 300\n\n[scores]\niou = {iou}\n\n[routing.chosen]\n{name} = 19\nbase = 1\n"
    );
    place.write(&format!("{folder}/domain.toml"), toml);
    let bytes: Vec<u8> = (0..50_000_u32).map(|i| (f64::from(i) * iou * 100.0) as u8).collect();
    place.write(&format!("{folder}/adapter.safetensors"), bytes);
    fs::create_dir_all(place.path(&format!("{folder}/thumbnails"))).unwrap();
    let picture = Image::from_raw(8, 6, vec![200; 8 * 6 * 3]).unwrap();
    write_picture(place.path(&format!("{folder}/thumbnails/0.png")), &picture).unwrap();
}

/// Runs a command line that must fail and change nothing; the lock says who was last.
#[track_caller]
fn refuses(place: &Place, line: &str, code: i32, words: &[&str]) {
    let files = || {
        let mut files = place.files();
        files.retain(|name, _| !name.ends_with("/.lock"));
        files
    };
    let before = files();
    let answer = place.run(line);
    answer.expect(code, words);
    assert_eq!(answer.stdout, "", "{line}");
    assert_eq!(files(), before, "{line}");
}

/// The files of a domain, with size and time of the last change.
fn files(place: &Place, prefix: &str) -> BTreeMap<String, (u64, SystemTime)> {
    place.files().into_iter().filter(|(name, _)| name.starts_with(prefix)).collect()
}

#[test]
fn from_the_first_domain_to_a_rollback() {
    let place = Place::new();
    domain(&place, "crack-1", "crack", 0.5);
    domain(&place, "crack-2", "crack", 0.4);
    domain(&place, "tile-1", "tile", 0.7);
    refuses(&place, "adapters list adapters", 1, &["holds no registry of adapters", "kirie adapters add"]);

    let answer = place.run("adapters add adapters crack-1").done();
    assert_eq!(answer.stdout, "crack v1: lora, 2 files, 50 kB\nindex 1, added crack v1: crack v1\n");
    let first = files(&place, "adapters/domains/crack");
    let json = place.run("adapters add adapters tile-1 --json").done().json();
    assert_eq!(fields(&json), ["manifest", "index", "probes"]);
    assert_eq!(json["probes"], json!([]), "without a router there is nothing to probe");
    assert_eq!(files(&place, "adapters/domains/crack"), first, "not touched");
    refuses(
        &place,
        "adapters add adapters crack-2",
        1,
        &["there is a domain crack already (v1)", "--new-version"],
    );
    place.run("adapters add adapters crack-2 --new-version").done();
    assert_eq!(files(&place, "adapters/domains/crack/v1"), first);

    let list = place.run("adapters list adapters").done().stdout;
    let lines: Vec<&str> = list.lines().collect();
    assert_eq!(lines[0], "base kirie-small, weights 5f70bf18a086...");
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(words(lines[1]), ["domain", "version", "adapter", "added", "state", "size", "scores"]);
    let crack = words(lines[2]);
    assert_eq!(
        [&crack[..3], &crack[4..]].concat(),
        ["crack", "v2", "lora", "enabled", "50", "kB", "iou", "0.4000"]
    );
    assert!(lines[4].starts_with("index 3 of 2") && lines[4].ends_with("Z: added crack v2"), "{list}");

    // It is worse: back.
    let answer = place.run("adapters rollback adapters crack").done();
    assert_eq!(answer.stdout, "index 4, rolled crack back from v2 to v1: crack v1, tile v1\n");
    let json = place.run("adapters list adapters --json").done().json();
    assert_eq!(fields(&json), ["index", "change", "created", "base", "domains"]);
    let crack = &json["domains"][0];
    assert_eq!(
        fields(crack),
        [
            "name",
            "version",
            "enabled",
            "reason",
            "kind",
            "created",
            "bytes",
            "scores",
            "routed_right",
            "problem"
        ]
    );
    assert_eq!((&crack["version"], &crack["scores"]["iou"]), (&json!(1), &json!(0.5)));
    assert_eq!((&crack["routed_right"], &crack["problem"]), (&json!(0.95), &json!(null)));
    place.run("adapters rollback adapters --to-index 1").done();
    assert_eq!(
        place.run("adapters rollback adapters").done().stdout,
        "index 6, rolled back to index 4: crack v1, tile v1\n",
        "the last change undone"
    );
    place.run("adapters rollback adapters crack --to-version 2").done();

    let answer = place.command("adapters disable adapters tile --reason").arg("new lamps").output().unwrap();
    assert!(answer.status.success());
    let list = place.run("adapters list adapters").done().stdout;
    assert!(list.contains("disabled: new lamps"), "{list}");
    assert_eq!(
        place.run("adapters enable adapters tile").done().stdout,
        "index 9, enabled tile: crack v2, tile v1\n"
    );
    assert_eq!(
        place.run("adapters reorder adapters tile crack").done().stdout,
        "index 10, order tile, crack: tile v1, crack v2\n"
    );
    refuses(&place, "adapters reorder adapters tile", 1, &["every domain once", "crack is missing"]);

    let show = place.run("adapters show adapters crack --version 1").done().stdout;
    for text in [
        "crack v1, enabled",
        "Drawn for a test",
        "95.0 % right (base 1, crack 19)",
        "v1, v2",
        "thumbnails/0.png",
    ] {
        assert!(show.contains(text), "lacks {text}: {show}");
    }
    let json = place.run("adapters show adapters crack --json").done().json();
    assert_eq!(fields(&json), ["entry", "manifest", "versions", "folder", "problem"]);
    assert_eq!((&json["versions"], &json["manifest"]["training"]["steps"]), (&json!([1, 2]), &json!(300)));
    let json = place.run("adapters list adapters --history --json").done().json();
    assert_eq!(json.as_array().unwrap().len(), 11);
    assert_eq!(place.run("adapters list adapters --history").done().stdout.lines().count(), 12);

    let answer = place.run("adapters report adapters -o pages").done();
    assert_eq!(answer.stdout.lines().count(), 3);
    let page = fs::read_to_string(place.path("pages/domain-crack.html")).unwrap();
    assert!(page.contains("Domain crack, version 2") && page.contains("data:image/jpeg"), "{page}");
    assert!(fs::read_to_string(place.path("pages/registry.html")).unwrap().contains("added crack v1"));

    assert_eq!(
        place.run("adapters remove adapters tile").done().stdout,
        "index 11, removed tile: crack v2\n"
    );
    let json = place.run("adapters gc adapters --keep 1 --json").done().json();
    assert!(json["removed"].as_array().unwrap().contains(&json!("domains/tile/v1")), "{json}");
    assert_eq!(
        place.names("adapters/domains"),
        ["crack/v2/adapter.safetensors", "crack/v2/manifest.json", "crack/v2/thumbnails/0.png"]
    );
    refuses(&place, "adapters rollback adapters", 1, &["the oldest that is kept"]);
}

#[test]
fn exported_here_imported_there() {
    let place = Place::new();
    domain(&place, "crack", "crack", 0.5);
    place.run("adapters add here crack").done();
    assert_eq!(
        place.run("adapters export here crack -o crack.zip").done().stdout,
        "crack.zip: crack v1, 50 kB\n"
    );
    place.run("adapters export here crack -o out/crack").done();
    refuses(&place, "adapters export here crack -o out/crack", 1, &["expected a new or empty folder"]);
    place.run("adapters import there crack.zip").done();
    let answer = place.run("adapters import there out/crack --as crack-2 --disabled").done();
    assert!(answer.stdout.contains("crack v1, crack-2 v1 (disabled)"), "{}", answer.stdout);
    for name in ["crack", "crack-2"] {
        assert_eq!(
            fs::read(place.path(&format!("there/domains/{name}/v1/adapter.safetensors"))).unwrap(),
            fs::read(place.path("crack/adapter.safetensors")).unwrap()
        );
    }
    let zip = fs::read(place.path("crack.zip")).unwrap();
    place.write("cut.zip", &zip[..zip.len() / 2]);
    refuses(&place, "adapters import there cut.zip --as x", 1, &["cut.zip: expected a folder or a zip file"]);
    place.write("out/crack/adapter.safetensors", "other");
    refuses(
        &place,
        "adapters import there out/crack --as x",
        1,
        &["adapter.safetensors is not as its manifest says"],
    );
    refuses(
        &place,
        "adapters import there crack",
        1,
        &["crack: expected an exported domain", "`kirie adapters add`"],
    );
    refuses(&place, "adapters add there out/crack", 1, &["`kirie adapters import` takes it"]);

    let other = fs::read_to_string(place.path("crack/domain.toml")).unwrap().replace("5f70", "0000");
    place.write("crack/domain.toml", other.replace("\"crack\"", "\"other\""));
    refuses(
        &place,
        "adapters add there crack",
        1,
        &[
            "other was made for the base kirie-small (0000bf18a086...)",
            "this registry is of kirie-small (5f70bf18a086...)",
        ],
    );
}

#[test]
fn a_damaged_adapter_is_disabled_and_named() {
    let place = Place::new();
    domain(&place, "a", "a", 0.5);
    domain(&place, "b", "b", 0.6);
    place.run("adapters add adapters a").done();
    place.run("adapters add adapters b").done();
    let answer = place.run("adapters verify adapters --all").done();
    assert_eq!(answer.stdout, "a v1: as it was written\nb v1: as it was written\n");
    let file = "adapters/domains/a/v1/adapter.safetensors";
    let mut bytes = fs::read(place.path(file)).unwrap();
    bytes[30_000] ^= 4;
    place.write(file, &bytes);
    let problem = "adapter.safetensors has another content: SHA-256";
    let before = place.files();
    let answer = place.run("adapters verify adapters --check-only");
    answer.expect(1, &["1 of 2 are damaged: a v1"]);
    assert!(answer.stdout.contains(problem), "{}", answer.stdout);
    assert_eq!(place.files(), before);
    let answer = place.run("adapters verify adapters --json");
    answer.expect(1, &["1 of 2 are damaged: a v1"]);
    let json = answer.json();
    assert_eq!((&json["damaged"], &json["verified"][0]["disabled"]), (&json!(1), &json!(true)));
    let list = place.run("adapters list adapters").done().stdout;
    assert!(list.contains("disabled: adapter.safetensors has ano...") && list.contains("enabled"), "{list}");
    refuses(&place, "adapters enable adapters a", 1, &["a v1 is damaged", problem]);
    refuses(&place, "adapters export adapters a -o a.zip", 1, &["a v1 is damaged"]);
    let answer = place.run("adapters show adapters a");
    answer.expect(1, &["a v1 is damaged"]);
    bytes[30_000] ^= 4;
    place.write(file, &bytes);
    place.run("adapters enable adapters a").done();

    // The list itself.
    let current = fs::read(place.path("adapters/current.json")).unwrap();
    place.write("adapters/current.json", &current[..10]);
    let words = ["the registry is damaged", "`kirie adapters rollback adapters --to-index 4`"];
    refuses(&place, "adapters list adapters", 1, &words);
    refuses(&place, "adapters disable adapters b", 1, &words);
    let answer = place.run("adapters rollback adapters --to-index 4").done();
    assert_eq!(answer.stdout, "index 5, rolled back to index 4: a v1, b v1\n");
}

#[test]
fn what_is_no_domain_or_no_registry() {
    let place = Place::new();
    place.write("empty/note.txt", "x");
    refuses(&place, "adapters add adapters empty", 1, &["expected a folder with a domain.toml"]);
    refuses(&place, "adapters add adapters nowhere", 1, &["expected a folder with a domain.toml"]);
    domain(&place, "good", "good", 0.5);
    refuses(
        &place,
        "adapters add empty good",
        1,
        &["empty: is no registry of adapters, and not empty (note.txt is there)"],
    );
    let toml = fs::read_to_string(place.path("good/domain.toml")).unwrap();
    place.write("good/domain.toml", toml.replace("kind", "sort"));
    refuses(&place, "adapters add adapters good", 1, &["domain.toml, line 2: unknown field `sort`"]);
    place.write("good/domain.toml", toml.replace("\"good\"", "\"../good\""));
    refuses(&place, "adapters add adapters good", 1, &["\"../good\" cannot name a domain"]);
    place.write("good/domain.toml", toml);
    place.run("adapters add adapters good").done();
    for (line, words) in [
        ("disable adapters other", "there is no domain \"other\"; the registry has good"),
        ("show adapters other", "there is no domain \"other\""),
        ("show adapters good --version 3", "good has no version 3; there are v1"),
        ("rollback adapters good", "good has no earlier version than v1"),
        ("rollback adapters --to-index 9", "no index 9"),
        ("export adapters other -o x", "there is no domain"),
        ("report adapters other -o x", "there is no domain"),
    ] {
        refuses(&place, &format!("adapters {line}"), 1, &[words]);
    }
    refuses(&place, "adapters rollback adapters --to-version 1", 2, &["NAME"]);
    refuses(&place, "adapters rollback adapters good --to-index 1", 2, &["cannot be used with"]);
}

#[test]
fn one_process_changes_it_at_a_time() {
    let place = Place::new();
    domain(&place, "a", "a", 0.5);
    place.run("adapters add adapters a").done();
    let held = kirie_moda::registry::Writer::open(place.path("adapters")).unwrap();
    let before = place.files();
    let words = format!("another process (process {}) is changing this registry", std::process::id());
    place.run("adapters disable adapters a").expect(1, &[&words]);
    place.run("adapters list adapters").done();
    assert_eq!(place.files(), before);
    drop(held);
    // Many at once: each is done or told to wait, and the registry is whole.
    let mut children: Vec<_> = (0..6)
        .map(|i| {
            let line = format!("adapters {} adapters a", if i % 2 == 0 { "disable" } else { "enable" });
            place.command(&line).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
        })
        .collect();
    let done = children.iter_mut().map(|child| child.wait().unwrap().success()).filter(|ok| *ok).count();
    let json = place.run("adapters list adapters --json").done().json();
    assert_eq!(json["index"], 1 + done, "a change each");
    place.run("adapters verify adapters").done();
}
