//! Learning from the annotations.

use std::convert::Infallible;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::Stream;
use serde::Serialize;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use utoipa::ToSchema;

use super::everything::event;
use super::extract::{Body, Nothing, PathOf};
use crate::app::App;
use crate::error::{ApiError, ApiResult, ErrorBody};
use crate::jobs::{JobKind, JobSettings, JobView};

/// The report is a page of its own: it may show itself, and nothing else.
const REPORT_POLICY: &str =
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'none'; sandbox";

/// All runs.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct JobList {
    /// The latest first.
    jobs: Vec<JobView>,
}

/// Lists the runs.
#[utoipa::path(get, path = "/api/jobs", tag = "jobs", responses((status = 200, body = JobList), (status = 401, body = ErrorBody)))]
pub(crate) async fn list(State(app): State<App>) -> ApiResult<Json<JobList>> {
    Ok(Json(JobList { jobs: app.jobs.list().await? }))
}

/// Starts learning from what is labelled now: `kirie train semantic` or `kirie train continual` as a process of its own. One runs at a
/// time.
#[utoipa::path(post, path = "/api/jobs", tag = "jobs", request_body = JobSettings, responses(
    (status = 201, body = JobView), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
    (status = 409, body = ErrorBody), (status = 415, body = ErrorBody), (status = 422, body = ErrorBody),
    (status = 503, body = ErrorBody)))]
pub(crate) async fn start(
    State(app): State<App>,
    Body(settings): Body<JobSettings>,
) -> ApiResult<(StatusCode, Json<JobView>)> {
    if app.stopping() {
        return Err(ApiError::Stopping);
    }
    Ok((StatusCode::CREATED, Json(app.jobs.start(settings).await?)))
}

/// Shows a run.
#[utoipa::path(get, path = "/api/jobs/{job}", tag = "jobs", params(("job" = i64, Path, description = "The run")), responses(
    (status = 200, body = JobView), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
    (status = 404, body = ErrorBody)))]
pub(crate) async fn show(State(app): State<App>, PathOf(job): PathOf<i64>) -> ApiResult<Json<JobView>> {
    Ok(Json(app.jobs.view(job).await?))
}

/// Discards a run with its model and all it left. A model that suggested suggests no more; a domain that was adopted is taken out of the
/// registry's list, and one that was not has never touched the registry.
#[utoipa::path(delete, path = "/api/jobs/{job}", tag = "jobs", params(("job" = i64, Path, description = "The run")), responses(
    (status = 204, description = "It is gone"), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
    (status = 404, body = ErrorBody), (status = 408, body = ErrorBody), (status = 409, body = ErrorBody),
    (status = 422, body = ErrorBody)))]
pub(crate) async fn remove(State(app): State<App>, PathOf(job): PathOf<i64>) -> ApiResult<StatusCode> {
    if app.jobs.discard(job).await? == JobKind::Continual {
        let domains = app.domains.clone();
        tokio::task::spawn_blocking(move || domains.read()).await?;
    }
    Ok(StatusCode::NO_CONTENT)
}

/// Stops a run after its step; it can go on later.
#[utoipa::path(post, path = "/api/jobs/{job}/stop", tag = "jobs", params(("job" = i64, Path, description = "The run")),
    request_body = Nothing, responses((status = 200, body = JobView), (status = 400, body = ErrorBody),
    (status = 401, body = ErrorBody), (status = 404, body = ErrorBody), (status = 409, body = ErrorBody),
    (status = 415, body = ErrorBody)))]
pub(crate) async fn stop(
    State(app): State<App>,
    PathOf(job): PathOf<i64>,
    Body(Nothing {}): Body<Nothing>,
) -> ApiResult<Json<JobView>> {
    app.jobs.stop(job).await?;
    Ok(Json(app.jobs.view(job).await?))
}

/// Goes on with a run that was stopped.
#[utoipa::path(post, path = "/api/jobs/{job}/resume", tag = "jobs", params(("job" = i64, Path, description = "The run")),
    request_body = Nothing, responses((status = 200, body = JobView), (status = 400, body = ErrorBody),
    (status = 401, body = ErrorBody), (status = 404, body = ErrorBody), (status = 409, body = ErrorBody),
    (status = 415, body = ErrorBody), (status = 503, body = ErrorBody)))]
pub(crate) async fn resume(
    State(app): State<App>,
    PathOf(job): PathOf<i64>,
    Body(Nothing {}): Body<Nothing>,
) -> ApiResult<Json<JobView>> {
    if app.stopping() {
        return Err(ApiError::Stopping);
    }
    Ok(Json(app.jobs.resume(job).await?))
}

/// Adopts what a finished run learned. A semantic run's model is then the one that suggests labels. A continual run's domain comes into
/// the registry, and pictures that are like its own are answered by its adapter; 422 says that it would be in another domain's way.
#[utoipa::path(post, path = "/api/jobs/{job}/adopt", tag = "jobs", params(("job" = i64, Path, description = "The run")),
    request_body = Nothing, responses((status = 200, body = JobView), (status = 400, body = ErrorBody),
    (status = 401, body = ErrorBody), (status = 404, body = ErrorBody), (status = 408, body = ErrorBody),
    (status = 409, body = ErrorBody), (status = 415, body = ErrorBody), (status = 422, body = ErrorBody)))]
pub(crate) async fn adopt(
    State(app): State<App>,
    PathOf(job): PathOf<i64>,
    Body(Nothing {}): Body<Nothing>,
) -> ApiResult<Json<JobView>> {
    // A task of its own: what was begun is done to its end, also when the client goes away.
    let adopted = tokio::spawn(async move {
        let view = app.jobs.adopt(job).await?;
        if view.kind() == JobKind::Continual {
            tokio::task::spawn_blocking(move || app.domains.read()).await?;
        }
        Ok::<_, ApiError>(view)
    });
    Ok(Json(adopted.await??))
}

/// Watches a run: server-sent events, `job` with what `GET /api/jobs/{job}` answers, once a second until the run has ended.
#[utoipa::path(get, path = "/api/jobs/{job}/events", tag = "jobs", params(("job" = i64, Path, description = "The run")), responses(
    (status = 200, description = "Events: job (JobView)", body = String, content_type = "text/event-stream"),
    (status = 400, body = ErrorBody), (status = 401, body = ErrorBody), (status = 404, body = ErrorBody)))]
pub(crate) async fn events(
    State(app): State<App>,
    PathOf(job): PathOf<i64>,
) -> ApiResult<Sse<impl Stream<Item = Result<Event, Infallible>>>> {
    let mut view = app.jobs.view(job).await?;
    let (sender, listener) = mpsc::channel(2);
    tokio::spawn(async move {
        let mut last = String::new();
        loop {
            let running = view.is_running() && !app.stopping();
            let text = serde_json::to_string(&view).unwrap_or_default();
            if text != last && sender.send(event("job", &view)).await.is_err() {
                return;
            }
            last = text;
            if !running {
                return;
            }
            tokio::select! {
                () = sender.closed() => return,
                () = tokio::time::sleep(Duration::from_secs(1)) => {}
            }
            match app.jobs.view(job).await {
                Ok(next) => view = next,
                Err(error) => {
                    let _ = sender.send(event("failed", &error.body())).await;
                    return;
                }
            }
        }
    });
    let stream = futures_util::StreamExt::map(ReceiverStream::new(listener), Ok);
    Ok(Sse::new(stream).keep_alive(KeepAlive::default()))
}

/// The report of a run: a page with curves, figures and pictures.
#[utoipa::path(get, path = "/api/jobs/{job}/report", tag = "jobs", params(("job" = i64, Path, description = "The run")), responses(
    (status = 200, description = "The page", body = String, content_type = "text/html"),
    (status = 400, body = ErrorBody), (status = 401, body = ErrorBody), (status = 404, body = ErrorBody)))]
pub(crate) async fn report(State(app): State<App>, PathOf(job): PathOf<i64>) -> ApiResult<Response> {
    app.store.job(job).await?;
    let page = tokio::fs::read(app.run_file(job, "report.html")).await;
    let page = page.map_err(|_| ApiError::not_found("report of job", job))?;
    let head = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, REPORT_POLICY),
    ];
    Ok((head, page).into_response())
}
