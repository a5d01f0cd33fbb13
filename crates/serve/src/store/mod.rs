//! The annotations, in one SQLite file. A change that was answered is on the disk: every change is a transaction of its own,
//! synchronised before the answer.
//!
//! SQLite because safe files are its trade: it survives a kill or a power failure at any point, keeps several tables in step, and
//! people can open the file with other tools.
//!
//! | table | what it holds |
//! | --- | --- |
//! | `class` | names and colours |
//! | `object` | one cut-out object a row, its mask as COCO run lengths |
//! | `picture` | which pictures somebody called done |
//! | `upload` | names of uploaded pictures |
//! | `history` | what each object was before and after each change, to undo and redo |
//! | `job` | fine-tuning runs |

mod history;
mod jobs;
mod schema;

use std::collections::HashMap;
use std::fs::{File, TryLockError};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use kirie_mask::Rle;
use rusqlite::{Connection, OptionalExtension, Row, Transaction, TransactionBehavior, params};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::ServeError;
use crate::error::{ApiError, ApiResult};

pub(crate) use history::Step;
pub(crate) use jobs::{Job, JobState};

/// Name of the database in the store's folder.
pub(crate) const FILE: &str = "annotations.sqlite";
/// Most classes.
const MOST_CLASSES: usize = 254;
/// Most objects of a picture.
const MOST_OBJECTS: usize = 5_000;
/// Most points kept with an object.
const MOST_POINTS: usize = 1_000;

/// A class of objects.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct Class {
    /// Its number, from 1.
    pub(crate) id: i64,
    /// Its name.
    pub(crate) name: String,
    /// Its colour, `#rrggbb`.
    #[schema(example = "#3b82f6")]
    pub(crate) colour: String,
    /// How many objects are of it.
    #[serde(default)]
    pub(crate) objects: u64,
}

/// Pixels of an object in the form COCO has them.
#[derive(ToSchema)]
#[allow(dead_code, reason = "describes how kirie_mask::Rle is written")]
pub(crate) struct Segmentation {
    /// Height and width of the picture, pixels.
    size: [u32; 2],
    /// Run lengths down the columns, background first: COCO's compressed string, or (in requests) a list of numbers.
    counts: Counts,
}

#[derive(Serialize, ToSchema)]
#[serde(untagged)]
#[allow(dead_code, reason = "describes how kirie_mask::Rle is written")]
pub(crate) enum Counts {
    /// COCO's compressed string.
    Text(String),
    /// Run lengths.
    List(Vec<u32>),
}

/// An object that somebody cut out of a picture.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub(crate) struct Object {
    /// Its number; never given again.
    pub(crate) id: i64,
    /// The picture.
    pub(crate) image: String,
    /// Id of its class; none yet.
    pub(crate) class: Option<i64>,
    /// Its pixels.
    #[schema(value_type = Segmentation)]
    pub(crate) segmentation: Rle,
    /// x, y, width, height around its pixels.
    pub(crate) bbox: [u32; 4],
    /// Number of its pixels.
    pub(crate) area: u64,
    /// The model's estimate of the mask's IoU, if a model made it.
    pub(crate) predicted_iou: Option<f64>,
    /// The points that asked for it: x, y, and 1 on the object or 0 beside it.
    #[serde(default)]
    pub(crate) points: Vec<[f64; 3]>,
    /// Counts its changes, from 1.
    pub(crate) revision: i64,
}

/// An object to be kept.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewObject {
    /// Id of its class.
    #[serde(default)]
    pub(crate) class: Option<i64>,
    /// Its pixels, at the picture's size.
    #[schema(value_type = Segmentation)]
    pub(crate) segmentation: Rle,
    /// The model's estimate of the mask's IoU.
    #[serde(default)]
    pub(crate) predicted_iou: Option<f64>,
    /// The points that asked for it: x, y, and 1 on the object or 0 beside it.
    #[serde(default)]
    pub(crate) points: Vec<[f64; 3]>,
}

/// What is to be different about an object; what is not named stays.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[allow(clippy::option_option, reason = "nothing said, null, and a value are three things")]
pub(crate) struct ChangeObject {
    /// The revision that the change is meant for: if the object was changed meanwhile, it is refused with 409.
    #[serde(default)]
    pub(crate) revision: Option<i64>,
    /// Id of its class; null for none.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<i64>)]
    pub(crate) class: Option<Option<i64>>,
    /// Its pixels.
    #[serde(default)]
    #[schema(value_type = Option<Segmentation>)]
    pub(crate) segmentation: Option<Rle>,
    /// The model's estimate of the mask's IoU; null for none.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<f64>)]
    pub(crate) predicted_iou: Option<Option<f64>>,
    /// The points that asked for it.
    #[serde(default)]
    pub(crate) points: Option<Vec<[f64; 3]>>,
}

/// Tells `null` from nothing said.
#[allow(clippy::option_option, reason = "they are two things")]
fn given<'de, D: serde::Deserializer<'de>, T: Deserialize<'de>>(
    value: D,
) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(value).map(Some)
}

/// What is known of a picture beside its file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Labelled {
    pub(crate) objects: u64,
    pub(crate) done: bool,
}

/// The annotations.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    connection: Arc<Mutex<Connection>>,
    /// Held as long as the store is: two services would overtake each other's undo.
    _lock: Arc<File>,
}

impl Store {
    /// Opens the annotations in `folder`, which is made if it is missing.
    pub(crate) fn open(folder: &Path) -> Result<Self, ServeError> {
        let trouble = |source| ServeError::Folder { path: folder.to_owned(), source };
        std::fs::create_dir_all(folder).map_err(trouble)?;
        let lock = File::create(folder.join(".lock")).map_err(trouble)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(ServeError::InUse { path: folder.to_owned() }),
            Err(TryLockError::Error(source)) => return Err(trouble(source)),
        }
        let path = folder.join(FILE);
        let connection = schema::open(&path)?;
        Ok(Self { connection: Arc::new(Mutex::new(connection)), _lock: Arc::new(lock) })
    }

    /// Runs `work` in one transaction, away from the async threads.
    async fn change<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Transaction<'_>) -> ApiResult<T> + Send + 'static,
    ) -> ApiResult<T> {
        let connection = Arc::clone(&self.connection);
        // Not broken off when whoever asked goes away: what was begun is finished.
        tokio::task::spawn_blocking(move || change(&connection, work)).await?
    }

    /// All classes.
    pub(crate) async fn classes(&self) -> ApiResult<Vec<Class>> {
        self.change(classes).await
    }

    /// Adds a class.
    pub(crate) async fn add_class(&self, name: String, colour: Option<String>) -> ApiResult<Class> {
        self.change(move |t| {
            let name = class_name(&name)?;
            let all = classes(t)?;
            if all.len() >= MOST_CLASSES {
                return Err(ApiError::Unprocessable(format!(
                    "there are {MOST_CLASSES} classes, which is the most"
                )));
            }
            if all.iter().any(|class| class.name == name) {
                return Err(ApiError::Conflict(format!("there is a class of the name {name:?} already")));
            }
            let colour = if let Some(colour) = colour {
                class_colour(&colour)?
            } else {
                let next: i64 =
                    t.query_row("SELECT COALESCE(MAX(id), 0) FROM class", [], |row| row.get(0))?;
                let [r, g, b] = kirie_data::write::color(next as usize);
                format!("#{r:02x}{g:02x}{b:02x}")
            };
            t.execute("INSERT INTO class (name, colour) VALUES (?1, ?2)", params![name, colour])?;
            Ok(Class { id: t.last_insert_rowid(), name, colour, objects: 0 })
        })
        .await
    }

    /// Changes a class's name or colour.
    pub(crate) async fn change_class(
        &self,
        id: i64,
        name: Option<String>,
        colour: Option<String>,
    ) -> ApiResult<Class> {
        self.change(move |t| {
            let all = classes(t)?;
            let Some(old) = all.iter().find(|class| class.id == id) else {
                return Err(ApiError::not_found("class", id));
            };
            let name = name.map_or_else(|| Ok(old.name.clone()), |name| class_name(&name))?;
            if all.iter().any(|class| class.id != id && class.name == name) {
                return Err(ApiError::Conflict(format!("there is a class of the name {name:?} already")));
            }
            let colour = colour.map_or_else(|| Ok(old.colour.clone()), |colour| class_colour(&colour))?;
            t.execute("UPDATE class SET name = ?2, colour = ?3 WHERE id = ?1", params![id, name, colour])?;
            Ok(Class { id, name, colour, objects: old.objects })
        })
        .await
    }

    /// Removes a class that no object is of.
    pub(crate) async fn remove_class(&self, id: i64) -> ApiResult<()> {
        self.change(move |t| {
            let Some(class) = classes(t)?.into_iter().find(|class| class.id == id) else {
                return Err(ApiError::not_found("class", id));
            };
            if class.objects > 0 {
                let words = format!("{} objects are of the class {:?}", class.objects, class.name);
                return Err(ApiError::Conflict(words));
            }
            t.execute("DELETE FROM class WHERE id = ?1", [id])?;
            Ok(())
        })
        .await
    }

    /// What is known of every picture of which anything is.
    pub(crate) async fn labelled(&self) -> ApiResult<HashMap<String, Labelled>> {
        self.change(|t| {
            let mut all: HashMap<String, Labelled> = HashMap::new();
            let mut query = t.prepare_cached("SELECT image, COUNT(*) FROM object GROUP BY image")?;
            let rows = query.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?)))?;
            for row in rows {
                let (image, objects) = row?;
                all.entry(image).or_default().objects = objects as u64;
            }
            let mut query = t.prepare_cached("SELECT image FROM picture WHERE done")?;
            for image in query.query_map([], |row| row.get::<_, String>(0))? {
                all.entry(image?).or_default().done = true;
            }
            Ok(all)
        })
        .await
    }

    /// Calls a picture done, or not.
    pub(crate) async fn set_done(&self, image: String, done: bool) -> ApiResult<()> {
        self.change(move |t| {
            t.execute(
                "INSERT INTO picture (image, done) VALUES (?1, ?2) ON CONFLICT (image) DO UPDATE SET done = ?2",
                params![image, done],
            )?;
            Ok(())
        })
        .await
    }

    /// The objects of a picture, in the order they were made.
    pub(crate) async fn objects(&self, image: String) -> ApiResult<Vec<Object>> {
        self.change(move |t| objects(t, &image)).await
    }

    /// One object.
    pub(crate) async fn object(&self, id: i64) -> ApiResult<Object> {
        self.change(move |t| object(t, id)?.ok_or_else(|| ApiError::not_found("object", id))).await
    }

    /// Keeps objects of a picture of `size` (width, height); together they are undone in one step.
    pub(crate) async fn create(
        &self,
        image: String,
        size: (u32, u32),
        new: Vec<NewObject>,
    ) -> ApiResult<Vec<Object>> {
        self.change(move |t| {
            let known: i64 =
                t.query_row("SELECT COUNT(*) FROM object WHERE image = ?1", [&image], |r| r.get(0))?;
            if known as usize + new.len() > MOST_OBJECTS {
                return Err(ApiError::Unprocessable(format!(
                    "a picture holds at most {MOST_OBJECTS} objects"
                )));
            }
            let mut made = Vec::new();
            for new in new {
                let mut object = Object {
                    id: 0,
                    image: image.clone(),
                    class: new.class,
                    bbox: new.segmentation.bbox_xywh(),
                    area: new.segmentation.area(),
                    segmentation: new.segmentation,
                    predicted_iou: new.predicted_iou,
                    points: new.points,
                    revision: 1,
                };
                check(t, &object, size)?;
                t.execute("INSERT INTO counter DEFAULT VALUES", [])?;
                object.id = t.last_insert_rowid();
                made.push(object);
            }
            let changes: Vec<_> = made.iter().map(|object| (None, Some(object.clone()))).collect();
            history::apply(t, &image, &changes)?;
            Ok(made)
        })
        .await
    }

    /// Changes an object of a picture of `size`.
    pub(crate) async fn change_object(
        &self,
        id: i64,
        size: (u32, u32),
        change: ChangeObject,
    ) -> ApiResult<Object> {
        self.change(move |t| {
            let before = expect(t, id, change.revision)?;
            let mut after = before.clone();
            if let Some(class) = change.class {
                after.class = class;
            }
            if let Some(rle) = change.segmentation {
                after.bbox = rle.bbox_xywh();
                after.area = rle.area();
                after.segmentation = rle;
            }
            if let Some(iou) = change.predicted_iou {
                after.predicted_iou = iou;
            }
            if let Some(points) = change.points {
                after.points = points;
            }
            if after == before {
                return Ok(before);
            }
            check(t, &after, size)?;
            after.revision += 1;
            history::apply(t, &before.image.clone(), &[(Some(before), Some(after.clone()))])?;
            Ok(after)
        })
        .await
    }

    /// Removes an object.
    pub(crate) async fn delete(&self, id: i64, revision: Option<i64>) -> ApiResult<()> {
        self.change(move |t| {
            let before = expect(t, id, revision)?;
            history::apply(t, &before.image.clone(), &[(Some(before), None)])
        })
        .await
    }

    /// Takes the last change of a picture's objects back; nothing if there is none.
    pub(crate) async fn undo(&self, image: String) -> ApiResult<Option<Step>> {
        self.change(move |t| history::undo(t, &image)).await
    }

    /// Does again what was undone last.
    pub(crate) async fn redo(&self, image: String) -> ApiResult<Option<Step>> {
        self.change(move |t| history::redo(t, &image)).await
    }

    /// Whether there is something to undo and to redo.
    pub(crate) async fn can(&self, image: String) -> ApiResult<(bool, bool)> {
        self.change(move |t| history::can(t, &image)).await
    }

    /// Uploaded pictures, id and name, in the order they came.
    pub(crate) fn uploads(&self) -> ApiResult<Vec<(String, String)>> {
        change(&self.connection, |t| {
            let mut query = t.prepare("SELECT id, name FROM upload ORDER BY rowid")?;
            let rows = query.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
    }

    /// Keeps the name of an uploaded picture. Blocks; not for async threads.
    pub(crate) fn add_upload(&self, id: &str, name: &str) -> ApiResult<()> {
        change(&self.connection, |t| {
            t.execute("INSERT OR IGNORE INTO upload (id, name) VALUES (?1, ?2)", params![id, name])?;
            Ok(())
        })
    }
}

fn change<T>(
    connection: &Mutex<Connection>,
    work: impl FnOnce(&Transaction<'_>) -> ApiResult<T>,
) -> ApiResult<T> {
    // A panic in one change rolled that change back; the connection is whole.
    let mut connection = connection.lock().unwrap_or_else(PoisonError::into_inner);
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let done = work(&transaction)?;
    transaction.commit()?;
    Ok(done)
}

fn classes(t: &Transaction<'_>) -> ApiResult<Vec<Class>> {
    let mut query = t.prepare_cached(
        "SELECT class.id, name, colour, COUNT(object.id) FROM class LEFT JOIN object ON object.class = class.id
         GROUP BY class.id ORDER BY class.id",
    )?;
    let rows = query.query_map([], |row| {
        let objects: i64 = row.get(3)?;
        Ok(Class { id: row.get(0)?, name: row.get(1)?, colour: row.get(2)?, objects: objects as u64 })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

const COLUMNS: &str = "id, image, class, height, width, counts, predicted_iou, points, revision";

fn objects(t: &Transaction<'_>, image: &str) -> ApiResult<Vec<Object>> {
    let mut query =
        t.prepare_cached(&format!("SELECT {COLUMNS} FROM object WHERE image = ?1 ORDER BY id"))?;
    let rows = query.query_map([image], read)?;
    rows.map(|row| row?.try_into()).collect()
}

fn object(t: &Transaction<'_>, id: i64) -> ApiResult<Option<Object>> {
    let mut query = t.prepare_cached(&format!("SELECT {COLUMNS} FROM object WHERE id = ?1"))?;
    query.query_row([id], read).optional()?.map(TryInto::try_into).transpose()
}

fn expect(t: &Transaction<'_>, id: i64, revision: Option<i64>) -> ApiResult<Object> {
    let found = object(t, id)?.ok_or_else(|| ApiError::not_found("object", id))?;
    match revision {
        Some(wanted) if wanted != found.revision => Err(ApiError::Conflict(format!(
            "object {id} was changed meanwhile: revision {} was expected, it is at {}",
            wanted, found.revision
        ))),
        _ => Ok(found),
    }
}

/// A row of the table `object`.
struct Stored {
    id: i64,
    image: String,
    class: Option<i64>,
    size: [i64; 2],
    counts: String,
    predicted_iou: Option<f64>,
    points: String,
    revision: i64,
}

fn read(row: &Row<'_>) -> rusqlite::Result<Stored> {
    Ok(Stored {
        id: row.get(0)?,
        image: row.get(1)?,
        class: row.get(2)?,
        size: [row.get(3)?, row.get(4)?],
        counts: row.get(5)?,
        predicted_iou: row.get(6)?,
        points: row.get(7)?,
        revision: row.get(8)?,
    })
}

impl TryFrom<Stored> for Object {
    type Error = ApiError;

    fn try_from(row: Stored) -> Result<Self, ApiError> {
        let damaged = |words: String| ApiError::Internal(format!("object {} in the store: {words}", row.id));
        let [height, width] = row.size.map(|side| side as usize);
        let segmentation =
            Rle::from_coco_string(height, width, &row.counts).map_err(|error| damaged(error.to_string()))?;
        let points = serde_json::from_str(&row.points).map_err(|error| damaged(error.to_string()))?;
        Ok(Self {
            id: row.id,
            image: row.image,
            class: row.class,
            bbox: segmentation.bbox_xywh(),
            area: segmentation.area(),
            segmentation,
            predicted_iou: row.predicted_iou,
            points,
            revision: row.revision,
        })
    }
}

/// Checks an object before it is kept.
fn check(t: &Transaction<'_>, object: &Object, (width, height): (u32, u32)) -> ApiResult<()> {
    let rle = &object.segmentation;
    if (rle.width(), rle.height()) != (width as usize, height as usize) {
        let found = format!("{}x{}", rle.width(), rle.height());
        return Err(ApiError::Unprocessable(format!(
            "the mask is of {found} pixels, its picture of {width}x{height}"
        )));
    }
    if object.area == 0 {
        return Err(ApiError::Unprocessable("the mask has no pixel".to_owned()));
    }
    if let Some(class) = object.class {
        let known: bool =
            t.query_row("SELECT EXISTS (SELECT 1 FROM class WHERE id = ?1)", [class], |row| row.get(0))?;
        if !known {
            return Err(ApiError::Unprocessable(format!("there is no class {class}")));
        }
    }
    if object.predicted_iou.is_some_and(|iou| !iou.is_finite()) {
        return Err(ApiError::Unprocessable("predicted_iou is not a finite number".to_owned()));
    }
    if object.points.len() > MOST_POINTS {
        return Err(ApiError::Unprocessable(format!("more than {MOST_POINTS} points")));
    }
    if !object.points.iter().flatten().all(|value| value.is_finite()) {
        return Err(ApiError::Unprocessable("a point is not of finite numbers".to_owned()));
    }
    Ok(())
}

/// A class's name as it is kept.
fn class_name(name: &str) -> ApiResult<String> {
    let name = name.trim();
    if name.is_empty() || name.chars().count() > 100 || name.chars().any(char::is_control) {
        return Err(ApiError::Unprocessable(
            "a class's name has 1 to 100 characters, and no line breaks".to_owned(),
        ));
    }
    Ok(name.to_owned())
}

fn class_colour(colour: &str) -> ApiResult<String> {
    match colour.strip_prefix('#') {
        Some(digits) if digits.len() == 6 && digits.chars().all(|c| c.is_ascii_hexdigit()) => {
            Ok(colour.to_ascii_lowercase())
        }
        _ => Err(ApiError::Unprocessable("a colour is written #rrggbb".to_owned())),
    }
}

#[cfg(test)]
mod tests;
