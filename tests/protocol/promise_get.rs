//! `promise.get` (protocol §8).

use serde_json::json;

use crate::harness::record::{pending, settled, timed_out, timer};
use crate::harness::server::{Server, shared};

#[test]
fn an_id_is_required_and_must_exist() {
    let server = shared();
    server.refused(
        "promise.get",
        json!({"id": ""}),
        400,
        "Promise ID is required",
    );
    server.refused(
        "promise.get",
        json!({"id": "no-such-promise"}),
        404,
        "Promise not found",
    );
}

#[test]
fn the_record_is_projected_at_the_inclusive_boundary() {
    let server = Server::controlled();
    let plain = pending("a", 2_000, 1_000, json!({}));
    let sleep = pending("s", 2_000, 1_000, timer());
    assert_eq!(server.at(1_000).create("a", 2_000, json!({})), plain);
    assert_eq!(server.at(1_000).create("s", 2_000, timer()), sleep);
    assert_eq!(server.at(1_999).get("a"), plain);
    assert_eq!(server.at(1_999).get("s"), sleep);
    for now in [2_000, 2_001, i64::MAX] {
        assert_eq!(server.at(now).get("a"), timed_out(&plain));
        assert_eq!(server.at(now).get("s"), settled(&sleep, "resolved", 2_000));
    }
}
