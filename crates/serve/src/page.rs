//! The page: a few plain files inside the program.

use axum::Router;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::IntoResponse;
use axum::routing::get;

use crate::app::App;

/// Address, content type and content.
const FILES: &[(&str, &str, &str)] = &[
    ("/", "text/html; charset=utf-8", include_str!("../page/index.html")),
    ("/assets/style.css", "text/css; charset=utf-8", include_str!("../page/style.css")),
    ("/assets/main.js", "text/javascript; charset=utf-8", include_str!("../page/main.js")),
    ("/assets/api.js", "text/javascript; charset=utf-8", include_str!("../page/api.js")),
    ("/assets/rle.js", "text/javascript; charset=utf-8", include_str!("../page/rle.js")),
    ("/assets/view.js", "text/javascript; charset=utf-8", include_str!("../page/view.js")),
    ("/assets/dom.js", "text/javascript; charset=utf-8", include_str!("../page/dom.js")),
    ("/assets/dialogs.js", "text/javascript; charset=utf-8", include_str!("../page/dialogs.js")),
    ("/assets/keys.js", "text/javascript; charset=utf-8", include_str!("../page/keys.js")),
    ("/assets/lists.js", "text/javascript; charset=utf-8", include_str!("../page/lists.js")),
    ("/assets/paint.js", "text/javascript; charset=utf-8", include_str!("../page/paint.js")),
    ("/assets/shell.js", "text/javascript; charset=utf-8", include_str!("../page/shell.js")),
    ("/assets/strip.js", "text/javascript; charset=utf-8", include_str!("../page/strip.js")),
    ("/assets/tools.js", "text/javascript; charset=utf-8", include_str!("../page/tools.js")),
    ("/assets/train.js", "text/javascript; charset=utf-8", include_str!("../page/train.js")),
    ("/favicon.ico", "image/svg+xml", include_str!("../page/icon.svg")),
];

pub(crate) fn router() -> Router<App> {
    FILES.iter().fold(Router::new(), |router, (path, kind, content)| {
        // The program may be a newer one next time; the files are small and near.
        let answer = move || async move {
            ([(CONTENT_TYPE, *kind), (CACHE_CONTROL, "no-cache")], *content).into_response()
        };
        router.route(path, get(answer))
    })
}
