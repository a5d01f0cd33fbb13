//! Pictures and their label files, found in the ways people lay out folders; the table stands at [`super`].

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};

use super::files::{Entry, Root, file_name, lines, read_text, split_name, stem, usual_split};
use super::problems::{ProblemKind, Problems};
use crate::{DataError, EXTENSIONS, Limits};

/// Folders that hold pictures, in lower case.
const PICTURES: &[&str] = &["images", "jpegimages", "imgs", "img", "image", "pictures"];
/// Folders that hold lists.
const LISTS: &[&str] = &["", "ImageSets/Main", "ImageSets/Segmentation", "ImageSets"];

/// What one layout's label files are called.
pub(super) struct Wanted<'a> {
    /// Folders, in lower case.
    pub(super) folders: &'a [&'a str],
    /// Endings.
    pub(super) extensions: &'a [&'a str],
    /// Whether they may lie among the pictures.
    pub(super) beside: bool,
}

/// A folder of pictures and the folder with their labels.
pub(super) struct Part {
    pub(super) split: Option<String>,
    pub(super) pictures: PathBuf,
    pub(super) labels: PathBuf,
    /// Whether the folders below are part of it.
    deep: bool,
}

/// A picture with its labels, or where they are.
#[derive(Clone)]
pub(super) struct Pair<L = Vec<PathBuf>> {
    pub(super) id: String,
    pub(super) picture: PathBuf,
    pub(super) split: Option<String>,
    pub(super) labels: L,
}

/// Where pictures and labels of this kind lie; empty when there are none.
pub(super) fn find(root: &Root, wanted: &Wanted) -> Result<Vec<Part>, DataError> {
    let folders = root.folders(&root.path)?;
    if let Some((pictures, labels, deep)) = side_by_side(root, &root.path, wanted)? {
        return Ok(vec![Part { split: None, pictures, labels, deep }]);
    }
    let mut parts = Vec::new();
    for (name, folder) in &folders {
        let Some(split) = usual_split(name) else { continue };
        let split = Some(split.to_owned());
        if let Some((pictures, labels, deep)) = side_by_side(root, folder, wanted)? {
            parts.push(Part { split, pictures, labels, deep });
        } else if let Some(labels) = folders.get(&format!("{name}annot")).filter(|_| !wanted.beside) {
            if !root.files(folder, EXTENSIONS, false)?.is_empty()
                && !root.files(labels, wanted.extensions, false)?.is_empty()
            {
                parts.push(Part { split, pictures: folder.clone(), labels: labels.clone(), deep: false });
            }
        } else if wanted.beside && mixed(root, folder, wanted)? {
            parts.push(Part { split, pictures: folder.clone(), labels: folder.clone(), deep: false });
        }
    }
    if parts.is_empty() && wanted.beside && mixed(root, &root.path, wanted)? {
        parts.push(Part { split: None, pictures: root.path.clone(), labels: root.path.clone(), deep: false });
    }
    // train, val, test, however the folders are called.
    parts.sort_by_key(|part| order(part.split.as_deref()));
    Ok(parts)
}

/// A folder of pictures and one of labels, both in `folder`; or the labels in a folder beside loose pictures.
fn side_by_side(
    root: &Root,
    folder: &Path,
    wanted: &Wanted,
) -> Result<Option<(PathBuf, PathBuf, bool)>, DataError> {
    let folders = root.folders(folder)?;
    let named = |names: &[&str]| names.iter().find_map(|name| folders.get(*name).cloned());
    let labels = wanted.folders.iter().filter_map(|name| folders.get(*name));
    for labels in labels {
        if root.files(labels, wanted.extensions, true)?.is_empty() {
            continue;
        }
        if let Some(pictures) = named(PICTURES) {
            return Ok(Some((pictures, labels.clone(), true)));
        }
        if !root.files(folder, EXTENSIONS, false)?.is_empty() {
            return Ok(Some((folder.to_owned(), labels.clone(), false)));
        }
    }
    // Some programs put label files among the pictures of `images/`.
    match named(PICTURES) {
        Some(pictures) if wanted.beside && mixed(root, &pictures, wanted)? => {
            Ok(Some((pictures.clone(), pictures, true)))
        }
        _ => Ok(None),
    }
}

/// Whether a folder holds pictures and labels of the same name.
fn mixed(root: &Root, folder: &Path, wanted: &Wanted) -> Result<bool, DataError> {
    let pictures: HashSet<String> =
        root.files(folder, EXTENSIONS, false)?.into_iter().map(|entry| entry.id).collect();
    let labels = root.files(folder, wanted.extensions, false)?;
    Ok(labels.iter().any(|label| pictures.contains(&label.id)))
}

/// The folder of pictures in a folder, where it has one of the usual names.
pub(super) fn picture_folder(root: &Root, folder: &Path) -> Result<Option<PathBuf>, DataError> {
    let folders = root.folders(folder)?;
    Ok(PICTURES.iter().find_map(|name| folders.get(*name).cloned()))
}

/// All pictures of the parts with their labels, those of one split where `split` names one.
pub(super) fn pair(
    root: &Root,
    parts: &[Part],
    wanted: &Wanted,
    split: Option<&str>,
    limits: &Limits,
    problems: &mut Problems,
) -> Result<Vec<Pair>, DataError> {
    let mut all = Vec::new();
    for part in parts {
        let pictures = root.files(&part.pictures, EXTENSIONS, part.deep)?;
        let labels = root.files(&part.labels, wanted.extensions, part.deep)?;
        let mut labels = by_picture(&pictures, labels, part.pictures != part.labels, problems);
        let mut before: Option<&Entry> = None;
        for picture in &pictures {
            if let Some(before) = before.filter(|before| before.id == picture.id) {
                let what = format!("{} and {}", before.path.display(), picture.path.display());
                problems.push(ProblemKind::SameName, what);
                continue;
            }
            before = Some(picture);
            let below = picture.id.split_once('/').and_then(|(top, _)| usual_split(top)).map(str::to_owned);
            all.push(Pair {
                id: picture.id.clone(),
                picture: picture.path.clone(),
                split: part.split.clone().or(below),
                labels: labels.remove(&picture.id).unwrap_or_default(),
            });
        }
    }
    let chosen = choose(root, all, split, limits, problems)?;
    for pair in chosen.iter().filter(|pair| pair.labels.is_empty()) {
        problems.push(ProblemKind::PictureWithoutLabels, pair.picture.display().to_string());
    }
    Ok(chosen)
}

/// Label files by the picture they belong to: of the same id; of the same id but for one folder on top, which then
/// tells several people's labels apart; or with `_mask` after the name.
fn by_picture(
    pictures: &[Entry],
    labels: Vec<Entry>,
    tell: bool,
    problems: &mut Problems,
) -> HashMap<String, Vec<PathBuf>> {
    let ids: HashSet<&str> = pictures.iter().map(|picture| picture.id.as_str()).collect();
    let mut found: HashMap<String, Vec<PathBuf>> = HashMap::new();
    for label in labels {
        let below = label.id.split_once('/').map(|(_, rest)| rest);
        let plain = ["_mask", "_gt"].iter().find_map(|end| label.id.strip_suffix(end));
        let key = [Some(label.id.as_str()), below, plain].into_iter().flatten().find(|id| ids.contains(id));
        match key {
            Some(id) => found.entry(id.to_owned()).or_default().push(label.path),
            // Among pictures lie other files, too.
            None if tell => {
                problems.push(ProblemKind::LabelsWithoutPicture, label.path.display().to_string());
            }
            None => {}
        }
    }
    found
}

/// Puts pairs into parts by the set's lists, where folders did not, and keeps the part asked for.
pub(super) fn choose<L: Clone>(
    root: &Root,
    all: Vec<Pair<L>>,
    split: Option<&str>,
    limits: &Limits,
    problems: &mut Problems,
) -> Result<Vec<Pair<L>>, DataError> {
    let wanted = split.map(split_name);
    let mut all = all;
    if let Some(pairs) = by_lists(root, &all, wanted.as_deref(), limits, problems)? {
        return Ok(pairs);
    }
    if let Some(wanted) = wanted {
        let splits: BTreeSet<String> = all.iter().filter_map(|pair| pair.split.clone()).collect();
        all.retain(|pair| pair.split.as_ref() == Some(&wanted));
        if all.is_empty() {
            let lists = find_lists(root)?.into_keys().filter(|name| usual_split(name).is_some());
            return Err(unknown_split(root, &wanted, splits.into_iter().chain(lists)));
        }
    } else {
        all.sort_by_key(|pair| order(pair.split.as_deref()));
    }
    Ok(all)
}

pub(super) fn unknown_split(
    root: &Root,
    wanted: &str,
    splits: impl IntoIterator<Item = String>,
) -> DataError {
    let found: Vec<String> = splits.into_iter().collect();
    let found =
        if found.is_empty() { "none (neither lists nor folders)".to_owned() } else { found.join(", ") };
    DataError::UnknownSplit { name: root.path.display().to_string(), split: wanted.to_owned(), found }
}

/// train, val, test, then the rest.
pub(super) fn order(split: Option<&str>) -> usize {
    ["train", "val", "test"].iter().position(|&usual| split == Some(usual)).unwrap_or(3)
}

/// The pairs as lists name them; nothing when there is no list.
fn by_lists<L: Clone>(
    root: &Root,
    all: &[Pair<L>],
    wanted: Option<&str>,
    limits: &Limits,
    problems: &mut Problems,
) -> Result<Option<Vec<Pair<L>>>, DataError> {
    let mut lists = find_lists(root)?;
    let usual = |name: &str| ["train", "val", "test"].contains(&name);
    match wanted {
        Some(wanted) => lists.retain(|name, _| name == wanted),
        // `trainval` repeats the others, and any other text file may be no list at all.
        None if lists.keys().any(|name| usual(name)) => lists.retain(|name, _| usual(name)),
        None => lists.retain(|name, _| name == "trainval"),
    }
    if lists.is_empty() {
        return Ok(None);
    }
    // By id, and by name alone where that is not ambiguous.
    let mut index: HashMap<&str, Option<usize>> = HashMap::new();
    for (at, pair) in all.iter().enumerate() {
        let name = pair.id.rsplit('/').next().unwrap_or(&pair.id);
        index.entry(name).and_modify(|found| *found = None).or_insert(Some(at));
    }
    index.extend(all.iter().enumerate().map(|(at, pair)| (pair.id.as_str(), Some(at))));

    let mut lists: Vec<(String, PathBuf)> = lists.into_iter().collect();
    lists.sort_by_key(|(name, _)| order(Some(name)));
    let mut pairs = Vec::new();
    let mut used = vec![false; all.len()];
    for (split, path) in lists {
        let text = read_text(&path, limits)?;
        let mut missing: Option<(usize, String)> = None;
        let mut more = 0;
        for (number, line) in lines(&text) {
            match look_up(&index, line) {
                Some(at) => {
                    used[at] = true;
                    pairs.push(Pair { split: Some(split.clone()), ..all[at].clone() });
                }
                None if missing.is_none() => missing = Some((number, line.to_owned())),
                None => more += 1,
            }
        }
        if let Some((line, stem)) = missing {
            return Err(DataError::NotListed { name: path.display().to_string(), line, stem, more });
        }
    }
    if wanted.is_none() {
        for (pair, _) in all.iter().zip(used).filter(|(_, used)| !used) {
            problems.push(ProblemKind::NotInAnyList, pair.picture.display().to_string());
        }
    }
    Ok(Some(pairs))
}

/// A list's line: an id or name, with or without ending and folders; more columns may follow. It is only ever looked up
/// among the pictures found, so it cannot name a file elsewhere.
fn look_up(index: &HashMap<&str, Option<usize>>, line: &str) -> Option<usize> {
    let first = line.split_whitespace().next().unwrap_or(line);
    [line, first].into_iter().find_map(|entry| {
        let entry = entry.replace('\\', "/");
        let path = Path::new(&entry);
        let bare = path.with_extension("");
        let tries = [entry.clone(), bare.to_string_lossy().into_owned(), file_name(path), stem(path)];
        tries.iter().find_map(|name| index.get(name.as_str()).copied().flatten())
    })
}

/// The set's lists by the name of their part. Text files that name classes are none.
fn find_lists(root: &Root) -> Result<BTreeMap<String, PathBuf>, DataError> {
    let mut lists = BTreeMap::new();
    for folder in LISTS {
        let folder = root.path.join(folder);
        if !folder.is_dir() {
            continue;
        }
        root.check(&folder, &root.path)?;
        for entry in root.files(&folder, &["txt"], false)? {
            lists.entry(split_name(&entry.id)).or_insert(entry.path);
        }
    }
    Ok(lists)
}
