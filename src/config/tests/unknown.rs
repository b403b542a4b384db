//! What is not understood is told, and what is not served is refused.

use super::*;

#[test]
fn unknown_keys_are_told() {
    assert_eq!(
        given()
            .file(
                "typo = 1\n\"server.port\" = 5\n[server]\nprot = 1\n[server.socket]\npath = \"a\"\n\
                 key = \"b\"\n[storage.mysql]\nurl = \"x\"\n[empty]\n"
            )
            .warnings(),
        [
            "unknown key empty in resonate.toml is ignored",
            "unknown key server.prot in resonate.toml is ignored",
            "unknown key server.socket.key in resonate.toml is ignored",
            "unknown key server.socket.path in resonate.toml is ignored",
            "unknown key server.port in resonate.toml is ignored",
            "unknown key storage.mysql.url in resonate.toml is ignored",
            "unknown key typo in resonate.toml is ignored",
        ]
    );
}

#[test]
fn unknown_variables_are_told() {
    assert_eq!(
        given()
            .env("RESONATE_TYPO", "1")
            .env("RESONATE_SERVER_PORT", "1")
            .env("RESONATE_TASKS", "1")
            .env("RESONATE_STORAGE_POSTGRES_URL", "x")
            .env("RESONATED", "1")
            .env("PATH", "/bin")
            .warnings(),
        [
            "unknown environment variable RESONATE_SERVER_PORT is ignored; \
             did you mean RESONATE_SERVER__PORT?",
            "unknown environment variable RESONATE_STORAGE_POSTGRES_URL is ignored; \
             did you mean RESONATE_STORAGE__POSTGRES__URL?",
            "unknown environment variable RESONATE_TASKS is ignored",
            "unknown environment variable RESONATE_TYPO is ignored",
        ]
    );
}

#[test]
fn variables_of_others_are_not_worth_a_word() {
    let given = [
        "RESONATE_URL",
        "RESONATE_TOKEN",
        "RESONATE_PREFIX",
        "RESONATE_USERNAME",
        "RESONATE_PASSWORD",
        "RESONATE_HOST",
        "RESONATE_PORT",
        "RESONATE_PORT_8001_TCP_ADDR",
        "RESONATE_SERVICE_HOST",
        "RESONATE_PROMISE_ID",
    ]
    .into_iter()
    .fold(given(), |given, name| given.env(name, "x"));
    assert_eq!(given.warnings(), Vec::<String>::new());
}

#[test]
fn settings_that_are_not_served_are_refused_whatever_their_source() {
    let (key, value) = ("legacy.rest", "true");
    let sentence = format!("{key} is not supported by this version");
    assert_eq!(
        given().file(&format!("{key} = {value}")).error(),
        format!("{sentence} (from resonate.toml)")
    );
    let variable = keys::environment_variable(key);
    assert_eq!(
        given().env(&variable, value.trim_matches('"')).error(),
        format!("{sentence} (from environment variable {variable})")
    );
}

#[test]
fn defaults_of_settings_that_are_not_served_are_harmless() {
    let config = given()
        .file("legacy.rest = false")
        .env("RESONATE_LEGACY__REST", "false")
        .config();
    assert_eq!(config, Config::default());
}

#[test]
fn no_setting_is_both_served_and_refused() {
    let served = keys::defaults();
    for (key, _) in unsupported::keys() {
        assert!(served.iter().all(|(served, _)| served != key), "{key}");
    }
}
