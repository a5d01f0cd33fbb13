//! Fine-tuning runs, as they are kept.

use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ToSql, ToSqlOutput, ValueRef};
use rusqlite::{OptionalExtension, Row, params};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Store;
use crate::error::{ApiError, ApiResult};

/// Where a run stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum JobState {
    /// Its process runs.
    Running,
    /// All steps are done; its model can be looked at, adopted or discarded.
    Done,
    /// It was stopped, by a person or because the service ended; it can go on.
    Stopped,
    /// It failed; the message says why.
    Failed,
}

impl JobState {
    fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Done => "done",
            Self::Stopped => "stopped",
            Self::Failed => "failed",
        }
    }
}

impl ToSql for JobState {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(self.name().into())
    }
}

impl FromSql for JobState {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        let name = value.as_str()?;
        let all = [Self::Running, Self::Done, Self::Stopped, Self::Failed];
        all.into_iter().find(|state| state.name() == name).ok_or(FromSqlError::InvalidType)
    }
}

/// A run.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Job {
    pub(crate) id: i64,
    pub(crate) name: String,
    pub(crate) state: JobState,
    /// What it was asked to do, JSON.
    pub(crate) settings: String,
    /// Why it failed.
    pub(crate) message: String,
    /// Whether its model suggests, or its domain is at work.
    pub(crate) adopted: bool,
}

fn read(row: &Row<'_>) -> rusqlite::Result<Job> {
    Ok(Job {
        id: row.get(0)?,
        name: row.get(1)?,
        state: row.get(2)?,
        settings: row.get(3)?,
        message: row.get(4)?,
        adopted: row.get(5)?,
    })
}

const COLUMNS: &str = "id, name, state, settings, message, adopted";

impl Store {
    /// All runs, the latest first.
    pub(crate) async fn jobs(&self) -> ApiResult<Vec<Job>> {
        self.change(|t| {
            let mut query = t.prepare_cached(&format!("SELECT {COLUMNS} FROM job ORDER BY id DESC"))?;
            let rows = query.query_map([], read)?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
        .await
    }

    /// One run.
    pub(crate) async fn job(&self, id: i64) -> ApiResult<Job> {
        self.change(move |t| {
            let query = format!("SELECT {COLUMNS} FROM job WHERE id = ?1");
            t.query_row(&query, [id], read).optional()?.ok_or_else(|| ApiError::not_found("job", id))
        })
        .await
    }

    /// Keeps a new run, as running.
    pub(crate) async fn add_job(&self, name: String, settings: String) -> ApiResult<i64> {
        self.change(move |t| {
            let state = JobState::Running;
            t.execute(
                "INSERT INTO job (name, state, settings) VALUES (?1, ?2, ?3)",
                params![name, state, settings],
            )?;
            Ok(t.last_insert_rowid())
        })
        .await
    }

    /// Says where a run stands.
    pub(crate) async fn set_job(&self, id: i64, state: JobState, message: String) -> ApiResult<()> {
        self.change(move |t| {
            t.execute("UPDATE job SET state = ?2, message = ?3 WHERE id = ?1", params![id, state, message])?;
            Ok(())
        })
        .await
    }

    /// Says that a run is adopted, and those in whose place it comes are not.
    pub(crate) async fn adopt(&self, id: Option<i64>, in_place_of: Vec<i64>) -> ApiResult<()> {
        self.change(move |t| {
            for other in in_place_of {
                t.execute("UPDATE job SET adopted = 0 WHERE id = ?1", [other])?;
            }
            t.execute("UPDATE job SET adopted = 1 WHERE id = ?1", [id])?;
            Ok(())
        })
        .await
    }

    /// Forgets a run.
    pub(crate) async fn remove_job(&self, id: i64) -> ApiResult<()> {
        self.change(move |t| {
            t.execute("DELETE FROM job WHERE id = ?1", [id])?;
            Ok(())
        })
        .await
    }
}
