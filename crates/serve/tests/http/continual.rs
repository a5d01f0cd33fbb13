//! A kind of pictures is taught, adopted, and discarded again. What trains and what keeps the registry is a script here, in place of the
//! program; what it answers with is drawn.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kirie_data::Image;
use kirie_sam::{Engine, SamError};
use kirie_serve::{DomainError, DomainSource, Domains, Engines, ServeConfig};
use serde_json::{Value, json};

use crate::common::{Drawing, Running, config, folders, square};

/// Does what the service has `kirie` do. The domain `rude` is refused, `slow` takes its time.
const PROGRAM: &str = r#"#!/bin/sh
set -eu
case "$1 $2" in
"train continual")
    [ -f run/config.toml ] || { mkdir run; cp config.toml run/config.toml; }
    name=$(awk '/data.domains/ { found = 1 } found && /^name/ { gsub(/"/, "", $3); print $3; exit }' config.toml)
    step=run/runs/moda-given-s0/steps/00-$name
    mkdir -p "$step/training" "$step/domain"
    echo '{"step":1,"loss":0.5}' > "$step/training/log.jsonl"
    if [ "$name" = slow ]; then exec sleep 60; fi
    echo '{"step":2,"loss":0.25,"validation.iou.box":0.75}' >> "$step/training/log.jsonl"
    echo "$name" > "$step/domain/domain.toml"
    scores() { echo "{\"pictures\":1,\"scores\":{\"box\":{\"iou\":$1}},\"oracle\":{\"box\":{\"iou\":$2}},\"routed\":[1,0]}"; }
    echo "{\"zero_shot\":[$(scores 0.25 null)],\"rows\":[{\"sets\":[$(scores 0.75 0.75)]}]}" > run/runs/moda-given-s0/summary.json
    echo report > run/report.html ;;
"adapters add")
    name=$(cat "$4/domain.toml")
    [ "$5" = --new-version ]
    if [ "$name" = rude ]; then echo "kirie: rude is not put to use: squares would answer 1 of its 3" >&2; exit 1; fi
    mkdir -p "$3/domains/$name"
    cp "$4/domain.toml" "$3/domains/$name/"
    date +%N > "$3/current.json" ;;
"adapters remove")
    rm -r "$3/domains/$4"
    date +%N > "$3/current.json" ;;
*) echo "kirie: unknown: $*" >&2; exit 2 ;;
esac
"#;

/// Pictures 80 pixels wide are of the first domain, all others of none; what a domain answers is larger.
struct Drawn(Vec<String>);

impl Domains for Drawn {
    fn names(&self) -> Vec<String> {
        self.0.clone()
    }

    fn left_out(&self) -> Vec<String> {
        Vec::new()
    }

    fn route(&self, picture: &Image) -> Result<Option<String>, SamError> {
        Ok(self.0.first().filter(|_| picture.width() == 80).cloned())
    }

    fn engine(&self, name: &str) -> Option<Arc<dyn Engine>> {
        self.0.iter().any(|other| other == name).then(|| Arc::new(larger()) as Arc<dyn Engine>)
    }
}

fn larger() -> Drawing {
    Drawing { grow: 4.0, ..Drawing::default() }
}

struct Source;

impl DomainSource for Source {
    fn registry(&self, folder: &Path) -> Result<Arc<dyn Domains>, DomainError> {
        let names = fs::read_dir(folder.join("domains"))?;
        Ok(Arc::new(Drawn(names.map(|name| name.unwrap().file_name().into_string().unwrap()).collect())))
    }

    fn domain(&self, folder: &Path) -> Result<Arc<dyn Domains>, DomainError> {
        Ok(Arc::new(Drawn(vec![fs::read_to_string(folder.join("domain.toml"))?.trim().to_owned()])))
    }
}

fn start(root: &Path) -> Running {
    let program = root.join("program.sh");
    if !program.exists() {
        fs::write(&program, PROGRAM).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let one = Engines::from(Arc::new(Drawing::default()));
    let engines = Engines { domains: Some(Arc::new(Source)), ..one };
    Running::with(ServeConfig { program, ..config(root) }, engines)
}

fn taught(service: &Running, settings: &Value) -> i64 {
    let job = service.ok("POST", "/api/jobs", settings)["id"].as_i64().unwrap();
    let begin = Instant::now();
    loop {
        let view = service.get(&format!("/api/jobs/{job}"));
        if view["state"] != "running" {
            assert_eq!(view["state"], "done", "{view}");
            return job;
        }
        assert!(begin.elapsed() < Duration::from_secs(20), "{view}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// All files below a folder with their bytes; none where there is none.
fn bytes(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            all.extend(bytes(&path));
        } else {
            all.insert(path.display().to_string(), fs::read(&path).unwrap());
        }
    }
    all
}

fn click(service: &Running, image: &str) -> Value {
    let ask = json!({ "prompts": [{ "points": [[40, 30]] }] });
    service.ok("POST", &format!("/api/images/{image}/predict"), &ask)
}

#[test]
fn a_kind_of_pictures_is_taught_adopted_and_discarded() {
    let root = folders();
    let registry = root.path().join("store/adapters");
    let mut service = start(root.path());
    let (a, b) = (service.picture("a.png"), service.picture("inner/b.png"));
    let class = service.ok("POST", "/api/classes", &json!({ "name": "square" }))["id"].clone();
    let objects = json!({ "objects": [{ "class": class, "segmentation": square(80, 60, 20, 10, 20) }] });
    service.ok("POST", &format!("/api/images/{a}/objects"), &objects);
    let before = click(&service, &a);
    assert!(before["domain"].is_null(), "{before}");

    // Learned from one class; the other settings have defaults.
    let settings = json!({ "kind": "continual", "name": "squares", "class": class, "steps": 2 });
    assert_eq!(service.json("POST", "/api/jobs", &json!({ "kind": "continual", "class": 99 })).0, 422);
    let first = taught(&service, &settings);
    let view = service.get(&format!("/api/jobs/{first}"));
    let score = json!({ "pictures": 1, "held_out": false, "before": 0.25, "after": 0.75, "recognised": 1 });
    assert_eq!(
        (&view["domain"], &view["has_model"], &view["has_report"]),
        (&score, &json!(true), &json!(true))
    );
    assert_eq!(view["curve"][1], json!({ "step": 2, "loss": 0.25, "miou": 0.75 }));
    let written = fs::read_to_string(root.path().join(format!("store/jobs/{first}/config.toml"))).unwrap();
    for words in ["foreground = [\"square\"]", "test = \"train\"", "measure_held_out = false", "steps = 2"] {
        assert!(written.contains(words), "lacks {words}:\n{written}");
    }

    // What was learned can be looked at before anything is changed by it.
    let compared = service.ok("POST", &format!("/api/images/{a}/compare"), &json!({ "job": first }));
    assert_eq!((&compared["domain"], &compared["recognised"]), (&json!("squares"), &json!(true)));
    assert_eq!(compared["box"], json!([20.0, 10.0, 40.0, 30.0]));
    let iou = |what: &str| compared[what]["iou"].as_f64().unwrap();
    assert!(iou("labelled") == 1.0 && iou("before") > 0.9 && iou("after") < 0.8, "{compared}");
    // Nothing is labelled in the other picture; and it is no model that suggests.
    assert_eq!(service.json("POST", &format!("/api/images/{b}/compare"), &json!({ "job": first })).0, 422);
    assert_eq!(service.json("POST", &format!("/api/images/{a}/suggest"), &json!({ "job": first })).0, 409);

    // Discarded, it has never been there.
    service.ok("DELETE", &format!("/api/jobs/{first}"), &Value::Null);
    assert!(!registry.exists() && click(&service, &a)["domain"].is_null());

    // Adopted, it answers the pictures that are like its own, and those alone.
    let second = taught(&service, &settings);
    assert_eq!(service.ok("POST", &format!("/api/jobs/{second}/adopt"), &json!({}))["adopted"], true);
    let models = service.get("/api/models");
    assert_eq!((&models["domains"], &models["adopted"]), (&json!(["squares"]), &Value::Null));
    let after = click(&service, &a);
    let area = |answer: &Value| answer["answers"][0]["masks"][0]["area"].as_u64().unwrap();
    assert_eq!(after["domain"], "squares");
    assert!(area(&after) > area(&before), "{after}");
    assert!(click(&service, &b)["domain"].is_null());
    assert_eq!(service.ok("POST", &format!("/api/images/{a}/embedding"), &json!({}))["domain"], "squares");
    let old = &before["answers"][0]["masks"][0]["logits"];
    let again = json!({ "prompts": [{ "points": [[40, 30]], "mask_input": old }] });
    assert_eq!(service.json("POST", &format!("/api/images/{a}/predict"), &again).0, 422, "of another model");
    let path = format!("/api/images/{a}/everything");
    let (_, text, _) = service.raw("POST", &path, &[("content-type", "application/json")], b"{}");
    assert!(String::from_utf8(text).unwrap().contains(r#""domain":"squares""#));

    // One that would be in another's way is refused in the program's words, and leaves no trace.
    let kept = bytes(&registry);
    let rude = taught(&service, &json!({ "kind": "continual", "name": "rude" }));
    let (status, refused) = service.json("POST", &format!("/api/jobs/{rude}/adopt"), &json!({}));
    assert_eq!(status, 422, "{refused}");
    assert!(refused["message"].as_str().unwrap().starts_with("rude is not put to use"), "{refused}");
    assert_eq!(service.get(&format!("/api/jobs/{rude}"))["adopted"], false);
    service.ok("DELETE", &format!("/api/jobs/{rude}"), &Value::Null);
    assert_eq!(bytes(&registry), kept, "the registry is as it was, byte for byte");

    // A domain is taught anew under its name: the later run takes the earlier one's place.
    let third = taught(&service, &settings);
    service.ok("POST", &format!("/api/jobs/{third}/adopt"), &json!({}));
    assert_eq!(service.get(&format!("/api/jobs/{second}"))["adopted"], false);

    // It is there after a restart, and gone when it is discarded.
    service.end();
    let service = start(root.path());
    assert_eq!(service.get(&format!("/api/jobs/{third}"))["adopted"], true);
    assert_eq!(click(&service, &a)["domain"], "squares");
    service.ok("DELETE", &format!("/api/jobs/{third}"), &Value::Null);
    assert_eq!(service.get("/api/models")["domains"], json!([]));
    assert!(click(&service, &a)["domain"].is_null());
}

#[test]
fn a_run_is_stopped_and_an_adoption_that_was_cut_short_is_none() {
    let root = folders();
    let mut service = start(root.path());
    let a = service.picture("a.png");
    let objects = json!({ "objects": [{ "segmentation": square(80, 60, 20, 10, 20) }] });
    service.ok("POST", &format!("/api/images/{a}/objects"), &objects);
    let slow = json!({ "kind": "continual", "name": "slow" });
    let job = service.ok("POST", "/api/jobs", &slow)["id"].as_i64().unwrap();
    assert_eq!(service.json("DELETE", &format!("/api/jobs/{job}"), &Value::Null).0, 409);
    let stopped = service.ok("POST", &format!("/api/jobs/{job}/stop"), &json!({}));
    assert_eq!((&stopped["state"], &stopped["has_model"]), (&json!("stopped"), &json!(false)), "{stopped}");
    assert_eq!(service.json("POST", &format!("/api/jobs/{job}/adopt"), &json!({})).0, 409);
    assert_eq!(service.json("POST", &format!("/api/images/{a}/compare"), &json!({ "job": job })).0, 409);

    // The registry lost it (or never came to have it): the next start says so.
    let job = taught(&service, &json!({ "kind": "continual" }));
    let name = service.get(&format!("/api/jobs/{job}"))["name"].as_str().unwrap().to_owned();
    assert_eq!(name, format!("domain-{job}"));
    service.ok("POST", &format!("/api/jobs/{job}/adopt"), &json!({}));
    service.end();
    fs::remove_dir_all(root.path().join("store/adapters")).unwrap();
    let service = start(root.path());
    assert_eq!(service.get(&format!("/api/jobs/{job}"))["adopted"], false);
    assert!(click(&service, &a)["domain"].is_null());
}
