//! The requests. Each file holds those about one thing, with the forms of what is asked and answered.

pub(crate) mod classes;
pub(crate) mod compare;
pub(crate) mod everything;
pub(crate) mod export;
pub(crate) mod extract;
pub(crate) mod images;
pub(crate) mod info;
pub(crate) mod jobs;
pub(crate) mod objects;
pub(crate) mod predict;
pub(crate) mod suggest;

use axum::routing::get;
use axum::{Json, Router};
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::App;
use crate::{guard, label_studio, page};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "kirie serve",
        description = "Cut objects out of pictures by points and boxes, keep and correct them, export them, and fine-tune on them. \
Refused requests are answered with `{code, message}`; 503 comes with Retry-After."
    ),
    tags(
        (name = "service", description = "The service and its model"),
        (name = "images", description = "Pictures"),
        (name = "masks", description = "What the model answers"),
        (name = "objects", description = "What people keep"),
        (name = "jobs", description = "Learning from the annotations"),
        (name = "label studio", description = "The forms of Label Studio's ML backends"),
    )
)]
struct Description;

/// All requests, and their description.
pub(crate) fn router(app: App) -> (Router, utoipa::openapi::OpenApi) {
    let (router, description) = OpenApiRouter::with_openapi(Description::openapi())
        .routes(routes!(info::health))
        .routes(routes!(info::models))
        .routes(routes!(info::session))
        .routes(routes!(images::list, images::upload))
        .routes(routes!(images::show, images::change))
        .routes(routes!(images::picture))
        .routes(routes!(images::thumbnail))
        .routes(routes!(predict::embedding))
        .routes(routes!(predict::predict))
        .routes(routes!(everything::everything))
        .routes(routes!(suggest::suggest))
        .routes(routes!(compare::compare))
        .routes(routes!(objects::list, objects::create))
        .routes(routes!(objects::undo))
        .routes(routes!(objects::redo))
        .routes(routes!(objects::show, objects::change, objects::remove))
        .routes(routes!(classes::list, classes::create))
        .routes(routes!(classes::change, classes::remove))
        .routes(routes!(export::export))
        .routes(routes!(jobs::list, jobs::start))
        .routes(routes!(jobs::show, jobs::remove))
        .routes(routes!(jobs::stop))
        .routes(routes!(jobs::resume))
        .routes(routes!(jobs::adopt))
        .routes(routes!(jobs::events))
        .routes(routes!(jobs::report))
        .routes(routes!(label_studio::health))
        .routes(routes!(label_studio::setup))
        .routes(routes!(label_studio::predict))
        .split_for_parts();
    let document = description.clone();
    let router = router
        .route("/api/openapi.json", get(async move || Json(document)))
        .merge(page::router())
        .fallback(guard::no_such_page)
        .method_not_allowed_fallback(guard::no_such_method)
        .with_state(app.clone());
    (guard::protect(router, app), description)
}
