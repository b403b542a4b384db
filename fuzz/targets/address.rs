//! Addresses (`transports.md` §1): what is accepted can be queued, sent to and logged.

use resonate::config::redact;
use resonate::protocol::address::{Address, Cast, Rules, queue_of};

/// A password in a URL, if it is this, must not come out again.
const SECRET: &str = "hunter2";

pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let strict = Address::parse(text, &Rules::default());
    let with_project = Rules {
        default_project: Some("project".to_owned()),
    };
    let parsed = Address::parse(text, &with_project);
    if strict.is_some() {
        assert_eq!(strict, parsed, "a default project adds addresses only");
    }
    let queue = queue_of(text);
    assert_eq!(queue.is_some(), parsed.is_some(), "accepted is queued");
    if let Some(queue) = queue {
        assert!(!queue.contains('\0'), "no database has to store a NUL");
    }
    if let Some(address) = parsed {
        obeys_the_grammar(text, &address);
    }
    hides_passwords(text);
}

fn obeys_the_grammar(text: &str, address: &Address) {
    match address {
        Address::Http { url } => {
            assert_eq!(url, text, "pushed to as it is stored");
            let url = url::Url::parse(url).expect("what is pushed to is a URL");
            assert!(matches!(url.scheme(), "http" | "https"));
            assert!(url.host_str().is_some_and(|host| !host.is_empty()));
            let shown = address.label();
            assert!(!shown.contains(['@', '?', '#']), "{shown}");
        }
        Address::Poll(poll) => {
            assert!(!poll.group.is_empty() && !poll.group.contains('/'));
            assert_ne!(poll.id.as_deref(), Some(""));
            assert!(poll.cast == Cast::Any || poll.id.is_some());
        }
        Address::Gcps { topic, .. } => assert!(!topic.is_empty()),
        Address::Bash(_) => assert!(!address.can_listen()),
    }
}

fn hides_passwords(text: &str) {
    let Ok(url) = url::Url::parse(text) else {
        return;
    };
    let is_secret = url.password() == Some(SECRET) && url.as_str().matches(SECRET).count() == 1;
    if is_secret {
        let shown = redact::url(text);
        assert!(!shown.contains(SECRET), "{shown}");
    }
}
