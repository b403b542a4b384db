//! Input that nobody sends by mistake (protocol §1, §2): it is refused or served, and the server goes on.

use std::io::ErrorKind;

use serde_json::{Value, json};

use crate::harness::client::{Response, VERSION};
use crate::harness::http::{Connection, Reply, encode};
use crate::harness::server::{Server, shared, shared_single, unique};

const CHUNKED: &str = "POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n";

fn body(kind: &str, data: &str) -> String {
    format!(r#"{{"kind":"{kind}","head":{{"corrId":"c","version":"{VERSION}"}},"data":{data}}}"#)
}

fn get(id: &str) -> Vec<u8> {
    body("promise.get", &json!({"id": id}).to_string()).into_bytes()
}

/// One chunk and the last one.
fn chunked(body: &[u8]) -> Vec<u8> {
    let size = format!("{:x}\r\n", body.len()).into_bytes();
    [&size[..], body, b"\r\n0\r\n\r\n"].concat()
}

/// A new connection on which these bytes have been sent.
fn sent(server: &Server, bytes: &[u8]) -> Connection {
    let connection = Connection::open(server.addr());
    let mut connection = connection.expect("the server accepts connections");
    connection.write(bytes).expect("the server reads");
    connection
}

/// What is answered to these bytes, until the server falls silent or closes the connection.
fn replies(server: &Server, bytes: &[u8], count: usize) -> Vec<Reply> {
    let mut connection = sent(server, bytes);
    (0..count)
        .map_while(|_| connection.read_reply().ok())
        .collect()
}

/// The one answer to these bytes, after which the connection is closed.
#[track_caller]
fn last_reply(server: &Server, bytes: &[u8]) -> Reply {
    let mut connection = sent(server, bytes);
    let reply = connection.read_reply().expect("the server answers");
    let next = connection.read_reply().map(|reply| reply.head.start);
    let is_closed = next.as_ref().is_err_and(|error| {
        // Closed with something of ours unread, it is a reset.
        matches!(
            error.kind(),
            ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset
        )
    });
    assert!(is_closed, "{next:?}");
    reply
}

#[track_caller]
fn expect_400(response: &Response, field: &str) {
    let message = response.message();
    assert!(
        response.status == 400 && message.contains(field),
        "{response}"
    );
}

#[test]
fn nesting_of_any_depth_is_skipped_or_refused() {
    let server = shared();
    let deep = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
    let objects = format!("{}1{}", r#"{"a":"#.repeat(100_000), "}".repeat(100_000));
    for deep in [deep, objects] {
        // Where nobody looks, depth makes no difference.
        let ignored = body("promise.get", &format!(r#"{{"id":"none","x":{deep}}}"#));
        server.post(ignored.as_bytes()).expect_status(404);
        let in_head = format!(
            r#"{{"kind":"promise.get","head":{{"corrId":"c","version":"{VERSION}","x":{deep}}},"data":{{"id":"none"}}}}"#
        );
        server.post(in_head.as_bytes()).expect_status(404);
        for (field, data) in [
            (
                "tags",
                format!(r#"{{"id":"a","timeoutAt":1,"tags":{{"a":{deep}}}}}"#),
            ),
            (
                "param",
                format!(r#"{{"id":"a","timeoutAt":1,"param":{{"data":{deep}}}}}"#),
            ),
            ("id", format!(r#"{{"id":{deep},"timeoutAt":1}}"#)),
        ] {
            let response = server.post(body("promise.create", &data).as_bytes());
            expect_400(&response, field);
        }
        let nested = format!(r#"{{"id":"a","version":1,"action":{deep}}}"#);
        expect_400(
            &server.post(body("task.fence", &nested).as_bytes()),
            "action",
        );
    }
}

#[test]
fn a_member_given_twice_is_refused_and_of_a_tag_given_twice_the_last_counts() {
    let server = shared();
    let head = format!(r#""head":{{"corrId":"c","version":"{VERSION}"}}"#);
    for (text, member) in [
        (
            format!(r#"{{"kind":"promise.get","kind":"task.get",{head},"data":{{"id":"a"}}}}"#),
            "kind",
        ),
        (
            format!(r#"{{"kind":"promise.get",{head},{head},"data":{{"id":"a"}}}}"#),
            "head",
        ),
        (
            format!(r#"{{"kind":"promise.get",{head},"data":{{"id":"a"}},"data":{{"id":"b"}}}}"#),
            "data",
        ),
        (body("promise.get", r#"{"id":"a","id":"b"}"#), "id"),
        (
            body(
                "promise.create",
                r#"{"id":"a","timeoutAt":1,"timeoutAt":2}"#,
            ),
            "timeoutAt",
        ),
        (
            body(
                "promise.settle",
                r#"{"id":"a","state":"resolved","value":{"data":"1","data":"2"}}"#,
            ),
            "data",
        ),
        (
            body(
                "task.fulfill",
                r#"{"id":"a","version":1,"action":{"kind":"promise.settle","data":{"id":"a","state":"resolved","id":"b"}}}"#,
            ),
            "id",
        ),
    ] {
        let response = server.post(text.as_bytes());
        expect_400(&response, &format!("duplicate field `{member}`"));
    }
    let id = unique("twice");
    let data = format!(r#"{{"id":"{id}","timeoutAt":1,"tags":{{"k":"first","k":"last"}}}}"#);
    server
        .post(body("promise.create", &data).as_bytes())
        .expect_status(200);
    assert_eq!(server.client().get(&id)["tags"], json!({"k": "last"}));
}

#[test]
fn numbers_that_no_integer_holds_are_refused_where_one_is_read() {
    let server = shared();
    for number in [
        "1e400",
        "-1e400",
        "-0",
        "1.0",
        "9223372036854775808",
        "-9223372036854775809",
    ] {
        let create = format!(r#"{{"id":"a","timeoutAt":{number}}}"#);
        let response = server.post(body("promise.create", &create).as_bytes());
        expect_400(&response, "Invalid request");
        let ignored = format!(r#"{{"id":"none","x":{number}}}"#);
        server
            .post(body("promise.get", &ignored).as_bytes())
            .expect_status(404);
    }
    let digits = "9".repeat(1_000_000);
    let create = format!(r#"{{"id":"a","timeoutAt":{digits}}}"#);
    expect_400(
        &server.post(body("promise.create", &create).as_bytes()),
        "Invalid request",
    );
}

#[test]
fn bytes_that_are_no_text_are_refused_wherever_they_stand() {
    let server = shared();
    for junk in [
        &b"\xff"[..],
        b"\xc3",
        b"\xed\xa0\x80",
        b"\xf4\x90\x80\x80",
        b"\xc0\x80",
        b"\0",
    ] {
        for data in [
            r#"{"id":"@"}"#,
            r#"{"id":"a","x":"@"}"#,
            r#"{"id":"a","@":1}"#,
        ] {
            let text = body("promise.get", data);
            let (before, after) = text.split_once('@').unwrap();
            let bytes = [before.as_bytes(), junk, after.as_bytes()].concat();
            expect_400(&server.post(&bytes), "Invalid request");
        }
    }
    // A byte order mark is none of JSON's.
    let marked = [b"\xef\xbb\xbf", &get("a")[..]].concat();
    expect_400(&server.post(&marked), "Invalid request envelope");
}

#[test]
fn very_many_tags_are_kept_or_refused_as_a_whole() {
    let server = shared();
    let id = unique("tags");
    let tags: serde_json::Map<String, Value> = (0..100_000)
        .map(|n| (format!("k{n}"), json!("v")))
        .collect();
    let data = json!({"id": id, "timeoutAt": i64::MAX, "tags": tags});
    let created = server.call("promise.create", data);
    if created.status == 200 {
        assert_eq!(server.client().get(&id)["tags"].as_object(), Some(&tags));
    } else {
        expect_400(&created, "ags");
        server.refused("promise.get", json!({"id": id}), 404, "Promise not found");
    }
    let search = server.call("promise.search", json!({"tags": tags}));
    assert!([200, 400].contains(&search.status), "{}", search.status);
}

#[test]
fn a_body_that_ends_early_or_is_no_sequence_of_chunks_is_refused() {
    let server = shared_single();
    let whole = get("none");
    let half = &chunked(&whole)[..whole.len() / 2];
    let long_extension = format!("{:x};{}\r\n", whole.len(), "x".repeat(100_000));
    for (chunks, is_ended) in [
        (half, true),
        (&b"zz\r\n"[..], false),
        (b"-1\r\n", false),
        (b"fffffffffffffffff\r\nx", false),
        (b"5\r\nabcdefgh\r\n0\r\n\r\n", false),
        (b"5\nabcde\n0\n\n", false),
        (long_extension.as_bytes(), false),
    ] {
        let request = [CHUNKED.as_bytes(), b"\r\n", chunks].concat();
        let mut connection = sent(&server, &request);
        if is_ended {
            connection
                .socket()
                .shutdown(std::net::Shutdown::Write)
                .unwrap();
        }
        let shown = String::from_utf8_lossy(&chunks[..chunks.len().min(20)]).into_owned();
        let reply = connection.read_reply();
        let reply = reply.unwrap_or_else(|error| panic!("{shown:?}: {error}"));
        expect_400(
            &Response::read(chunks, &reply),
            "Invalid request envelope: the body",
        );
    }
    let announced = encode("POST", "/", &[], &whole);
    let mut connection = sent(&server, &announced[..announced.len() - 5]);
    connection
        .socket()
        .shutdown(std::net::Shutdown::Write)
        .unwrap();
    let reply = connection.read_reply().unwrap();
    expect_400(&Response::read(&whole, &reply), "the body");
}

#[test]
fn chunks_of_any_size_and_trailers_make_one_body() {
    let server = shared_single();
    let whole = get("none");
    let mut request = format!("{CHUNKED}\r\n").into_bytes();
    for byte in &whole {
        request.extend([b"1;name=value\r\n", &[*byte][..], b"\r\n"].concat());
    }
    request.extend(b"0\r\nauthorization: Bearer x\r\ncontent-length: 7\r\n\r\n");
    for reply in replies(&server, &request.repeat(3), 3) {
        Response::read(&whole, &reply).expect(404, &json!("Promise not found"));
    }
}

/// Where two readers disagree about the end of a body, what follows it would be a request to one of them.
#[test]
fn a_body_with_two_lengths_is_the_last_thing_that_is_read_of_a_connection() {
    let server = shared_single();
    let smuggled = encode("POST", "/", &[], &get("none"));
    let inside = [b"0\r\n\r\n", &smuggled[..]].concat();
    let length = format!("content-length: {}\r\n", inside.len());
    let short = "content-length: 4\r\n".to_owned();
    let plain = "POST / HTTP/1.1\r\nhost: x\r\n";
    let te = "transfer-encoding: chunked\r\n";
    for head in [
        format!("{plain}{length}{te}"),
        format!("{plain}{te}{length}"),
        format!("{plain}{te}{short}"),
        format!("{plain}{short}{te}"),
    ] {
        let request = [head.as_bytes(), b"\r\n", &inside].concat();
        let reply = last_reply(&server, &request);
        assert_eq!(
            (reply.status(), reply.header("connection")),
            (400, Some("close")),
            "{head}"
        );
    }
    for headers in [
        "content-length: 4\r\ncontent-length: 5\r\n",
        "content-length: 4, 4\r\n",
        "content-length: +4\r\n",
        "content-length: -4\r\n",
        "content-length: 0x4\r\n",
        "content-length: 99999999999999999999\r\n",
        "content-length : 4\r\n",
        "transfer-encoding: chunked, identity\r\n",
        "transfer-encoding: xchunked\r\n",
        "transfer-encoding: identity\r\ncontent-length: 4\r\n",
        "transfer-encoding : chunked\r\n",
        "transfer-encoding:\r\n chunked\r\n",
        "transfer-encoding: \u{b}chunked\r\n",
    ] {
        let request = [format!("{plain}{headers}\r\n").as_bytes(), &inside].concat();
        let reply = last_reply(&server, &request);
        assert_eq!(reply.status(), 400, "{headers}");
    }
}

#[test]
fn requests_in_a_row_are_answered_in_their_order() {
    let server = shared_single();
    let mut requests = Vec::new();
    let mut expected = Vec::new();
    for n in 0..200 {
        let body = match n % 4 {
            0 => get("none"),
            1 => b"junk".to_vec(),
            2 => body("no.such", "{}").into_bytes(),
            _ => body("promise.get", "{}").into_bytes(),
        };
        requests.extend(match n % 2 {
            0 => encode("POST", "/", &[], &body),
            _ => [format!("{CHUNKED}\r\n").as_bytes(), &chunked(&body)].concat(),
        });
        expected.push(if n % 4 == 0 { 404 } else { 400 });
    }
    let statuses = replies(&server, &requests, 200);
    let statuses: Vec<u16> = statuses.iter().map(Reply::status).collect();
    assert_eq!(statuses, expected);
}

#[test]
fn who_asks_first_is_told_to_go_on_or_not_to() {
    let server = shared_single();
    let whole = get("none");
    let head = |length: usize| {
        format!(
            "POST / HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: {length}\r\n\r\n"
        )
    };
    let mut connection = sent(&server, head(whole.len()).as_bytes());
    assert_eq!(connection.read_head().unwrap().status, 100);
    connection.write(&whole).unwrap();
    let reply = connection.read_reply().unwrap();
    Response::read(&whole, &reply).expect_status(404);

    let reply = last_reply(&server, head(999_999_999).as_bytes());
    Response::read(b"", &reply).expect(413, &json!("Request body too large"));
}

#[test]
fn heads_without_end_are_refused() {
    let server = shared_single();
    let many: String = (0..1000).map(|n| format!("x{n}: y\r\n")).collect();
    let path = format!("GET /{} HTTP/1.1\r\nhost: x\r\n\r\n", "a".repeat(70_000));
    let start = "GET /health HTTP/1.1\r\nhost: x\r\n";
    for (request, status) in [
        (format!("{start}{many}\r\n"), 431),
        (format!("{start}x: {}\r\n\r\n", "y".repeat(1_000_000)), 431),
        (path, 431),
        (format!("{start}x: a\0b\r\n\r\n"), 400),
        ("GET /health\r\n\r\n".to_owned(), 400),
        ("GET /health HTTP/3.0\r\nhost: x\r\n\r\n".to_owned(), 400),
    ] {
        let mut connection = Connection::open(server.addr()).unwrap();
        // The server may have refused before it has seen the end.
        let _ = connection.write(request.as_bytes());
        let answer = connection.read_head();
        let was_reset = answer
            .as_ref()
            .is_err_and(|error| error.kind() == ErrorKind::ConnectionReset);
        let shown = &request[..request.len().min(60)];
        assert!(
            was_reset || answer.as_ref().is_ok_and(|head| head.status == status),
            "{shown:?}: {answer:?}"
        );
    }
    // Nothing of this is an upgrade, or a proxy.
    for (head, status) in [
        (
            "GET /health HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n",
            200,
        ),
        ("CONNECT h:80 HTTP/1.1\r\nhost: h\r\n\r\n", 404),
        ("GET http://elsewhere/nope HTTP/1.1\r\nhost: x\r\n\r\n", 404),
    ] {
        assert_eq!(
            replies(&server, head.as_bytes(), 1)[0].status(),
            status,
            "{head}"
        );
    }
}

/// HTTP/2 without TLS, by prior knowledge: the same protocol, on streams of one connection.
#[test]
fn http_2_in_the_clear_is_served_alike() {
    let server = Server::single_with(&["--server-max-body-size", "100000"]);
    let url = format!("http://{}/", server.addr());
    // The client asks for it even where there is no TLS. It may be there already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let client = reqwest::Client::builder()
        .http2_prior_knowledge()
        .no_proxy()
        .build()
        .unwrap();
    let post = |body: Vec<u8>| {
        let request = client.post(&url).body(body);
        async move {
            let response = request.send().await.expect("the server answers");
            assert_eq!(response.version(), reqwest::Version::HTTP_2);
            let status = response.status().as_u16();
            let answer = response.bytes().await.expect("the answer is whole");
            let answer: Value = serde_json::from_slice(&answer).expect("the answer is JSON");
            assert_eq!(answer["head"]["status"], status);
            (status, answer["data"].clone())
        }
    };
    runtime.block_on(async {
        let many = (0..300).map(|n| match n % 3 {
            0 => post(get("none")),
            1 => post(b"junk".to_vec()),
            _ => post(vec![b' '; 100_001]),
        });
        let answers = futures_util::future::join_all(many).await;
        for (n, (status, data)) in answers.into_iter().enumerate() {
            assert_eq!(status, [404, 400, 413][n % 3], "{data}");
        }
    });
    assert_eq!(server.get("/health").status(), 200);
}

#[test]
fn http_2_that_is_none_costs_its_connection_only() {
    let server = shared_single();
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    // A frame of the largest size there is, a header frame of nonsense, settings that contradict.
    for frames in [
        &b"\xff\xff\xff\x00\x00\x00\x00\x00\x01"[..],
        b"\x00\x00\x04\x01\x05\x00\x00\x00\x01\xff\xff\xff\xff",
        b"\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x05\x00\x00\x00\x00",
        b"\x00\x00\x03\x04\x00\x00\x00\x00\x00\x00\x00\x00",
        b"",
    ] {
        let connection = sent(&server, &[&preface[..], frames].concat());
        connection
            .socket()
            .shutdown(std::net::Shutdown::Write)
            .unwrap();
    }
    assert_eq!(server.get("/health").status(), 200);
}
