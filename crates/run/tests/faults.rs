//! What a run's files go through: kills, full disks, rotten bits, a second process, signals.
//!
//! Where another process is needed, this test program starts itself: `child` below is a test that does nothing unless
//! an environment variable says what to do.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test may fail anywhere, and tell what it skips"
)]

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, BufRead, BufReader, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread;
use std::time::Duration;

use kirie_run::{Checkpoints, Part, RunError, RunFolder, Stop};

const TASK: &str = "KIRIE_RUN_TEST_TASK";
const PLACE: &str = "KIRIE_RUN_TEST_PLACE";

/// The content of a part at a step: any mix-up of steps or parts shows.
fn content(step: u64, part: u64, size: usize) -> Vec<u8> {
    let mut state = step * 1000 + part + 1;
    let mut next = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 56) as u8
    };
    (0..size).map(|_| next()).collect()
}

fn save(checkpoints: &Checkpoints, step: u64, size: usize) -> Result<PathBuf, RunError> {
    let (weights, optimiser) = (content(step, 0, size), content(step, 1, size / 2));
    let mut write_weights = |w: &mut dyn Write| weights.chunks(4096).try_for_each(|part| w.write_all(part));
    let mut write_optimiser = |w: &mut dyn Write| w.write_all(&optimiser);
    checkpoints.save(
        step,
        &mut [
            Part { name: "model.safetensors", write: &mut write_weights },
            Part { name: "optimiser.bin", write: &mut write_optimiser },
        ],
    )
}

/// The step of the latest checkpoint, whose content must be that of the step.
fn latest_step(checkpoints: &Checkpoints, size: usize) -> Option<u64> {
    let checkpoint = checkpoints.latest().unwrap()?;
    let step = checkpoint.step;
    assert_eq!(checkpoint.read("model.safetensors").unwrap(), content(step, 0, size));
    assert_eq!(checkpoint.read("optimiser.bin").unwrap(), content(step, 1, size / 2));
    Some(step)
}

fn names(folder: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(folder).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn start(task: &str, place: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["child", "--exact", "--nocapture"])
        .env(TASK, task)
        .env(PLACE, place)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap()
}

/// Waits for the child to say this; the test harness prints lines of its own around it. What it gives back keeps the
/// child from writing to nobody.
fn wait_for(child: &mut Child, said: &str) -> BufReader<ChildStdout> {
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut seen = String::new();
    while !seen.contains(said) {
        assert!(output.read_line(&mut seen).unwrap() > 0, "the child never said {said:?}, but {seen:?}");
    }
    output
}

#[cfg(unix)]
fn signal(child: &Child, name: &str) {
    let status = Command::new("kill").args(["-s", name, &child.id().to_string()]).status().unwrap();
    assert!(status.success());
}

#[test]
fn child() {
    let Ok(task) = std::env::var(TASK) else { return };
    let place = PathBuf::from(std::env::var(PLACE).unwrap());
    match task.as_str() {
        "save" => {
            let folder = RunFolder::open(&place).unwrap();
            let checkpoints = folder.checkpoints();
            println!("saving");
            let first = checkpoints.latest().unwrap().map_or(1, |last| last.step + 1);
            for step in first.. {
                save(&checkpoints, step, KILL_SIZE).unwrap();
                checkpoints.mark_best(step - step % 5).ok();
                checkpoints.prune(2).unwrap();
            }
        }
        "hold" => {
            let _folder = RunFolder::open(&place).unwrap();
            println!("holding");
            thread::sleep(Duration::from_mins(1));
        }
        "signals" => {
            let stop = Stop::install().unwrap();
            println!("installed");
            while !stop.requested() {
                thread::sleep(Duration::from_millis(5));
            }
            println!("requested");
            fs::write(place.join("saw it"), "").unwrap();
            if place.join("linger").exists() {
                thread::sleep(Duration::from_mins(1));
            }
        }
        "fill" => fill_the_disk(&place),
        other => panic!("unknown task {other}"),
    }
}

const KILL_SIZE: usize = 300_000;

#[test]
fn killed_at_any_moment_the_latest_checkpoint_is_intact() {
    let place = tempfile::tempdir().unwrap();
    RunFolder::create(place.path()).unwrap().write_config("").unwrap();
    let checkpoints = Checkpoints::at(place.path().join("checkpoints"));
    let (mut last, mut in_the_middle) = (None, 0);
    // Not truly random, so that a failure comes again; what happens at each moment differs all the same.
    let moments = content(7, 7, 30);
    for moment in moments {
        let mut child = start("save", place.path());
        let _output = wait_for(&mut child, "saving");
        thread::sleep(Duration::from_micros(400 * u64::from(moment)));
        child.kill().unwrap();
        child.wait().unwrap();
        let step = latest_step(&checkpoints, KILL_SIZE);
        assert!(step >= last, "went back from {last:?} to {step:?}");
        last = step;
        in_the_middle += leftovers(place.path());
    }
    println!("30 kills, {in_the_middle} in the middle of a save, up to step {last:?}");
    assert!(last > Some(5), "the children never came to save");
    assert!(in_the_middle > 0, "no kill hit a save");

    // The next save clears away what the last kill left.
    save(&checkpoints, 100_000, KILL_SIZE).unwrap();
    assert_eq!(leftovers(place.path()), 0);
}

/// How many unfinished checkpoints a run folder holds.
fn leftovers(run: &Path) -> usize {
    let unfinished = |name: &String| name.starts_with("step-") && name.strip_suffix(".tmp").is_some();
    let checkpoints = run.join("checkpoints");
    if checkpoints.exists() { names(&checkpoints).iter().filter(|name| unfinished(name)).count() } else { 0 }
}

#[test]
fn a_failing_writer_leaves_everything_as_it_was() {
    let place = tempfile::tempdir().unwrap();
    let checkpoints = Checkpoints::at(place.path());
    save(&checkpoints, 10, 2_000_000).unwrap();
    let before = names(place.path());
    let mut fine = |w: &mut dyn Write| w.write_all(&vec![1; 1_500_000]);
    let mut full = |w: &mut dyn Write| {
        w.write_all(&vec![2; 1_200_000])?;
        Err(ErrorKind::StorageFull.into())
    };
    let parts = &mut [Part { name: "a", write: &mut fine }, Part { name: "b", write: &mut full }];
    let error = checkpoints.save(20, parts).unwrap_err().to_string();
    assert!(error.contains("step-20.tmp/b: the checkpoint cannot be saved: "), "{error}");
    assert!(error.contains("about 3000 kB; earlier checkpoints are untouched"), "{error}");
    assert_eq!(names(place.path()), before);
    assert_eq!(fs::read_to_string(place.path().join("latest")).unwrap(), "step-10\n");
    assert_eq!(latest_step(&checkpoints, 2_000_000), Some(10));

    let mut other = |_: &mut dyn Write| Err(io::Error::other("the model is on fire"));
    let error = checkpoints.save(20, &mut [Part { name: "a", write: &mut other }]).unwrap_err().to_string();
    assert!(error.ends_with("cannot be saved: the model is on fire"), "{error}");
    assert_eq!(names(place.path()), before);
}

#[test]
#[cfg(target_os = "linux")]
fn a_full_disk_leaves_the_previous_checkpoint_usable() {
    let place = tempfile::tempdir().unwrap();
    // A file system of 1 MB in a name space of its own: needs no rights on most systems.
    let mount = "mount -t tmpfs -o size=1m none \"$1\" || { echo skipped: no mount; exit 0; }; exec \"$2\" child --exact --nocapture";
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-c", mount, "sh"])
        .args([place.path(), std::env::current_exe().unwrap().as_path()])
        .env(TASK, "fill")
        .env(PLACE, place.path())
        .output();
    let Ok(output) = output else {
        println!("skipped: there is no unshare");
        return;
    };
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    if said.contains("skipped: no mount") || said.contains("unshare:") {
        println!("skipped: no file system of our own can be mounted: {said}");
        return;
    }
    assert!(output.status.success() && said.contains("the disk was full"), "{said}");
}

/// Runs in a file system of 1 MB.
fn fill_the_disk(place: &Path) {
    let checkpoints = Checkpoints::at(place.join("checkpoints"));
    let mut log = kirie_run::Log::open(place.join("log.jsonl"), None).unwrap();
    save(&checkpoints, 1, 200_000).unwrap();
    save(&checkpoints, 2, 200_000).unwrap();
    let before = names(&place.join("checkpoints"));
    for size in [300_000, 500_000, 2_000_000] {
        let error = save(&checkpoints, 3, size).unwrap_err();
        assert!(matches!(&error, RunError::Save { source, .. } if source.kind() == ErrorKind::StorageFull));
        let error = error.to_string();
        assert!(error.contains("No space left") && error.contains("of about 300 kB"), "{error}");
        assert_eq!(names(&place.join("checkpoints")), before);
        assert_eq!(latest_step(&checkpoints, 200_000), Some(2));
    }
    // The log: half a line must not stay, and with room again it goes on.
    let filler = place.join("filler");
    let mut steps = 0;
    fs::write(&filler, vec![0; 100_000]).unwrap();
    let note = "x".repeat(3000);
    while log.write(steps, &serde_json::json!({ "note": note })).is_ok() {
        steps += 1;
    }
    assert!(steps > 10 && log.write(steps, &serde_json::json!({ "note": note })).is_err());
    fs::remove_file(&filler).unwrap();
    log.write(steps, &serde_json::json!({ "note": note })).unwrap();
    assert_eq!(kirie_run::log::read(place.join("log.jsonl")).unwrap().len() as u64, steps + 1);

    checkpoints.prune(1).unwrap();
    save(&checkpoints, 3, 200_000).unwrap();
    assert_eq!(latest_step(&checkpoints, 200_000), Some(3));
    println!("the disk was full");
}

#[test]
fn damaged_checkpoints_are_passed_over_with_the_reason() {
    let place = tempfile::tempdir().unwrap();
    let checkpoints = Checkpoints::at(place.path());
    assert!(checkpoints.latest().unwrap().is_none());
    for step in 1..=8 {
        save(&checkpoints, step, 10_000).unwrap();
    }
    let file = |step: u64, name: &str| place.path().join(format!("step-{step}/{name}"));
    let change = |path: PathBuf, change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = fs::read(&path).unwrap();
        change(&mut bytes);
        fs::write(path, bytes).unwrap();
    };
    change(file(8, "model.safetensors"), &|bytes| bytes.truncate(9_999));
    change(file(7, "optimiser.bin"), &|bytes| bytes[4321] ^= 0x10);
    fs::remove_file(file(6, "optimiser.bin")).unwrap();
    fs::remove_file(file(5, "manifest.json")).unwrap();
    change(file(4, "manifest.json"), &|bytes| bytes.truncate(100));
    change(file(3, "manifest.json"), &|bytes| {
        *bytes = String::from_utf8_lossy(bytes).replace("\"step\": 3", "\"step\": 2").into_bytes();
    });
    fs::write(place.path().join("latest"), "step-9\n").unwrap();

    let latest = checkpoints.latest().unwrap().unwrap();
    assert_eq!(latest.step, 2);
    let expected = [
        ("step-9", "is missing, although `latest` names it"),
        ("step-8", "model.safetensors has 9999 bytes, expected 10000"),
        ("step-7", "optimiser.bin has another content: SHA-256 "),
        ("step-6", "optimiser.bin cannot be read: "),
        ("step-5", "manifest.json cannot be read: "),
        ("step-4", "manifest.json is damaged: "),
        ("step-3", "manifest.json is that of step 2"),
    ];
    assert_eq!(latest.skipped.len(), expected.len());
    for ((path, reason), (name, begin)) in latest.skipped.iter().zip(expected) {
        assert!(path.ends_with(name) && reason.starts_with(begin), "{}: {reason}", path.display());
    }

    let manifest = fs::read_to_string(file(1, "manifest.json")).unwrap();
    fs::write(file(1, "manifest.json"), manifest.replace("optimiser.bin", "../latest")).unwrap();
    let error = checkpoints.open(1).unwrap_err().to_string();
    assert!(error.contains("manifest.json names \"../latest\""), "{error}");

    // Every single bit of a manifest matters, or does no harm.
    let manifest = manifest.into_bytes();
    for bit in 0..manifest.len() * 8 {
        let mut flipped = manifest.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        fs::write(file(1, "manifest.json"), flipped).unwrap();
        if let Ok(checkpoint) = checkpoints.open(1) {
            assert_eq!(checkpoint.read("model.safetensors").unwrap(), content(1, 0, 10_000));
        }
    }

    change(file(2, "model.safetensors"), &|bytes| bytes.push(0));
    let error = checkpoints.latest().unwrap_err().to_string();
    assert!(error.contains("none of the checkpoints is intact:\n"), "{error}");
    assert!(error.contains("step-2: model.safetensors has 10001 bytes, expected 10000"), "{error}");

    // Coming by again, the run replaces what was damaged.
    save(&checkpoints, 8, 10_000).unwrap();
    assert_eq!(latest_step(&checkpoints, 10_000), Some(8));
}

#[test]
fn the_last_and_the_best_are_kept() {
    let place = tempfile::tempdir().unwrap();
    let checkpoints = Checkpoints::at(place.path().join("checkpoints"));
    checkpoints.prune(3).unwrap();
    assert!(checkpoints.best().unwrap().is_none());
    assert!(
        checkpoints
            .mark_best(3)
            .unwrap_err()
            .to_string()
            .contains("step-3: the checkpoint is damaged: is missing")
    );
    for step in [100, 200, 900, 1000, 1100] {
        save(&checkpoints, step, 100).unwrap();
    }
    checkpoints.mark_best(200).unwrap();
    fs::remove_file(place.path().join("checkpoints/step-1100/manifest.json")).unwrap();
    checkpoints.prune(2).unwrap();
    assert_eq!(
        checkpoints.list().unwrap(),
        [200, 900, 1000, 1100],
        "the damaged one neither counts nor goes"
    );
    assert_eq!(checkpoints.best().unwrap().unwrap().step, 200);
    checkpoints.mark_best(1000).unwrap();
    checkpoints.prune(0).unwrap();
    assert_eq!(checkpoints.list().unwrap(), [1000, 1100]);
}

#[test]
fn only_plain_file_names_are_parts() {
    let place = tempfile::tempdir().unwrap();
    let checkpoints = Checkpoints::at(place.path());
    for name in ["", ".", "..", "../x", "a/b", "a\\b", "Manifest.json", ".hidden", "c:x"] {
        let mut write = |w: &mut dyn Write| w.write_all(b"x");
        let error = checkpoints.save(1, &mut [Part { name, write: &mut write }]).unwrap_err();
        assert!(matches!(error, RunError::PartName { .. }), "{error}");
    }
    let (mut a, mut b) = (|w: &mut dyn Write| w.write_all(b"a"), |w: &mut dyn Write| w.write_all(b"b"));
    let parts = &mut [Part { name: "same", write: &mut a }, Part { name: "Same", write: &mut b }];
    assert!(checkpoints.save(1, parts).unwrap_err().to_string().contains("another part has this name"));
    assert!(checkpoints.list().unwrap().is_empty());
}

#[test]
#[cfg(unix)]
fn one_process_at_a_time_and_a_killed_one_leaves_no_lock() {
    let place = tempfile::tempdir().unwrap();
    RunFolder::create(place.path()).unwrap().write_config("").unwrap();
    let mut child = start("hold", place.path());
    let id = child.id();
    let _output = wait_for(&mut child, "holding");
    let error = RunFolder::open(place.path()).unwrap_err().to_string();
    assert!(error.ends_with(&format!("another process (process {id}) is working on this run")), "{error}");
    child.kill().unwrap();
    child.wait().unwrap();
    RunFolder::open(place.path()).unwrap();
}

#[test]
#[cfg(unix)]
fn signals_ask_for_an_end() {
    for name in ["TERM", "INT"] {
        let place = tempfile::tempdir().unwrap();
        let mut child = start("signals", place.path());
        let _output = wait_for(&mut child, "installed");
        signal(&child, name);
        assert!(child.wait().unwrap().success(), "SIG{name}");
        assert!(place.path().join("saw it").exists());
    }
}

#[test]
#[cfg(unix)]
fn the_second_interrupt_ends_at_once() {
    let place = tempfile::tempdir().unwrap();
    fs::write(place.path().join("linger"), "").unwrap();
    let mut child = start("signals", place.path());
    let _output = wait_for(&mut child, "installed");
    // Termination and one interrupt are still a polite request.
    for name in ["TERM", "INT"] {
        signal(&child, name);
        thread::sleep(Duration::from_millis(100));
        assert!(child.try_wait().unwrap().is_none(), "SIG{name}");
    }
    assert!(place.path().join("saw it").exists());
    signal(&child, "INT");
    assert_eq!(child.wait().unwrap().code(), Some(130));
}
