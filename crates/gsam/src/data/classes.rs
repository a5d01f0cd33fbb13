//! Which label each class of a dataset becomes.

use std::collections::BTreeMap;

use kirie_data::datasets::{Class, Dataset, Layout, MaskMeaning};
use serde::{Deserialize, Serialize};

use super::labels::LabelMap;
use crate::config::{ALL_OTHERS, DataConfig, IGNORE_NAME};
use crate::error::SemanticError;

/// What no object covers, where labels are objects.
const BACKGROUND: &str = "background";
/// What objects are, where labels know no classes.
const OBJECT: &str = "object";

/// A class of a model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SemanticClass {
    /// Its name.
    pub name: String,
    /// The colour it is drawn in, 8-bit sRGB.
    pub colour: [u8; 3],
}

/// The classes of a model; a class's label is its position, from 0.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<SemanticClass>", into = "Vec<SemanticClass>")]
pub struct ClassList(Vec<SemanticClass>);

impl TryFrom<Vec<SemanticClass>> for ClassList {
    type Error = SemanticError;

    fn try_from(classes: Vec<SemanticClass>) -> Result<Self, SemanticError> {
        Self::of(classes)
    }
}

impl From<ClassList> for Vec<SemanticClass> {
    fn from(list: ClassList) -> Self {
        list.0
    }
}

impl ClassList {
    /// The classes that a configuration asks for, or those of the sets.
    pub(super) fn new<'a>(
        datasets: impl Iterator<Item = &'a Dataset>,
        data: &DataConfig,
    ) -> Result<Self, SemanticError> {
        let mut known: Vec<SemanticClass> = Vec::new();
        for dataset in datasets {
            for (class, _) in classes_of(dataset)? {
                if known.iter().all(|other| other.name != class.name) {
                    known.push(class);
                }
            }
        }
        if data.classes.is_empty() {
            // A background that only some sets have still comes first.
            known.sort_by_key(|class| class.name != BACKGROUND);
        }
        let names_of = |classes: &[SemanticClass]| {
            classes.iter().map(|class| class.name.clone()).collect::<Vec<_>>().join(", ")
        };
        for from in data.merge.keys() {
            if from != ALL_OTHERS && known.iter().all(|class| class.name != *from) {
                let class = from.clone();
                return Err(SemanticError::NoSuchClass {
                    name: "data.merge",
                    class,
                    known: names_of(&known),
                });
            }
        }
        let mut list: Vec<SemanticClass> = Vec::new();
        if data.classes.is_empty() {
            for class in &known {
                let name = merged(&class.name, data).unwrap_or(&class.name);
                if name != IGNORE_NAME && list.iter().all(|other| other.name != name) {
                    list.push(SemanticClass { name: name.to_owned(), ..class.clone() });
                }
            }
        } else {
            let targets: Vec<&str> = data.merge.values().map(String::as_str).collect();
            for name in &data.classes {
                let same = known.iter().find(|class| class.name == *name);
                if same.is_none() && !targets.contains(&name.as_str()) {
                    let (class, known) = (name.clone(), names_of(&known));
                    return Err(SemanticError::NoSuchClass { name: "data.classes", class, known });
                }
                let colour = same.map_or_else(|| kirie_data::write::color(list.len()), |class| class.colour);
                list.push(SemanticClass { name: name.clone(), colour });
            }
        }
        Self::of(list)
    }

    /// Checks a list: 2 to 255 classes, each once.
    ///
    /// # Errors
    /// [`SemanticError::Setting`].
    pub fn of(classes: Vec<SemanticClass>) -> Result<Self, SemanticError> {
        let count = classes.len();
        if !(2..=usize::from(LabelMap::IGNORE)).contains(&count) {
            let names = classes.iter().map(|class| class.name.as_str()).collect::<Vec<_>>().join(", ");
            let found = format!("{count} classes ({names})");
            return Err(SemanticError::setting(
                "data.classes",
                found,
                "2 to 255 classes, background included",
            ));
        }
        for (at, class) in classes.iter().enumerate() {
            if classes[..at].iter().any(|other| other.name == class.name) {
                return Err(SemanticError::setting(
                    "data.classes",
                    format!("{:?} twice", class.name),
                    "each once",
                ));
            }
        }
        Ok(Self(classes))
    }

    /// How many there are.
    #[allow(clippy::len_without_is_empty, reason = "there are always two")]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The classes by label.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &SemanticClass> {
        self.0.iter()
    }

    /// Their names by label.
    pub fn names(&self) -> Vec<String> {
        self.0.iter().map(|class| class.name.clone()).collect()
    }

    /// The colour of a label; pixels that count nowhere are white.
    pub fn colour(&self, label: u8) -> [u8; 3] {
        self.0.get(usize::from(label)).map_or([255; 3], |class| class.colour)
    }

    /// Which label is what lies between the objects: the class that says so by its name.
    pub fn background(&self) -> Option<u8> {
        let is_background = |class: &SemanticClass| {
            Class { id: 0, name: class.name.clone(), color: class.colour }.is_background()
        };
        self.0.iter().position(is_background).map(|label| label as u8)
    }

    fn label(&self, name: &str) -> Option<u8> {
        self.0.iter().position(|class| class.name == name).map(|label| label as u8)
    }
}

/// The name that a class counts as, if it is another.
fn merged<'a>(name: &str, data: &'a DataConfig) -> Option<&'a str> {
    let listed = data.classes.iter().any(|class| class == name);
    let others = data.merge.get(ALL_OTHERS).filter(|to| !listed && *to != name);
    // What others are merged into stays itself.
    let others = others.filter(|_| !data.merge.values().any(|to| to == name));
    data.merge.get(name).or(others).map(String::as_str)
}

/// A dataset's classes with their ids, and those that its labels imply.
fn classes_of(dataset: &Dataset) -> Result<Vec<(SemanticClass, Place)>, SemanticError> {
    let pixels = match dataset.layout {
        Layout::Masks => matches!(dataset.mask_meaning, Some(MaskMeaning::Classes | MaskMeaning::Binary)),
        Layout::Coco | Layout::Yolo | Layout::Labelme | Layout::Regions => false,
        _ => {
            let reason = format!(
                "{}: expected labels of pixels (label pictures, COCO, YOLO polygons, LabelMe), which such a set has \
                 not",
                dataset.found
            );
            return Err(SemanticError::Labels { name: dataset.root.display().to_string(), reason });
        }
    };
    let named = |class: &Class| {
        (SemanticClass { name: class.name.clone(), colour: class.color }, Place::Id(class.id))
    };
    let mut classes: Vec<(SemanticClass, Place)> = dataset.classes.iter().map(named).collect();
    if !pixels {
        if classes.is_empty() {
            let colour = kirie_data::write::color(0);
            classes.push((SemanticClass { name: OBJECT.to_owned(), colour }, Place::Classless));
        }
        let background = SemanticClass { name: BACKGROUND.to_owned(), colour: [0; 3] };
        match classes.iter_mut().find(|(class, _)| class.name == BACKGROUND) {
            // A category of that name is the same thing as what no object covers.
            Some((_, place)) => {
                if let Place::Id(id) = *place {
                    *place = Place::BackgroundAndId(id);
                }
            }
            None => classes.insert(0, (background, Place::Background)),
        }
    }
    Ok(classes)
}

/// What of a dataset a class is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// What has this id.
    Id(u32),
    /// What no object covers.
    Background,
    /// Both.
    BackgroundAndId(u32),
    /// Objects without a class.
    Classless,
}

/// Which label each id of a dataset becomes.
#[derive(Clone, Debug)]
pub(super) struct Table {
    ids: BTreeMap<u32, u8>,
    /// What no object covers.
    pub(super) background: Option<u8>,
    /// Objects without a class.
    pub(super) classless: Option<u8>,
    /// The classes, for messages.
    known: String,
}

impl Table {
    pub(super) fn new(
        dataset: &Dataset,
        classes: &ClassList,
        data: &DataConfig,
    ) -> Result<Self, SemanticError> {
        let mut table = Self {
            ids: BTreeMap::new(),
            background: None,
            classless: None,
            known: classes.names().join(", "),
        };
        for (class, place) in classes_of(dataset)? {
            let label = match merged(&class.name, data) {
                Some(IGNORE_NAME) => Some(LabelMap::IGNORE),
                Some(target) => classes.label(target),
                None => classes.label(&class.name),
            };
            let Some(label) = label else {
                return Err(SemanticError::ClassNotListed {
                    set: dataset.root.display().to_string(),
                    class: class.name,
                    known: table.known,
                });
            };
            match place {
                Place::Id(id) => drop(table.ids.insert(id, label)),
                Place::Background => table.background = Some(label),
                Place::BackgroundAndId(id) => {
                    table.background = Some(label);
                    table.ids.insert(id, label);
                }
                Place::Classless => table.classless = Some(label),
            }
        }
        Ok(table)
    }

    /// The label of an id.
    pub(super) fn label(&self, id: u32) -> Option<u8> {
        self.ids.get(&id).copied()
    }

    /// The error about an id that no class has.
    pub(super) fn unknown(&self, file: &str, id: u32) -> SemanticError {
        let reason = format!("class {id} is none of the set's; the model's classes are {}", self.known);
        SemanticError::Labels { name: file.to_owned(), reason }
    }
}
