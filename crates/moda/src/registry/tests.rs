mod faults;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use tempfile::TempDir;

use super::*;

const SHA: &str = "5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef";

/// A place with packages to add, and a registry.
struct Place {
    folder: TempDir,
}

impl Place {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn registry(&self) -> Registry {
        Registry::open(self.path("registry")).unwrap()
    }

    fn writer(&self) -> Writer {
        patiently(|| Writer::open(self.path("registry"))).unwrap()
    }

    /// A domain with an adapter whose bytes are told by `seed`.
    fn package(&self, name: &str, seed: u8) -> Package {
        package_in(&self.path(&format!("packages/{name}-{seed}")), name, seed)
    }

    fn add(&self, name: &str, seed: u8) -> Added {
        add(&self.path("registry"), &self.package(name, seed), AddOptions::default()).unwrap()
    }
}

fn package_in(folder: &Path, name: &str, seed: u8) -> Package {
    fs::create_dir_all(folder.join("exemplars")).unwrap();
    let toml = format!(
        "name = \"{name}\"\nkind = \"lora\"\ndescription = \"drawn\"\n[base]\nmodel = \"kirie-small\"\nsha256 = \"{SHA}\"\n\
         [training]\nsteps = {seed}\nplan = {{ lr = 1e-3 }}\n[scores]\niou = 0.{seed}\n[routing.chosen]\n{name} = 9\nbase = 1\n"
    );
    fs::write(folder.join(DESCRIPTION), toml).unwrap();
    let bytes: Vec<u8> = (0..400_000_u32).map(|i| (i.wrapping_mul(u32::from(seed)) >> 3) as u8).collect();
    fs::write(folder.join("adapter.safetensors"), bytes).unwrap();
    fs::write(folder.join("exemplars/000.bin"), [seed; 10]).unwrap();
    Package::new_domain(folder).unwrap()
}

fn add(registry: &Path, package: &Package, options: AddOptions) -> Result<Added, RegistryError> {
    patiently(|| Writer::open_or_create(registry, &package.description.base))?.add(package, options)
}

/// Tries for a second: between the fork and the exec of a child that another test of this process starts, the child has this process's
/// locks too.
fn patiently<T>(mut open: impl FnMut() -> Result<T, RegistryError>) -> Result<T, RegistryError> {
    for _ in 0..100 {
        match open() {
            Err(RegistryError::Locked { .. }) => std::thread::sleep(std::time::Duration::from_millis(10)),
            other => return other,
        }
    }
    open()
}

/// All files below a folder, with hash and time of the last change; but for the lock, which says who was last.
fn files(folder: &Path) -> BTreeMap<PathBuf, (String, SystemTime)> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if !path.ends_with(".lock") {
            let changed = fs::metadata(&path).unwrap().modified().unwrap();
            let content = kirie_run::FileEntry::of("", &fs::read(&path).unwrap());
            found.insert(path, (content.sha256, changed));
        }
    }
    found
}

fn said<T>(result: Result<T, RegistryError>) -> String {
    match result {
        Ok(_) => panic!("it worked"),
        Err(error) => error.to_string(),
    }
}

fn strings(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// Versions in order, `-` before those that are disabled.
fn state(index: &Index) -> String {
    let entries = index.domains.iter().map(|entry| {
        let mark = if entry.enabled { "" } else { "-" };
        format!("{mark}{}{}", entry.name, entry.version)
    });
    entries.collect::<Vec<_>>().join(" ")
}

#[test]
fn what_the_gate_objects_to_changes_nothing() {
    let place = Place::new();
    place.add("crack", 1);
    let before = files(&place.path("registry"));
    let package = place.package("tile", 2);
    let refused = place.writer().add_if(&package, AddOptions::default(), |folder| {
        let payload = fs::read(folder.join("adapter.safetensors")).unwrap();
        assert_eq!(payload, fs::read(place.path("packages/tile-2/adapter.safetensors")).unwrap());
        Err(RegistryError::Refused { name: "tile".to_owned(), reason: "no".to_owned(), added: false })
    });
    assert_eq!(
        said(refused),
        "tile is not put to use: no; --force does so all the same, --disabled adds it without using it"
    );
    assert_eq!(files(&place.path("registry")), before);
    let added = place.writer().add_if(&package, AddOptions::default(), |_| Ok(())).unwrap();
    assert_eq!(state(&added.index), "crack1 tile1");
}

#[test]
fn adding_changes_no_byte_of_the_others() {
    let place = Place::new();
    assert!(matches!(Registry::open(place.path("registry")), Err(RegistryError::None { .. })));
    let added = place.add("crack", 1);
    assert_eq!((added.manifest.version, added.index.number), (1, 1));
    for seed in 2..9 {
        place.add(&format!("d{seed}"), seed);
    }
    let before = files(&place.path("registry"));
    let index = place.add("ninth", 9).index;
    assert_eq!(state(&index), "crack1 d21 d31 d41 d51 d61 d71 d81 ninth1");
    let after = files(&place.path("registry"));
    let current = place.path("registry/current.json");
    for (path, content) in before.iter().filter(|(path, _)| **path != current) {
        assert_eq!(after.get(path), Some(content), "{}", path.display());
    }
    let new: Vec<_> = after.keys().filter(|path| !before.contains_key(*path)).collect();
    let ends = [
        "ninth/v1/adapter.safetensors",
        "ninth/v1/exemplars/000.bin",
        "ninth/v1/manifest.json",
        "indexes/000009.json",
    ];
    assert_eq!(new.iter().filter(|path| ends.iter().any(|end| path.ends_with(end))).count(), 4);
    assert_eq!(new.len(), 4);

    let live = place.registry().live().unwrap();
    assert_eq!((live.domains.len(), live.damaged.len(), &live.index), (9, 0, &index));
    let crack = &live.domains[0];
    assert_eq!(crack.manifest, added.manifest);
    let package = place.path("packages/crack-1/adapter.safetensors");
    assert_eq!(
        fs::read(crack.folder.join("adapter.safetensors")).unwrap(),
        fs::read(package).unwrap(),
        "the payload"
    );
    assert_eq!(crack.manifest.routing.accuracy("crack"), Some(0.9));
    assert_eq!(crack.manifest.training["plan"]["lr"], 1e-3);
}

#[test]
fn what_cannot_be_added() {
    let place = Place::new();
    place.add("crack", 1);
    let before = files(&place.path("registry"));
    let registry = place.path("registry");
    let refused = |package: &Package, options| said(add(&registry, package, options));
    let none = AddOptions::default();
    let new_version = AddOptions { new_version: true, disabled: false };

    let error = refused(&place.package("crack", 2), none);
    assert!(error.contains("a domain crack already (v1)") && error.contains("--new-version"), "{error}");
    // Some file systems see no difference.
    assert!(refused(&place.package("Crack", 2), none).contains("a domain crack already"));
    assert!(refused(&place.package("Crack", 3), new_version).contains("a domain crack already"));
    let mut other = place.package("other", 3);
    other.description.base.sha256 = "00".repeat(32);
    let error = refused(&other, none);
    assert!(error.contains("other was made for the base kirie-small (000000000000...)"), "{error}");
    assert!(error.contains("this registry is of kirie-small (5f70bf18a086...)"), "{error}");
    let mut bad = place.package("other", 4);
    for name in ["../up", "", ".hidden", "a b", "base", "a/b", &"x".repeat(101)] {
        bad.set_name(name);
        assert!(refused(&bad, none).contains("cannot name a domain"), "{name}");
    }
    // Gone between the look and the copy.
    let gone = place.package("gone", 5);
    fs::remove_file(place.path("packages/gone-5/exemplars/000.bin")).unwrap();
    assert!(refused(&gone, none).contains("000.bin: cannot be read"));
    assert_eq!(files(&registry), before);

    let folder = place.path("packages/x");
    fs::create_dir_all(&folder).unwrap();
    let read = || said(Package::new_domain(&folder));
    assert!(read().contains("expected a folder with a domain.toml"), "{}", read());
    let good = fs::read_to_string(place.path("packages/crack-1/domain.toml")).unwrap();
    fs::write(folder.join("domain.toml"), &good).unwrap();
    assert!(read().contains("no files beside its domain.toml"), "{}", read());
    fs::write(folder.join("adapter"), "x").unwrap();
    for (from, to, message) in [
        ("iou = 0.1", "iou = nan", "scores.iou is NaN"),
        ("kind = \"lora\"", "kind = \"\"", "kind is empty"),
        ("kind", "kinds", "domain.toml, line 2: unknown field `kinds`"),
        ("sha256 = \"", "sha256 = \"\" # ", "base.sha256 is empty"),
    ] {
        fs::write(folder.join("domain.toml"), good.replacen(from, to, 1)).unwrap();
        assert!(read().contains(message), "{message}: {}", read());
    }
    fs::write(folder.join("domain.toml"), &good).unwrap();
    fs::write(folder.join("a name"), "x").unwrap();
    assert!(read().contains("\"a name\" cannot name a file"), "{}", read());
    #[cfg(unix)]
    {
        fs::remove_file(folder.join("a name")).unwrap();
        std::os::unix::fs::symlink("/etc/hostname", folder.join("link")).unwrap();
        assert!(read().contains("is a link"), "{}", read());
    }

    let occupied = place.path("packages");
    assert!(said(add(&occupied, &place.package("a", 1), none)).contains("is no registry of adapters"));
}

#[test]
fn a_description_reads_back() {
    let place = Place::new();
    let description = place.package("crack", 1).description;
    let path = place.path("again.toml");
    description.write(&path).unwrap();
    assert_eq!(Description::read(&path).unwrap(), description);
    let bad = Description { name: "no/name".to_owned(), ..description };
    assert!(said(bad.write(&path)).contains("cannot name a domain"));
}

#[test]
fn disabled_enabled_ordered_removed() {
    let place = Place::new();
    for (name, seed) in [("a", 1), ("b", 2), ("c", 3)] {
        place.add(name, seed);
    }
    let writer = place.writer();
    let index = writer.disable(&strings(&["c", "a"]), Some("new lamps")).unwrap();
    assert_eq!((state(&index).as_str(), index.change.as_str()), ("-a1 b1 -c1", "disabled c, a: new lamps"));
    assert_eq!(place.registry().live().unwrap().domains.len(), 1);
    assert_eq!(state(&writer.enable(&strings(&["a"])).unwrap()), "a1 b1 -c1");
    assert_eq!(state(&writer.reorder(&strings(&["c", "a", "b"])).unwrap()), "-c1 a1 b1");
    for (order, message) in [
        (&["c", "a"][..], "b is missing"),
        (&["c", "a", "b", "d"], "d is no domain"),
        (&["c", "a", "c", "b"], "c is named twice"),
    ] {
        assert!(said(writer.reorder(&strings(order))).contains(message));
    }
    // All or none.
    let error = said(writer.disable(&strings(&["a", "x"]), None));
    assert!(error.contains("there is no domain \"x\"; the registry has c, a, b"), "{error}");
    assert_eq!(state(&place.registry().current().unwrap()), "-c1 a1 b1");
    assert_eq!(state(&writer.remove(&strings(&["c"])).unwrap()), "a1 b1");
    drop(writer);
    let added = add(
        &place.path("registry"),
        &place.package("d", 4),
        AddOptions { disabled: true, ..AddOptions::default() },
    );
    assert_eq!(state(&added.unwrap().index), "a1 b1 -d1");
    let history: Vec<u64> = place.registry().history().unwrap().iter().map(|index| index.number).collect();
    assert_eq!(history, [0, 1, 2, 3, 4, 5, 6, 7, 8]);
}

#[test]
fn versions_and_indexes_are_rolled_back_to() {
    let place = Place::new();
    place.add("a", 1);
    place.add("b", 2);
    let new_version = AddOptions { new_version: true, disabled: false };
    let registry = place.path("registry");
    let added = add(&registry, &place.package("a", 3), new_version).unwrap();
    assert_eq!((state(&added.index).as_str(), added.manifest.scores["iou"]), ("a2 b1", 0.3));
    add(&registry, &place.package("a", 4), new_version).unwrap();
    let writer = place.writer();
    let index = writer.roll_back("a", None).unwrap();
    assert_eq!(
        (state(&index).as_str(), index.change.as_str()),
        ("a2 b1", "rolled a back from v3 to v2"),
        "the one before"
    );
    assert_eq!(state(&writer.roll_back("a", Some(1)).unwrap()), "a1 b1");
    let live = place.registry().live().unwrap();
    assert_eq!(live.domains[0].manifest.scores["iou"], 0.1);
    assert!(said(writer.roll_back("a", Some(7))).contains("a has no version 7; there are v1, v2, v3"));
    assert!(said(writer.roll_back("b", None)).contains("b has no earlier version than v1"));
    assert!(said(writer.roll_back("x", None)).contains("no domain"));

    let index = writer.roll_back_to(Some(2)).unwrap();
    assert_eq!((index.number, state(&index).as_str()), (7, "a1 b1"));
    assert_eq!(state(&writer.roll_back_to(Some(4)).unwrap()), "a3 b1");
    // The last change undone, and that undone again.
    assert_eq!(state(&writer.roll_back_to(None).unwrap()), "a1 b1");
    assert_eq!(state(&writer.roll_back_to(None).unwrap()), "a3 b1");
    assert!(said(writer.roll_back_to(Some(99))).contains("no index 99"));

    // A version that is no longer as it was written is no way back.
    fs::write(place.path("registry/domains/a/v1/adapter.safetensors"), "x").unwrap();
    assert!(
        said(writer.roll_back("a", Some(1))).contains("a v1 is damaged: adapter.safetensors has 1 bytes")
    );
    assert!(said(writer.roll_back_to(Some(2))).contains("a v1 is damaged"));
    assert_eq!(state(&place.registry().current().unwrap()), "a3 b1");
}

#[test]
fn a_damaged_domain_is_named_and_the_rest_goes_on() {
    let place = Place::new();
    for (name, seed) in [("a", 1), ("b", 2), ("c", 3)] {
        place.add(name, seed);
    }
    let folder = place.path("registry/domains/b/v1");
    let flipped = |path: &Path| {
        let mut bytes = fs::read(path).unwrap();
        bytes[1000] ^= 1;
        bytes
    };
    let adapter = folder.join("adapter.safetensors");
    let manifest = folder.join(MANIFEST);
    let shorter = |path: &Path, length: usize| fs::read(path).unwrap()[..length].to_vec();
    let damages: [(&Path, Option<Vec<u8>>, &str); 6] = [
        (&adapter, Some(flipped(&adapter)), "adapter.safetensors has another content: SHA-256"),
        (&adapter, Some(shorter(&adapter, 399_999)), "adapter.safetensors has 399999 bytes, expected 400000"),
        (&adapter, Some(Vec::new()), "adapter.safetensors has 0 bytes"),
        (&adapter, None, "adapter.safetensors cannot be read"),
        (&manifest, Some(shorter(&manifest, 100)), "manifest.json has 100 bytes"),
        (&manifest, None, "manifest.json cannot be read"),
    ];
    for (path, content, message) in damages {
        let good = fs::read(path).unwrap();
        match content {
            Some(content) => fs::write(path, content).unwrap(),
            None => fs::remove_file(path).unwrap(),
        }
        // Who answers pictures goes on without it.
        let live = place.registry().live().unwrap();
        let names: Vec<_> = live.domains.iter().map(|domain| domain.manifest.name.as_str()).collect();
        assert_eq!(names, ["a", "c"]);
        assert_eq!(live.damaged.len(), 1);
        assert!(live.damaged[0].0 == "b" && live.damaged[0].1.contains(message), "{}", live.damaged[0].1);
        // Looking changes nothing; the writer takes it out of the routing.
        let looked = place.registry().verified(false).unwrap();
        assert_eq!(looked.iter().filter(|found| found.problem.is_some()).count(), 1);
        assert_eq!(state(&place.registry().current().unwrap()), "a1 b1 c1");
        let found = place.writer().verify(false).unwrap();
        let b = found.iter().find(|found| found.name == "b").unwrap();
        assert!(b.disabled && b.problem.as_ref().unwrap().contains(message), "{b:?}");
        let index = place.registry().current().unwrap();
        assert_eq!(state(&index), "a1 -b1 c1");
        assert!(index.entry("b").unwrap().reason.as_ref().unwrap().contains(message));
        assert!(said(place.writer().enable(&strings(&["b"]))).contains("b v1 is damaged"));
        assert!(
            said(place.registry().export(index.entry("b").unwrap(), &place.path("out"))).contains("damaged")
        );
        // The pages say so, and are there.
        let page = domain_page(&place.registry(), "b").unwrap().html();
        assert!(page.contains("Damaged: b v1 is damaged"), "{page}");
        assert!(registry_page(&place.registry()).unwrap().html().contains("b v1 is damaged"));

        // Mended, it can be enabled; once more there is nothing to change.
        fs::write(path, &good).unwrap();
        let number = place.writer().enable(&strings(&["b"])).unwrap().number;
        assert!(place.writer().verify(true).unwrap().iter().all(|found| found.problem.is_none()));
        assert_eq!(place.registry().current().unwrap().number, number);
    }
}

#[test]
fn a_damaged_index_is_told_with_the_way_back() {
    let place = Place::new();
    place.add("a", 1);
    place.add("b", 2);
    let registry = place.path("registry");
    let read = |name: &str| fs::read(registry.join(name)).unwrap();
    let (current, index) = (read("current.json"), read("indexes/000002.json"));
    let damages: [(&str, &[u8], &str); 4] = [
        ("current.json", &current[..20], "current.json: EOF"),
        ("current.json", b"", "current.json: EOF"),
        ("indexes/000002.json", &index[..50], "indexes/000002.json has 50 bytes"),
        ("indexes/000002.json", b"", "indexes/000002.json has 0 bytes"),
    ];
    for (name, content, message) in damages {
        fs::write(registry.join(name), content).unwrap();
        let error = said(place.registry().current());
        assert!(error.contains("the registry is damaged") && error.contains(message), "{error}");
        let newest = if name == "current.json" { 2 } else { 1 };
        assert!(error.contains(&format!("--to-index {newest}` goes back")), "{error}");
        // Nothing is added to it, and no new one is begun over it.
        assert!(
            said(add(&registry, &place.package("c", 3), AddOptions::default()))
                .contains("the registry is damaged")
        );
        fs::write(registry.join("current.json"), &current).unwrap();
        fs::write(registry.join("indexes/000002.json"), &index).unwrap();
    }
    fs::remove_file(registry.join("current.json")).unwrap();
    assert!(said(place.registry().current()).contains("current.json is missing"));
    assert!(said(place.writer().roll_back_to(None)).contains("--to-index 2"));
    let index = place.writer().roll_back_to(Some(2)).unwrap();
    assert_eq!((index.number, state(&index).as_str()), (3, "a1 b1"));
    assert_eq!(place.registry().current().unwrap(), index);

    // What names could lead out of the folder, were they believed.
    let text = String::from_utf8(read("indexes/000003.json")).unwrap();
    fs::write(registry.join("indexes/000002.json"), text.replace("\"a\"", "\"../a\"")).unwrap();
    assert!(said(place.registry().index(2)).contains("cannot name a domain"));
}

#[test]
fn one_writer_at_a_time() {
    let place = Place::new();
    place.add("a", 1);
    let writer = place.writer();
    let error = said(Writer::open(place.path("registry")));
    let holder = format!("another process (process {}) is changing this registry", std::process::id());
    assert!(error.contains(&holder), "{error}");
    assert!(
        said(add(&place.path("registry"), &place.package("b", 2), AddOptions::default())).contains(&holder)
    );
    // Readers are not in the way, nor is the writer in theirs.
    assert_eq!(place.registry().live().unwrap().domains.len(), 1);
    drop(writer);
    place.add("b", 2);
}

#[test]
fn exported_and_imported() {
    let place = Place::new();
    let manifest = place.add("a", 1).manifest;
    let entry = place.registry().current().unwrap().domains.remove(0);
    let other = place.path("other");
    for (i, out) in ["out", "out.zip"].into_iter().enumerate() {
        let out = place.path(out);
        assert_eq!(place.registry().export(&entry, &out).unwrap(), manifest);
        let mut package = Package::exported(&out).unwrap();
        let name = ["a", "a-again"][i];
        package.set_name(name);
        let added = add(&other, &package, AddOptions::default()).unwrap();
        assert_eq!((added.manifest.name.as_str(), added.manifest.version), (name, 1));
        assert_eq!((&added.manifest.files, &added.manifest.created), (&manifest.files, &manifest.created));
        assert!(said(add(&other, &package, AddOptions::default())).contains("already"));
    }
    assert_eq!(Registry::open(&other).unwrap().live().unwrap().domains.len(), 2);
    let zip = fs::read(place.path("out.zip")).unwrap();
    place.registry().export(&entry, &place.path("again.zip")).unwrap();
    assert_eq!(fs::read(place.path("again.zip")).unwrap(), zip, "the same again");
    let error = said(place.registry().export(&entry, &place.path("out")));
    assert!(error.contains("expected a new or empty folder"), "{error}");

    // Whatever is wrong with it, nothing comes into the registry.
    let before = files(&other);
    let refused = |path: &Path| match Package::exported(path) {
        Err(error) => error.to_string(),
        Ok(mut package) => {
            package.set_name("new");
            said(add(&other, &package, AddOptions::default()))
        }
    };
    let adapter = place.path("out/adapter.safetensors");
    let good = fs::read(&adapter).unwrap();
    for (content, message) in [
        (&good[..5000], "adapter.safetensors is not as its manifest says: 5000 bytes"),
        (
            &[&good[..399_999], b"x"].concat()[..],
            "adapter.safetensors is not as its manifest says: 400000 bytes",
        ),
        (
            &[&good[..], &good[..]].concat()[..],
            "adapter.safetensors is not as its manifest says: 400001 bytes",
        ),
    ] {
        fs::write(&adapter, content).unwrap();
        assert!(refused(&place.path("out")).contains(message), "{}", refused(&place.path("out")));
    }
    fs::write(&adapter, &good).unwrap();
    for length in (0..zip.len()).step_by(zip.len() / 40) {
        fs::write(place.path("cut.zip"), &zip[..length]).unwrap();
        assert!(refused(&place.path("cut.zip")).contains("cut.zip: "), "cut at {length}");
        let mut flipped = zip.clone();
        flipped[length] ^= 0x10;
        fs::write(place.path("flipped.zip"), &flipped).unwrap();
        // Some bytes of a zip file mean nothing; then what comes in is as it was written.
        if let Ok(mut package) = Package::exported(&place.path("flipped.zip")) {
            let name = format!("flipped-{length}");
            package.set_name(&name);
            if let Ok(added) = add(&place.path("third"), &package, AddOptions::default()) {
                assert_eq!(added.manifest.files, manifest.files, "flipped at {length}");
            }
        }
    }
    assert!(refused(&place.path("packages/a-1")).contains("`kirie adapters add` takes a new one"));
    assert!(refused(&place.path("nowhere")).contains("nowhere: cannot be read"));
    let manifest = fs::read_to_string(place.path("out/manifest.json")).unwrap();
    for name in ["../../a", "/etc/passwd", "a/../../b", "manifest.json"] {
        fs::write(
            place.path("out/manifest.json"),
            manifest.replace("\"adapter.safetensors\"", &format!("\"{name}\"")),
        )
        .unwrap();
        assert!(refused(&place.path("out")).contains("cannot name a file"), "{name}");
    }
    assert_eq!(files(&other), before);
}

#[test]
fn only_what_no_index_names_is_collected() {
    let place = Place::new();
    let registry = place.path("registry");
    place.add("a", 1);
    add(&registry, &place.package("a", 2), AddOptions { new_version: true, disabled: false }).unwrap();
    place.add("b", 3);
    place.writer().remove(&strings(&["b"])).unwrap();
    assert_eq!(place.writer().collect(None).unwrap().removed, [] as [String; 0]);

    // As killed processes leave them.
    fs::create_dir_all(registry.join(".unfinished-c-v1")).unwrap();
    fs::write(registry.join(".unfinished-c-v1/adapter"), "12345").unwrap();
    fs::create_dir_all(registry.join("domains/c/v1")).unwrap();
    fs::write(registry.join("domains/c/v1/adapter"), "12345").unwrap();
    fs::write(registry.join("indexes/000005.json"), "123").unwrap();
    let collected = place.writer().collect(None).unwrap();
    assert_eq!(
        (collected.removed, collected.bytes),
        (strings(&[".unfinished-c-v1", "indexes/000005.json", "domains/c/v1"]), 13)
    );
    assert!(!registry.join("domains/c").exists());
    assert_eq!(place.writer().roll_back_to(Some(3)).unwrap().number, 5);

    place.writer().remove(&strings(&["b"])).unwrap();
    let mut removed = place.writer().collect(Some(1)).unwrap().removed;
    removed.sort();
    assert_eq!(removed.len(), 6 + 2);
    assert_eq!(removed[..2], ["domains/a/v1", "domains/b/v1"]);
    let left = place.registry();
    assert_eq!((left.history().unwrap().len(), left.versions("a").unwrap()), (1, vec![2]));
    assert_eq!(left.live().unwrap().domains.len(), 1);
    assert!(said(place.writer().roll_back_to(None)).contains("the oldest that is kept"));
    assert!(said(place.writer().roll_back_to(Some(2))).contains("there is no index 2"));
}

/// Says so when it goes.
struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn readers_see_before_or_after() {
    let place = Place::new();
    for (name, seed) in [("a", 1), ("b", 2)] {
        place.add(name, seed);
    }
    let done = AtomicBool::new(false);
    let seen: Vec<usize> = std::thread::scope(|scope| {
        let readers: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let (mut seen, mut last) = (0, 0);
                    while !done.load(Ordering::Relaxed) {
                        let live = place.registry().live().unwrap();
                        assert!(live.damaged.is_empty(), "{:?}", live.damaged);
                        assert!(live.index.number >= last, "time goes on");
                        // Both are changed at once.
                        let enabled = live.domains.iter().filter(|d| "ab".contains(&d.manifest.name));
                        assert!(matches!(enabled.count(), 0 | 2), "{}", state(&live.index));
                        seen += usize::from(live.index.number > last);
                        last = live.index.number;
                    }
                    seen
                })
            })
            .collect();
        // The readers end also where this panics.
        let writing = Done(&done);
        let both = strings(&["a", "b"]);
        for round in 0..12_u8 {
            place.writer().disable(&both, None).unwrap();
            let options = AddOptions { new_version: round > 0, disabled: false };
            add(&place.path("registry"), &place.package("c", 10 + round), options).unwrap();
            place.writer().enable(&both).unwrap();
            place.writer().collect(Some(2)).unwrap();
        }
        drop(writing);
        readers.into_iter().map(|reader| reader.join().unwrap()).collect()
    });
    assert!(seen.iter().all(|seen| *seen > 3), "the readers saw {seen:?} states");
}

#[test]
fn pages_show_what_is_known() {
    let place = Place::new();
    let folder = place.path("packages/pictures");
    package_in(&folder, "crack", 5);
    fs::create_dir_all(folder.join("thumbnails")).unwrap();
    let picture = kirie_data::Image::from_raw(8, 6, vec![90; 8 * 6 * 3]).unwrap();
    kirie_data::write::write_picture(folder.join("thumbnails/first.png"), &picture).unwrap();
    let package = Package::new_domain(&folder).unwrap();
    add(&place.path("registry"), &package, AddOptions::default()).unwrap();
    let new_version = AddOptions { new_version: true, disabled: false };
    add(&place.path("registry"), &place.package("crack", 6), new_version).unwrap();
    let writer = place.writer();
    let page = domain_page(&place.registry(), "crack").unwrap().html();
    assert!(!page.contains("<img"), "version 2 has no pictures");
    writer.roll_back("crack", None).unwrap();
    let page = domain_page(&place.registry(), "crack").unwrap().html();
    for text in [
        "Domain crack, version 1",
        "<dt>state</dt><dd>enabled</dd>",
        "<dt>routed right</dt><dd>90.0 %</dd>",
        "<dt>left to the base model</dt><dd>10.0 %</dd>",
        "<dt>plan.lr</dt><dd>0.001</dd>",
        "<td>iou</td>",
        "0.5000",
        "data:image/jpeg;base64,",
        "thumbnails/first.png",
        "iou 0.6000",
        "400 kB",
    ] {
        assert!(page.contains(text), "lacks {text}: {page}");
    }
    let page = registry_page(&place.registry()).unwrap().html();
    for text in ["rolled crack back from v2 to v1", "90.0 %", "Where pictures went", "kirie-small"] {
        assert!(page.contains(text), "lacks {text}: {page}");
    }
    assert!(said(domain_page(&place.registry(), "x")).contains("no domain"));
}
