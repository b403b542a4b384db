//! By what tokens are checked, as configured.

use crate::auth::{Authenticator, Keys, Rules, Source};
use crate::config::{self, Auth, AuthMode, Jwks};

/// What tells who sends requests; none where nobody is asked.
///
/// # Errors
/// When a file cannot be read or has no usable keys.
pub(super) fn load(auth: &Auth) -> anyhow::Result<Option<Authenticator>> {
    let keys = match auth.mode() {
        AuthMode::Off => return Ok(None),
        AuthMode::Unchecked => Keys::Unchecked,
        AuthMode::Signed => {
            let files = auth.publickey.iter().map(|path| Source::Pem(path.into()));
            let sets = auth.jwks().into_iter().map(|jwks| match jwks {
                Jwks::File(path) => Source::Jwks(path),
                Jwks::Url(url) => Source::Url(url),
            });
            Keys::From(files.chain(sets).collect())
        }
    };
    let rules = Rules {
        iss: auth.iss.clone(),
        aud: auth.aud.clone(),
    };
    let loaded = Authenticator::load(keys, rules);
    Ok(Some(
        loaded.map_err(|error| config::Error::new(error.to_string()))?,
    ))
}
