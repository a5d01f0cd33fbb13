//! The service itself.

use axum::Json;
use axum::extract::State;
use axum::http::header::SET_COOKIE;
use axum::response::{AppendHeaders, IntoResponse};
use kirie_sam::registry;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::extract::Body;
use crate::app::App;
use crate::error::{ApiError, ApiResult, ErrorBody};
use crate::guard;

/// Says that the service is there.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct Health {
    /// `ok`, or `stopping`.
    status: String,
    /// Version of the program.
    version: String,
    /// The model that answers.
    model: String,
    /// Bytes of pictures and embeddings held in memory.
    held_bytes: u64,
}

/// Whether the service is well.
#[utoipa::path(get, path = "/api/health", tag = "service", responses((status = 200, body = Health)))]
pub(crate) async fn health(State(app): State<App>) -> Json<Health> {
    let status = if app.stopping() { "stopping" } else { "ok" };
    Json(Health {
        status: status.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        model: app.engine.model().to_owned(),
        held_bytes: app.ready.held(),
    })
}

/// The models.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct Models {
    /// The one that answers.
    loaded: Loaded,
    /// All that the program knows; another one is loaded by starting the service with `--model NAME`.
    known: Vec<Known>,
    /// The run of fine-tuning whose model suggests labels, if one was adopted.
    adopted: Option<i64>,
    /// Domains that were taught and adopted: a picture that is like those of one is answered by its adapter.
    domains: Vec<String>,
    /// What is wrong with the registry of domains, or with some of them.
    domains_problem: Option<String>,
}

/// The model that answers.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
struct Loaded {
    name: String,
    /// Side of the encoder's input, pixels.
    input: u32,
    /// Side of the encoder's input where everything is looked for, pixels.
    everything_input: u32,
    /// Boxes are answered from a window so many times as large as the box; null for the whole picture.
    zoom: Option<f64>,
    /// Whether its single mask is its answer where one is asked for; otherwise the best of its three is.
    single_mask: bool,
}

/// A model that the program knows.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
struct Known {
    name: String,
    about: String,
    licence: String,
    /// Whether its weights are inside the program.
    built_in: bool,
}

/// The models.
#[utoipa::path(get, path = "/api/models", tag = "service", responses(
    (status = 200, body = Models), (status = 401, body = ErrorBody)))]
pub(crate) async fn models(State(app): State<App>) -> ApiResult<Json<Models>> {
    let name = app.engine.model().to_owned();
    let single_mask = single_mask(&name);
    let known = registry::variants().iter().map(|variant| Known {
        name: variant.name.to_owned(),
        about: variant.about.to_owned(),
        licence: variant.licence.to_owned(),
        built_in: variant.built_in.is_some(),
    });
    let adopted = app.jobs.suggesting().await?;
    let (input, everything_input) = (app.engine.preprocess().size, app.everything.preprocess().size);
    let loaded = Loaded { name, input, everything_input, zoom: app.config.zoom, single_mask };
    let (domains, domains_problem) = (app.domains.names(), app.domains.problem());
    Ok(Json(Models { loaded, known: known.collect(), adopted, domains, domains_problem }))
}

/// Whether a model's single mask is its answer.
pub(crate) fn single_mask(model: &str) -> bool {
    registry::variant(model).is_ok_and(|variant| variant.single_mask)
}

/// Who asks.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Session {
    /// The token that `kirie serve` printed.
    token: String,
}

/// Lets a browser in: answers a right token with a cookie.
#[utoipa::path(post, path = "/api/session", tag = "service", request_body = Session, responses(
    (status = 204, description = "The cookie is set"), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody)))]
pub(crate) async fn session(
    State(app): State<App>,
    Body(session): Body<Session>,
) -> ApiResult<impl IntoResponse> {
    if !guard::is_token(&app, session.token.as_bytes()) {
        return Err(ApiError::Unauthorized);
    }
    let cookie = guard::cookie(&session.token);
    Ok((axum::http::StatusCode::NO_CONTENT, AppendHeaders([(SET_COOKIE, cookie)])))
}
