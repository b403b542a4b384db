//! Where the token of a request is, and who it says sent it (`protocol.md` §3).

use std::sync::{Arc, LazyLock};

use axum::http::{HeaderMap, header};

use super::App;
use crate::auth::{Denied, Principal};

const SCHEME: &str = "bearer";
/// Where nobody is asked.
static ANYBODY: LazyLock<Arc<Principal>> = LazyLock::new(|| Arc::new(Principal::anybody()));

/// Who sent a request with this token, if any.
pub(super) async fn principal(app: &App, token: Option<&str>) -> Result<Arc<Principal>, Denied> {
    let Some(authenticator) = &app.auth else {
        return Ok(Arc::clone(&ANYBODY));
    };
    let now = app.engine.clock().now();
    authenticator.authenticate(token, now).await
}

/// The token of the header. Two headers say nothing: whoever looks at them may choose another.
pub(super) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut all = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(one), None) = (all.next(), all.next()) else {
        return None;
    };
    let (scheme, token) = one.to_str().ok()?.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case(SCHEME) && !token.is_empty()).then_some(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scheme_is_read_in_any_case() {
        for (value, token) in [
            ("Bearer a.b.c", Some("a.b.c")),
            ("bearer a.b.c", Some("a.b.c")),
            ("BEARER   a.b.c ", Some("a.b.c")),
            ("Bearer", None),
            ("Bearer ", None),
            ("Basic a.b.c", None),
            ("a.b.c", None),
            ("", None),
        ] {
            let headers = [(header::AUTHORIZATION, value.parse().unwrap())];
            assert_eq!(bearer(&HeaderMap::from_iter(headers)), token, "{value:?}");
        }
    }

    #[test]
    fn two_headers_are_none() {
        let value = || "Bearer a.b.c".parse().unwrap();
        let mut headers = HeaderMap::new();
        headers.append(header::AUTHORIZATION, value());
        headers.append(header::AUTHORIZATION, value());
        assert_eq!(bearer(&headers), None);
    }
}
