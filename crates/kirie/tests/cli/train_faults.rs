//! Whatever ends a training run, a signal, a kill, a full disk, rotten bits: `--resume` gives, bit for bit, the run that was
//! never interrupted.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::json;

use crate::common::Place;
use crate::train::{LINE, assert_same, place};

/// The steps in a run's log, which may be missing or half written.
fn logged(run: &Path) -> u64 {
    let text = fs::read_to_string(run.join("log.jsonl")).unwrap_or_default();
    text.lines().filter(|line| line.contains("\"loss\"")).count() as u64
}

/// SIGKILL at moments all over a run: in its first breath, in a step, in a save.
fn killed_twenty_times(threads: u16) {
    const STEPS: u64 = 80;
    let place = place();
    let begin = format!("train promptable --threads {threads} --config train.toml --set plan.steps={STEPS}");
    place.run(&format!("{begin} -o whole")).done();
    let run = place.path("run");
    let mut at = Vec::new();
    for kill in 0..20 {
        // Killed before there was a run, it has to be begun again.
        let line = if run.join("config.toml").exists() {
            format!("train promptable --threads {threads} --resume run")
        } else {
            format!("{begin} -o run")
        };
        let mut command = place.command(&line);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        // Some steps further than it came last time (not random, so that a failure comes again; what happens at each moment
        // differs all the same), or a moment after its start.
        let wanted = logged(&run) + kill * 7 % 5;
        while wanted > logged(&run) && child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(2));
        }
        std::thread::sleep(Duration::from_micros(kill * 7919 % 50 * 800));
        child.kill().unwrap();
        assert!(!child.wait().unwrap().success(), "it was done before kill {kill}, at {at:?}");
        at.push(logged(&run));
    }
    let answer = place.run(&format!("train promptable --threads {threads} --resume run --json")).done();
    assert_eq!(answer.json()["steps"], json!(STEPS));
    assert!(at[19] > 10, "it never came to train: {at:?}");
    assert_same(&run, &place.path("whole"), STEPS);
}

#[test]
fn killed_twenty_times_with_one_thread_it_ends_the_same() {
    killed_twenty_times(1);
}

#[test]
fn killed_twenty_times_with_two_threads_it_ends_the_same() {
    killed_twenty_times(2);
}

#[test]
#[cfg(unix)]
fn asked_to_stop_it_saves_and_says_how_to_go_on() {
    let place = place();
    place.run(&format!("{LINE} --config train.toml --set plan.steps=40 -o whole")).done();
    for (run, signal) in [("a", "TERM"), ("b", "INT")] {
        let line = format!("{LINE} --config train.toml --set plan.steps=40 -o {run}");
        let mut command = place.command(&line);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        while logged(&place.path(run)) < 3 {
            std::thread::sleep(Duration::from_millis(2));
        }
        let sent = Command::new("kill").args(["-s", signal, &child.id().to_string()]).status();
        assert!(sent.unwrap().success());
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{said}");
        assert!(said.contains("stopped after ") && said.contains(" of 40 steps"), "{said}");
        assert!(said.contains(&format!("`kirie train promptable --resume {run}` goes on")), "{said}");
        assert!(!place.path(run).join("model.safetensors").exists());
        assert_eq!(place.json(&format!("{run}/metrics.json"))["complete"], json!(false));
        // What it says works.
        place.run(&format!("{LINE} --resume {run}")).done();
        assert_same(&place.path(run), &place.path("whole"), 40);
    }
}

/// The place with a run of four steps out of eight, which has checkpoints of steps 2 and 4.
fn half_done() -> Place {
    let place = place();
    place.run(&format!("{LINE} --config train.toml -o whole")).done();
    let run = format!("{LINE} --config train.toml -o run");
    // Whichever of the two is over first, the plan is the same.
    place.run(&format!("{run} --set plan.keep=4")).done();
    for name in ["checkpoints/step-8", "checkpoints/step-6"] {
        fs::remove_dir_all(place.path("run").join(name)).unwrap();
    }
    fs::write(place.path("run/checkpoints/latest"), "step-4\n").unwrap();
    fs::remove_file(place.path("run/checkpoints/best")).unwrap();
    fs::remove_file(place.path("run/model.safetensors")).unwrap();
    place
}

#[test]
fn a_damaged_checkpoint_is_passed_over_with_a_word() {
    let place = half_done();
    let weights = place.path("run/checkpoints/step-4/weights.safetensors");
    let mut bytes = fs::read(&weights).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 4;
    fs::write(&weights, bytes).unwrap();
    let answer = place.run(&format!("{LINE} --resume run")).done();
    for words in ["step-4", "is passed over: weights.safetensors has another content"] {
        assert!(answer.stderr.contains(words), "{}", answer.stderr);
    }
    assert_same(&place.path("run"), &place.path("whole"), 8);

    // With none left, nothing is trained, and nothing of the run is touched.
    for step in [2, 4, 6, 8] {
        let weights = place.path("run").join(format!("checkpoints/step-{step}/weights.safetensors"));
        fs::write(weights, "").unwrap();
    }
    let files = || {
        let mut files = place.files();
        files.remove("run/.lock");
        files
    };
    let before = files();
    let words = ["none of the checkpoints is intact", "step-8"];
    place.run(&format!("{LINE} --resume run")).expect(1, &words);
    assert_eq!(files(), before);
}

/// A file system of little more than one checkpoint, in a name space of its own: needs no rights on most systems.
#[test]
#[cfg(target_os = "linux")]
fn a_full_disk_costs_the_steps_since_the_last_checkpoint() {
    let place = place();
    place.run(&format!("{LINE} --config train.toml -o whole")).done();
    let size: u64 = fs::read_dir(place.path("whole/checkpoints/step-8"))
        .unwrap()
        .map(|entry| entry.unwrap().metadata().unwrap().len())
        .sum();
    fs::create_dir(place.path("disk")).unwrap();
    // The checkpoint of step 2 fits, that of step 4 does not, until the filler is gone.
    let script = r#"mount -t tmpfs -o "size=$((8 * $3))" none "$1" || { echo skipped: no mount; exit 0; }
head -c "$((6 * $3 + $3 / 2))" /dev/zero > "$1/filler"
"$2" train promptable --threads 1 --config train.toml -o disk/run --set plan.keep=1; echo "first: $?"
ls disk/run/checkpoints; cat disk/run/checkpoints/latest
rm "$1/filler"
"$2" train promptable --threads 1 --resume disk/run; echo "second: $?"
cp -r disk/run saved"#;
    let line = place.command("");
    let environment = line.get_envs().filter_map(|(name, value)| Some((name, value?)));
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-c", script, "sh"])
        .args([place.path("disk").as_os_str(), line.get_program()])
        .arg(size.to_string())
        .envs(environment)
        .current_dir(place.path("."))
        .output();
    let Ok(output) = output else {
        println!("skipped: there is no unshare");
        return;
    };
    let (said, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if said.contains("skipped: no mount") || error.contains("unshare:") {
        println!("skipped: no file system of our own can be mounted: {said}{error}");
        return;
    }
    for words in ["step-4.tmp", "the checkpoint cannot be saved: ", "earlier checkpoints are untouched"] {
        assert!(error.contains(words), "{said}{error}");
    }
    assert!(said.contains("first: 1\n") && said.contains("latest\nstep-2\nstep-2\n"), "{said}{error}");
    assert!(said.contains("second: 0\n"), "{said}{error}");
    assert_same(&place.path("saved"), &place.path("whole"), 8);
}
