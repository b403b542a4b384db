//! `task.search` (protocol §9).

use serde_json::{Value, json};

use crate::harness::record::{acquired, ids, task, timer};
use crate::harness::server::{Server, shared};

#[test]
fn limits_and_states_follow_their_rules() {
    let server = shared();
    for (limit, message) in [
        (0, "Limit must be a positive integer"),
        (-1, "Limit must be a positive integer"),
        (1_001, "Invalid 'limit' — must be between 1 and 1000"),
    ] {
        server.refused("task.search", json!({"limit": limit}), 400, message);
    }
    for state in ["", "Pending", "resolved"] {
        let response = server.call("task.search", json!({"state": state}));
        assert!(
            response.status == 400 && response.message().contains("unknown variant"),
            "{response}"
        );
    }
}

#[test]
fn states_are_the_viewed_ones() {
    let server = Server::controlled();
    let at = server.at(1_000);
    at.create("awaited", 90_000, json!({}));
    at.create("sleep", 90_000, timer());
    at.create_targeted("pending", 90_000);
    for id in ["acquired", "suspended", "halted", "fulfilled"] {
        at.own(id, 90_000, 60_000);
    }
    at.suspend("suspended", 1, &["awaited"])
        .expect(200, &json!({}));
    at.halt("halted");
    at.settle("fulfilled", "resolved");
    at.create_targeted("late", 2_000);
    let found = |now: i64, data: Value| server.at(now).ok("task.search", data)["tasks"].clone();
    let late = task("late", "pending", 0, 0);
    let pending = task("pending", "pending", 0, 0);
    let state = |state: &str| json!({"state": state});
    assert_eq!(found(1_999, state("pending")), json!([late, pending]));
    assert_eq!(found(2_000, state("pending")), json!([pending]));
    assert_eq!(
        found(2_000, state("acquired")),
        json!([acquired("acquired", 1, 0, "p", 60_000)])
    );
    assert_eq!(
        found(2_000, state("suspended")),
        json!([task("suspended", "suspended", 1, 0)])
    );
    assert_eq!(
        found(2_000, state("halted")),
        json!([task("halted", "halted", 1, 0)])
    );
    assert_eq!(
        found(2_000, state("fulfilled")),
        json!([
            task("fulfilled", "fulfilled", 1, 0),
            task("late", "fulfilled", 0, 0)
        ])
    );
    let all = found(2_000, json!({}));
    assert_eq!(
        ids(&all),
        [
            "acquired",
            "fulfilled",
            "halted",
            "late",
            "pending",
            "suspended"
        ]
    );
}

#[test]
fn pages_are_ordered_bytewise_with_a_cursor_only_when_more_follows() {
    let server = Server::controlled();
    for number in 0..101 {
        server
            .at(1_000)
            .create_targeted(&format!("t{number:03}"), 90_000);
    }
    server.at(1_000).create("plain", 90_000, json!({}));
    let search = |data: Value| server.at(1_000).ok("task.search", data);
    let page = search(json!({}));
    assert_eq!(ids(&page["tasks"]).len(), 100);
    assert_eq!(page["cursor"], "t099");
    let page = search(json!({"cursor": "t099"}));
    assert_eq!(page, json!({"tasks": [task("t100", "pending", 0, 0)]}));
    let page = search(json!({"limit": 101}));
    assert_eq!(ids(&page["tasks"]).len(), 101);
    assert!(page.get("cursor").is_none());
    let page = search(json!({"limit": 2, "cursor": "t000", "state": "pending"}));
    assert_eq!(ids(&page["tasks"]), ["t001", "t002"]);
    assert_eq!(page["cursor"], "t002");
    assert_eq!(search(json!({"state": "halted"})), json!({"tasks": []}));
}
