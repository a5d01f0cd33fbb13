//! Pages for people: one of a domain, one of the whole registry.

use std::path::Path;

use kirie_data::{EXTENSIONS, Image, Limits, read_image};
use kirie_run::in_units;
use kirie_run::report::{BarSeries, Bars, Matrix, Page, Picture};
use serde_json::Value;

use super::{Entry, Manifest, Registry, RegistryError, Routing};

/// Pictures shown of a domain.
const PICTURES: usize = 24;

/// The page of one domain: what it is, how good it was when it was added, where its pictures go, some of them, and its
/// versions. A domain that is damaged has a page that says so.
///
/// # Errors
/// [`RegistryError::NoDomain`], or a registry that cannot be read.
pub fn domain_page(registry: &Registry, name: &str) -> Result<Page, RegistryError> {
    let index = registry.current()?;
    let entry = index.entry(name).ok_or_else(|| index.no_domain(name))?;
    let mut page = Page::new(&format!("Domain {name}, version {}", entry.version));
    let manifest = match registry.verify(entry) {
        Ok(manifest) => manifest,
        Err(error) => {
            page.paragraph(&format!("Damaged: {error}."));
            match registry.manifest(entry) {
                Ok(manifest) => manifest,
                Err(_) => return Ok(page),
            }
        }
    };
    if !manifest.description.is_empty() {
        page.paragraph(&manifest.description);
    }
    let place = index.domains.iter().position(|other| other.name == name).map_or(0, |place| place + 1);
    page.key_values(&[
        ("state", state(entry)),
        ("place in the order", format!("{place} of {}", index.domains.len())),
        ("adapter", manifest.kind.clone()),
        ("base", format!("{}, weights {}", manifest.base.model, manifest.base.sha256)),
        ("added", manifest.created.clone()),
        ("size", format!("{} in {} files", in_units(manifest.size()), manifest.files.len())),
    ]);
    if !manifest.scores.is_empty() {
        page.heading("Scores when it was added");
        let rows: Vec<Vec<String>> =
            manifest.scores.iter().map(|(name, score)| vec![name.clone(), figure(*score)]).collect();
        page.table(&["score", "value"], &rows);
    }
    routing(&mut page, &manifest);
    versions(&mut page, registry, name, entry.version)?;
    pictures(&mut page, registry, entry, &manifest);
    if !manifest.training.is_empty() {
        let mut entries = Vec::new();
        flatten("", &Value::Object(manifest.training.clone()), &mut entries);
        page.heading("Training").key_values(&entries);
    }
    page.heading("Files");
    let rows: Vec<Vec<String>> = manifest
        .files
        .iter()
        .map(|file| vec![file.name.clone(), in_units(file.size), file.sha256.clone()])
        .collect();
    page.table(&["file", "size", "SHA-256"], &rows);
    page.raw_json("manifest", &manifest)?;
    Ok(page)
}

/// The page of the registry: its domains side by side, where their pictures go, and what was changed when.
///
/// # Errors
/// A registry that cannot be read.
pub fn registry_page(registry: &Registry) -> Result<Page, RegistryError> {
    let index = registry.current()?;
    let mut page = Page::new("Adapters");
    page.key_values(&[
        ("registry", registry.path().display().to_string()),
        ("base", format!("{}, weights {}", index.base.model, index.base.sha256)),
        ("index", format!("{}, of {}", index.number, index.created)),
    ]);
    let known: Vec<(&Entry, Result<Manifest, RegistryError>)> =
        index.domains.iter().map(|entry| (entry, registry.verify(entry))).collect();
    page.heading("Domains");
    let rows: Vec<Vec<String>> = known
        .iter()
        .map(|(entry, manifest)| {
            let mut row = vec![entry.name.clone(), format!("v{}", entry.version)];
            match manifest {
                Ok(manifest) => {
                    let scores =
                        manifest.scores.iter().map(|(name, score)| format!("{name} {}", figure(*score)));
                    let routed = manifest.routing.accuracy(&entry.name).map_or_else(String::new, percent);
                    row.extend([
                        state(entry),
                        manifest.kind.clone(),
                        in_units(manifest.size()),
                        routed,
                        scores.collect::<Vec<_>>().join(", "),
                    ]);
                }
                Err(error) => row.push(format!("damaged: {error}")),
            }
            row
        })
        .collect();
    page.table(&["domain", "version", "state", "adapter", "size", "routed right", "scores"], &rows);

    let routed: Vec<&Manifest> = known
        .iter()
        .filter_map(|(_, manifest)| manifest.as_ref().ok())
        .filter(|manifest| !manifest.routing.chosen.is_empty())
        .collect();
    if !routed.is_empty() {
        let mut columns: Vec<String> = index.names().into_iter().map(str::to_owned).collect();
        columns.push(Routing::BASE.to_owned());
        // Domains that were there when these figures were taken, and are not any more.
        for name in routed.iter().flat_map(|manifest| manifest.routing.chosen.keys()) {
            if !columns.contains(name) {
                columns.push(name.clone());
            }
        }
        let share = |manifest: &Manifest, column: &String| {
            let all: u64 = manifest.routing.chosen.values().sum();
            manifest.routing.chosen.get(column).map_or(0.0, |n| *n as f64 / all.max(1) as f64)
        };
        let values = routed
            .iter()
            .map(|manifest| columns.iter().map(|column| share(manifest, column)).collect())
            .collect();
        page.matrix(&Matrix {
            title: "Where pictures went, each domain's when it was added".to_owned(),
            row_label: "pictures of".to_owned(),
            column_label: "share that went to".to_owned(),
            rows: routed.iter().map(|manifest| manifest.name.clone()).collect(),
            columns,
            values,
            decimals: 2,
            range: Some((0.0, 1.0)),
        });
    }
    page.heading("Changes");
    let rows: Vec<Vec<String>> = registry
        .history()?
        .iter()
        .rev()
        .map(|index| vec![index.number.to_string(), index.created.clone(), index.change.clone()])
        .collect();
    page.table(&["index", "time", "change"], &rows);
    page.raw_json("index", &index)?;
    Ok(page)
}

fn routing(page: &mut Page, manifest: &Manifest) {
    let routing = &manifest.routing;
    let all: u64 = routing.chosen.values().sum();
    if all == 0 {
        return;
    }
    page.heading("Routing when it was added");
    let mut entries = vec![("pictures", all.to_string())];
    entries.extend(routing.accuracy(&manifest.name).map(|share| ("routed right", percent(share))));
    entries.extend(routing.abstained().map(|share| ("left to the base model", percent(share))));
    entries.extend(routing.iou_lost.map(|lost| ("IoU lost to routing", figure(lost))));
    page.key_values(&entries);
    page.bars(&Bars {
        title: "Share of pictures by where they went".to_owned(),
        labels: routing.chosen.keys().cloned().collect(),
        series: vec![BarSeries {
            name: "share".to_owned(),
            values: routing.chosen.values().map(|n| *n as f64 / all as f64).collect(),
        }],
        full: Some(1.0),
    });
}

fn versions(page: &mut Page, registry: &Registry, name: &str, current: u32) -> Result<(), RegistryError> {
    let versions = registry.past_versions(name)?;
    if versions.len() < 2 {
        return Ok(());
    }
    page.heading("Versions");
    let rows: Vec<Vec<String>> = versions
        .into_iter()
        .map(|version| {
            let mark = if version == current { "counts" } else { "" };
            let mut row = vec![format!("v{version}"), mark.to_owned()];
            match registry.manifest_of(name, version) {
                Ok(manifest) => {
                    let scores =
                        manifest.scores.iter().map(|(name, score)| format!("{name} {}", figure(*score)));
                    let scores = scores.collect::<Vec<_>>().join(", ");
                    row.extend([manifest.created, manifest.kind, scores]);
                }
                Err(error) => row.push(error.to_string()),
            }
            row
        })
        .collect();
    page.table(&["version", "", "added", "adapter", "scores"], &rows);
    Ok(())
}

/// Pictures among the payload: those in `thumbnails/`, or, where there are none, in `exemplars/`.
fn pictures(page: &mut Page, registry: &Registry, entry: &Entry, manifest: &Manifest) {
    let folder = registry.folder(&entry.name, entry.version);
    let of = |place: &str| -> Vec<&str> {
        let names = manifest.files.iter().map(|file| file.name.as_str());
        names.filter(|name| name.starts_with(place) && is_picture(name)).collect()
    };
    let mut names = of("thumbnails/");
    if names.is_empty() {
        names = of("exemplars/");
    }
    let read = |name: &&str| -> Option<(String, Image)> {
        let picture = read_image(folder.join(name), &Limits::default()).ok()?;
        Some(((*name).to_owned(), picture))
    };
    let shown: Vec<(String, Image)> = names.iter().take(PICTURES).filter_map(read).collect();
    if shown.is_empty() {
        return;
    }
    page.heading("Pictures it learnt from");
    let pictures: Vec<Picture<'_>> =
        shown.iter().map(|(name, picture)| Picture { caption: name, image: picture.rgb() }).collect();
    page.pictures(&pictures);
}

fn is_picture(name: &str) -> bool {
    let ending = Path::new(name).extension().map(|ending| ending.to_string_lossy().to_lowercase());
    ending.is_some_and(|ending| EXTENSIONS.contains(&ending.as_str()))
}

fn state(entry: &Entry) -> String {
    match (&entry.reason, entry.enabled) {
        (_, true) => "enabled".to_owned(),
        (None, false) => "disabled".to_owned(),
        (Some(reason), false) => format!("disabled: {reason}"),
    }
}

fn figure(value: f64) -> String {
    if value == value.trunc() && value.abs() < 1e9 { format!("{value:.0}") } else { format!("{value:.4}") }
}

fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

/// Values of nested tables under `a.b`.
fn flatten(prefix: &str, value: &Value, entries: &mut Vec<(String, String)>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                let key = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
                flatten(&key, value, entries);
            }
        }
        Value::String(text) => entries.push((prefix.to_owned(), text.clone())),
        other => entries.push((prefix.to_owned(), other.to_string())),
    }
}
