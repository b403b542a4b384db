//! A PostgreSQL database: what its URL may be, and that its password is told to nobody.

use figment::value::Value;

use super::*;

const KEY: &str = "storage.postgres.url";
const VARIABLE: &str = "RESONATE_STORAGE__POSTGRES__URL";

#[test]
fn every_layer_beats_the_one_below_for_the_database() {
    let file = || {
        given()
            .file("[storage]\ntype = \"postgres\"\npostgres = { url = \"postgres://file\", pool_size = 1 }")
    };
    let environment = || {
        file()
            .env(VARIABLE, "postgres://environment")
            .env("RESONATE_STORAGE__POSTGRES__POOL_SIZE", "2")
    };
    let flag = || {
        environment()
            .flag(KEY, "postgresql://flag")
            .flag("storage.postgres.pool_size", 3)
    };
    let seen = |given: Given| {
        let storage = given.config().storage;
        let url = storage.postgres.url.map(|url| url.as_str().to_owned());
        (storage.backend, url, storage.postgres.pool_size)
    };
    let url = |url: &str| Some(url.to_owned());
    assert_eq!(seen(given()), (Backend::Sqlite, None, 10));
    assert_eq!(seen(file()), (Backend::Postgres, url("postgres://file"), 1));
    assert_eq!(
        seen(environment()),
        (Backend::Postgres, url("postgres://environment"), 2)
    );
    assert_eq!(
        seen(flag()),
        (Backend::Postgres, url("postgresql://flag"), 3)
    );
    assert_eq!(
        seen(flag().flag("storage.type", "sqlite")),
        (Backend::Sqlite, url("postgresql://flag"), 3)
    );
}

#[test]
fn postgres_without_a_url_is_refused() {
    let sentence = "storage.type=postgres requires RESONATE_STORAGE__POSTGRES__URL";
    assert_eq!(
        given().file("storage.type = \"postgres\"").error(),
        format!("{sentence} (storage.type from resonate.toml)")
    );
    assert_eq!(
        given().dev().flag("storage.type", "postgres").error(),
        format!("{sentence} (storage.type from --storage-type)")
    );
}

#[test]
fn dev_uses_postgres_as_configured() {
    let config = given()
        .dev()
        .file("storage.type = \"postgres\"")
        .env(VARIABLE, "postgres://db")
        .config();
    assert_eq!(config.storage.backend, Backend::Postgres);
    assert_eq!(
        config.storage.postgres.url.unwrap().as_str(),
        "postgres://db"
    );
}

#[test]
fn urls_are_taken_as_they_were_given() {
    for url in [
        "postgres://localhost",
        "postgresql://localhost:5432/resonate",
        "POSTGRES://localhost/resonate",
        "postgres://me@db/r",
        "postgres://me:hunter2@db:5432/r?sslmode=verify-full&sslrootcert=/etc/ca.pem",
        "postgres://me:p%40%2F%3F%23%3As@[::1]:5432/r",
        // Some have to be encoded for other programs only.
        "postgres://me:a@b:c@db/r",
        "postgres:///r?host=/var/run/postgresql&user=me&password=hunter2",
        "postgres://%2Fvar%2Frun%2Fpostgresql/r",
        "postgres://db/r?ssl-mode=VERIFY-CA&ssl-root-cert=a&sslcert=b&sslkey=c",
        "postgres://db/r?hostaddr=10.0.0.1&port=6432&dbname=r&statement-cache-capacity=0",
        "postgres://db/r?application_name=a&options=-c%20x%3D1&options[search_path]=s",
        " postgres://db/r\n",
    ] {
        let config = given().env(VARIABLE, url).config();
        assert_eq!(config.storage.postgres.url.unwrap().as_str(), url);
    }
}

#[test]
fn other_urls_are_refused_without_being_shown() {
    let kind = "must be a postgres:// or postgresql:// URL";
    let encoded = format!(
        "{kind}, with '@', ':', '/', '?' and '#' inside its parts percent-encoded ('@' as %40)"
    );
    let because = |reason: &str| format!("{encoded} ({reason})");
    for (url, sentence) in [
        ("", because("relative URL without a base")),
        ("db", because("relative URL without a base")),
        (
            "host=db password=hunter2",
            because("relative URL without a base"),
        ),
        ("me:hunter2@db", kind.to_owned()),
        ("mysql://me:hunter2@db/r", kind.to_owned()),
        ("https://me:hunter2@db/r", kind.to_owned()),
        ("postgres:hunter2", kind.to_owned()),
        ("postgres://me:hunter2@/r", because("empty host")),
        (
            "postgres://me:hunter2@a:1,b:2/r",
            because("invalid port number"),
        ),
        // Passwords that are cut in two.
        (
            "postgres://me:hunter2/x@db/r",
            because("invalid port number"),
        ),
        ("postgres://me:11/hunter2@db/r", encoded.clone()),
        ("postgres://me:11?hunter2@db/r", encoded.clone()),
        ("postgres://me:11?user=hunter2@db/r", encoded.clone()),
        ("postgres://me:11#hunter2@db/r", encoded.clone()),
        ("postgres://me:a@hunter2#x@db/r", encoded.clone()),
        // Parameters that the driver would ignore, or refuse only when it connects.
        (
            "postgres://db/r?ssl_mode=hunter2",
            "must not have the parameter \"ssl_mode\": it is not known".to_owned(),
        ),
        (
            "postgres://db/r?sslpassword=hunter2",
            "must not have the parameter \"sslpassword\": it is not known".to_owned(),
        ),
        (
            "postgres://db/r?Password=hunter2",
            "must not have the parameter \"Password\": it is not known".to_owned(),
        ),
        (
            "postgres://db/r?sslmode=hunter2",
            "must have a valid value for its parameter \"sslmode\"".to_owned(),
        ),
        (
            "postgres://db/r?port=hunter2",
            "must have a valid value for its parameter \"port\"".to_owned(),
        ),
        (
            "postgres://db/r?hostaddr=hunter2",
            "must have a valid value for its parameter \"hostaddr\"".to_owned(),
        ),
        (
            "postgres://db/r?statement-cache-capacity=hunter2",
            "must have a valid value for its parameter \"statement-cache-capacity\"".to_owned(),
        ),
    ] {
        // Whether or not it is the storage in use.
        for backend in ["sqlite", "postgres"] {
            let given = || given().flag("storage.type", backend);
            assert_eq!(
                given().file(&format!("{KEY} = {url:?}")).error(),
                format!("{KEY} {sentence} (from resonate.toml)")
            );
            assert_eq!(
                given().env(VARIABLE, url).error(),
                format!("{KEY} {sentence} (from environment variable {VARIABLE})")
            );
            assert_eq!(
                given().flag(KEY, url).error(),
                format!("{KEY} {sentence} (from --storage-postgres-url)")
            );
        }
    }
}

#[test]
fn a_pool_has_room_for_at_least_one_connection() {
    let key = "storage.postgres.pool_size";
    for (n, sentence) in [
        (0_i64, "must be at least 1 (got 0)"),
        (4_294_967_296, "must be at most 4294967295 (got 4294967296)"),
    ] {
        assert_eq!(
            given().flag(key, n).error(),
            format!("{key} {sentence} (from --storage-postgres-pool-size)")
        );
    }
    let config = given().flag(key, 4_294_967_295_i64).config();
    assert_eq!(config.storage.postgres.pool_size, u32::MAX);
}

#[test]
fn what_is_shown_of_the_database_hides_its_password() {
    for (url, shown) in [
        (
            "postgres://me:hunter2@db:5432/r?sslmode=require",
            "postgres://me:***@db:5432/r?sslmode=require",
        ),
        ("postgres://me:a@hunter2:x@db/r", "postgres://me:***@db/r"),
        (
            "postgres://db/r?user=me&p%61ssword=hunter2",
            "postgres://db/r?user=me&p%61ssword=***",
        ),
        (
            "postgres://db/r?sslkey=-----BEGIN%20hunter2",
            "postgres://db/r?sslkey=***",
        ),
    ] {
        let config = given().env(VARIABLE, url).config();
        let debug = format!("{config:?}");
        assert!(debug.contains(&format!("{shown:?}")), "{debug}");
        let serialized = serde_json::to_string(&config).unwrap();
        assert!(serialized.contains(&format!("{shown:?}")), "{serialized}");
        for text in [debug, serialized] {
            assert!(!text.contains("hunter2"), "{text}");
        }
    }
}

#[test]
fn values_of_another_type_are_refused_without_being_shown() {
    for value in [Value::from(5), Value::from(vec!["hunter2"])] {
        let error = given().flag(KEY, value).error();
        assert!(
            error.starts_with("storage.postgres.url must be a string (got "),
            "{error}"
        );
        assert!(!error.contains("hunter2"), "{error}");
    }
    let error = given()
        .flag("storage.postgres.pool_size", "postgres://me:hunter2@db")
        .error();
    assert!(!error.contains("hunter2"), "{error}");
}
