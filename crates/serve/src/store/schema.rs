//! The tables.

use std::path::Path;
use std::time::Duration;

use rusqlite::Connection;

use crate::ServeError;

/// The layout this version writes.
const VERSION: i64 = 1;

/// `counter` gives objects numbers that are never given again, undone objects included.
const TABLES: &str = "
CREATE TABLE class (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, colour TEXT NOT NULL) STRICT;
CREATE TABLE counter (id INTEGER PRIMARY KEY AUTOINCREMENT) STRICT;
CREATE TABLE object (
    id INTEGER PRIMARY KEY, image TEXT NOT NULL, class INTEGER, height INTEGER NOT NULL, width INTEGER NOT NULL,
    counts TEXT NOT NULL, predicted_iou REAL, points TEXT NOT NULL, revision INTEGER NOT NULL
) STRICT;
CREATE INDEX object_image ON object (image);
CREATE INDEX object_class ON object (class);
CREATE TABLE picture (image TEXT PRIMARY KEY, done INTEGER NOT NULL) STRICT;
CREATE TABLE upload (id TEXT PRIMARY KEY, name TEXT NOT NULL) STRICT;
CREATE TABLE history (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, step INTEGER NOT NULL, image TEXT NOT NULL, before TEXT, after TEXT,
    undone INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX history_image ON history (image, undone, step);
CREATE TABLE job (
    id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL, state TEXT NOT NULL, settings TEXT NOT NULL,
    message TEXT NOT NULL DEFAULT '', adopted INTEGER NOT NULL DEFAULT 0
) STRICT;
";

/// Opens the database, and makes its tables if it is new.
pub(super) fn open(path: &Path) -> Result<Connection, ServeError> {
    let trouble = |source| ServeError::Store { path: path.to_owned(), source };
    let mut connection = Connection::open(path).map_err(trouble)?;
    let version = prepare(&mut connection).map_err(trouble)?;
    if version > VERSION {
        return Err(ServeError::LaterVersion { path: path.to_owned(), found: version, known: VERSION });
    }
    Ok(connection)
}

fn prepare(connection: &mut Connection) -> rusqlite::Result<i64> {
    connection.busy_timeout(Duration::from_secs(5))?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    // In WAL mode only this brings each transaction to the disk before it is called done.
    connection.pragma_update(None, "synchronous", "FULL")?;
    let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if version > 0 {
        return Ok(version);
    }
    let new = connection.transaction()?;
    new.execute_batch(TABLES)?;
    new.pragma_update(None, "user_version", VERSION)?;
    new.commit()?;
    Ok(VERSION)
}
