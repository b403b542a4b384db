//! Settings that are valid, and perhaps not what was meant.

use super::Check;
use crate::config::{AuthMode, Config, Synchronous, is_loopback};

/// A worker that has a message and has not acquired its task yet needs about this long at worst.
const RETRY_MS_MIN: i64 = 1_000;
/// So long a lost push would go unnoticed.
const RETRY_MS_MAX: i64 = 10 * 60_000;

/// Looks at the settings alone.
pub(super) fn checks(config: &Config) -> Vec<Check> {
    let mut checks = vec![auth(config)];
    if config.debug {
        checks.push(Check::warn(
            "debug",
            "on: clients may set the clock and delete everything",
            "debug = false where anything is to be kept",
        ));
    }
    let transports = &config.transports;
    if transports.bash_exec.enabled && config.auth.mode() == AuthMode::Off {
        checks.push(Check::warn(
            "scripts",
            "enabled without authentication: whoever can create promises can run programs here",
            "set auth.publickey or auth.jwks",
        ));
    }
    if !transports.http_poll.enabled {
        checks.push(Check::warn(
            "poll",
            "disabled: workers that listen at poll:// addresses receive nothing",
            "transports.http_poll.enabled = true unless all workers are pushed to",
        ));
    }
    checks.push(retry(config));
    checks.extend(metrics(config));
    let storage = &config.storage.sqlite;
    let is_file = config.storage.backend == crate::config::Backend::Sqlite && !storage.is_memory();
    if is_file && storage.synchronous == Synchronous::Normal {
        checks.push(Check::warn(
            "durability",
            "normal: power loss may take back the latest acknowledged writes",
            "storage.sqlite.synchronous = \"full\"",
        ));
    }
    checks
}

fn auth(config: &Config) -> Check {
    let bind = &config.server.bind;
    match config.auth.mode() {
        AuthMode::Signed => Check::ok("auth", "requests need a signed token"),
        AuthMode::Unchecked => Check::warn(
            "auth",
            "signatures of tokens are not checked: anybody can make one",
            "auth.publickey = the path of a key",
        ),
        AuthMode::Off if is_loopback(bind) => {
            Check::ok("auth", format!("off, and only {bind} is listened on"))
        }
        AuthMode::Off => Check::warn(
            "auth",
            format!("off, and {bind} is listened on: whoever reaches it may do everything"),
            "set auth.publickey or auth.jwks, or server.bind = \"127.0.0.1\"",
        ),
    }
}

fn retry(config: &Config) -> Check {
    let retry = config.tasks.retry_timeout;
    let connect = config.transports.http_push.connect_timeout;
    let odd = |found: String, hint: String| Check::warn("retry", found, hint);
    if retry.as_i64() < RETRY_MS_MIN {
        return odd(
            format!(
                "tasks.retry_timeout is {retry} ms: workers are offered tasks again before they \
                 can have acquired them"
            ),
            format!("{RETRY_MS_MIN} ms or more"),
        );
    }
    if config.transports.http_push.enabled && retry < connect {
        return odd(
            format!(
                "tasks.retry_timeout ({retry} ms) is shorter than \
                 transports.http_push.connect_timeout ({connect} ms): a push is repeated before \
                 anybody has answered"
            ),
            "a longer tasks.retry_timeout".to_owned(),
        );
    }
    if retry.as_i64() > RETRY_MS_MAX {
        return odd(
            format!(
                "tasks.retry_timeout is {retry} ms: a task whose message got lost waits that long"
            ),
            format!("{RETRY_MS_MAX} ms or less; the default is 30000"),
        );
    }
    Check::ok(
        "retry",
        format!("pending tasks are offered again after {retry} ms"),
    )
}

fn metrics(config: &Config) -> Option<Check> {
    let metrics = &config.observability;
    let bind = metrics.metrics_bind.as_ref().unwrap_or(&config.server.bind);
    let port = metrics.metrics_port;
    (port != 0 && !is_loopback(bind)).then(|| {
        Check::warn(
            "metrics",
            format!("served on {bind}:{port} to whoever reaches it"),
            "observability.metrics_bind = \"127.0.0.1\", or a firewall",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Millis;
    use crate::doctor::Verdict;

    fn verdict(config: &Config, name: &str) -> Option<Verdict> {
        let checks = checks(config);
        let check = checks.iter().find(|check| check.name == name);
        check.map(|check| check.verdict)
    }

    #[test]
    fn the_retry_timeout_is_odd_when_it_is_too_short_or_too_long() {
        let mut config = Config::default();
        assert_eq!(verdict(&config, "retry"), Some(Verdict::Ok));
        for odd in [999, 5_000, 600_001] {
            config.transports.http_push.connect_timeout = Millis::new(5_001);
            config.tasks.retry_timeout = Millis::new(odd);
            assert_eq!(verdict(&config, "retry"), Some(Verdict::Warn), "{odd}");
        }
        config.transports.http_push.enabled = false;
        config.tasks.retry_timeout = Millis::new(5_000);
        assert_eq!(verdict(&config, "retry"), Some(Verdict::Ok));
    }

    #[test]
    fn what_is_open_to_others_is_warned_of() {
        let mut config = Config::default();
        assert_eq!(verdict(&config, "auth"), Some(Verdict::Warn));
        assert_eq!(verdict(&config, "metrics"), Some(Verdict::Warn));
        config.server.bind = "::1".to_owned();
        assert_eq!(verdict(&config, "auth"), Some(Verdict::Ok));
        assert_eq!(verdict(&config, "metrics"), None);
        config.observability.metrics_bind = Some("0.0.0.0".to_owned());
        assert_eq!(verdict(&config, "metrics"), Some(Verdict::Warn));
        config.observability.metrics_port = 0;
        assert_eq!(verdict(&config, "metrics"), None);
        for (change, name) in [
            (
                Box::new(|c: &mut Config| c.debug = true) as Box<dyn Fn(&mut Config)>,
                "debug",
            ),
            (
                Box::new(|c| c.transports.bash_exec.enabled = true),
                "scripts",
            ),
            (Box::new(|c| c.transports.http_poll.enabled = false), "poll"),
            (
                Box::new(|c| c.storage.sqlite.synchronous = Synchronous::Normal),
                "durability",
            ),
        ] {
            assert_eq!(verdict(&config, name), None, "{name}");
            change(&mut config);
            assert_eq!(verdict(&config, name), Some(Verdict::Warn), "{name}");
        }
    }
}
