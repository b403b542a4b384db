//! Files and URLs that settings name: certificates and keys.

use std::path::Path;

use super::Check;
use crate::auth::{Fetcher, Source};
use crate::config::{AuthMode, Config, Jwks};
use crate::net::Tls;

/// Reads what a server would read.
pub(super) async fn checks(config: &Config) -> Vec<Check> {
    let mut checks = Vec::new();
    let tls = &config.server.tls;
    if let (Some(cert), Some(key)) = (&tls.cert, &tls.key) {
        checks.push(match Tls::load(Path::new(cert), Path::new(key)) {
            Ok(_) => Check::ok("tls", format!("{cert} and {key} belong together")),
            Err(error) => Check::fail(
                "tls",
                error.to_string(),
                "a PEM file of the certificate, and one of its key, both readable",
            ),
        });
    }
    let auth = &config.auth;
    if auth.mode() != AuthMode::Signed {
        return checks;
    }
    let files = auth.publickey.iter().map(|path| Source::Pem(path.into()));
    let sets = auth.jwks().into_iter().map(|jwks| match jwks {
        Jwks::File(path) => Source::Jwks(path),
        Jwks::Url(url) => Source::Url(url),
    });
    for source in files.chain(sets) {
        checks.push(keys(&source).await);
    }
    checks
}

async fn keys(source: &Source) -> Check {
    const NAME: &str = "auth keys";
    let name = source.name();
    if let Some(read) = source.read() {
        return match read {
            Ok(keys) => Check::ok(NAME, format!("{} in {name}", keys.len())),
            Err(error) => Check::fail(NAME, error.to_string(), "a server does not start without"),
        };
    }
    let Source::Url(url) = source else {
        return Check::ok(NAME, name);
    };
    let fetched = match Fetcher::new() {
        Ok(fetcher) => fetcher.fetch(url).await.map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    match fetched {
        Ok(keys) => Check::ok(NAME, format!("{} from {name}", keys.len())),
        Err(reason) => Check::fail(
            NAME,
            reason,
            "requests are answered 503 until they can be fetched",
        ),
    }
}
