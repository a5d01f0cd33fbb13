//! Image-level labels in a CSV file, in any of three forms that are told apart by the first line:
//!
//! ```text
//! file,labels            file,label          file,screw,nut
//! a.jpg,screw;nut        a.jpg,screw         a.jpg,1,1
//! b.jpg,                 a.jpg,nut           b.jpg,0,0
//! ```
//!
//! Names in `labels` are parted by `;` or `|`. A row without names says that the picture shows none of the classes, which is
//! knowledge too; a picture that is not in the table is not used. Rows of one file add up.

use std::collections::HashMap;
use std::path::Path;

use crate::WeakError;

/// What a table says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// Classes in the order in which they are met.
    pub classes: Vec<String>,
    /// Files as written, with `/`, in the order in which they are met, and the names of their classes.
    pub rows: Vec<(String, Vec<String>)>,
}

/// Reads a table.
///
/// # Errors
/// [`WeakError::Read`]; [`WeakError::Content`] with the line for a first line of none of the forms, rows of another length, cells
/// that are neither 0 nor 1, paths that lead out of the folder, and a table without rows.
pub fn read(path: &Path) -> Result<Table, WeakError> {
    let bytes = std::fs::read(path).map_err(|source| WeakError::Read { path: path.to_owned(), source })?;
    parse(&bytes).map_err(|(line, reason)| {
        let place = if line > 0 { format!("line {line}") } else { String::new() };
        WeakError::content(path, place, reason)
    })
}

fn parse(bytes: &[u8]) -> Result<Table, (u64, String)> {
    // What spreadsheet programs put before the first letter.
    let bytes = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(bytes);
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(bytes);
    let place = |error: &csv::Error| error.position().map_or(0, csv::Position::line);
    let header: Vec<String> = match reader.headers() {
        Ok(header) => header.iter().map(str::to_owned).collect(),
        Err(error) => return Err((place(&error), error.to_string())),
    };
    let first = || "expected `file,labels`, `file,label` or `file,CLASS,CLASS,...`".to_owned();
    let (Some("file"), Some(second)) = (header.first().map(String::as_str), header.get(1)) else {
        return Err((1, format!("{}, found {:?}", first(), header.join(","))));
    };
    let listed = matches!(second.as_str(), "labels" | "label") && header.len() == 2;
    let mut table = Table::default();
    if !listed {
        table.classes = header[1..].to_vec();
        if table.classes.iter().any(String::is_empty) {
            return Err((1, format!("{}, found a column without a name", first())));
        }
    }
    let mut places: HashMap<String, usize> = HashMap::new();
    for record in reader.records() {
        let record = record.map_err(|error| (place(&error), error.to_string()))?;
        let line = record.position().map_or(0, csv::Position::line);
        let file = record.get(0).unwrap_or_default().replace('\\', "/");
        let outside = file.starts_with('/') || file.contains(':') || file.split('/').any(|part| part == "..");
        if file.is_empty() || outside {
            return Err((line, format!("expected a file's name from the set's folder on, found {file:?}")));
        }
        let names: Vec<String> = if listed {
            let cell = record.get(1).unwrap_or_default();
            cell.split([';', '|']).map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect()
        } else {
            let mut names = Vec::new();
            for (class, cell) in table.classes.iter().zip(record.iter().skip(1)) {
                match cell {
                    "1" => names.push(class.clone()),
                    "0" => {}
                    other => return Err((line, format!("{class}: expected 0 or 1, found {other:?}"))),
                }
            }
            names
        };
        for name in &names {
            if !table.classes.contains(name) {
                table.classes.push(name.clone());
            }
        }
        let at = *places.entry(file.clone()).or_insert_with(|| {
            table.rows.push((file, Vec::new()));
            table.rows.len() - 1
        });
        table.rows[at].1.extend(names);
    }
    if table.rows.is_empty() {
        return Err((0, "holds no row".to_owned()));
    }
    Ok(table)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(rows: &[(&str, &[&str])]) -> Vec<(String, Vec<String>)> {
        rows.iter().map(|(f, n)| ((*f).to_owned(), n.iter().map(|n| (*n).to_owned()).collect())).collect()
    }

    #[test]
    fn the_three_forms_say_the_same() {
        let lists = parse(b"\xef\xbb\xbffile,labels\r\na.jpg,screw; nut\r\n\"b, c.jpg\",\r\n").unwrap();
        let pairs = parse(b"file,label\na.jpg,screw\n\"b, c.jpg\",\na.jpg,nut\n").unwrap();
        let columns = parse(b"file,screw,nut\na.jpg,1,1\n\"b, c.jpg\",0,0\n").unwrap();
        assert_eq!(lists.classes, ["screw", "nut"]);
        assert_eq!(lists.rows, rows(&[("a.jpg", &["screw", "nut"]), ("b, c.jpg", &[])]));
        assert_eq!(pairs, lists);
        assert_eq!(columns, lists);
    }

    #[test]
    fn nonsense_is_told_with_its_line() {
        let said = |text: &str| parse(text.as_bytes()).unwrap_err();
        assert_eq!(said("name,labels\na,b\n").0, 1);
        assert_eq!(said("file\na\n").0, 1);
        assert_eq!(
            said("file,cat\na.jpg,1\nb.jpg,yes\n"),
            (3, "cat: expected 0 or 1, found \"yes\"".to_owned())
        );
        assert_eq!(said("file,labels\n../a.jpg,cat\n").0, 2);
        assert_eq!(said("file,labels\n/etc/a.jpg,cat\n").0, 2);
        assert_eq!(said("file,labels\na.jpg,cat,dog\n").0, 2);
        assert_eq!(said("file,labels\n"), (0, "holds no row".to_owned()));
        assert_eq!(said("").0, 1);
    }
}
