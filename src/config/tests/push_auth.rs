//! By what workers know who pushes: modes, what they need, and that no token is shown.

use super::*;

const MODE: &str = "transports.http_push.auth.mode";
const TOKEN: &str = "transports.http_push.auth.token";
const AUDIENCE: &str = "transports.http_push.auth.audience";
const HEADER: &str = "transports.http_push.auth.header";

fn auth(given: Given) -> PushAuth {
    given.config().transports.http_push.auth
}

#[test]
fn the_parts_may_come_from_different_layers() {
    let given = given()
        .file(&format!("{TOKEN} = \"hunter2\""))
        .env("RESONATE_TRANSPORTS__HTTP_PUSH__AUTH__HEADER", "X-Token")
        .flag(MODE, "bearer");
    let auth = auth(given);
    assert_eq!(auth.mode, PushAuthMode::Bearer);
    assert_eq!(auth.token.as_ref().map(Token::as_str), Some("hunter2"));
    assert_eq!(auth.header, "X-Token");
    assert!(!format!("{auth:?}").contains("hunter2"));
}

#[test]
fn bearer_needs_a_token() {
    let sentence = format!("{TOKEN} is required when mode = \"bearer\"");
    for given in [
        given(),
        given().env(&keys::environment_variable(TOKEN), " "),
    ] {
        assert_eq!(
            given.flag(MODE, "bearer").error(),
            format!("{sentence} ({MODE} from --transports-http-push-auth-mode)")
        );
    }
}

#[test]
fn other_modes_are_refused_without_being_shown() {
    for mode in ["", "Bearer", "hunter2"] {
        assert_eq!(
            given().file(&format!("{MODE} = \"{mode}\"")).error(),
            format!("{MODE} must be \"none\", \"bearer\" or \"gcp\" (from resonate.toml)")
        );
    }
}

#[test]
fn tokens_that_fit_into_no_header_are_refused_without_being_shown() {
    let sentence = format!("{TOKEN} must be a string of characters that a header may have");
    for token in ["\"hun\\nter2\"", "82346", "[\"hunter2\"]"] {
        assert_eq!(
            given().file(&format!("{TOKEN} = {token}")).error(),
            format!("{sentence} (from resonate.toml)")
        );
    }
}

#[test]
fn the_header_is_one() {
    for header in ["", "x y", "x:y", "é"] {
        assert_eq!(
            given().flag(HEADER, header).error(),
            format!(
                "{HEADER} must be the name of a header (got {header:?}) \
                 (from --transports-http-push-auth-header)"
            )
        );
    }
}

#[test]
fn what_the_mode_does_not_use_is_told() {
    let given = given()
        .file(&format!("{MODE} = \"gcp\"\n{AUDIENCE} = \"https://a\""))
        .flag(TOKEN, "hunter2");
    assert_eq!(
        given.warnings(),
        [format!(
            "{TOKEN} (from --transports-http-push-auth-token) has no effect: {MODE} is \"gcp\""
        )]
    );
    assert_eq!(
        self::given().flag(AUDIENCE, "https://a").warnings(),
        [format!(
            "{AUDIENCE} (from --transports-http-push-auth-aud) has no effect: {MODE} is \"none\""
        )]
    );
}

#[test]
fn blank_names_are_refused() {
    for key in [AUDIENCE, "transports.gcps.project"] {
        assert_eq!(
            given().file(&format!("{key} = \" \"")).error(),
            format!("{key} must not be empty (from resonate.toml)")
        );
    }
}
