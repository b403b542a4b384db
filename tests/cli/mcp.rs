//! `resonate mcp` on the wire (cli §7): methods, tools, what is no message.

use serde_json::{Value, json};

use super::fake;
use crate::harness::command::{command, run};
use crate::harness::http::DEADLINE;
use crate::harness::mcp::Mcp;
use crate::harness::record::member;
use crate::harness::scripts::base64;
use crate::harness::server::{free_port, shared, unique, wall_clock_ms};
use crate::harness::sink::Sink;

const FAR: i64 = 9_007_199_254_740_991;

fn error(id: &Value, code: i64, message: &str) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "error": {"code": code, "message": message}})
}

#[test]
fn it_introduces_itself_in_the_version_it_speaks() {
    let server = shared();
    let mut mcp = Mcp::start(&server);
    for version in ["2025-11-25", "2024-11-05", "2099-01-01"] {
        let params = json!({
            "protocolVersion": version,
            "capabilities": {},
            "clientInfo": {"name": "tests", "version": "1"},
        });
        assert_eq!(
            mcp.request("initialize", params),
            json!({
                "protocolVersion": "2025-11-25",
                "capabilities": {"tools": {}, "experimental": {"claude/channel": {}}},
                "serverInfo": {"name": "resonate-mcp", "version": env!("CARGO_PKG_VERSION")},
            })
        );
        mcp.send(&json!({"jsonrpc": "2.0", "method": "notifications/initialized"}));
    }
    assert_eq!(mcp.request("ping", Value::Null), json!({}));
}

#[test]
fn nothing_has_to_come_before_anything_else() {
    let server = shared();
    let mut mcp = Mcp::start(&server);
    assert_eq!(mcp.request("ping", Value::Null), json!({}));
    let list = mcp.request("tools/list", Value::Null);
    assert_eq!(list["tools"].as_array().map(Vec::len), Some(6));
    mcp.refused("promise-get", json!({"id": "nobody"}), "Promise not found");
}

#[test]
fn tools_are_listed_with_their_schemas() {
    let server = shared();
    let mut mcp = Mcp::start(&server);
    let list = mcp.request("tools/list", json!({}));
    assert_eq!(list.as_object().map(|list| list.len()), Some(1), "{list}");
    let strings = json!({"type": "object", "additionalProperties": {"type": "string"}});
    // The name and type of every argument, those that are required with a `*`.
    let listed: Vec<Value> = list["tools"]
        .as_array()
        .expect("tools is an array")
        .iter()
        .map(|tool| {
            assert!(tool["description"].is_string(), "{tool}");
            let schema = &tool["inputSchema"];
            assert_eq!(schema["type"], "object");
            assert_eq!(schema["additionalProperties"], false);
            let required = schema["required"].as_array().expect("required is an array");
            let properties = schema["properties"]
                .as_object()
                .expect("properties is an object");
            let arguments = properties.iter().map(|(name, schema)| {
                assert!(schema["description"].is_string(), "{schema}");
                let is_required = required.contains(&json!(name));
                let star = if is_required { "*" } else { "" };
                (format!("{name}{star}"), schema["type"].clone())
            });
            let arguments: serde_json::Map<String, Value> = arguments.collect();
            json!({"name": tool["name"], "arguments": arguments})
        })
        .collect();
    assert_eq!(
        Value::Array(listed),
        json!([
            {"name": "promise-create", "arguments": {
                "id*": "string", "timeout_at*": "integer", "param": "object", "tags": "object"}},
            {"name": "promise-get", "arguments": {"id*": "string"}},
            {"name": "promise-settle", "arguments": {
                "id*": "string", "resolution*": "string", "value": "object"}},
            {"name": "promise-search", "arguments": {
                "state": "string", "tags": "object", "limit": "integer", "cursor": "string"}},
            {"name": "promise-listen", "arguments": {"id*": "string"}},
            {"name": "resonate-bash", "arguments": {
                "script*": "string", "id": "string", "timeoutMs": "integer", "target": "string",
                "tags": "object"}},
        ])
    );
    let schema = |tool: usize, argument: &str| {
        list["tools"][tool]["inputSchema"]["properties"][argument].clone()
    };
    let resolutions = json!(["resolve", "reject", "cancel"]);
    assert_eq!(schema(2, "resolution")["enum"], resolutions);
    assert_eq!(
        schema(0, "tags")["additionalProperties"],
        strings["additionalProperties"]
    );
    assert_eq!(schema(0, "param")["properties"]["headers"], strings);
}

#[test]
fn other_methods_are_not_found() {
    let server = shared();
    let mut mcp = Mcp::start(&server);
    for method in [
        "nothing/here",
        "prompts/list",
        "resources/list",
        "resources/read",
        "completion/complete",
        "logging/setLevel",
        "server/discover",
        "tasks/list",
        "",
    ] {
        let answer = mcp.answer(method, json!({"uri": "x", "level": "debug"}));
        let expected = error(&answer["id"], -32601, "Method not found");
        assert_eq!(answer, expected, "{method}");
    }
    let answer = mcp.answer("tools/call", json!({"arguments": {}}));
    assert_eq!(answer, error(&answer["id"], -32602, "Invalid params"));
}

#[test]
fn notifications_are_not_answered() {
    let server = shared();
    let mut mcp = Mcp::start(&server);
    for message in [
        json!({"jsonrpc": "2.0", "method": "notifications/initialized"}),
        json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 7}}),
        json!({"jsonrpc": "2.0", "method": "notifications/made/up", "params": {"a": 1}}),
        json!({"jsonrpc": "2.0", "method": "notifications/initialized", "id": 1}),
        json!({"jsonrpc": "2.0", "method": "tools/list"}),
        json!({"jsonrpc": "2.0", "method": "nothing/here"}),
        json!({"jsonrpc": "2.0", "id": 5, "result": {}}),
        json!({}),
    ] {
        mcp.send(&message);
    }
    mcp.write(b"\n  \r\n");
    // The next line is the answer to this.
    assert_eq!(mcp.request("ping", Value::Null), json!({}));
}

#[test]
fn a_line_that_is_no_message_is_answered_and_passed_over() {
    let server = shared();
    let mut mcp = Mcp::start(&server);
    for line in [
        &b"hello"[..],
        b"{\"jsonrpc\": \"2.0\", \"id\": 1, \"method\": \"ping\"",
        b"{\"jsonrpc\": \"2.0\", \"id\": 1, \"method\": \"p\xff\"}",
        b"{} {}",
        b"\0",
    ] {
        mcp.write(&[line, b"\n"].concat());
        assert_eq!(mcp.read(), error(&Value::Null, -32700, "Parse error"));
    }
    for (message, id) in [
        (json!([]), Value::Null),
        (json!("ping"), Value::Null),
        (
            json!({"jsonrpc": "2.0", "id": null, "method": "ping"}),
            Value::Null,
        ),
        (
            json!({"jsonrpc": "2.0", "id": [1], "method": "ping"}),
            Value::Null,
        ),
        (
            json!({"jsonrpc": "2.0", "id": 1.5, "method": "ping"}),
            json!(1.5),
        ),
        (
            json!({"jsonrpc": "1.0", "id": 2, "method": "ping"}),
            json!(2),
        ),
        (json!({"jsonrpc": "2.0", "id": "three"}), json!("three")),
        (json!({"jsonrpc": "2.0", "id": 4, "method": 4}), json!(4)),
    ] {
        mcp.send(&message);
        assert_eq!(
            mcp.read(),
            error(&id, -32600, "Invalid Request"),
            "{message}"
        );
    }
    assert_eq!(mcp.request("ping", Value::Null), json!({}));
}

#[test]
fn a_line_without_end_is_not_kept() {
    let server = shared();
    let mut mcp = Mcp::start(&server);
    let part = vec![b' '; 1 << 20];
    for _ in 0..=64 {
        mcp.write(&part);
    }
    mcp.write(b"{}\n");
    assert_eq!(mcp.read(), error(&Value::Null, -32700, "Parse error"));
    assert_eq!(mcp.request("ping", Value::Null), json!({}));
}

#[test]
fn ids_come_back_as_they_were() {
    let server = shared();
    let mut mcp = Mcp::start(&server);
    for id in [
        json!(0),
        json!(-1),
        json!(i64::MAX),
        json!("a"),
        json!(""),
        json!("é\n"),
    ] {
        mcp.send(&json!({"jsonrpc": "2.0", "id": id, "method": "ping"}));
        assert_eq!(
            mcp.read(),
            json!({"jsonrpc": "2.0", "id": id, "result": {}})
        );
    }
}

#[test]
fn at_the_end_of_its_input_it_answers_what_it_was_asked_and_exits_0() {
    let server = shared();
    let mut mcp = Mcp::start(&server);
    let ids: Vec<String> = (0..100).map(|_| unique("mcp")).collect();
    let mut input = String::new();
    for (n, id) in ids.iter().enumerate() {
        let create = json!({"name": "promise-create", "arguments": {"id": id, "timeout_at": FAR}});
        let get = json!({"name": "promise-get", "arguments": {"id": id}});
        for (call, params) in [(2 * n, create), (2 * n + 1, get)] {
            let request =
                json!({"jsonrpc": "2.0", "id": call, "method": "tools/call", "params": params});
            input.push_str(&format!("{request}\n"));
        }
    }
    // The last line needs no end.
    mcp.write(input.trim_end().as_bytes());
    let (code, answers) = mcp.close();
    assert_eq!(code, Some(0));
    assert_eq!(answers.len(), 200);
    // In the order they came: what was created is found.
    for (n, answer) in answers.iter().enumerate() {
        assert_eq!(answer["result"]["isError"], false, "{n}: {answer}");
    }
}

/// Never answers what is about the promise `slow`, nor a stream.
fn answer_the_fast(request: &Value) -> Option<Value> {
    let id = request["data"]["id"].as_str()?;
    let head = json!({"corrId": "", "status": 404, "version": "2026-04-01"});
    let answer = json!({"kind": "promise.get", "head": head, "data": id});
    (id != "slow").then_some(answer)
}

#[test]
fn a_call_waits_for_the_one_before_it_but_nothing_else_does() {
    let (url, asked) = fake::answer_some(answer_the_fast);
    let mut mcp = Mcp::with(&url, &[], &[]);
    for (call, id) in [(1, "slow"), (2, "fast"), (3, "last")] {
        let params = json!({"name": "promise-get", "arguments": {"id": id}});
        mcp.send(&json!({"jsonrpc": "2.0", "id": call, "method": "tools/call", "params": params}));
    }
    // The other that has come is for a stream.
    while asked.recv_timeout(DEADLINE).expect("it asks")["data"]["id"] != "slow" {}
    mcp.send(&json!({"jsonrpc": "2.0", "id": 4, "method": "ping"}));
    assert_eq!(mcp.read()["id"], 4);
    // What is cancelled is not answered, and waited for no longer.
    let params = json!({"requestId": 1});
    mcp.send(&json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params}));
    for (call, id) in [(2, "fast"), (3, "last")] {
        let content = json!([{"type": "text", "text": id}]);
        let result = json!({"content": content, "isError": true});
        assert_eq!(
            mcp.read(),
            json!({"jsonrpc": "2.0", "id": call, "result": result})
        );
    }
    assert_eq!(mcp.close(), (Some(0), Vec::new()));
}

#[test]
fn only_messages_are_written_to_standard_output() {
    let port = free_port();
    let env = [("RUST_LOG", "trace")];
    let mut mcp = Mcp::with(&format!("http://127.0.0.1:{port}"), &[], &env);
    // Every line is read as JSON.
    mcp.request("initialize", json!({}));
    let (text, is_error) = mcp.call("promise-get", json!({"id": "x"}));
    assert!(is_error && text.starts_with("Connection error: "), "{text}");
    assert!(!mcp.log().is_empty());
    assert_eq!(mcp.close(), (Some(0), Vec::new()));
}

#[test]
fn what_it_cannot_be_started_with_is_refused() {
    let url = "http://127.0.0.1:1";
    let loud = [("RUST_LOG", "resonate=loud")];
    for (mcp, reason) in [
        (
            run(command(url, &["mcp"]).envs(loud)),
            "Unknown log level: 'resonate=loud'",
        ),
        (
            run(&mut command(url, &["mcp", "-o", "json"])),
            "--output is for commands that print an answer",
        ),
        (
            run(&mut command("ftp://x", &["mcp"])),
            "Connection error: invalid server URL 'ftp://x': it must begin with http:// or https://",
        ),
    ] {
        mcp.expect(1, "", &format!("Error: {reason}\n"));
    }
}

#[test]
fn it_says_who_it_is_everywhere() {
    let sink = Sink::start();
    let mut mcp = Mcp::with(
        "http://127.0.0.1:1",
        &["-S", &sink.url("/"), "-T", "secret"],
        &[],
    );
    let poll = sink.next();
    let session = poll
        .path()
        .strip_prefix("/poll/mcp/mcp-")
        .expect("a session");
    let parts: Vec<&str> = session.split('-').collect();
    let [ms, nanos] = parts[..] else {
        panic!("{session}");
    };
    let started: i64 = ms.parse().expect("milliseconds");
    assert!((0..60_000).contains(&(wall_clock_ms() - started)), "{ms}");
    assert!(
        nanos
            .parse::<u32>()
            .is_ok_and(|nanos| nanos < 1_000_000_000),
        "{nanos}"
    );
    assert_eq!(poll.authorization.as_deref(), Some("Bearer secret"));

    // The sink's answer is no envelope.
    let (text, is_error) = mcp.call("promise-listen", json!({"id": "x"}));
    assert!(
        is_error && text.starts_with("Failed to parse response: "),
        "{text}"
    );
    let listen = sink.next();
    assert_eq!(listen.authorization.as_deref(), Some("Bearer secret"));
    assert_eq!(listen.message["head"]["auth"], "secret");
    let address = format!("poll://uni@mcp/mcp-{session}");
    assert_eq!(
        listen.message["data"],
        json!({"awaited": "x", "address": address})
    );
}

#[test]
fn promises_are_created_with_what_they_are_about_in_base64() {
    let server = shared();
    let mut mcp = Mcp::start(&server);
    for (param, stored) in [
        (json!({"data": "hello"}), json!({"data": base64("hello")})),
        (json!({"data": "é\n"}), json!({"data": base64("é\n")})),
        (
            json!({"data": 42, "headers": {"a": "b"}}),
            json!({"data": base64("42"), "headers": {"a": "b"}}),
        ),
        (json!({"data": null}), json!({"data": base64("null")})),
        (
            json!({"headers": {"a": "b"}}),
            json!({"headers": {"a": "b"}}),
        ),
        (json!({}), json!({})),
    ] {
        let id = unique("mcp");
        let arguments = json!({"id": id, "timeout_at": FAR, "param": param, "tags": {"t": "1"}});
        let promise = member(mcp.ok("promise-create", arguments), "promise");
        assert_eq!(promise["param"], stored);
        assert_eq!(promise["tags"], json!({"t": "1"}));
        assert_eq!(promise["timeoutAt"], FAR);
        assert_eq!(promise, server.client().get(&id));
        assert_eq!(
            mcp.ok("promise-get", json!({"id": id})),
            json!({"promise": promise})
        );
    }
}

#[test]
fn what_is_encoded_keeps_the_order_of_members_and_the_digits_of_numbers() {
    let server = shared();
    let mut mcp = Mcp::start(&server);
    let id = unique("mcp");
    mcp.write(
        format!(
            r#"{{"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {{"arguments": {{
              "param": {{"data": {{"z": [1, 2.50, 123456789012345678901], "a": " "}}}}, "timeout_at": {FAR}, "id": "{id}"
            }}, "name": "promise-create"}}}}"#
        )
        .replace('\n', " ")
        .as_bytes(),
    );
    mcp.write(b"\n");
    assert_eq!(mcp.read()["result"]["isError"], false);
    let param = server.client().get(&id)["param"].clone();
    assert_eq!(
        param,
        json!({"data": base64(r#"{"z":[1,2.50,123456789012345678901],"a":" "}"#)})
    );
}

#[test]
fn promises_are_settled_once() {
    let server = shared();
    let mut mcp = Mcp::start(&server);
    for (resolution, state) in [
        ("resolve", "resolved"),
        ("reject", "rejected"),
        ("cancel", "rejected_canceled"),
    ] {
        let id = unique("mcp");
        server.client().create(&id, FAR, json!({}));
        let arguments = json!({"id": id, "resolution": resolution, "value": {"data": {"n": 1}}});
        let settled = member(mcp.ok("promise-settle", arguments), "promise");
        assert_eq!(settled["state"], state);
        assert_eq!(settled["value"], json!({"data": base64(r#"{"n":1}"#)}));
        let again = mcp.ok("promise-settle", json!({"id": id, "resolution": "resolve"}));
        assert_eq!(again, json!({"promise": settled}));
    }
    let arguments = json!({"id": "nobody", "resolution": "resolve"});
    mcp.refused("promise-settle", arguments, "Promise not found");
    for (resolution, shown) in [
        (json!("resolved"), "resolved"),
        (json!(""), ""),
        (json!(1), "1"),
    ] {
        mcp.refused(
            "promise-settle",
            json!({"id": "nobody", "resolution": resolution}),
            &format!("invalid resolution '{shown}'; must be resolve, reject, or cancel"),
        );
    }
}

#[test]
fn promises_are_searched_page_by_page() {
    let server = shared();
    let mut mcp = Mcp::start(&server);
    let group = unique("mcp");
    let ids = ["a", "b", "c"].map(|name| format!("{group}-{name}"));
    for id in &ids {
        server.client().create(id, FAR, json!({"group": group}));
    }
    server.client().settle(&ids[1], "resolved");
    let found = |page: &Value| -> Vec<String> {
        let promises = page["promises"].as_array().expect("promises is an array");
        let ids = promises
            .iter()
            .map(|promise| promise["id"].as_str().expect("an id"));
        ids.map(str::to_owned).collect()
    };
    let tags = json!({"group": group});
    assert_eq!(found(&mcp.ok("promise-search", json!({"tags": tags}))), ids);
    let page = mcp.ok("promise-search", json!({"tags": tags, "limit": 2}));
    assert_eq!(found(&page), ids[..2]);
    let rest = mcp.ok(
        "promise-search",
        json!({"tags": tags, "cursor": page["cursor"]}),
    );
    assert_eq!(found(&rest), ids[2..]);
    let pending = mcp.ok("promise-search", json!({"tags": tags, "state": "pending"}));
    assert_eq!(found(&pending), [ids[0].clone(), ids[2].clone()]);
    // What is wrong with an argument, the server says.
    let (text, is_error) = mcp.call("promise-search", json!({"limit": "many"}));
    assert!(is_error && text.contains("limit"), "{text}");
}

#[test]
fn what_a_call_lacks_is_named() {
    let server = shared();
    let mut mcp = Mcp::start(&server);
    for (tool, arguments, message) in [
        ("promise-create", json!({}), "missing id"),
        ("promise-create", json!({"id": "x"}), "missing timeout_at"),
        ("promise-get", json!({}), "missing id"),
        ("promise-get", json!({"id": null}), "missing id"),
        (
            "promise-settle",
            json!({"resolution": "resolve"}),
            "missing id",
        ),
        ("promise-settle", json!({"id": "x"}), "missing resolution"),
        ("promise-listen", json!({}), "missing id"),
        ("promise-listen", json!({"id": 1}), "`id` must be a string"),
        ("resonate-bash", json!({}), "missing script"),
        (
            "resonate-bash",
            json!({"script": ""}),
            "`script` must not be empty",
        ),
        (
            "resonate-bash",
            json!({"script": "true", "timeoutMs": "5m"}),
            "`timeoutMs` must be an integer of milliseconds",
        ),
        (
            "promise-get",
            json!({"id": "x", "name": 1}),
            "unknown argument 'name'",
        ),
        ("promise-delete", json!({}), "unknown tool 'promise-delete'"),
        ("", json!({}), "unknown tool ''"),
    ] {
        mcp.refused(tool, arguments, message);
    }
    // No arguments at all.
    let result = mcp.request("tools/call", json!({"name": "promise-listen"}));
    assert_eq!(
        result,
        json!({"content": [{"type": "text", "text": "missing id"}], "isError": true})
    );
    let page = mcp.request("tools/call", json!({"name": "promise-search"}));
    assert_eq!(page["isError"], false);
}
