//! Labelled sets of pictures, of many layouts, in one form.
//!
//! [`open`] looks at a folder, says what it took it for, and returns a [`Dataset`]: classes, and a list of [`Sample`]s.
//! Only file names and places in files are held; [`Dataset::labels`] and [`Dataset::picture`] read one sample at a time.
//!
//! | layout | labels | classes from |
//! | --- | --- | --- |
//! | [`Layout::Coco`] | `*.json` with `images`, `annotations`, `categories` | `categories` |
//! | [`Layout::Voc`] | an XML file a picture, boxes | `classes.txt`, or all names that occur |
//! | [`Layout::Yolo`] | a text file a picture, boxes and polygons | `data.yaml`, `classes.txt`, `obj.names` |
//! | [`Layout::Regions`] | a JSON file a picture, as SA-1B has it and `kirie segment` writes it | none |
//! | [`Layout::Labelme`] | a JSON file a picture, as LabelMe writes it | `classes.txt`, or all names that occur |
//! | [`Layout::Masks`] | a label picture a picture: classes or objects, see [`MaskMeaning`] | `classes.txt` |
//! | [`Layout::ClassFolders`] | the folder's name (ImageFolder) | `classes.txt`, or the folders |
//! | [`Layout::Cifar10`], [`Layout::Stl10`] | the sets' own binary files | their text files |
//! | [`Layout::Pictures`] | none | none |
//!
//! A class list (`classes.txt`) holds lines of `id<TAB>name`, or names alone, which then count from 0.
//!
//! Pictures and their label files may lie
//!
//! | | example |
//! | --- | --- |
//! | side by side | `images/a.jpg`, `masks/a.png` |
//! | with parts below | `images/train/a.jpg`, `masks/train/a.png` |
//! | parts first | `train/images/a.jpg`, `train/masks/a.png` |
//! | paired names | `train/a.png`, `trainannot/a.png` |
//! | in one folder | `a.jpg`, `a.xml`; `train/a.jpg`, `train/a.xml` |
//!
//! Where folders do not name the parts, lists do: `train.txt`, `val.txt`, `test.txt` in the set's
//! folder or under `ImageSets/`, one name a line, with or without ending and folder. A list of any other name is
//! opened by that name, so folds of a cross-validation are lists.
//!
//! Coordinates: whatever a file's convention, boxes become corners in pixels with (0, 0) the outer corner of the
//! picture's first pixel. So Pascal VOC's first and last pixel, counted from 1, `xmin..xmax`, become `x0 = xmin - 1`,
//! `x1 = xmax`.
//!
//! No path that a file names, and no link, is followed out of the set's folder unless
//! [`OpenOptions::allow_outside`] says so.

mod classes;
mod coco;
mod convert;
mod files;
mod folders;
mod frames;
mod inspect;
mod labelme;
mod labels;
mod masks;
mod parts;
mod per_picture;
mod preview;
mod problems;
mod recognise;
mod regions;
mod text;
mod voc;
mod yaml;
mod yolo;

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::Serialize;

pub use classes::Class;
pub use convert::{ConvertOptions, Converted, Loss, LossKind, Pictures, Target, convert};
pub use inspect::{ClassShare, Inspection, ObjectStats, SizeStats, SplitCount, Spread, inspect};
pub use labels::{ClassMap, Instance, Labels, Segmentation};
pub use masks::MaskMeaning;
pub use preview::{ContactSheet, PreviewOptions, Shown, preview};
pub use problems::{Problem, ProblemKind};

use crate::{DataError, Image, Limits, read_image, read_size};
use files::Root;
use problems::Problems;

/// How a dataset's files are laid out; see the [module](self).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Layout {
    /// COCO annotation files.
    Coco,
    /// Pascal VOC XML files.
    Voc,
    /// YOLO text files.
    Yolo,
    /// JSON files as in SA-1B: regions without classes.
    Regions,
    /// LabelMe JSON files.
    Labelme,
    /// Label pictures.
    Masks,
    /// A folder a class.
    ClassFolders,
    /// CIFAR-10's binary version.
    Cifar10,
    /// STL-10's binary files.
    Stl10,
    /// Pictures alone.
    Pictures,
}

impl Layout {
    /// All layouts.
    pub const ALL: [Self; 10] = [
        Self::Coco,
        Self::Voc,
        Self::Yolo,
        Self::Regions,
        Self::Labelme,
        Self::Masks,
        Self::ClassFolders,
        Self::Cifar10,
        Self::Stl10,
        Self::Pictures,
    ];

    /// Its name: lower case, words joined by `-`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Coco => "coco",
            Self::Voc => "voc",
            Self::Yolo => "yolo",
            Self::Regions => "regions",
            Self::Labelme => "labelme",
            Self::Masks => "masks",
            Self::ClassFolders => "class-folders",
            Self::Cifar10 => "cifar10",
            Self::Stl10 => "stl10",
            Self::Pictures => "pictures",
        }
    }
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Layout {
    type Err = String;

    /// A layout by its [name](Layout::name); the error names them all.
    fn from_str(name: &str) -> Result<Self, String> {
        let all = Self::ALL.map(Self::name);
        let found = Self::ALL.into_iter().find(|layout| layout.name() == name);
        found.ok_or_else(|| format!("expected one of {}, found {name:?}", all.join(", ")))
    }
}

/// What [`open_with`] should know beyond the path. The default leaves all to be found out.
#[derive(Clone, Debug, Default)]
pub struct OpenOptions {
    /// The layout, instead of recognising it.
    pub layout: Option<Layout>,
    /// Only this part: train, val, test, or the name of any list. `None` opens all parts, each sample saying which it is
    /// of.
    pub split: Option<String>,
    /// For [`Layout::Masks`]: the folder of label pictures where it has no usual name, or there are several. A class
    /// list `classes_NAME.txt` goes before `classes.txt`.
    pub mask_folder: Option<String>,
    /// For [`Layout::Masks`]: what the numbers mean, instead of finding out.
    pub mask_meaning: Option<MaskMeaning>,
    /// For class masks: further numbers to be ignored, beyond the highest the format can hold and those of
    /// classes named void, unlabelled or ignore.
    pub ignore: Vec<u16>,
    /// For [`Layout::Coco`]: the folder its `file_name`s start from, which may lie anywhere.
    pub pictures: Option<PathBuf>,
    /// Follow paths and links out of the dataset's folder.
    pub allow_outside: bool,
    /// The largest pictures and files to read.
    pub limits: Limits,
    /// Examples listed of each kind of problem, up to 10,000; 20 without it.
    pub examples: Option<usize>,
}

/// A labelled set of pictures.
#[derive(Clone, Debug)]
pub struct Dataset {
    /// Name of its folder.
    pub name: String,
    /// Its folder.
    pub root: PathBuf,
    /// Its layout.
    pub layout: Layout,
    /// What it was taken for, in a sentence for people.
    pub found: String,
    /// Its classes, ascending by id; none where labels know objects but no classes. Classes whose pixels are to be
    /// ignored are not among them.
    pub classes: Vec<Class>,
    /// Its pictures.
    pub samples: Vec<Sample>,
    /// What the numbers of its label pictures mean, for [`Layout::Masks`].
    pub mask_meaning: Option<MaskMeaning>,
    /// Numbers in class masks that are read as [`ClassMap::IGNORE`].
    ignore: Vec<u16>,
    /// The annotation files of [`Layout::Coco`].
    sources: Vec<PathBuf>,
    problems: Problems,
    limits: Limits,
    /// Examples listed of each kind of problem.
    examples: usize,
}

/// One picture of a dataset.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Its name: the path below the set's pictures, without ending. Once in every part.
    pub id: String,
    /// Its file.
    pub image: PathBuf,
    /// Width and height, pixels, where the set's files state them.
    pub size: Option<(u32, u32)>,
    /// The part of the set it belongs to, where there are parts.
    pub split: Option<String>,
    labels: Source,
    /// Its place in `image`, where that file holds many pictures.
    frame: Option<frames::Frame>,
}

/// Where a sample's labels are.
#[derive(Clone, Debug)]
enum Source {
    None,
    Tags(Vec<u32>),
    Coco(coco::Place),
    Voc(PathBuf),
    /// Without a file there are no objects.
    Yolo(Option<PathBuf>),
    Regions(PathBuf),
    Labelme(PathBuf),
    Masks(Vec<PathBuf>),
}

impl Sample {
    /// Whether anything is known about the picture.
    pub fn is_labelled(&self) -> bool {
        !matches!(self.labels, Source::None)
    }

    /// The file, or first file, that its labels are read from, where it is the sample's own.
    pub fn label_file(&self) -> Option<&Path> {
        match &self.labels {
            Source::None | Source::Tags(_) | Source::Coco(_) => None,
            Source::Voc(path) | Source::Regions(path) | Source::Labelme(path) => Some(path),
            Source::Yolo(path) => path.as_deref(),
            Source::Masks(paths) => paths.first().map(PathBuf::as_path),
        }
    }
}

/// What a layout's reader finds in a folder.
#[derive(Default)]
struct Opened {
    found: String,
    classes: Vec<Class>,
    samples: Vec<Sample>,
    mask_meaning: Option<MaskMeaning>,
    ignore: Vec<u16>,
    sources: Vec<PathBuf>,
    problems: Problems,
}

/// Opens a dataset: a folder, or a COCO annotation file.
///
/// The layout is recognised by what lies there; [`Dataset::found`] says what it was taken for. `split` chooses a part.
///
/// # Errors
/// [`DataError::NotADataset`] when nothing is recognised, [`DataError::UnknownSplit`], and whatever the set's own files
/// have wrong in them, by file and line.
pub fn open(path: impl AsRef<Path>, split: Option<&str>) -> Result<Dataset, DataError> {
    open_with(path, &OpenOptions { split: split.map(str::to_owned), ..OpenOptions::default() })
}

/// Opens a dataset of a known layout, or with other wishes; see [`open`].
///
/// # Errors
/// As [`open`]; [`DataError::NotADataset`] also when there is nothing of the layout asked for.
pub fn open_with(path: impl AsRef<Path>, options: &OpenOptions) -> Result<Dataset, DataError> {
    let path = path.as_ref();
    let file = path.is_file();
    let folder = match path.parent().filter(|_| file) {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        // `annotations/instances.json` belongs to the folder above, where the pictures are.
        Some(parent) if files::file_name(parent) == "annotations" => parent.parent().unwrap_or(parent),
        Some(parent) => parent,
        None => path,
    };
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let root = Root::new(folder, options.allow_outside)?;
    let layout = match options.layout {
        _ if file => Layout::Coco,
        Some(layout) => layout,
        None => recognise::layout(&root, options)?,
    };
    let opened = match layout {
        Layout::Coco => coco::open(&root, file.then_some(path), options),
        Layout::Voc => voc::open(&root, options),
        Layout::Yolo => yolo::open(&root, options),
        Layout::Regions => regions::open(&root, options),
        Layout::Labelme => labelme::open(&root, options),
        Layout::Masks => masks::open(&root, options),
        Layout::ClassFolders => folders::open_classes(&root, options),
        Layout::Cifar10 => frames::open_cifar10(&root, options),
        Layout::Stl10 => frames::open_stl10(&root, options),
        Layout::Pictures => folders::open_pictures(&root, options),
    }?;
    if opened.samples.is_empty() {
        return Err(DataError::not_a_dataset(path, format!("{}, but no picture", opened.found)));
    }
    Ok(Dataset {
        name: files::file_name(&std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned())),
        root: folder.to_owned(),
        layout,
        found: opened.found,
        classes: opened.classes,
        samples: opened.samples,
        mask_meaning: opened.mask_meaning,
        ignore: opened.ignore,
        sources: opened.sources,
        problems: opened.problems,
        limits: options.limits,
        examples: options.examples.unwrap_or(Problems::LISTED),
    })
}

impl Dataset {
    /// The class of an id.
    pub fn class(&self, id: u32) -> Option<&Class> {
        self.class_index(id).and_then(|index| self.classes.get(index))
    }

    /// The position of a class in [`Dataset::classes`].
    pub fn class_index(&self, id: u32) -> Option<usize> {
        self.classes.binary_search_by_key(&id, |class| class.id).ok()
    }

    /// What opening found to be wrong, but no reason to stop.
    pub fn problems(&self) -> Vec<Problem> {
        self.problems.to_list(self.examples)
    }

    /// Reads a sample's labels. Every class in them is in [`Dataset::classes`].
    ///
    /// # Errors
    /// By file and place: unreadable or malformed label files, [`DataError::UnknownClass`].
    pub fn labels(&self, sample: &Sample) -> Result<Labels, DataError> {
        match &sample.labels {
            Source::None => Ok(Labels::None),
            Source::Tags(tags) => Ok(Labels::Tags(tags.clone())),
            Source::Coco(place) => coco::read(self, sample, place),
            Source::Voc(path) => voc::read(self, path),
            Source::Yolo(path) => yolo::read(self, sample, path.as_deref()),
            Source::Regions(path) => regions::read(self, path),
            Source::Labelme(path) => labelme::read(self, path),
            Source::Masks(paths) => masks::read(self, paths),
        }
    }

    /// Reads a sample's picture, upright.
    ///
    /// # Errors
    /// As [`read_image`].
    pub fn picture(&self, sample: &Sample) -> Result<Image, DataError> {
        match &sample.frame {
            Some(frame) => frame.read(&sample.image),
            None => read_image(&sample.image, &self.limits),
        }
    }

    /// Width and height of a sample's picture, pixels, from the picture itself.
    ///
    /// # Errors
    /// As [`read_size`].
    pub fn picture_size(&self, sample: &Sample) -> Result<(u32, u32), DataError> {
        match &sample.frame {
            Some(frame) => Ok(frame.size()),
            None => read_size(&sample.image, &self.limits),
        }
    }

    /// Reads a sample's picture and labels, and makes sure that they fit.
    ///
    /// # Errors
    /// As [`Dataset::picture`] and [`Dataset::labels`]; [`DataError::PictureSize`] when the labels were made for another
    /// size.
    pub fn load(&self, sample: &Sample) -> Result<(Image, Labels), DataError> {
        let picture = self.picture(sample)?;
        let labels = self.labels(sample)?;
        check_frame(sample, &labels, (picture.width(), picture.height()))?;
        Ok((picture, labels))
    }

    /// A class by its name.
    fn class_named(&self, name: &str) -> Option<&Class> {
        self.classes.iter().find(|class| class.name == name)
    }

    fn unknown_class(&self, file: &Path, place: impl fmt::Display, class: impl fmt::Display) -> DataError {
        DataError::UnknownClass {
            name: file.display().to_string(),
            place: place.to_string(),
            class: class.to_string(),
            known: classes::summary(&self.classes),
        }
    }
}

/// Labels must be of their picture's size.
fn check_frame(sample: &Sample, labels: &Labels, (width, height): (u32, u32)) -> Result<(), DataError> {
    match labels.frame() {
        Some((expected_width, expected_height)) if (expected_width, expected_height) != (width, height) => {
            let name = sample.image.display().to_string();
            Err(DataError::PictureSize { name, expected_width, expected_height, width, height })
        }
        _ => Ok(()),
    }
}
