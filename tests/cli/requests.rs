//! What every command asks the server for, and what it prints when its output is not a terminal
//! (cli §1–§5).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::worker::{call_of, encoded};
use crate::harness::record::{self, NOBODY};
use crate::harness::server::{Server, shared_single, unique, wall_clock_ms};

const HOUR_MS: i64 = 3_600_000;

/// Runs a command that must succeed; what it printed.
#[track_caller]
fn ok(server: &Server, args: &[&str]) -> Value {
    server.cli(args).json()
}

/// Asserts that an instant was counted from the time of the command.
#[track_caller]
fn expect_from_now(instant: &Value, begun: i64, after: i64) {
    let from_now = instant.as_i64().expect("an instant") - after;
    assert!(
        (begun..=wall_clock_ms()).contains(&from_now),
        "{instant} is not {after} ms after {begun}"
    );
}

#[test]
fn answers_are_printed_as_they_are_with_two_blanks() {
    let server = shared_single();
    let id = unique("exact");
    let tags = json!({"b": "é", "a": "\"1\""});
    server.client().create(&id, i64::MAX, tags);
    let created_at = &server.client().get(&id)["createdAt"];
    let record = format!(
        r#""id": "{id}",
"state": "pending",
"param": {{}},
"value": {{}},
"tags": {{
  "a": "\"1\"",
  "b": "é"
}},
"timeoutAt": 9223372036854775807,
"createdAt": {created_at}"#
    );
    let inside = |blanks: &str| record.replace('\n', &format!("\n{blanks}"));
    let expected = format!("{{\n  \"promise\": {{\n    {}\n  }}\n}}\n", inside("    "));
    let done = server.cli(&["promises", "get", &id]);
    done.expect(0, &expected, "");
    let expected = format!(
        "{{\n  \"promises\": [\n    {{\n      {}\n    }}\n  ]\n}}\n",
        inside("      ")
    );
    let tag = json!({"a": "\"1\""}).to_string();
    let done = server.cli(&["promises", "search", "--tags", &tag]);
    done.expect(0, &expected, "");
}

#[test]
fn create_takes_timeout_param_and_tags() {
    let server = shared_single();
    let id = unique("create");
    let begun = wall_clock_ms();
    let given = r#"{"headers": {"h": "1"}, "data": {"b": [1, 2], "a": null}}"#;
    let printed = ok(
        &server,
        &[
            "promises",
            "create",
            &id,
            "--timeout",
            "1h",
            "--param",
            given,
            "--tags",
            r#"{"team": "billing"}"#,
        ],
    );
    let promise = server.client().get(&id);
    assert_eq!(printed, json!({"promise": promise}));
    expect_from_now(&promise["timeoutAt"], begun, HOUR_MS);
    assert_eq!(promise["tags"], json!({"team": "billing"}));
    assert_eq!(promise["param"]["headers"], json!({"h": "1"}));
    // In the order given, which no map of ours has.
    assert_eq!(promise["param"]["data"], "eyJiIjpbMSwyXSwiYSI6bnVsbH0=");
    // Created once, and answered every time.
    let again = ok(&server, &["promise", "create", &id, "--timeout", "1ms"]);
    assert_eq!(again, printed);
}

#[test]
fn promises_are_settled_three_ways() {
    let server = shared_single();
    for (command, state) in [
        ("resolve", "resolved"),
        ("reject", "rejected"),
        ("cancel", "rejected_canceled"),
    ] {
        for (flags, value) in [
            (&[][..], json!({})),
            (
                &["--value", r#"{"data": "text"}"#],
                json!({"data": "dGV4dA=="}),
            ),
            (&["--data", r#""text""#], json!({"data": "dGV4dA=="})),
            (&["--data", "-5"], json!({"data": encoded(&json!(-5))})),
            (
                &["--data", r#"{"a": 1}"#],
                json!({"data": encoded(&json!({"a": 1}))}),
            ),
        ] {
            let id = unique("settle");
            server.client().create(&id, i64::MAX, json!({}));
            let printed = ok(&server, &[&["promises", command, &id], flags].concat());
            let promise = server.client().get(&id);
            assert_eq!(printed, json!({"promise": promise}));
            assert_eq!(
                (&promise["state"], &promise["value"]),
                (&json!(state), &value)
            );
        }
    }
}

#[test]
fn searches_go_by_state_tags_limit_and_cursor() {
    let server = Server::single();
    let client = server.client();
    for n in 0..102 {
        client.create(
            &format!("p{n:03}"),
            i64::MAX,
            json!({"half": (n % 2).to_string()}),
        );
    }
    client.settle("p001", "resolved");
    let ids = |args: &[&str]| -> (Vec<String>, Value) {
        let page = ok(&server, &[&["promises", "search"], args].concat());
        let ids = page["promises"].as_array().unwrap().iter();
        let ids = ids.map(|promise| promise["id"].as_str().unwrap().to_owned());
        (ids.collect(), page["cursor"].clone())
    };
    let (page, cursor) = ids(&[]);
    assert_eq!((page.len(), cursor), (100, json!("p099")));
    assert_eq!(ids(&["--cursor", "p099"]).0, ["p100", "p101"]);
    assert_eq!(ids(&["--state", "resolved"]).0, ["p001"]);
    let (page, cursor) = ids(&["--tags", r#"{"half": "1"}"#, "--limit", "2"]);
    assert_eq!(
        (page, cursor),
        (vec!["p001".into(), "p003".into()], json!("p003"))
    );
    // Schedules: ten at a time.
    for n in 0..11 {
        schedule(&server, &format!("s{n:02}"));
    }
    let page = ok(&server, &["schedules", "search"]);
    assert_eq!(page["schedules"].as_array().unwrap().len(), 10);
    let page = ok(
        &server,
        &["schedule", "search", "--limit", "20", "--cursor", "s09"],
    );
    assert_eq!(page["schedules"][0]["id"], "s10");
    assert_eq!(page["schedules"].as_array().unwrap().len(), 1);
}

#[test]
fn callbacks_and_listeners_are_registered() {
    let server = Server::single_with(&["--debug"]);
    server.client().create("awaited", i64::MAX, json!({}));
    server.client().create_targeted("awaiter", i64::MAX);
    for args in [
        ["promises", "register-callback", "awaited", "awaiter"],
        [
            "promises",
            "register-listener",
            "awaited",
            "https://a.example/b",
        ],
    ] {
        let printed = ok(&server, &args);
        assert_eq!(printed, json!({"promise": server.client().get("awaited")}));
    }
    let snap = server.ok("debug.snap", json!({}));
    assert_eq!(
        snap["callbacks"],
        json!([{"awaited": "awaited", "awaiter": "awaiter"}])
    );
    assert_eq!(
        snap["listeners"],
        json!([{"id": "awaited", "address": "https://a.example/b"}])
    );
}

#[test]
fn tasks_are_worked_off() {
    let server = Server::single();
    let task = |state: &str, version: i64| json!({"id": "t", "state": state, "version": version, "resumes": 0});
    let begun = wall_clock_ms();
    let tags = record::target().to_string();
    let created = ok(
        &server,
        &[
            "tasks",
            "create",
            "t",
            "--pid",
            "p",
            "--ttl",
            "1m",
            "--timeout",
            "1h",
            "--param",
            r#"{"data": "text"}"#,
            "--tags",
            &tags,
        ],
    );
    assert_eq!(created["task"], record::acquired("t", 1, 0, "p", 60_000));
    assert_eq!(created["promise"]["param"], json!({"data": "dGV4dA=="}));
    expect_from_now(&created["promise"]["timeoutAt"], begun, HOUR_MS);

    let action =
        r#"{"kind": "promise.create", "data": {"id": "a", "timeoutAt": 9007199254740991}}"#;
    let fenced = ok(
        &server,
        &["tasks", "fence", "t", "--version", "1", "--action", action],
    );
    assert_eq!(
        fenced["action"]["data"]["promise"],
        server.client().get("a")
    );

    let held = r#"[{"id": "t", "version": 1}]"#;
    let beat = ["tasks", "heartbeat", "--pid", "p", "--tasks", held];
    assert_eq!(ok(&server, &beat), json!({}));

    let actions =
        r#"[{"kind": "promise.register_callback", "data": {"awaited": "a", "awaiter": "t"}}]"#;
    let suspend = ["tasks", "suspend", "t", "--actions", actions, "--version"];
    assert_eq!(ok(&server, &[&suspend[..], &["1"]].concat()), json!({}));
    assert_eq!(
        ok(&server, &["task", "get", "t"])["task"],
        task("suspended", 1)
    );
    server.client().settle("a", "resolved");

    let claim = [
        "tasks",
        "claim",
        "t",
        "--pid",
        "q",
        "--ttl",
        "30s",
        "--version",
        "1",
    ];
    assert_eq!(
        ok(&server, &claim)["task"],
        record::acquired("t", 2, 0, "q", 30_000)
    );
    // 300: what was to be awaited is there already, which is a success (cli §1).
    assert_eq!(
        ok(&server, &[&suspend[..], &["2"]].concat()),
        json!({"preload": []})
    );

    assert_eq!(
        ok(&server, &["tasks", "release", "t", "--version", "2"]),
        json!({})
    );
    assert_eq!(ok(&server, &["tasks", "halt", "t"]), json!({}));
    let halted = ok(
        &server,
        &["tasks", "search", "--state", "halted", "--limit", "1"],
    );
    assert_eq!(halted, json!({"tasks": [task("halted", 2)]}));
    assert_eq!(ok(&server, &["tasks", "continue", "t"]), json!({}));

    server.client().acquire("t", 2, 60_000);
    let action = record::fulfill("t", 3, "resolved")["action"].to_string();
    let done = ok(
        &server,
        &[
            "tasks",
            "complete",
            "t",
            "--version",
            "3",
            "--action",
            &action,
        ],
    );
    assert_eq!(done, json!({"promise": server.client().get("t")}));
    assert_eq!(server.client().get("t")["state"], "resolved");
}

fn schedule(server: &Server, id: &str) -> Value {
    let tags = record::target().to_string();
    ok(
        server,
        &[
            "schedules",
            "create",
            id,
            "--cron",
            "0 2 * * *",
            "--promise-id",
            "{{.id}}.{{.timestamp}}",
            "--promise-timeout",
            "1h30m",
            "--promise-param",
            r#"{"data": [1]}"#,
            "--promise-tags",
            &tags,
        ],
    )
}

#[test]
fn schedules_are_created_shown_and_deleted() {
    let server = shared_single();
    let id = unique("schedule");
    let created = schedule(&server, &id);
    let schedule = &created["schedule"];
    for (member, value) in [
        ("cron", json!("0 2 * * *")),
        ("promiseId", json!("{{.id}}.{{.timestamp}}")),
        ("promiseTimeout", json!(5_400_000)),
        ("promiseParam", json!({"data": "WzFd"})),
        ("promiseTags", record::target()),
    ] {
        assert_eq!(schedule[member], value, "{schedule}");
    }
    assert_eq!(ok(&server, &["schedule", "get", &id]), created);
    let tags = record::target().to_string();
    let search = ["schedules", "search", "--tags", &tags, "--limit", "1000"];
    let found = ok(&server, &search);
    assert!(
        found["schedules"].as_array().unwrap().contains(schedule),
        "{found}"
    );
    assert_eq!(ok(&server, &["schedules", "delete", &id]), json!({}));
    let gone = server.cli(&["schedules", "get", &id]);
    gone.expect(1, "", "Error: Schedule not found\n");
}

#[test]
fn an_invocation_is_a_root_with_a_call() {
    let server = shared_single();
    let id = unique("invoke");
    let begun = wall_clock_ms();
    let printed = ok(
        &server,
        &[
            "invoke",
            &id,
            "--func",
            "f",
            "--arg",
            "text",
            "--arg",
            "-5",
            "--arg",
            r#"{"b": 1, "a": 2}"#,
            "--arg",
            r#""quoted""#,
            "--arg",
            "",
            "--version",
            "3",
        ],
    );
    let promise = server.client().get(&id);
    assert_eq!(printed, json!({"promise": promise}));
    expect_from_now(&promise["timeoutAt"], begun, HOUR_MS);
    assert_eq!(promise["param"]["headers"], json!({}));
    assert_eq!(
        call_of(&promise),
        json!({"func": "f", "args": ["text", -5, {"b": 1, "a": 2}, "quoted", ""], "version": 3})
    );
    assert_eq!(
        promise["tags"],
        json!({
            "resonate:target": "poll://any@default", "resonate:scope": "global",
            "resonate:origin": id, "resonate:branch": id, "resonate:parent": id,
        })
    );
}

#[test]
fn a_call_has_its_arguments_as_they_were_written_without_blanks() {
    let server = shared_single();
    let id = unique("invoke");
    ok(
        &server,
        &[
            "invoke",
            &id,
            "-f",
            "f",
            "--json-args",
            r#"[ {"b": 1, "a": [1.50, 123456789012345678901234567890, "x y"]} ]"#,
            "--arg",
            "9",
        ],
    );
    let text = r#"{"func":"f","args":[{"b":1,"a":[1.50,123456789012345678901234567890,"x y"]}],"version":1}"#;
    let data = STANDARD.encode(text);
    assert_eq!(server.client().get(&id)["param"]["data"], data);
}

#[test]
fn a_delay_moves_the_timeout_as_well() {
    let server = shared_single();
    let id = unique("invoke");
    let begun = wall_clock_ms();
    ok(
        &server,
        &[
            "invoke", &id, "-f", "f", "--delay", "2h", "-t", "30s", "--target", NOBODY,
        ],
    );
    let promise = server.client().get(&id);
    let delay = promise["tags"]["resonate:delay"].as_str().unwrap();
    let delay: i64 = delay.parse().unwrap();
    expect_from_now(&json!(delay), begun, 2 * HOUR_MS);
    assert_eq!(promise["timeoutAt"], json!(delay + 30_000));
    assert_eq!(promise["tags"]["resonate:target"], NOBODY);
}
