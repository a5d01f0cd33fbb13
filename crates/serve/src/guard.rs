//! Who may ask, from where, and what every answer carries.
//!
//! - On a loopback address only pages of this very service may ask: the `Host` must be a name of this machine (so that a stranger's
//!   name that leads here is turned away), and what changes something must not come from another origin.
//! - With a token, every request to the API must carry it: as `Authorization: Bearer`, as the password of Basic (Label Studio), or as
//!   the cookie that [`crate::api::info::session`] sets. The page itself is no secret.
//! - What changes something has a content type that a plain form cannot send, so that a browser asks before it is sent from
//!   elsewhere; no answer ever allows that.

use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::header::{
    AUTHORIZATION, CONTENT_SECURITY_POLICY, COOKIE, HOST, HeaderName, ORIGIN, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::app::App;
use crate::error::{ApiError, ApiResult};

const COOKIE_NAME: &str = "kirie_token";
/// Scripts and styles come from this service alone, and none stands inside the page.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; \
                      form-action 'none'; frame-ancestors 'none'; base-uri 'none'";

/// Puts the guard before everything.
pub(crate) fn protect(router: Router, app: App) -> Router {
    router.layer(from_fn_with_state(app, guard))
}

async fn guard(State(app): State<App>, request: Request, next: Next) -> Response {
    let answer = match admit(&app, request.method(), request.uri(), request.headers()) {
        Ok(()) => {
            // Far beyond what a body may take (see `extract`) and a model usually takes.
            let patience = Duration::from_secs(20 * app.config.limits.seconds.max(1));
            let answer = tokio::time::timeout(patience, next.run(request)).await;
            answer.unwrap_or_else(|_| ApiError::Timeout.into_response())
        }
        Err(error) => error.into_response(),
    };
    finish(answer)
}

/// What every answer carries.
fn finish(mut answer: Response) -> Response {
    let headers = answer.headers_mut();
    let fixed = HeaderValue::from_static;
    headers.entry(CONTENT_SECURITY_POLICY).or_insert(fixed(POLICY));
    headers.insert(X_CONTENT_TYPE_OPTIONS, fixed("nosniff"));
    headers.insert(X_FRAME_OPTIONS, fixed("DENY"));
    headers.insert(REFERRER_POLICY, fixed("no-referrer"));
    headers.insert(HeaderName::from_static("cross-origin-resource-policy"), fixed("same-origin"));
    headers.insert(HeaderName::from_static("cross-origin-opener-policy"), fixed("same-origin"));
    headers.entry(axum::http::header::CACHE_CONTROL).or_insert(fixed("no-store"));
    answer
}

fn admit(app: &App, method: &Method, uri: &Uri, headers: &HeaderMap) -> ApiResult<()> {
    let host = text(headers, &HOST);
    if app.config.address.ip().is_loopback() && !is_this_machine(host) {
        return Err(ApiError::Forbidden(format!(
            "this service answers on this machine only, and not as {:?}",
            host.unwrap_or_default().chars().take(60).collect::<String>()
        )));
    }
    if !matches!(*method, Method::GET | Method::HEAD) {
        let foreign = || ApiError::Forbidden("this came from a page of another site".to_owned());
        if let Some(origin) = text(headers, &ORIGIN) {
            let place = origin.split_once("://").map(|(_, place)| place);
            if place.is_none() || place != host {
                return Err(foreign());
            }
        }
        let site = headers.get("sec-fetch-site").map(HeaderValue::as_bytes);
        if site.is_some_and(|site| site != b"same-origin" && site != b"none") {
            return Err(foreign());
        }
    }
    let open = is_open(uri.path());
    if app.config.token.is_some() && !open && !has_token(app, headers) {
        return Err(ApiError::Unauthorized);
    }
    Ok(())
}

/// The page, which holds nothing of anybody's, and the request that lets a browser in.
fn is_open(path: &str) -> bool {
    path == "/" || path.starts_with("/assets/") || path == "/favicon.ico" || path == "/api/session"
}

fn text<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// Whether a `Host` is a name of this machine, with whatever port.
fn is_this_machine(host: Option<&str>) -> bool {
    let Some(host) = host else { return false };
    let name = match host.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((address, _)) => address,
            None => return false,
        },
        None => host.split_once(':').map_or(host, |(name, _)| name),
    };
    let loopback = name.parse().is_ok_and(|address: std::net::IpAddr| address.is_loopback());
    loopback || name.eq_ignore_ascii_case("localhost")
}

fn has_token(app: &App, headers: &HeaderMap) -> bool {
    let authorization = text(headers, &AUTHORIZATION).and_then(|value| value.split_once(' '));
    match authorization {
        Some((kind, token)) if kind.eq_ignore_ascii_case("bearer") => {
            return is_token(app, token.trim().as_bytes());
        }
        Some((kind, both)) if kind.eq_ignore_ascii_case("basic") => {
            let both = BASE64.decode(both.trim()).unwrap_or_default();
            let password = both.iter().position(|byte| *byte == b':').and_then(|at| both.get(at + 1..));
            return password.is_some_and(|password| is_token(app, password));
        }
        _ => {}
    }
    let cookies = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut pairs = cookies.flat_map(|all| all.split(';')).filter_map(|pair| pair.trim().split_once('='));
    let cookie = pairs.find(|(name, _)| *name == COOKIE_NAME);
    cookie.is_some_and(|(_, value)| app.config.token.is_some() && cookie_matches(app, value))
}

/// Whether these bytes are the token; how long it takes says nothing about how much of it is right.
pub(crate) fn is_token(app: &App, given: &[u8]) -> bool {
    app.config.token.as_ref().is_some_and(|token| same(given, token.as_bytes()))
}

fn same(a: &[u8], b: &[u8]) -> bool {
    Sha256::digest(a).as_slice().ct_eq(Sha256::digest(b).as_slice()).into()
}

/// The cookie holds the token's hash in hexadecimal, since a token may hold what cookies cannot.
fn cookie_value(token: &str) -> String {
    use std::fmt::Write;
    Sha256::digest(format!("kirie cookie\n{token}")).iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}"); // writing to a String cannot fail
        text
    })
}

fn cookie_matches(app: &App, given: &str) -> bool {
    app.config.token.as_ref().is_some_and(|token| same(given.as_bytes(), cookie_value(token).as_bytes()))
}

/// `Set-Cookie` for a browser that knows the token.
pub(crate) fn cookie(token: &str) -> String {
    format!("{COOKIE_NAME}={}; Path=/; HttpOnly; SameSite=Strict; Max-Age=2592000", cookie_value(token))
}

pub(crate) async fn no_such_page(uri: Uri) -> ApiError {
    ApiError::not_found("page", uri.path().chars().take(80).collect::<String>())
}

pub(crate) async fn no_such_method(method: Method) -> Response {
    let words = format!("{method} is not for this address");
    let body = crate::error::ErrorBody { code: "method".to_owned(), message: words };
    (StatusCode::METHOD_NOT_ALLOWED, axum::Json(body)).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_this_machine() {
        for good in
            ["localhost", "localhost:8080", "LOCALHOST:1", "127.0.0.1:80", "127.3.2.1", "[::1]:9", "[::1]"]
        {
            assert!(is_this_machine(Some(good)), "{good}");
        }
        let bad = [
            "evil.example",
            "localhost.evil.example:80",
            "127.0.0.1.evil.example",
            "[::2]:80",
            "[::1",
            "10.0.0.1",
            "",
        ];
        for bad in bad {
            assert!(!is_this_machine(Some(bad)), "{bad}");
        }
        assert!(!is_this_machine(None));
    }
}
