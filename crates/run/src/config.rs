//! A run's configuration: a TOML file, with `--set key=value` on top.

use std::fs;
use std::ops::Range;
use std::path::Path;

use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize as _, Deserializer as AnyDeserializer, Serialize};
use serde_json::Value;
use toml::Spanned;
use toml::de::{DeTable, DeValue, Deserializer};

use crate::RunError;

/// A configuration that was read and found right.
#[derive(Clone, Debug)]
pub struct Config<T> {
    /// The configuration itself, with defaults filled in.
    pub value: T,
    /// What the file and the `--set` arguments say, without defaults.
    pub table: toml::Table,
}

impl<T: Serialize> Config<T> {
    /// The resolved configuration, defaults included, as the content of a file that [`load`] reads back. This is what
    /// a run folder keeps, so that a run goes on as it began although a later version may have other defaults.
    ///
    /// # Errors
    /// [`RunError::NoTextForm`] if TOML cannot express the value (a number above 2^63, a map whose keys are no words).
    pub fn to_toml(&self) -> Result<String, RunError> {
        to_toml(&self.value)
    }
}

/// See [`Config::to_toml`]: the same for a configuration that was not read from a file.
///
/// # Errors
/// [`RunError::NoTextForm`] if TOML cannot express the value.
pub fn to_toml<T: Serialize>(value: &T) -> Result<String, RunError> {
    toml::to_string_pretty(value)
        .map_err(|error| RunError::NoTextForm { what: "the configuration", reason: error.to_string() })
}

/// Reads a configuration from a file, if there is one, and from arguments `a.b=value` that overrule it in their order.
///
/// A value is read as TOML (`3`, `1e-4`, `true`, `[1, 2]`, `{ x = 1 }`); what is no TOML is taken as text, so words
/// need no quotes. `T` should have `#[serde(deny_unknown_fields)]`, on its nested structs too: a misspelt key is then
/// an error and not a default used in silence.
///
/// # Errors
/// [`RunError::Files`] if the file cannot be read; [`RunError::Config`], which names the file and line or the `--set`
/// argument, for anything wrong in it.
pub fn load<T: DeserializeOwned>(file: Option<&Path>, sets: &[String]) -> Result<Config<T>, RunError> {
    let text = match file {
        Some(path) => fs::read_to_string(path).map_err(RunError::files(path, "read"))?,
        None => String::new(),
    };
    let sources = Sources::new(file, &text, sets);
    let mut arguments = Vec::with_capacity(sets.len());
    for (start, set) in &sources.sets {
        let argument = Argument::read(*start, set)
            .ok_or_else(|| sources.wrong(*start, "expected key=value, as in train.lr=1e-4"))?;
        arguments.push(argument);
    }
    let mut table = DeTable::parse(&text).map_err(|error| sources.error(&error))?;
    for argument in &arguments {
        argument.apply(table.get_mut()).map_err(|error| sources.error(&error))?;
    }
    let value = T::deserialize(Deserializer::from(table.clone())).map_err(|error| sources.error(&error))?;
    let table = toml::Table::deserialize(Deserializer::from(table)).map_err(|error| sources.error(&error))?;
    Ok(Config { value, table })
}

/// For a field's `deserialize_with`: a table that need not say everything. What it leaves out, in it or in a table below it, is
/// that of `base`.
///
/// # Errors
/// The deserializer's, for keys and values that `T` does not take.
pub fn over<'de, T, D>(base: &T, deserializer: D) -> Result<T, D::Error>
where
    T: Serialize + DeserializeOwned,
    D: AnyDeserializer<'de>,
{
    let said = Value::deserialize(deserializer)?;
    let mut value = serde_json::to_value(base).map_err(D::Error::custom)?;
    merge(&mut value, &said);
    serde_json::from_value(value).map_err(D::Error::custom)
}

/// Says `over` over `value`: tables key by key, anything else as a whole. So are tables that say by a key `kind` or `name` what
/// they are: one kind's keys are none of another's.
pub fn merge(value: &mut Value, over: &Value) {
    match (value, over) {
        (Value::Object(own), Value::Object(over))
            if !over.contains_key("kind") && !over.contains_key("name") =>
        {
            for (key, over) in over {
                merge(own.entry(key).or_insert(Value::Null), over);
            }
        }
        (value, over) => *value = over.clone(),
    }
}

/// Where every byte of the configuration comes from. The arguments are thought of as standing behind the file, one
/// after the other, so that the position the parser reports tells which of them it complains about.
struct Sources<'a> {
    file: Option<&'a Path>,
    text: &'a str,
    /// The arguments and where they begin.
    sets: Vec<(usize, &'a str)>,
}

impl<'a> Sources<'a> {
    fn new(file: Option<&'a Path>, text: &'a str, sets: &'a [String]) -> Self {
        let mut next = text.len() + 1;
        let with_start = |set: &'a String| {
            let start = next;
            next += set.len() + 1;
            (start, set.as_str())
        };
        Self { file, text, sets: sets.iter().map(with_start).collect() }
    }

    fn error(&self, error: &toml::de::Error) -> RunError {
        let start = error.span().map_or(0, |span| span.start);
        self.wrong(start, error.message().trim().replace('\n', ", "))
    }

    /// The error at this position.
    fn wrong(&self, position: usize, reason: impl Into<String>) -> RunError {
        let set = self.sets.iter().rev().find(|(start, _)| position >= *start);
        let place = match (set, self.file) {
            (Some((_, set)), _) => format!("--set {set}"),
            (None, None) => "the configuration".to_owned(),
            (None, Some(file)) => {
                let before = self.text.as_bytes().get(..position).unwrap_or_default();
                let line = before.split(|byte| *byte == b'\n').count();
                format!("{}, line {line}", file.display())
            }
        };
        RunError::Config { place, reason: reason.into() }
    }
}

/// One `--set` argument that was understood.
struct Argument {
    /// A TOML document of as many spaces as put it behind everything before, and `key=value`.
    document: String,
    /// How many parts the key has: below them, tables belong to the value.
    depth: usize,
    /// The value and its place, where it is no TOML but a word; the document then holds a zero.
    word: Option<Spanned<String>>,
}

impl Argument {
    fn read(start: usize, set: &str) -> Option<Self> {
        let (key, value) = set.split_once('=').filter(|(key, _)| !key.contains('\n'))?;
        let padding = " ".repeat(start);
        let bare = format!("{padding}{key}=0");
        let depth = depth(DeTable::parse(&bare).ok()?.get_ref(), usize::MAX)?;
        let whole = format!("{padding}{set}");
        if let Ok(document) = DeTable::parse(&whole) {
            // A line break in the value could bring more than one entry.
            depth_is(document.get_ref(), depth).then_some(())?;
            return Some(Self { document: whole, depth, word: None });
        }
        let span = start + key.len() + 1..start + set.len();
        Some(Self { document: bare, depth, word: Some(Spanned::new(span, value.trim().to_owned())) })
    }

    /// Puts the value into the configuration, in place of one that is there.
    fn apply<'a>(&'a self, mut table: &mut DeTable<'a>) -> Result<(), toml::de::Error> {
        let mut entries = DeTable::parse(&self.document)?.into_inner();
        for level in 1..=self.depth {
            let Some((key, mut value)) = entries.into_iter().next() else { break };
            if level == self.depth {
                if let Some(word) = &self.word {
                    value = Spanned::new(word.span(), DeValue::String(word.get_ref().as_str().into()));
                }
                table.insert(key, value);
                break;
            }
            let place = key.span();
            let slot = table.entry(key).or_insert_with(|| empty_table(place.clone()));
            if !slot.get_ref().is_table() {
                *slot = empty_table(place);
            }
            let DeValue::Table(below) = value.into_inner() else { break };
            let DeValue::Table(next) = slot.get_mut() else { break };
            (entries, table) = (below, next);
        }
        Ok(())
    }
}

fn empty_table<'a>(place: Range<usize>) -> Spanned<DeValue<'a>> {
    Spanned::new(place, DeValue::Table(DeTable::new()))
}

/// How many tables of one entry stand in each other, counted to a limit; nothing if one has fewer or more entries.
fn depth(table: &DeTable<'_>, limit: usize) -> Option<usize> {
    let mut depth = 0;
    let mut next = Some(table);
    while let Some(table) = next.filter(|_| depth < limit) {
        let (1, Some(value)) = (table.len(), table.values().next()) else { return None };
        depth += 1;
        next = value.get_ref().as_table();
    }
    Some(depth)
}

fn depth_is(table: &DeTable<'_>, expected: usize) -> bool {
    depth(table, expected) == Some(expected)
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;
    use serde_json::json;

    use super::*;

    #[test]
    fn tables_are_merged_and_kinds_replaced() {
        let mut value =
            json!({ "plan": { "steps": 5, "decay": { "kind": "cosine", "end": 0.1 } }, "seed": 1 });
        merge(
            &mut value,
            &json!({ "plan": { "steps": 7, "decay": { "kind": "constant" } }, "input": { "flip": 0 } }),
        );
        let expected = json!({ "plan": { "steps": 7, "decay": { "kind": "constant" } }, "seed": 1, "input": { "flip": 0 } });
        assert_eq!(value, expected);
    }

    #[test]
    fn a_table_says_only_what_differs() {
        #[derive(Debug, Deserialize, Serialize, PartialEq)]
        #[serde(deny_unknown_fields)]
        struct Rate {
            lr: f32,
            warmup: Option<u64>,
        }
        #[derive(Debug, Deserialize, Serialize, PartialEq)]
        struct Plan {
            steps: u64,
            rate: Rate,
        }
        fn partly<'de, D: AnyDeserializer<'de>>(deserializer: D) -> Result<Plan, D::Error> {
            over(&Plan { steps: 10, rate: Rate { lr: 0.1, warmup: None } }, deserializer)
        }
        #[derive(Debug, Deserialize)]
        struct Whole {
            #[serde(deserialize_with = "partly")]
            plan: Plan,
        }
        let read = |set: &str| load::<Whole>(None, &[set.to_owned()]).map(|loaded| loaded.value.plan);
        let plan = |steps, lr, warmup| Plan { steps, rate: Rate { lr, warmup } };
        assert_eq!(read("plan={}").unwrap(), plan(10, 0.1, None));
        assert_eq!(read("plan.steps=3").unwrap(), plan(3, 0.1, None));
        assert_eq!(read("plan.rate.warmup=4").unwrap(), plan(10, 0.1, Some(4)));
        let error = read("plan.rate.warm=4").unwrap_err().to_string();
        assert!(error.contains("unknown field `warm`"), "{error}");
        assert!(read("plan=3").is_err());
    }

    #[derive(Debug, Deserialize, Serialize, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Run {
        #[serde(default)]
        seed: u64,
        name: Option<String>,
        train: Train,
    }

    #[derive(Debug, Deserialize, Serialize, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Train {
        #[serde(default = "default_lr")]
        lr: f32,
        size: (u32, u32),
        #[serde(default)]
        classes: Vec<String>,
    }

    fn default_lr() -> f32 {
        1e-4
    }

    const FILE: &str = "seed = 7\n\n[train]\nsize = [256, 512]\n";

    fn with(text: &str, sets: &[&str]) -> Result<Config<Run>, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("train.toml");
        fs::write(&path, text).unwrap();
        let sets: Vec<String> = sets.iter().map(|set| (*set).to_owned()).collect();
        let all = load(Some(&path), &sets);
        all.map_err(|error| error.to_string().rsplit_once('/').map_or(error.to_string(), |e| e.1.to_owned()))
    }

    #[test]
    fn arguments_overrule_the_file_in_their_order() {
        let sets =
            ["train.lr=1", "name=a b#c", "train.size=[1,2]", "train.lr = 0.5", "train.classes=[\"x\"]"];
        let config = with(FILE, &sets).unwrap();
        let train = Train { lr: 0.5, size: (1, 2), classes: vec!["x".to_owned()] };
        assert_eq!(config.value, Run { seed: 7, name: Some("a b#c".to_owned()), train });
        assert_eq!(config.table["train"]["lr"].as_float(), Some(0.5));
        assert_eq!(config.table["name"].as_str(), Some("a b#c"));

        // A whole table is replaced, not merged; equals signs belong to the value.
        let config = with(FILE, &["train={ size = [3, 4] }", "name=k=v", "seed=8"]).unwrap();
        assert_eq!((config.value.train.size, config.value.train.lr), ((3, 4), 1e-4));
        assert_eq!((config.value.name.as_deref(), config.value.seed), (Some("k=v"), 8));
        assert_eq!(with(FILE, &["name="]).unwrap().value.name.as_deref(), Some(""));
        assert_eq!(with(FILE, &["name=true north"]).unwrap().value.name.as_deref(), Some("true north"));
    }

    #[test]
    fn without_a_file_arguments_are_enough() {
        let config = load::<Run>(None, &["train.size=[1,1]".to_owned()]).unwrap();
        assert_eq!(config.value.train.size, (1, 1));
        let error = load::<Run>(None, &[]).unwrap_err().to_string();
        assert_eq!(error, "the configuration: missing field `train`");
    }

    #[test]
    fn an_error_in_the_file_names_the_line() {
        let said = |text: &str| with(text, &["seed=1", "train.lr=2"]).unwrap_err();
        assert_eq!(
            said("seed = 7\n\n[train]\nsizes = [1, 2]\n"),
            "train.toml, line 4: unknown field `sizes`, expected one of `lr`, `size`, `classes`"
        );
        assert!(said("seed = 7\n[train]\nsize = [1, -2]\n").starts_with("train.toml, line 3: invalid value"));
        assert!(said("seed = 7\n[train\n").starts_with("train.toml, line 2: "));
        assert!(said("seed = 7\nseed = 8\n").starts_with("train.toml, line 2: duplicate key"));
        assert_eq!(said("\n[train]\nclasses = []"), "train.toml, line 2: missing field `size`");
        let missing = load::<Run>(Some(Path::new("no/such.toml")), &[]).unwrap_err().to_string();
        assert!(missing.starts_with("no/such.toml: cannot be read: "), "{missing}");
    }

    #[test]
    fn an_error_in_an_argument_names_it() {
        let said = |set: &str| with(FILE, &["seed=1", set, "train.classes=[]"]).unwrap_err();
        assert_eq!(
            said("seeds=3"),
            "--set seeds=3: unknown field `seeds`, expected one of `seed`, `name`, `train`"
        );
        assert!(said("train.sizes=[1,2]").starts_with("--set train.sizes=[1,2]: unknown field `sizes`"));
        assert!(
            said("train={ size=[1,2], x=1 }")
                .starts_with("--set train={ size=[1,2], x=1 }: unknown field `x`")
        );
        assert!(said("train.lr=fast").starts_with("--set train.lr=fast: invalid type: string \"fast\""));
        assert!(said("name=3").starts_with("--set name=3: invalid type: integer"));
        assert!(said("seed.x=3").starts_with("--set seed.x=3: invalid type: map"), "{}", said("seed.x=3"));
        assert!(said("train.size=[1,2").starts_with("--set train.size=[1,2: invalid type"));
        for wrong in ["seed", "=3", "a b=3", "", "seed=1\nname=\"y\"", "[train]\nlr=3"] {
            assert_eq!(said(wrong), format!("--set {wrong}: expected key=value, as in train.lr=1e-4"));
        }
    }

    #[test]
    fn the_resolved_configuration_reads_back() {
        let config = with(FILE, &["name=x"]).unwrap();
        let text = config.to_toml().unwrap();
        assert!(text.contains("lr = 0.0001\n"), "{text}");
        assert_eq!(with(&text, &[]).unwrap().value, config.value);
    }
}
