//! Cross-origin requests (configuration §4).

use crate::harness::http::{Connection, Reply, encode};
use crate::harness::server::{Server, run_to_exit, serve_args};

const ORIGIN: (&str, &str) = ("origin", "https://app.example");
const OTHER: (&str, &str) = ("origin", "https://evil.example");

fn preflight(server: &Server, path: &str, origin: (&str, &str)) -> Reply {
    let headers = [
        origin,
        ("access-control-request-method", "POST"),
        (
            "access-control-request-headers",
            "content-type,authorization",
        ),
    ];
    server.request("OPTIONS", path, &headers, b"")
}

/// The headers of an answer to a simple request; a stream is dropped once they have come.
fn simple(server: &Server, path: &str, origin: (&str, &str)) -> Reply {
    if path == "/" {
        return server.request("POST", path, &[origin], b"{}");
    }
    let mut connection = Connection::open(server.addr()).expect("the server accepts");
    let request = encode("GET", path, &[origin], b"");
    connection.write(&request).expect("the request is sent");
    let head = connection.read_head().expect("the headers come at once");
    Reply {
        head,
        body: Vec::new(),
    }
}

#[test]
fn nothing_is_allowed_by_default() {
    let server = Server::single();
    for path in ["/", "/poll/g/id"] {
        for reply in [
            simple(&server, path, ORIGIN),
            preflight(&server, path, ORIGIN),
        ] {
            for header in [
                "access-control-allow-origin",
                "access-control-allow-methods",
                "access-control-allow-headers",
                "access-control-allow-credentials",
            ] {
                assert_eq!(reply.header(header), None, "{path} {header}");
            }
        }
    }
}

#[test]
fn a_star_allows_every_origin_without_credentials() {
    // D-41. Among other entries it still means everybody.
    for flags in [
        &["--server-cors-allow-origin", "*"][..],
        &[
            "--server-cors-allow-origin",
            "https://app.example",
            "--server-cors-allow-origin",
            "*",
        ],
    ] {
        let server = Server::single_with(flags);
        for path in ["/", "/poll/g/id"] {
            for reply in [
                simple(&server, path, OTHER),
                preflight(&server, path, OTHER),
            ] {
                let origin = reply.header("access-control-allow-origin");
                assert_eq!(origin, Some("*"), "{path}");
                let credentials = reply.header("access-control-allow-credentials");
                assert_eq!(credentials, None, "{path}");
            }
            let reply = preflight(&server, path, OTHER);
            assert_eq!(reply.status(), 200, "{path}");
            for (header, wanted) in [
                ("access-control-allow-methods", "post"),
                ("access-control-allow-headers", "authorization"),
            ] {
                let allowed = reply.head.list(header);
                let is_allowed = allowed
                    .iter()
                    .any(|member| member == "*" || member == wanted);
                assert!(is_allowed, "{path} {header}: {allowed:?}");
            }
        }
    }
}

#[test]
fn a_listed_origin_is_echoed_and_no_other() {
    let server = Server::single_with(&[
        "--server-cors-allow-origin",
        "https://app.example",
        "--server-cors-allow-origin",
        "http://localhost:3000",
    ]);
    for path in ["/", "/poll/g/id"] {
        for (origin, allowed) in [
            (ORIGIN, Some("https://app.example")),
            (
                ("origin", "http://localhost:3000"),
                Some("http://localhost:3000"),
            ),
            (OTHER, None),
            (("origin", "https://app.example:8443"), None),
            (("origin", "http://app.example"), None),
            (("origin", "null"), None),
        ] {
            for reply in [
                simple(&server, path, origin),
                preflight(&server, path, origin),
            ] {
                let answered = reply.header("access-control-allow-origin");
                assert_eq!(answered, allowed, "{path} {origin:?}");
            }
        }
        let reply = preflight(&server, path, ORIGIN);
        assert_eq!(reply.status(), 200, "{path}");
        assert_eq!(
            reply.head.list("access-control-allow-methods"),
            ["delete", "get", "options", "patch", "post", "put"]
        );
        assert_eq!(
            reply.head.list("access-control-allow-headers"),
            ["authorization", "content-length", "content-type", "origin"]
        );
        assert_eq!(
            reply.head.list("vary"),
            [
                "access-control-request-headers",
                "access-control-request-method",
                "origin"
            ]
        );
        let varies = simple(&server, path, ORIGIN).head.list("vary");
        assert!(varies.iter().any(|member| member == "origin"), "{varies:?}");
    }
}

#[test]
fn d23_origins_may_come_from_the_environment_as_a_list_or_as_text() {
    // Refused values prove that the variable is read; good ones are the configuration's own tests.
    let home = tempfile::tempdir().unwrap();
    let args = serve_args(":memory:");
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    for value in [
        "bad\u{1}origin",
        "[\"https://ok.example\",\"bad\\norigin\"]",
    ] {
        let env = [("RESONATE_SERVER__CORS__ALLOW_ORIGINS", value)];
        let exit = run_to_exit(&args, &env, home.path());
        assert_eq!(exit.code, Some(1), "{exit:?}");
        assert!(
            exit.stderr.contains("Fatal: Configuration error: "),
            "{exit:?}"
        );
    }
}
