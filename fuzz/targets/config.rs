//! Settings from a file and the environment: what is refused is told in one line that names what is
//! wrong, what is accepted is within its bounds, and no token is shown either way.

use std::cell::RefCell;
use std::fs;
use std::io::{Seek, Write};

use resonate::config::{Config, Environment, Layers, PushAuthMode, load};
use tempfile::NamedTempFile;

/// A token, if it is this, must not come out again.
const SECRET: &str = "hunter2";
const INTEGER_MAX: i64 = (1 << 53) - 1;

thread_local! {
    static FILE: RefCell<NamedTempFile> =
        RefCell::new(NamedTempFile::new().expect("a temporary file can be made"));
}

/// The text of the file, and after a NUL each a variable: `NAME=value`.
pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let mut parts = text.split('\0');
    let file = parts.next().unwrap_or_default();
    let pairs = parts.filter_map(|pair| pair.split_once('='));
    let environment: Environment = pairs
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    let loaded = FILE.with_borrow_mut(|written| {
        write(written, file).expect("the temporary file can be written");
        load(&Layers {
            file: written.path(),
            environment: &environment,
            flags: &[],
            is_dev: text.len() % 2 == 1,
        })
    });
    match loaded {
        Ok(loaded) => {
            is_within_bounds(&loaded.config);
            hides_its_token(&loaded.config);
        }
        Err(error) => {
            let line = error.to_string();
            assert!(line.starts_with("Configuration error: "), "{line}");
        }
    }
}

fn write(file: &mut NamedTempFile, text: &str) -> std::io::Result<()> {
    fs::File::rewind(file.as_file_mut())?;
    file.as_file_mut().set_len(0)?;
    file.write_all(text.as_bytes())
}

fn is_within_bounds(config: &Config) {
    let server = &config.server;
    assert!(server.max_body_size >= 1 && server.max_in_flight >= 1);
    assert!(server.max_in_flight_bytes >= server.max_body_size);
    let transports = &config.transports;
    for millis in [
        server.shutdown_timeout,
        server.request_deadline,
        config.tasks.retry_timeout,
        config.timeouts.poll_interval,
        config.messages.unblock_ttl,
        transports.http_push.request_timeout,
    ] {
        assert!((0..=INTEGER_MAX).contains(&millis.as_i64()));
    }
    assert!(config.tasks.retry_timeout.as_i64() >= 1);
    assert!(config.timeouts.poll_interval.as_i64() >= 1);
    assert!(transports.http_push.concurrency >= 1);
    let auth = &transports.http_push.auth;
    assert!(auth.mode != PushAuthMode::Bearer || auth.token.is_some());
    assert!(!server.public_url(1).is_empty());
}

fn hides_its_token(config: &Config) {
    let auth = &config.transports.http_push.auth;
    let has_secret = auth
        .token
        .as_ref()
        .is_some_and(|token| token.as_str() == SECRET);
    if has_secret {
        assert!(!format!("{auth:?}").contains(SECRET));
    }
}
