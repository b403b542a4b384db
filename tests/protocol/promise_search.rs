//! `promise.search` (protocol §8).

use serde_json::{Value, json};

use crate::harness::record::{create, ids, pending, settled, timed_out, timer};
use crate::harness::server::{Server, shared, unique};

#[test]
fn limits_and_states_follow_their_rules() {
    let server = shared();
    for limit in [0, -1, i64::MIN] {
        server.refused(
            "promise.search",
            json!({"limit": limit}),
            400,
            "Limit must be a positive integer",
        );
    }
    for limit in [1_001, i64::MAX] {
        server.refused(
            "promise.search",
            json!({"limit": limit}),
            400,
            "Invalid 'limit' — must be between 1 and 1000",
        );
    }
    for state in ["", "Pending", "timedout", "acquired"] {
        let response = server.call("promise.search", json!({"state": state}));
        let message = response.message();
        assert!(
            response.status == 400
                && message.starts_with("Invalid request: ")
                && message.contains("unknown variant"),
            "{response}"
        );
    }
    server
        .call("promise.search", json!({"limit": 1_000}))
        .expect_status(200);
}

#[test]
fn nothing_found_is_an_empty_page_without_a_cursor() {
    let server = Server::controlled();
    let found = server.at(1_000).ok("promise.search", json!({}));
    assert_eq!(found, json!({"promises": []}));
}

#[test]
fn records_and_filter_are_projected() {
    // C8: logical state in both.
    let server = Server::controlled();
    let plain = server.at(1_000).create("a", 2_000, json!({}));
    let sleep = server.at(1_000).create("b", 2_000, timer());
    let long = server.at(1_000).create("c", 9_000, json!({}));
    server.at(1_000).create("d", 9_000, json!({}));
    let rejected = server.at(1_500).settle("d", "rejected");
    let found = |now: i64, state: &str| {
        let data = json!({"state": state});
        server.at(now).ok("promise.search", data)["promises"].clone()
    };
    assert_eq!(found(1_999, "pending"), json!([plain, sleep, long]));
    assert_eq!(found(1_999, "rejected_timedout"), json!([]));
    assert_eq!(found(1_999, "resolved"), json!([]));
    assert_eq!(found(2_000, "pending"), json!([long]));
    assert_eq!(
        found(2_000, "rejected_timedout"),
        json!([timed_out(&plain)])
    );
    let woken = settled(&sleep, "resolved", 2_000);
    assert_eq!(found(2_000, "resolved"), json!([woken]));
    assert_eq!(found(2_000, "rejected"), json!([rejected]));
    assert_eq!(found(2_000, "rejected_canceled"), json!([]));
    let all = server.at(2_000).ok("promise.search", json!({}));
    assert_eq!(
        all,
        json!({"promises": [timed_out(&plain), woken, long, rejected]})
    );
}

#[test]
fn every_pair_of_tags_must_be_present_and_equal() {
    let server = shared();
    let key = unique("tag");
    let other = unique("other");
    let id = unique("tagged");
    let tags = [
        json!({&key: "1"}),
        json!({&key: "1", &other: "x"}),
        json!({&key: "2", &other: "x"}),
        json!({&key: "", &other: "é \"quoted\" 100%"}),
    ];
    for (number, tags) in tags.iter().enumerate() {
        server
            .client()
            .create(&format!("{id}.{number}"), i64::MAX, tags.clone());
    }
    let found = |wanted: Value| {
        let data = json!({"tags": wanted});
        let page = server.ok("promise.search", data);
        let found = ids(&page["promises"]);
        found
            .iter()
            .map(|found| found[id.len() + 1..].to_owned())
            .collect::<Vec<_>>()
            .join(" ")
    };
    assert_eq!(found(json!({&key: "1"})), "0 1");
    assert_eq!(found(json!({&key: "1", &other: "x"})), "1");
    assert_eq!(found(json!({&other: "x"})), "1 2");
    assert_eq!(found(json!({&key: ""})), "3");
    assert_eq!(found(json!({&other: "é \"quoted\" 100%"})), "3");
    assert_eq!(found(json!({&key: "3"})), "");
    assert_eq!(found(json!({&key: "1", "no-such-tag": "x"})), "");
}

#[test]
fn state_and_tags_filter_together() {
    let server = Server::controlled();
    for (id, timeout_at, value) in [("a", 9_000, "1"), ("b", 9_000, "2"), ("c", 2_000, "1")] {
        server.at(1_000).create(id, timeout_at, json!({"k": value}));
    }
    let data = json!({"state": "pending", "tags": {"k": "1"}});
    let page = server.at(2_000).ok("promise.search", data);
    assert_eq!(ids(&page["promises"]), ["a"]);
}

#[test]
fn order_is_bytewise_by_id() {
    let server = Server::controlled();
    let mut names = [
        "b", "a:1", "a.1", "a", "B", "a.10", "a.2", "é", "z", "_", "😀", "ab", "\u{ffff}", "~",
    ];
    for name in names {
        server.at(1_000).create(name, 9_000, json!({}));
    }
    names.sort_by(|a, b| a.as_bytes().cmp(b.as_bytes()));
    let page = server.at(1_000).ok("promise.search", json!({}));
    assert_eq!(ids(&page["promises"]), names);
    // Page by page gives the same, each exactly once.
    let mut seen: Vec<String> = Vec::new();
    let mut data = json!({"limit": 3});
    loop {
        let page = server.at(1_000).ok("promise.search", data.clone());
        seen.extend(ids(&page["promises"]).iter().map(|&id| id.to_owned()));
        let Some(cursor) = page.get("cursor") else {
            break;
        };
        assert_eq!(cursor.as_str(), seen.last().map(String::as_str));
        data["cursor"] = cursor.clone();
    }
    assert_eq!(seen, names);
}

#[test]
fn a_cursor_is_answered_only_when_more_matches_follow() {
    let server = Server::controlled();
    let at = server.at(1_000);
    for id in ["a", "b", "c"] {
        at.create(id, 9_000, json!({"k": "1"}));
    }
    at.create("d", 9_000, json!({}));
    let search = |data: Value| {
        let page = at.ok("promise.search", data);
        let found = ids(&page["promises"]).join("");
        (
            found,
            page.get("cursor")
                .and_then(Value::as_str)
                .map(str::to_owned),
        )
    };
    let cursor = |id: &str| Some(id.to_owned());
    assert_eq!(search(json!({"limit": 3})), ("abc".to_owned(), cursor("c")));
    assert_eq!(search(json!({"limit": 4})), ("abcd".to_owned(), None));
    assert_eq!(search(json!({"limit": 1})), ("a".to_owned(), cursor("a")));
    // `d` does not match, so nothing follows `c`.
    let data = json!({"limit": 3, "tags": {"k": "1"}});
    assert_eq!(search(data), ("abc".to_owned(), None));
    let data = json!({"limit": 1, "cursor": "a", "tags": {"k": "1"}});
    assert_eq!(search(data), ("b".to_owned(), cursor("b")));
    // A cursor need not exist; ids strictly greater follow.
    assert_eq!(search(json!({"cursor": "aa"})), ("bcd".to_owned(), None));
    assert_eq!(search(json!({"cursor": "d"})), (String::new(), None));
}

#[test]
fn a_projected_state_pages_correctly() {
    // Many stored-pending rows that do not match stand between those that do.
    let server = Server::controlled();
    for number in 0..30 {
        let timeout_at = if number % 10 == 9 { 9_000 } else { 2_000 };
        server
            .at(1_000)
            .create(&format!("p{number:02}"), timeout_at, json!({}));
    }
    let search = |data| server.at(2_000).ok("promise.search", data);
    let page = search(json!({"state": "pending", "limit": 2}));
    assert_eq!(ids(&page["promises"]), ["p09", "p19"]);
    assert_eq!(page["cursor"], "p19");
    let page = search(json!({"state": "pending", "limit": 2, "cursor": "p19"}));
    assert_eq!(ids(&page["promises"]), ["p29"]);
    assert!(page.get("cursor").is_none(), "{page}");
    let page = search(json!({"state": "rejected_timedout", "limit": 9}));
    assert_eq!(page["cursor"], "p08");
}

#[test]
fn the_default_limit_is_100() {
    let server = Server::controlled();
    for number in 0..101 {
        let data = create(&format!("p{number:03}"), 9_000, json!({}));
        server.at(1_000).ok("promise.create", data);
    }
    let page = server.at(1_000).ok("promise.search", json!({}));
    assert_eq!(ids(&page["promises"]).len(), 100);
    assert_eq!(page["cursor"], "p099");
    let page = server
        .at(1_000)
        .ok("promise.search", json!({"cursor": "p099"}));
    assert_eq!(
        page,
        json!({"promises": [pending("p100", 9_000, 1_000, json!({}))]})
    );
}

#[test]
fn a_search_for_very_many_tags_is_answered() {
    let server = Server::with(&["--limits-max-tags", "30000"]);
    let id = unique("tags");
    let count = 20_000;
    let tags = |last: &str| {
        let mut tags: serde_json::Map<String, Value> = (0..count)
            .map(|number| (format!("{id}{number}"), json!("v")))
            .collect();
        tags.insert(format!("{id}z"), json!(last));
        Value::Object(tags)
    };
    let created = server.client().create(&id, i64::MAX, tags("v"));
    let found = server.ok("promise.search", json!({"tags": tags("v")}));
    assert_eq!(found, json!({"promises": [created]}));
    let found = server.ok("promise.search", json!({"tags": tags("w")}));
    assert_eq!(found, json!({"promises": []}));
}
