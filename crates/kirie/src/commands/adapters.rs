//! `kirie adapters`.

mod gate;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use kirie_moda::registry::{
    AddOptions, Added, Entry, Index, Manifest, Package, Registry, RegistryError, Verified, Writer,
    domain_page, registry_page,
};
use kirie_run::in_units;
use serde_json::{Value, json};

use self::gate::Gate;
use crate::args::{AdaptersArgs, AdaptersCommand, GateArgs, HowAdded};
use crate::outputs::check_writable;
use crate::report::{self, Table};

/// Runs the command.
pub(crate) fn run(args: AdaptersArgs) -> anyhow::Result<()> {
    match args.command {
        AdaptersCommand::Add { registry, folder, how, json } => {
            add(&registry.registry, &Package::new_domain(&folder)?, &how, json)
        }
        AdaptersCommand::Import { registry, package, name, how, json } => {
            let mut package = Package::exported(&package)?;
            if let Some(name) = name {
                package.set_name(&name);
            }
            add(&registry.registry, &package, &how, json)
        }
        AdaptersCommand::List { registry, history, json } => {
            let registry = Registry::open(&registry.registry)?;
            if history { list_history(&registry, json) } else { list(&registry, json) }
        }
        AdaptersCommand::Show { registry, name, version, json } => {
            show(&Registry::open(&registry.registry)?, &name, version, json)
        }
        AdaptersCommand::Disable { registry, names, reason, json } => {
            changed(&Writer::open(&registry.registry)?.disable(&names, reason.as_deref())?, json)
        }
        AdaptersCommand::Enable { registry, names, gate, json } => {
            enable(&Writer::open(&registry.registry)?, &names, &gate, json)
        }
        AdaptersCommand::Rollback { registry, name, to_version, to_index, json } => {
            let writer = Writer::open(&registry.registry)?;
            let index = match name {
                Some(name) => writer.roll_back(&name, to_version)?,
                None => writer.roll_back_to(to_index)?,
            };
            changed(&index, json)
        }
        AdaptersCommand::Reorder { registry, names, json } => {
            changed(&Writer::open(&registry.registry)?.reorder(&names)?, json)
        }
        AdaptersCommand::Remove { registry, names, json } => {
            changed(&Writer::open(&registry.registry)?.remove(&names)?, json)
        }
        AdaptersCommand::Export { registry, name, version, output, json } => {
            export(&Registry::open(&registry.registry)?, &name, version, &output, json)
        }
        AdaptersCommand::Verify { registry, all, check_only, json } => {
            let found = if check_only {
                Registry::open(&registry.registry)?.verified(all)?
            } else {
                Writer::open(&registry.registry)?.verify(all)?
            };
            verified(&found, json)
        }
        AdaptersCommand::Gc { registry, keep, json } => {
            let done = Writer::open(&registry.registry)?.collect(keep.map(|keep| keep as usize))?;
            if json {
                return print_json(&json!({ "removed": done.removed, "bytes": done.bytes }));
            }
            for name in &done.removed {
                report::print(&format!("removed {name}"))?;
            }
            report::print(&format!(
                "{} files and folders removed, {}",
                done.removed.len(),
                in_units(done.bytes)
            ))
        }
        AdaptersCommand::Report { registry, names, output, json } => {
            pages(&Registry::open(&registry.registry)?, &names, &output, json)
        }
    }
}

fn print_json(value: &Value) -> anyhow::Result<()> {
    report::print(&serde_json::to_string_pretty(value)?)
}

fn add(registry: &Path, package: &Package, how: &HowAdded, json: bool) -> anyhow::Result<()> {
    how.gate.machine.set_threads()?;
    let writer = Writer::open_or_create(registry, package.base())?;
    let options = AddOptions { new_version: how.new_version, disabled: how.disabled };
    let mut probes = Vec::new();
    let Added { manifest, index } = writer.add_if(package, options, |folder| {
        if !(how.disabled || how.gate.force) {
            probes = Gate::new(&writer, &how.gate)?.probe(package.name(), folder, false)?;
        }
        Ok(())
    })?;
    if json {
        return print_json(&json!({ "manifest": manifest, "index": index, "probes": probes }));
    }
    let files = match manifest.files.len() {
        1 => "one file".to_owned(),
        n => format!("{n} files"),
    };
    report::print(&format!(
        "{} v{}: {}, {files}, {}\n{}",
        manifest.name,
        manifest.version,
        manifest.kind,
        in_units(manifest.size()),
        in_a_line(&index)
    ))?;
    gate::tell(&probes)
}

fn enable(writer: &Writer, names: &[String], args: &GateArgs, json: bool) -> anyhow::Result<()> {
    args.machine.set_threads()?;
    let mut probes = Vec::new();
    if !args.force {
        let mut gate = Gate::new(writer, args)?;
        for name in names {
            let entry = writer.registry().entry(name, None)?;
            if !entry.enabled {
                // What is read must be what was written.
                writer.registry().verify(&entry)?;
                probes = gate.probe(name, &writer.registry().folder(name, entry.version), true)?;
            }
        }
    }
    let index = writer.enable(names)?;
    if json {
        return print_json(&json!({ "index": index, "probes": probes }));
    }
    changed(&index, false)?;
    gate::tell(&probes)
}

/// Tells what was changed, and what is there now.
fn changed(index: &Index, json: bool) -> anyhow::Result<()> {
    if json { print_json(&json!({ "index": index })) } else { report::print(&in_a_line(index)) }
}

fn in_a_line(index: &Index) -> String {
    let domains = index.domains.iter().map(|entry| {
        let state = if entry.enabled { "" } else { " (disabled)" };
        format!("{} v{}{state}", entry.name, entry.version)
    });
    let domains = domains.collect::<Vec<_>>().join(", ");
    let domains = if domains.is_empty() { "no domains" } else { &domains };
    format!("index {}, {}: {domains}", index.number, index.change)
}

fn state(entry: &Entry) -> String {
    match (&entry.reason, entry.enabled) {
        (_, true) => "enabled".to_owned(),
        (None, false) => "disabled".to_owned(),
        (Some(reason), false) => format!("disabled: {reason}"),
    }
}

/// The same in a table, where a reason is cut short.
fn short_state(entry: &Entry) -> String {
    const MOST: usize = 40;
    let text = state(entry);
    if text.chars().count() <= MOST {
        return text;
    }
    text.chars().take(MOST - 3).chain("...".chars()).collect()
}

fn scores(manifest: &Manifest) -> String {
    let scores = manifest.scores.iter().map(|(name, score)| format!("{name} {score:.4}"));
    scores.collect::<Vec<_>>().join(", ")
}

fn list(registry: &Registry, json: bool) -> anyhow::Result<()> {
    let index = registry.current()?;
    let known: Vec<(&Entry, Result<Manifest, RegistryError>)> =
        index.domains.iter().map(|entry| (entry, registry.manifest(entry))).collect();
    if json {
        let domains: Vec<Value> = known
            .iter()
            .map(|(entry, manifest)| {
                let known = manifest.as_ref().ok();
                json!({
                    "name": entry.name,
                    "version": entry.version,
                    "enabled": entry.enabled,
                    "reason": entry.reason,
                    "kind": known.map(|manifest| &manifest.kind),
                    "created": known.map(|manifest| &manifest.created),
                    "bytes": known.map(Manifest::size),
                    "scores": known.map(|manifest| &manifest.scores),
                    "routed_right": known.and_then(|manifest| manifest.routing.accuracy(&entry.name)),
                    "problem": manifest.as_ref().err().map(ToString::to_string),
                })
            })
            .collect();
        return print_json(&json!({
            "index": index.number,
            "change": index.change,
            "created": index.created,
            "base": index.base,
            "domains": domains,
        }));
    }
    let mut text = format!("base {}, weights {}...\n", index.base.model, start(&index.base.sha256));
    let mut table = Table::new(5, &["domain", "version", "adapter", "added", "state", "size", "scores"]);
    for (entry, manifest) in &known {
        let mut row = vec![entry.name.clone(), format!("v{}", entry.version)];
        match manifest {
            Ok(manifest) => {
                let added = manifest.created.split('T').next().unwrap_or_default().to_owned();
                let size = in_units(manifest.size());
                row.extend([manifest.kind.clone(), added, short_state(entry), size, scores(manifest)]);
            }
            Err(error) => row.extend(["-".to_owned(), "-".to_owned(), error.to_string()]),
        }
        table.row(row);
    }
    if known.is_empty() {
        text += "no domains\n";
    } else {
        table.write(&mut text, 0);
    }
    let _ = write!(text, "index {} of {}: {}", index.number, index.created, index.change);
    report::print(&text)
}

fn start(hash: &str) -> &str {
    hash.get(..12).unwrap_or(hash)
}

fn list_history(registry: &Registry, json: bool) -> anyhow::Result<()> {
    let history = registry.history()?;
    if json {
        return print_json(&serde_json::to_value(&history)?);
    }
    let mut table = Table::new(3, &["index", "time", "change"]);
    for index in &history {
        table.row(vec![index.number.to_string(), index.created.clone(), index.change.clone()]);
    }
    let mut text = String::new();
    table.write(&mut text, 0);
    report::print(&text)
}

fn show(registry: &Registry, name: &str, version: Option<u32>, json: bool) -> anyhow::Result<()> {
    let entry = registry.entry(name, version)?;
    let (manifest, problem) = match registry.verify(&entry) {
        Ok(manifest) => (manifest, None),
        Err(error) => (registry.manifest(&entry)?, Some(error.to_string())),
    };
    let versions = registry.versions(name)?;
    let folder = registry.folder(&entry.name, entry.version);
    if json {
        print_json(&json!({
            "entry": entry,
            "manifest": manifest,
            "versions": versions,
            "folder": folder,
            "problem": problem,
        }))?;
    } else {
        let mut text = format!("{} v{}, {}\n", entry.name, entry.version, state(&entry));
        let mut line = |key: &str, value: String| {
            if !value.is_empty() {
                let _ = writeln!(text, "{key:<12}{value}");
            }
        };
        line("", manifest.description.clone());
        line("adapter", manifest.kind.clone());
        line("base", format!("{}, weights {}", manifest.base.model, manifest.base.sha256));
        line("added", manifest.created.clone());
        line("scores", scores(&manifest));
        if let Some(share) = manifest.routing.accuracy(name) {
            let chosen = manifest.routing.chosen.iter().map(|(name, n)| format!("{name} {n}"));
            let chosen = chosen.collect::<Vec<_>>().join(", ");
            line("routing", format!("{:.1} % right ({chosen})", 100.0 * share));
        }
        if !manifest.training.is_empty() {
            line("training", serde_json::to_string(&manifest.training)?);
        }
        let all: Vec<String> = versions.iter().map(|version| format!("v{version}")).collect();
        line("versions", all.join(", "));
        line("folder", folder.display().to_string());
        let mut table = Table::new(1, &["file", "size", "SHA-256"]);
        for file in &manifest.files {
            table.row(vec![file.name.clone(), in_units(file.size), format!("{}...", start(&file.sha256))]);
        }
        table.write(&mut text, 0);
        report::print(&text)?;
    }
    match problem {
        Some(problem) => Err(anyhow::anyhow!(problem)),
        None => Ok(()),
    }
}

fn export(
    registry: &Registry,
    name: &str,
    version: Option<u32>,
    output: &Path,
    json: bool,
) -> anyhow::Result<()> {
    check_writable(output, false)?;
    let manifest = registry.export(&registry.entry(name, version)?, output)?;
    if json {
        return print_json(&json!({ "output": output, "manifest": manifest }));
    }
    report::print(&format!(
        "{}: {} v{}, {}",
        output.display(),
        manifest.name,
        manifest.version,
        in_units(manifest.size())
    ))
}

fn verified(found: &[Verified], json: bool) -> anyhow::Result<()> {
    let bad: Vec<&Verified> = found.iter().filter(|version| version.problem.is_some()).collect();
    if json {
        let all: Vec<Value> = found
            .iter()
            .map(|version| {
                json!({
                    "name": version.name,
                    "version": version.version,
                    "current": version.current,
                    "problem": version.problem,
                    "disabled": version.disabled,
                })
            })
            .collect();
        print_json(&json!({ "verified": all, "damaged": bad.len() }))?;
    } else {
        for version in found {
            let Verified { name, version, problem, disabled, .. } = version;
            let problem = problem.as_deref().unwrap_or("as it was written");
            let now = if *disabled { "; disabled now" } else { "" };
            report::print(&format!("{name} v{version}: {problem}{now}"))?;
        }
    }
    if bad.is_empty() {
        return Ok(());
    }
    let names: Vec<String> =
        bad.iter().map(|version| format!("{} v{}", version.name, version.version)).collect();
    anyhow::bail!("{} of {} are damaged: {}", bad.len(), found.len(), names.join(", "))
}

fn pages(registry: &Registry, names: &[String], output: &Path, json: bool) -> anyhow::Result<()> {
    check_writable(output, true)?;
    let index = registry.current()?;
    let all: Vec<&str> = index.names();
    let names = if names.is_empty() { all } else { names.iter().map(String::as_str).collect() };
    // All are made before the first is written.
    let mut pages = vec![("registry.html".to_owned(), registry_page(registry)?)];
    for name in names {
        pages.push((format!("domain-{name}.html"), domain_page(registry, name)?));
    }
    let mut files: Vec<PathBuf> = Vec::new();
    for (name, page) in pages {
        let path = output.join(name);
        kirie_data::create_parent(&path)?;
        page.write(&path)?;
        files.push(path);
    }
    if json {
        return print_json(&json!({ "files": files }));
    }
    for path in files {
        report::print(&path.display().to_string())?;
    }
    Ok(())
}
