//! The grammar of addresses (`transports.md` §1): where messages to workers and listeners go.
//!
//! Parsed by hand: generic URL libraries fold the host to lower case or keep percent-escapes, and
//! then miss the group that a worker registered under. An address is stored and echoed unchanged.

use std::borrow::Cow;
use std::sync::LazyLock;

use percent_encoding::percent_decode_str;

use super::record::Id;

/// A parsed address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// `http://…`, `https://…`: messages are posted there.
    Http {
        /// The address as given.
        url: String,
    },
    /// `poll://…`: messages go out on an open poll stream.
    Poll(Poll),
    /// `gcps://project/topic`: messages are published there.
    Gcps {
        /// Empty when the configured default project applies (D-18).
        project: String,
        /// Non-empty.
        topic: String,
    },
    /// `bash://…`: a script runs on the server.
    Bash(Bash),
}

/// `poll://uni@<group>/<id>` or `poll://any@<group>[/<id>]`, percent-escapes as given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Poll {
    /// Exactly the connection named, or any of the group (the one named preferred).
    pub cast: Cast,
    /// Non-empty.
    pub group: String,
    /// Present for [`Cast::Uni`].
    pub id: Option<String>,
}

/// How many connections of a group may receive a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cast {
    /// Only the one with the id.
    Uni,
    /// Any one of the group.
    Any,
}

/// What a bash address runs (`transports.md` §6).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bash {
    /// The script in the promise's param.
    Inline,
    /// A script file below the configured root.
    Named {
        /// As given, checked when it runs.
        path: String,
    },
    /// The script in the promise's param, in a container.
    Docker {
        /// Non-empty.
        image: String,
    },
}

/// What the grammar needs to know of the configuration.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// `transports.gcps.project`: makes `gcps:///<topic>` valid.
    pub default_project: Option<String>,
}

impl Address {
    /// Reads an address by grammar alone; whether a transport serves it is not looked at.
    pub fn parse(text: &str, rules: &Rules) -> Option<Address> {
        let (scheme, rest) = text.split_once("://")?;
        match scheme.to_ascii_lowercase().as_str() {
            "http" | "https" => parse_http(text, rest),
            "poll" => Poll::parse(rest).map(Address::Poll),
            "gcps" => parse_gcps(rest, rules),
            "bash" => Bash::parse(rest).map(Address::Bash),
            _ => None,
        }
    }

    /// What its transport is found by.
    pub fn scheme(&self) -> &'static str {
        match self {
            Address::Http { .. } => "http",
            Address::Poll(_) => "poll",
            Address::Gcps { .. } => "gcps",
            Address::Bash(_) => "bash",
        }
    }

    /// Whom a message goes to, for people to read: without the rest of a URL, which may hold secrets, and
    /// without the worker that an anycast prefers.
    pub fn label(&self) -> String {
        match self {
            Address::Http { url } => url::Url::parse(url).map_or_else(
                |_| "http".to_owned(),
                |url| url.origin().ascii_serialization(),
            ),
            Address::Poll(Poll { cast, group, id }) => match (cast, id) {
                (Cast::Uni, Some(id)) => format!("poll://uni@{group}/{id}"),
                _ => format!("poll://any@{group}"),
            },
            Address::Gcps { project, topic } => format!("gcps://{project}/{topic}"),
            Address::Bash(Bash::Inline) => "bash:///".to_owned(),
            Address::Bash(Bash::Named { path }) => format!("bash:///{path}"),
            Address::Bash(Bash::Docker { image }) => format!("bash://docker/{image}"),
        }
    }

    /// Whether something at this address could receive an `unblock`.
    pub fn can_listen(&self) -> bool {
        !matches!(self, Address::Bash(_))
    }

    /// The queue that messages to this address wait in while nobody can receive them: no stream is
    /// open, or the transport is busy, or disabled here.
    pub fn queue(&self) -> Id {
        match self {
            Address::Poll(poll) => match (poll.cast, &poll.id) {
                (Cast::Uni, Some(id)) => unicast_queue(&poll.group, id),
                _ => anycast_queue(&poll.group),
            },
            Address::Http { .. } => push_queue(),
            Address::Gcps { .. } => gcps_queue(),
            Address::Bash(_) => bash_queue(),
        }
    }
}

/// The one queue of all messages to `http://` and `https://`.
pub const PUSH_QUEUE: &str = "push";

/// The one queue of all messages to `gcps://`.
pub const GCPS_QUEUE: &str = "gcps";

/// The one queue of all scripts that servers run.
pub const BASH_QUEUE: &str = "bash";

/// The queue of all messages to a scheme, if they do not wait for streams.
pub fn own_queue(scheme: &str) -> Option<Id> {
    match scheme {
        "http" => Some(push_queue()),
        "gcps" => Some(gcps_queue()),
        "bash" => Some(bash_queue()),
        _ => None,
    }
}

/// Whether every server can deliver what waits in a queue, by itself, at any time. Scripts only some run.
pub fn is_served_anywhere(queue: &str) -> bool {
    matches!(queue, PUSH_QUEUE | GCPS_QUEUE)
}

/// [`PUSH_QUEUE`], shared.
pub fn push_queue() -> Id {
    static QUEUE: LazyLock<Id> = LazyLock::new(|| PUSH_QUEUE.into());
    QUEUE.clone()
}

/// [`GCPS_QUEUE`], shared.
pub fn gcps_queue() -> Id {
    static QUEUE: LazyLock<Id> = LazyLock::new(|| GCPS_QUEUE.into());
    QUEUE.clone()
}

/// [`BASH_QUEUE`], shared.
pub fn bash_queue() -> Id {
    static QUEUE: LazyLock<Id> = LazyLock::new(|| BASH_QUEUE.into());
    QUEUE.clone()
}

/// The queue of a stored address, which was valid when it was stored; none if it no longer is.
pub fn queue_of(address: &str) -> Option<Id> {
    // Whichever default project applied, or will.
    static RULES: LazyLock<Rules> = LazyLock::new(|| Rules {
        default_project: Some(String::new()),
    });
    Some(Address::parse(address, &RULES)?.queue())
}

/// The queue of messages to any connection of a group.
pub fn anycast_queue(group: &str) -> Id {
    format!("any@{}", fully_decoded(group)).into()
}

/// The queue of messages to one connection of a group.
pub fn unicast_queue(group: &str, id: &str) -> Id {
    format!("uni@{}/{}", fully_decoded(group), fully_decoded(id)).into()
}

/// The decoded path segments of connections that a segment of an address names: one, or two different
/// ones where it contains percent-escapes.
pub fn spellings(segment: &str) -> impl Iterator<Item = Cow<'_, str>> {
    let decoded = segment
        .contains('%')
        .then(|| percent_decode_str(segment).decode_utf8_lossy())
        .filter(|decoded| decoded != segment);
    std::iter::once(Cow::Borrowed(segment)).chain(decoded)
}

/// Decodes until nothing changes, so that all [`spellings`] of a segment share one queue. Only a NUL
/// stays an escape: not every database has texts that hold one.
///
/// Bounded: `%2525…` grows shorter by one escape a round, which would take quadratic time.
fn fully_decoded(segment: &str) -> String {
    const ROUNDS_MAX: usize = 16;
    let mut text = segment.to_owned();
    for _ in 0..ROUNDS_MAX {
        if !text.contains('%') {
            break;
        }
        let decoded = percent_decode_str(&text).decode_utf8_lossy().into_owned();
        if decoded == text {
            break;
        }
        text = decoded;
    }
    text.replace('\0', "%00")
}

fn parse_http(text: &str, rest: &str) -> Option<Address> {
    // The library would take `http:///x` for host `x`.
    if rest.starts_with(['/', '\\', '?', '#']) {
        return None;
    }
    let url = url::Url::parse(text).ok()?;
    url.host_str().filter(|host| !host.is_empty())?;
    Some(Address::Http {
        url: text.to_owned(),
    })
}

fn parse_gcps(rest: &str, rules: &Rules) -> Option<Address> {
    let (project, topic) = rest.split_once('/')?;
    if topic.is_empty() || (project.is_empty() && rules.default_project.is_none()) {
        return None;
    }
    Some(Address::Gcps {
        project: project.to_owned(),
        topic: topic.to_owned(),
    })
}

impl Poll {
    fn parse(rest: &str) -> Option<Poll> {
        let (cast, target) = rest.split_once('@')?;
        let cast = match cast {
            "uni" => Cast::Uni,
            "any" => Cast::Any,
            _ => return None,
        };
        let (group, id) = match target.split_once('/') {
            Some((group, id)) => (group, Some(id).filter(|id| !id.is_empty())),
            None => (target, None),
        };
        // A unicast without an id could match nobody (D-16).
        if group.is_empty() || (cast == Cast::Uni && id.is_none()) {
            return None;
        }
        Some(Poll {
            cast,
            group: group.to_owned(),
            id: id.map(str::to_owned),
        })
    }
}

impl Bash {
    fn parse(rest: &str) -> Option<Bash> {
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        match (host, path) {
            ("" | "bash", "") => Some(Bash::Inline),
            ("", path) => Some(Bash::Named {
                path: path.to_owned(),
            }),
            ("docker", image) if !image.is_empty() => Some(Bash::Docker {
                image: image.to_owned(),
            }),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_valid(text: &str) -> bool {
        Address::parse(text, &Rules::default()).is_some()
    }

    #[test]
    fn every_row_of_the_grammar_is_accepted() {
        for text in [
            "http://h",
            "HTTPS://h:8080/p?q=1",
            "http://127.0.0.1:1/x",
            "http://[::1]/",
            "http://u:p@h/",
            "poll://any@g",
            "poll://any@g/",
            "poll://any@g/x",
            "poll://uni@g/x",
            "POLL://uni@g/x/y",
            "poll://any@g%20x",
            "poll://any@G",
            "gcps://p/t",
            "gcps://p/t/u",
            "bash://",
            "bash:///",
            "bash://bash",
            "bash://bash/",
            "bash:///a/b.sh",
            "bash://docker/img:1",
        ] {
            assert!(is_valid(text), "{text}");
        }
    }

    #[test]
    fn everything_else_is_refused() {
        for text in [
            "",
            "w1",
            "poll://",
            "poll://g",
            "poll://w@g",
            "poll://worker-1@default",
            "poll://any@",
            "poll://any@/x",
            "poll://uni@g",
            "poll://uni@g/",
            "poll://ANY@g",
            "poll:any@g",
            "http://",
            "http:///p",
            "http:h",
            "https://?q",
            "ftp://h",
            "nats://h",
            "local://any@g",
            "gcps://p",
            "gcps://p/",
            "gcps:///t",
            "bash://docker",
            "bash://docker/",
            "bash://other",
            "bash://bash/x",
        ] {
            assert!(!is_valid(text), "{text}");
        }
    }

    #[test]
    fn a_default_project_makes_the_short_topic_form_valid() {
        let rules = Rules {
            default_project: Some("p".to_owned()),
        };
        assert!(Address::parse("gcps:///t", &rules).is_some());
        assert!(Address::parse("gcps:///", &rules).is_none());
        assert!(Address::parse("gcps://", &rules).is_none());
        assert!(Address::parse("gcps://q", &rules).is_none());
    }

    #[test]
    fn a_topic_is_the_rest_of_the_path_as_it_stands() {
        let rules = Rules {
            default_project: Some("p".to_owned()),
        };
        for (text, project, topic) in [
            ("gcps://my-Project/T", "my-Project", "T"),
            ("GcpS://p/t", "p", "t"),
            ("gcps://p/t/u", "p", "t/u"),
            ("gcps://p/t%20x", "p", "t%20x"),
            ("gcps://p//", "p", "/"),
            ("gcps:///t", "", "t"),
        ] {
            let expected = Address::Gcps {
                project: project.to_owned(),
                topic: topic.to_owned(),
            };
            assert_eq!(Address::parse(text, &rules), Some(expected), "{text}");
        }
    }

    #[test]
    fn spellings_of_one_group_share_a_queue_and_match_raw_or_decoded() {
        assert_eq!(queue_of("poll://any@g%20x"), queue_of("poll://any@g x/pid"));
        assert_eq!(queue_of("http://h").as_deref(), Some(PUSH_QUEUE));
        assert_eq!(queue_of("gcps://p/t").as_deref(), Some(GCPS_QUEUE));
        assert_eq!(queue_of("GCPS:///t").as_deref(), Some(GCPS_QUEUE));
        assert_eq!(queue_of("bash:///a.sh").as_deref(), Some(BASH_QUEUE));
        assert_eq!(queue_of("nowhere"), None);
        assert!(spellings("g%20x").eq(["g%20x", "g x"]) && spellings("100%").eq(["100%"]));
        assert!(spellings("g x").eq(["g x"]));
        assert_eq!(queue_of("poll://any@g%00x").as_deref(), Some("any@g%00x"));
        assert_eq!(&*anycast_queue("g\0x"), "any@g%00x");
        let nested = format!("poll://any@%{}", "25".repeat(100_000));
        assert!(queue_of(&nested).is_some());
    }
}
