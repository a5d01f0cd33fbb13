//! Classes, and the lists that name them.

use std::collections::HashMap;
use std::path::Path;

use serde::Serialize;

use super::files::{lines, read_text};
use crate::write::color;
use crate::{DataError, Limits};

/// A class of a dataset.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Class {
    /// The number that labels name it by. Ids need not be consecutive.
    pub id: u32,
    /// Its name.
    pub name: String,
    /// The colour it is drawn in, 8-bit sRGB.
    pub color: [u8; 3],
}

impl Class {
    pub(super) fn new(id: u32, name: impl Into<String>) -> Self {
        let name = name.into();
        let color = if is_background(&name) { [0; 3] } else { color(id as usize) };
        Self { id, name, color }
    }

    /// Whether the class is what is left between the objects, going by its name: `background`, `bg`, `none` or
    /// `_background_`.
    pub fn is_background(&self) -> bool {
        is_background(&self.name)
    }
}

fn is_background(name: &str) -> bool {
    ["background", "_background_", "__background__", "bg", "none"].contains(&name.to_lowercase().as_str())
}

/// Whether a class list's name says that its pixels are neither learned from nor scored.
pub(super) fn says_ignore(name: &str) -> bool {
    let names = [
        "void",
        "unlabelled",
        "unlabeled",
        "ignore",
        "ignored",
        "_ignore_",
        "__ignore__",
        "don't care",
        "dontcare",
    ];
    names.contains(&name.to_lowercase().as_str())
}

/// Reads a class list: lines of `id<TAB>name`, or names alone, which count from 0.
pub(super) fn read_class_list(path: &Path, limits: &Limits) -> Result<Vec<Class>, DataError> {
    let text = read_text(path, limits)?;
    let numbered = lines(&text)
        .all(|(_, line)| line.split_once('\t').is_some_and(|(id, _)| id.trim().parse::<u32>().is_ok()));
    let mut classes: Vec<Class> = Vec::new();
    let mut line_of = HashMap::new();
    for (index, (number, line)) in (0..).zip(lines(&text)) {
        let (id, name) = match line.split_once('\t') {
            // Every id is a number where `numbered`.
            Some((id, name)) if numbered => (id.trim().parse().unwrap_or(index), name.trim()),
            _ => (index, line),
        };
        if let Some(before) = line_of.insert(id, number) {
            let reason = format!("class {id} is named twice, first in line {before}");
            return Err(DataError::malformed(path, format!("line {number}"), reason));
        }
        classes.push(Class::new(id, name));
    }
    classes.sort_by_key(|class| class.id);
    Ok(classes)
}

/// Classes from their names alone, numbered from 0 in the order of the alphabet.
pub(super) fn from_names(names: impl IntoIterator<Item = String>) -> Vec<Class> {
    let mut names: Vec<String> = names.into_iter().collect();
    names.sort();
    names.dedup();
    (0..).zip(names).map(|(id, name)| Class::new(id, name)).collect()
}

/// The classes in a few words, for error messages.
pub(super) fn summary(classes: &[Class]) -> String {
    const SHOWN: usize = 12;
    if classes.is_empty() {
        return "there are none".to_owned();
    }
    let shown: Vec<String> = classes.iter().take(SHOWN).map(|c| format!("{} {}", c.id, c.name)).collect();
    let more = classes.len().saturating_sub(SHOWN);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{}{more}", shown.join(", "))
}
