//! The names in a YOLO `data.yaml`.
//!
//! Only the key `names` at the outermost level is looked at, in the forms that are in use: a list or numbered names, on
//! one line or several. That takes no YAML in full, and nothing here can be made to nest or expand.

use std::collections::BTreeMap;
use std::path::Path;

use super::Class;
use crate::DataError;

/// The classes that `names` lists; nothing when there is no such key.
pub(super) fn names(path: &Path, text: &str) -> Result<Option<Vec<Class>>, DataError> {
    let mut lines = (1..).zip(text.lines());
    let Some((start, value)) = lines.find_map(|(number, line)| {
        let value = line.strip_prefix("names").map(str::trim_start)?.strip_prefix(':')?;
        Some((number, without_comment(value).trim()))
    }) else {
        return Ok(None);
    };
    let wrong = |number: usize, reason: String| DataError::malformed(path, format!("line {number}"), reason);

    let mut names: Vec<(Option<u32>, String)> = Vec::new();
    if let Some(close) = closing(value) {
        // [a, b] or {0: a, 1: b}, maybe over several lines.
        let mut inner = value[1..].to_owned();
        let mut end = start;
        let mut closed = without_quoted(value).contains(close);
        while !closed {
            let (number, line) = lines
                .next()
                .ok_or_else(|| wrong(start, format!("names: the list is not closed by {close:?}")))?;
            let line = without_comment(line).trim();
            closed = without_quoted(line).contains(close);
            inner.push(' ');
            inner.push_str(line);
            end = number;
        }
        for item in items(&inner, close) {
            if item.is_empty() {
                continue;
            }
            let entry = if close == '}' { numbered(item) } else { Some((None, unquoted(item))) };
            names.push(entry.ok_or_else(|| {
                wrong(end, format!("names: expected a number, a colon and a name, found {item:?}"))
            })?);
        }
    } else if value.is_empty() {
        // "- a" or "0: a", one a line.
        for (number, line) in lines {
            let bare = without_comment(line).trim_end();
            let entry = bare.trim_start();
            if entry.is_empty() {
                continue;
            }
            let dashed = entry.strip_prefix('-');
            if dashed.is_none() && entry.len() == bare.len() {
                break;
            }
            names.push(match dashed {
                Some(name) => (None, unquoted(name)),
                None => numbered(entry).ok_or_else(|| {
                    wrong(number, format!("names: expected \"- name\" or \"number: name\", found {entry:?}"))
                })?,
            });
        }
    } else {
        return Err(wrong(start, format!("names: expected a list, found {value:?}")));
    }

    let mut classes = BTreeMap::new();
    for (index, (id, name)) in (0..).zip(names) {
        let id = id.unwrap_or(index);
        if classes.insert(id, Class::new(id, name)).is_some() {
            return Err(wrong(start, format!("names: class {id} is named twice")));
        }
    }
    Ok(Some(classes.into_values().collect()))
}

fn closing(value: &str) -> Option<char> {
    match value.chars().next()? {
        '[' => Some(']'),
        '{' => Some('}'),
        _ => None,
    }
}

/// The text with everything in quotes replaced by blanks, byte for byte.
fn without_quoted(text: &str) -> String {
    let mut quote = None;
    let mut before = ' ';
    let mut result = String::with_capacity(text.len());
    for c in text.chars() {
        let inside = quote.is_some();
        match quote {
            Some(open) if c == open && !(c == '"' && before == '\\') => quote = None,
            // An apostrophe within a word is no quote.
            None if (c == '"' || c == '\'') && !before.is_alphanumeric() => quote = Some(c),
            _ => {}
        }
        if inside || quote.is_some() {
            result.extend(std::iter::repeat_n(' ', c.len_utf8()));
        } else {
            result.push(c);
        }
        before = c;
    }
    result
}

/// A line up to a `#` that starts a comment.
fn without_comment(line: &str) -> &str {
    let plain = without_quoted(line);
    let starts = plain.match_indices('#').map(|(at, _)| at);
    let mut comment = starts.filter(|&at| at == 0 || plain.as_bytes()[at - 1].is_ascii_whitespace());
    comment.next().map_or(line, |at| &line[..at])
}

/// What stands between commas, up to the closing bracket.
fn items(inner: &str, close: char) -> Vec<&str> {
    let plain = without_quoted(inner);
    let end = plain.find(close).unwrap_or(plain.len());
    let mut start = 0;
    let mut items = Vec::new();
    for comma in plain[..end].match_indices(',').map(|(at, _)| at).chain([end]) {
        items.push(inner[start..comma].trim());
        start = comma + 1;
    }
    items
}

fn numbered(entry: &str) -> Option<(Option<u32>, String)> {
    let (id, name) = entry.split_once(':')?;
    let id = unquoted(id).parse().ok()?;
    Some((Some(id), unquoted(name)))
}

fn unquoted(text: &str) -> String {
    let text = text.trim();
    let within = |quote| text.strip_prefix(quote)?.strip_suffix(quote);
    match (within('"'), within('\'')) {
        (Some(double), _) => double.replace("\\\"", "\"").replace("\\\\", "\\"),
        (_, Some(single)) => single.replace("''", "'"),
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> Vec<(u32, String)> {
        let classes = names(Path::new("data.yaml"), text).unwrap().unwrap();
        classes.into_iter().map(|class| (class.id, class.name)).collect()
    }

    #[test]
    fn every_form_in_use() {
        let expected = [(0, "cat"), (1, "big, black dog"), (2, "it's #1")].map(|(i, n)| (i, n.to_owned()));
        for text in [
            "train: ../x\nnc: 3\nnames: [cat, 'big, black dog', \"it's #1\"] # three\n",
            "names: ['cat',\n  'big, black dog', # the second\n  \"it's #1\",\n]\nnc: 3",
            "names:\n- cat\n- big, black dog\n- \"it's #1\"\nnc: 3\n",
            "names:\n  # all\n  0: cat\n  1: big, black dog\n\n  2: 'it''s #1'\nroboflow:\n  x: y\n",
            "names: {0: cat, 2: \"it's #1\", 1: 'big, black dog'}",
        ] {
            assert_eq!(read(text), expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_list_is_told_with_its_line() {
        assert_eq!(names(Path::new("d"), "nc: 2\n").unwrap(), None);
        for (text, line, part) in [
            ("nc: 1\nnames: cat", 2, "expected a list"),
            ("names: [a, b\nnc: 2", 1, "not closed"),
            ("names:\n  0: a\n  b\n", 3, "number: name"),
            ("names: {0: a, 0: b}", 1, "named twice"),
        ] {
            let error = names(Path::new("d.yaml"), text).unwrap_err().to_string();
            assert!(error.starts_with(&format!("d.yaml, line {line}: ")) && error.contains(part), "{error}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC*", lines in "(names|[-:#,'\"\\[\\]{} \na0é])*") {
            let _ = names(Path::new("d"), &text);
            let _ = names(Path::new("d"), &format!("names:{lines}"));
        }
    }
}
