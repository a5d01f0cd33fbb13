//! COCO annotation files.
//!
//! Opening reads the file once and keeps, for every picture, where its annotations stand; reading a sample's labels
//! reads those pieces again. So a set of any size costs a few bytes an annotation.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use kirie_mask::BBox;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::files::{Entry, Root, file_name, read_text, split_name, stem, usual_split};
use super::labels::{Instance, Labels, Segmentation};
use super::parts::{Pair, choose, order};
use super::problems::{ProblemKind, Problems};
use super::text::{line_at, offset_in, polygon, reason, run_lengths};
use super::{Class, Dataset, OpenOptions, Opened, Sample, Source};
use crate::DataError;
use crate::decode::cannot_read;

/// Where the annotations of one picture stand.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// Position of the file in [`Dataset::sources`].
    source: usize,
    /// Byte offset and length of each annotation.
    pieces: Vec<(u64, u32)>,
}

/// Ids are whole numbers; some programs write text.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(untagged, expecting = "expected a whole number or text")]
enum Id {
    Number(i64),
    Text(String),
}

impl std::fmt::Display for Id {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Number(id) => id.fmt(f),
            Self::Text(id) => id.fmt(f),
        }
    }
}

#[derive(Deserialize)]
struct Whole<'a> {
    #[serde(borrow)]
    images: Option<Vec<&'a RawValue>>,
    #[serde(borrow)]
    annotations: Option<Vec<&'a RawValue>>,
    #[serde(borrow)]
    categories: Option<Vec<&'a RawValue>>,
}

#[derive(Deserialize)]
struct Picture {
    id: Option<Id>,
    file_name: Option<String>,
    width: Option<f64>,
    height: Option<f64>,
    split: Option<String>,
}

#[derive(Deserialize)]
struct Category {
    id: Option<u32>,
    name: Option<String>,
}

/// What opening needs of an annotation.
#[derive(Deserialize)]
struct Owner {
    id: Option<Id>,
    image_id: Option<Id>,
}

#[derive(Deserialize)]
struct Annotation<'a> {
    id: Option<Id>,
    category_id: Option<i64>,
    #[serde(borrow)]
    segmentation: Option<&'a RawValue>,
    bbox: Option<Vec<f64>>,
    area: Option<f64>,
    #[serde(default)]
    iscrowd: Flag,
    #[serde(default)]
    difficult: Flag,
    score: Option<f64>,
}

/// A yes or no, written as a number or a word.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(from = "Option<FlagForm>")]
struct Flag(bool);

#[derive(Deserialize)]
#[serde(untagged, expecting = "expected 0, 1, false or true")]
enum FlagForm {
    Word(bool),
    Number(f64),
}

impl From<Option<FlagForm>> for Flag {
    fn from(form: Option<FlagForm>) -> Self {
        Self(match form {
            None => false,
            Some(FlagForm::Word(word)) => word,
            Some(FlagForm::Number(number)) => number != 0.0,
        })
    }
}

/// The annotation files of a folder, with the part of the set their names or folders tell.
pub(super) fn find(root: &Root) -> Result<Vec<(Option<String>, PathBuf)>, DataError> {
    let mut found = Vec::new();
    let folders = root.folders(&root.path)?;
    let inner = folders.iter().filter(|(name, _)| *name == "annotations" || usual_split(name).is_some());
    for folder in std::iter::once(&root.path).chain(inner.map(|(_, folder)| folder)) {
        let of_folder = usual_split(&file_name(folder)).filter(|_| *folder != root.path);
        for Entry { id, path } in root.files(folder, &["json"], false)? {
            if starts_like_coco(&path) {
                let word = |part: &str| usual_split(part).map(str::to_owned);
                let of_name = id.split(['_', '-', '.']).rev().find_map(word);
                found.push((of_folder.map(str::to_owned).or(of_name), path));
            }
        }
    }
    // Beside COCO's instances lie captions and keypoints of the same pictures.
    let instances = |path: &Path| stem(path).contains("instances");
    if found.iter().any(|(_, path)| instances(path)) {
        found.retain(|(_, path)| instances(path));
    }
    found.sort_by_key(|(split, _)| order(split.as_deref()));
    Ok(found)
}

/// Whether a JSON file's beginning names one of the lists of an annotation file.
fn starts_like_coco(path: &Path) -> bool {
    let mut start = Vec::new();
    let read = File::open(path).and_then(|file| file.take(1 << 16).read_to_end(&mut start));
    let holds = |word: &[u8]| start.windows(word.len()).any(|part| part == word);
    let named = holds(b"\"images\"") || holds(b"\"annotations\"") || holds(b"\"categories\"");
    // SA-1B's files speak of one image.
    read.is_ok() && named && !holds(b"\"image\"")
}

/// Opens the annotation file given, or all of the folder.
pub(super) fn open(root: &Root, file: Option<&Path>, options: &OpenOptions) -> Result<Opened, DataError> {
    let mut sources = match file {
        Some(file) => vec![(None, file.to_owned())],
        None => find(root)?,
    };
    // Where files tell the parts apart, those of other parts need not be read.
    let wanted = options.split.as_deref().map(split_name);
    if sources.iter().any(|(split, _)| split.is_some() && *split == wanted) {
        sources.retain(|(split, _)| *split == wanted);
    }
    let mut opened = Opened::default();
    let (mut pairs, mut classes) = (Vec::new(), BTreeMap::new());
    for (source, (split, path)) in sources.iter().enumerate() {
        let text = read_text(path, &options.limits)?;
        let reader = Reader { root, options, path, text: &text, split: split.as_deref(), source };
        reader.read(&mut classes, &mut pairs, &mut opened.problems)?;
    }
    let Some((_, first)) = sources.first() else {
        let reason = "expected a COCO annotation file (.json with images and annotations), found none";
        return Err(DataError::not_a_dataset(&root.path, reason));
    };
    let more = if sources.len() > 1 { format!(" and {} more", sources.len() - 1) } else { String::new() };
    opened.found = format!("COCO annotations ({}{more})", file_name(first));

    let pairs = choose(root, pairs, options.split.as_deref(), &options.limits, &mut opened.problems)?;
    let sample = |pair: Pair<Labelled>| Sample {
        id: pair.id,
        image: pair.picture,
        size: pair.labels.0,
        split: pair.split,
        labels: Source::Coco(pair.labels.1),
        frame: None,
    };
    opened.samples = pairs.into_iter().map(sample).collect();
    opened.sources = sources.into_iter().map(|(_, path)| path).collect();
    opened.classes = classes.into_values().collect();
    Ok(opened)
}

/// Width and height where stated, and where the annotations stand.
type Labelled = (Option<(u32, u32)>, Place);

/// Reads one annotation file.
struct Reader<'a> {
    root: &'a Root,
    options: &'a OpenOptions,
    path: &'a Path,
    text: &'a str,
    split: Option<&'a str>,
    source: usize,
}

impl Reader<'_> {
    fn wrong(
        &self,
        what: impl std::fmt::Display,
        piece: &RawValue,
        reason: impl std::fmt::Display,
    ) -> DataError {
        let line = line_at(self.text, offset_in(self.text, piece));
        DataError::malformed(self.path, format!("{what} (line {line})"), reason)
    }

    fn read(
        &self,
        classes: &mut BTreeMap<u32, Class>,
        pairs: &mut Vec<Pair<Labelled>>,
        problems: &mut Problems,
    ) -> Result<(), DataError> {
        let whole: Whole = serde_json::from_str(self.text).map_err(|error| {
            let place = format!("line {}, column {}", error.line(), error.column());
            DataError::malformed(self.path, place, reason(&error))
        })?;
        let images = whole.images.ok_or_else(|| {
            DataError::not_a_dataset(self.path, "expected a list \"images\" in a COCO annotation file")
        })?;
        self.categories(whole.categories.as_deref().unwrap_or_default(), classes)?;

        let images = images.into_iter().enumerate().map(|(i, raw)| self.picture(i, raw));
        let images = images.collect::<Result<Vec<_>, _>>()?;
        let base = self.base(&images)?;
        // A folder named by the caller has its own fence.
        let own = self.options.pictures.as_deref();
        let own = own.map(|folder| Root::new(folder, self.options.allow_outside)).transpose()?;
        let fence = own.as_ref().unwrap_or(self.root);

        let mut pieces: HashMap<Id, Vec<(u64, u32)>> = HashMap::with_capacity(images.len());
        pieces.extend(images.iter().map(|image| (image.id.clone(), Vec::new())));
        if pieces.len() < images.len() {
            let mut seen = HashSet::new();
            if let Some(twice) = images.iter().find(|image| !seen.insert(&image.id)) {
                return Err(self.wrong(format!("image {}", twice.id), twice.raw, "its id occurs twice"));
            }
        }
        // A byte order mark, which the text has lost.
        let shift =
            fs::metadata(self.path).map_or(0, |file| file.len().saturating_sub(self.text.len() as u64));
        for (i, raw) in whole.annotations.unwrap_or_default().into_iter().enumerate() {
            let place = |id: Option<&Id>| {
                id.map_or(format!("annotation {i} of the list"), |id| format!("annotation {id}"))
            };
            let owner: Owner =
                serde_json::from_str(raw.get()).map_err(|e| self.wrong(place(None), raw, reason(&e)))?;
            let place = place(owner.id.as_ref());
            let image = owner.image_id.ok_or_else(|| self.wrong(&place, raw, "it has no image_id"))?;
            match pieces.get_mut(&image) {
                Some(list) => {
                    list.push((shift + offset_in(self.text, raw) as u64, raw.get().len() as u32));
                }
                None => problems.push(
                    ProblemKind::LabelsWithoutPicture,
                    format!("{}, {place}: image {image} is not in the list of images", self.path.display()),
                ),
            }
        }
        for image in images {
            let path = fence.join(&base, &image.file_name, self.path)?;
            let id = Path::new(&image.file_name.replace('\\', "/")).with_extension("").display().to_string();
            let split = self.split.map(str::to_owned).or_else(|| image.split.as_deref().map(split_name));
            let place = Place { source: self.source, pieces: pieces.remove(&image.id).unwrap_or_default() };
            pairs.push(Pair { id, picture: path, split, labels: (image.size, place) });
        }
        Ok(())
    }

    /// Adds the file's categories to those of other files, which must agree.
    fn categories(&self, raws: &[&RawValue], classes: &mut BTreeMap<u32, Class>) -> Result<(), DataError> {
        for (i, raw) in raws.iter().enumerate() {
            let place = format!("category {i} of the list");
            let category: Category =
                serde_json::from_str(raw.get()).map_err(|e| self.wrong(&place, raw, reason(&e)))?;
            let id = category.id.ok_or_else(|| self.wrong(&place, raw, "it has no id"))?;
            let name =
                category.name.ok_or_else(|| self.wrong(format!("category {id}"), raw, "it has no name"))?;
            let class = classes.entry(id).or_insert_with(|| Class::new(id, name.as_str()));
            if class.name != name {
                let reason = format!("it is {name:?} here and {:?} before", class.name);
                return Err(self.wrong(format!("category {id}"), raw, reason));
            }
        }
        Ok(())
    }

    fn picture<'r>(&self, i: usize, raw: &'r RawValue) -> Result<Listed<'r>, DataError> {
        let place = format!("image {i} of the list");
        let picture: Picture =
            serde_json::from_str(raw.get()).map_err(|e| self.wrong(&place, raw, reason(&e)))?;
        let id = picture.id.ok_or_else(|| self.wrong(&place, raw, "it has no id"))?;
        let wrong = |reason: &str| self.wrong(format!("image {id}"), raw, reason);
        let file_name = picture.file_name.filter(|name| !name.is_empty());
        let file_name = file_name.ok_or_else(|| wrong("it has no file_name"))?;
        let side = |side: f64| {
            let whole = side >= 1.0 && side <= f64::from(u32::MAX) && side.fract() == 0.0;
            whole.then_some(side as u32).ok_or_else(|| wrong("expected a whole width and height above 0"))
        };
        let size = match (picture.width, picture.height) {
            (Some(width), Some(height)) => Some((side(width)?, side(height)?)),
            _ => None,
        };
        // It becomes part of file names when the set is converted.
        let plain = |split: &String| !split.contains(['/', '\\', ':']) && !split.starts_with('.');
        if picture.split.as_ref().is_some_and(|split| split.is_empty() || !plain(split)) {
            return Err(wrong("split: expected a plain word such as train"));
        }
        Ok(Listed { raw, id, file_name, size, split: picture.split })
    }

    /// The folder that file names start from: where most of the first pictures are found.
    fn base(&self, images: &[Listed]) -> Result<PathBuf, DataError> {
        if let Some(folder) = &self.options.pictures {
            return Ok(folder.clone());
        }
        let beside = self.path.parent().unwrap_or(&self.root.path);
        let name = stem(self.path);
        // instances_train2017.json belongs to train2017/.
        let last = name.rsplit(['_', '-']).next().unwrap_or(&name);
        let mut folders = vec![self.root.path.clone()];
        folders
            .extend(["images", "JPEGImages", "imgs", "img", "data"].map(|inner| self.root.path.join(inner)));
        for word in [Some(last), self.split].into_iter().flatten() {
            folders
                .extend([word.to_owned(), format!("images/{word}")].map(|inner| self.root.path.join(inner)));
        }
        if beside != self.root.path && beside.starts_with(&self.root.path) {
            folders.extend([beside.to_owned(), beside.join("images")]);
        }
        let found = |folder: &PathBuf| {
            let first = images.iter().take(20);
            let inside = |image: &&Listed| {
                let path = self.root.join(folder, &image.file_name, self.path);
                path.is_ok_and(|path| path.is_file())
            };
            first.filter(inside).count()
        };
        let best = folders.iter().rev().map(|folder| (found(folder), folder)).max_by_key(|(count, _)| *count);
        match best {
            Some((count, folder)) if count > 0 => Ok(folder.clone()),
            _ => {
                let Some(first) = images.first() else { return Ok(self.root.path.clone()) };
                // A path that leads outside is the better explanation.
                self.root.join(&self.root.path, &first.file_name, self.path)?;
                let tried: Vec<String> = folders.iter().map(|folder| folder.display().to_string()).collect();
                let reason = format!(
                    "its pictures ({} ...) are in none of the folders {}",
                    first.file_name,
                    tried.join(", ")
                );
                Err(DataError::not_a_dataset(self.path, reason))
            }
        }
    }
}

/// A picture of the file's list.
struct Listed<'a> {
    raw: &'a RawValue,
    id: Id,
    file_name: String,
    size: Option<(u32, u32)>,
    split: Option<String>,
}

/// Reads the annotations of one picture.
pub(super) fn read(dataset: &Dataset, sample: &Sample, place: &Place) -> Result<Labels, DataError> {
    let frame = sample.size;
    let Some(path) = dataset.sources.get(place.source) else { return Ok(Labels::None) };
    let failed = |source| cannot_read(&path.display().to_string(), source);
    let mut instances = Vec::with_capacity(place.pieces.len());
    if !place.pieces.is_empty() {
        let mut file = File::open(path).map_err(failed)?;
        let mut piece = Vec::new();
        for &(offset, length) in &place.pieces {
            file.seek(SeekFrom::Start(offset)).map_err(failed)?;
            piece.resize(length as usize, 0);
            file.read_exact(&mut piece).map_err(failed)?;
            instances.push(instance(dataset, path, frame, offset, &piece)?);
        }
    }
    Ok(Labels::Instances { frame, instances })
}

fn instance(
    dataset: &Dataset,
    path: &Path,
    frame: Option<(u32, u32)>,
    offset: u64,
    piece: &[u8],
) -> Result<Instance, DataError> {
    let place = |id: Option<&Id>| {
        let at = line_or_byte(path, offset);
        id.map_or(format!("an annotation ({at})"), |id| format!("annotation {id} ({at})"))
    };
    let annotation: Annotation = serde_json::from_slice(piece).map_err(|error| {
        let id = serde_json::from_slice::<Owner>(piece).ok().and_then(|owner| owner.id);
        DataError::malformed(path, place(id.as_ref()), reason(&error))
    })?;
    let id = annotation.id.as_ref();
    let wrong = |reason: String| DataError::malformed(path, place(id), reason);

    let class = annotation.category_id.ok_or_else(|| wrong("it has no category_id".to_owned()))?;
    let class = u32::try_from(class)
        .ok()
        .filter(|&class| dataset.class(class).is_some())
        .ok_or_else(|| dataset.unknown_class(path, place(id), class))?;
    let bbox = match annotation.bbox.as_deref() {
        None | Some([]) => None,
        Some(&[x, y, width, height]) => {
            let bbox = BBox::from_xywh([x, y, width, height]);
            BBox::checked(bbox.x0, bbox.y0, bbox.x1, bbox.y1).map_err(|_| {
                wrong(format!("bbox: expected x, y, width and height, found [{x}, {y}, {width}, {height}]"))
            })?;
            Some(bbox)
        }
        Some(other) => return Err(wrong(format!("bbox: expected 4 numbers, found {}", other.len()))),
    };
    let segmentation = segmentation(annotation.segmentation, frame).map_err(wrong)?;
    let mut instance = match (segmentation, bbox) {
        (Some(Segmentation::Rle(rle)), _) => Instance::from_rle(Some(class), rle),
        (Some(Segmentation::Polygons(polygons)), _) => Instance::from_polygons(Some(class), polygons),
        (_, Some(bbox)) => Instance::new(Some(class), Segmentation::Box, bbox),
        (_, None) => return Err(wrong("it has neither a segmentation nor a bbox".to_owned())),
    };
    // The file's own figures go before measured ones, as in pycocotools.
    instance.bbox = bbox.unwrap_or(instance.bbox);
    instance.area = match (annotation.area, frame) {
        (Some(area), _) if area >= 0.0 => area,
        (Some(area), _) => return Err(wrong(format!("area: expected 0 or more, found {area}"))),
        (None, Some((width, height))) => {
            let mask = instance.mask(width, height).map_err(|error| wrong(error.to_string()))?;
            mask.map_or(instance.area, |mask| mask.area() as f64)
        }
        (None, None) => instance.area,
    };
    instance.crowd = annotation.iscrowd.0;
    instance.difficult = annotation.difficult.0;
    instance.score = annotation.score;
    Ok(instance)
}

/// The line at a byte offset of a file; the offset itself where counting lines up to it would take long.
fn line_or_byte(path: &Path, offset: u64) -> String {
    const SOON: u64 = 1 << 24;
    let mut before = Vec::new();
    let mut read = || File::open(path)?.take(offset).read_to_end(&mut before);
    if offset <= SOON && read().is_ok() {
        let line = before.split(|&b| b == b'\n').count();
        format!("line {line}")
    } else {
        format!("byte {offset}")
    }
}

/// Polygons, run lengths, or neither (nothing, null or an empty list).
fn segmentation(raw: Option<&RawValue>, frame: Option<(u32, u32)>) -> Result<Option<Segmentation>, String> {
    let Some(raw) = raw.filter(|raw| raw.get() != "null") else { return Ok(None) };
    if !raw.get().starts_with('[') {
        return run_lengths(raw, frame).map(|rle| Some(Segmentation::Rle(rle)));
    }
    let unclear = |error: serde_json::Error| {
        format!("segmentation: expected lists of numbers or run lengths: {}", reason(&error))
    };
    let nested = raw.get()[1..].trim_start().starts_with(['[', ']']);
    let polygons: Vec<Vec<f64>> = if nested {
        serde_json::from_str(raw.get()).map_err(unclear)?
    } else {
        // Some programs leave out the outer list.
        vec![serde_json::from_str(raw.get()).map_err(unclear)?]
    };
    let polygons = polygons.iter().filter(|ring| !ring.is_empty()).map(|ring| polygon(ring));
    let polygons = polygons.collect::<Result<Vec<_>, _>>()?;
    Ok(if polygons.is_empty() { None } else { Some(Segmentation::Polygons(polygons)) })
}
