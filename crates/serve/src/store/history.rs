//! Changes of a picture's objects, to be undone and done again. A step holds all changes of one request.

use rusqlite::{OptionalExtension, Transaction, params};
use serde::Serialize;
use utoipa::ToSchema;

use super::{Object, object};
use crate::error::{ApiError, ApiResult};

/// Steps of a picture that can be undone.
const STEPS: i64 = 200;

/// What an undo or redo did.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub(crate) struct Step {
    /// Objects as they are now.
    pub(crate) changed: Vec<Object>,
    /// Ids of objects that are gone.
    pub(crate) removed: Vec<i64>,
}

/// An object before and after; `None` where there was or is none.
type Change = (Option<Object>, Option<Object>);

/// Does a step and keeps it.
pub(super) fn apply(t: &Transaction<'_>, image: &str, changes: &[Change]) -> ApiResult<()> {
    // A new step ends the way back to what was undone.
    t.execute("DELETE FROM history WHERE image = ?1 AND undone", [image])?;
    let step: i64 = t.query_row("SELECT COALESCE(MAX(step), 0) + 1 FROM history", [], |row| row.get(0))?;
    for (before, after) in changes {
        put(t, before.as_ref(), after.as_ref())?;
        let text = |object: &Option<Object>| object.as_ref().map(serde_json::to_string).transpose();
        let bad = |error: serde_json::Error| ApiError::Internal(error.to_string());
        t.execute(
            "INSERT INTO history (step, image, before, after) VALUES (?1, ?2, ?3, ?4)",
            params![step, image, text(before).map_err(bad)?, text(after).map_err(bad)?],
        )?;
    }
    t.execute(
        "DELETE FROM history WHERE image = ?1 AND step <= (
            SELECT DISTINCT step FROM history WHERE image = ?1 ORDER BY step DESC LIMIT 1 OFFSET ?2)",
        params![image, STEPS],
    )?;
    Ok(())
}

/// Brings the object's row from `before` to `after`.
fn put(t: &Transaction<'_>, before: Option<&Object>, after: Option<&Object>) -> ApiResult<()> {
    match (before, after) {
        (_, Some(object)) => {
            let points =
                serde_json::to_string(&object.points).map_err(|e| ApiError::Internal(e.to_string()))?;
            t.execute(
                "INSERT OR REPLACE INTO object (id, image, class, height, width, counts, predicted_iou, points, revision)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
                params![
                    object.id,
                    object.image,
                    object.class,
                    object.segmentation.height() as i64,
                    object.segmentation.width() as i64,
                    object.segmentation.to_coco_string(),
                    object.predicted_iou,
                    points,
                    object.revision
                ],
            )?;
        }
        (Some(object), None) => {
            t.execute("DELETE FROM object WHERE id = ?1", [object.id])?;
        }
        (None, None) => {}
    }
    Ok(())
}

/// Takes the last step back.
pub(super) fn undo(t: &Transaction<'_>, image: &str) -> ApiResult<Option<Step>> {
    let last = "SELECT MAX(step) FROM history WHERE image = ?1 AND NOT undone";
    step(t, image, last, true)
}

/// Does the step again that was undone last.
pub(super) fn redo(t: &Transaction<'_>, image: &str) -> ApiResult<Option<Step>> {
    let first = "SELECT MIN(step) FROM history WHERE image = ?1 AND undone";
    step(t, image, first, false)
}

fn step(t: &Transaction<'_>, image: &str, which: &str, undo: bool) -> ApiResult<Option<Step>> {
    let found: Option<i64> = t.query_row(which, [image], |row| row.get(0)).optional()?.flatten();
    let Some(number) = found else { return Ok(None) };
    let mut query = t.prepare_cached("SELECT before, after FROM history WHERE step = ?1 ORDER BY seq")?;
    let rows = query.query_map([number], |row| {
        Ok((row.get::<_, Option<String>>(0)?, row.get::<_, Option<String>>(1)?))
    })?;
    let mut changes: Vec<Change> = Vec::new();
    for row in rows {
        let (before, after) = row?;
        let parsed = |text: Option<String>| text.map(|text| serde_json::from_str(&text)).transpose();
        let bad = |error: serde_json::Error| ApiError::Internal(format!("the history in the store: {error}"));
        changes.push((parsed(before).map_err(bad)?, parsed(after).map_err(bad)?));
    }
    let mut done = Step { changed: Vec::new(), removed: Vec::new() };
    for (before, after) in changes {
        let (from, mut to) = if undo { (after, before) } else { (before, after) };
        if let Some(to) = &mut to {
            // A class may be gone since; the object is then of none.
            let known = |class: i64| {
                t.query_row("SELECT EXISTS (SELECT 1 FROM class WHERE id = ?1)", [class], |row| {
                    row.get::<_, bool>(0)
                })
            };
            if let Some(class) = to.class
                && !known(class)?
            {
                to.class = None;
            }
            // Whoever still holds another version of it must not overwrite this one unseen.
            let now = object(t, to.id)?.map_or(0, |now| now.revision);
            to.revision = to.revision.max(now) + 1;
        }
        put(t, from.as_ref(), to.as_ref())?;
        match (from, to) {
            (_, Some(object)) => done.changed.push(object),
            (Some(object), None) => done.removed.push(object.id),
            (None, None) => {}
        }
    }
    t.execute("UPDATE history SET undone = ?2 WHERE step = ?1", params![number, undo])?;
    Ok(Some(done))
}

/// Whether there is something to undo and to redo.
pub(super) fn can(t: &Transaction<'_>, image: &str) -> ApiResult<(bool, bool)> {
    let any = |undone: bool| {
        t.query_row(
            "SELECT EXISTS (SELECT 1 FROM history WHERE image = ?1 AND undone = ?2)",
            params![image, undone],
            |row| row.get(0),
        )
    };
    Ok((any(false)?, any(true)?))
}
