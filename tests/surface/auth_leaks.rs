//! Nothing of one prefix is shown to, or changed by, another (protocol §3, D-20): not through requests
//! inside of others, nor through what others await, listen to, schedule, search or are preloaded with.

use serde_json::{Value, json};

use crate::harness::client::Client;
use crate::harness::client::Credentials::{Head, Header};
use crate::harness::issuer::Issuer;
use crate::harness::record::{create, fence, ids, suspend, target};
use crate::harness::server::Server;
use crate::harness::snap::LEASE;

/// What nobody but its owner may see.
const SECRET: &str = "hunter2";

/// A server with two tenants, one of whom has a secret and one of whom wants it.
struct House {
    server: Server,
    admin: String,
    thief: String,
}

impl House {
    fn new() -> House {
        let issuer = Issuer::new("EdDSA");
        let folder = tempfile::tempdir().expect("a temporary directory can be made");
        let path = folder.path().join("keys.pem");
        std::fs::write(&path, issuer.pem()).expect("the folder is writable");
        let path = path.display().to_string();
        let server = Server::with(&["--debug", "--auth-publickey", &path]);
        let house = House {
            admin: issuer.token(json!({"role": "admin"})),
            thief: issuer.token(json!({"prefix": "a."})),
            server,
        };
        let admin = house.admin();
        admin.ok("debug.start", json!({}));
        let mut secret = create("b.secret", 90_000, json!({"resonate:branch": "b"}));
        secret["param"] = json!({"data": SECRET});
        admin.ok("promise.create", secret);
        admin.own("b.task", 90_000, 50_000);
        house
    }

    fn admin(&self) -> Client<'_> {
        self.server.at(1_000).with(Head(&self.admin))
    }

    fn thief(&self) -> Client<'_> {
        self.server.at(1_000).with(Header(&self.thief))
    }

    /// The thief is told nothing but that it is forbidden, and nothing has changed.
    #[track_caller]
    fn forbids(&self, kind: &str, data: Value) {
        let before = self.admin().snap().0;
        let response = self.thief().call(kind, data);
        response.expect(403, &json!("Forbidden"));
        assert_eq!(self.admin().snap().0, before, "{response}");
    }

    /// What is kept, and what is not there, are refused alike: nobody learns which is which.
    #[track_caller]
    fn forbids_both(&self, kind: &str, data: impl Fn(&str) -> Value) {
        for id in ["b.secret", "b.none", "a", "A.x", "b.a."] {
            self.forbids(kind, data(id));
        }
    }
}

#[test]
fn other_ids_are_forbidden_whether_or_not_they_exist() {
    let house = House::new();
    house.thief().own("a.task", 90_000, 50_000);
    house.forbids_both("promise.get", |id| json!({"id": id}));
    // It would answer the record that is there.
    house.forbids_both("promise.create", |id| create(id, 90_000, json!({})));
    house.forbids_both(
        "promise.settle",
        |id| json!({"id": id, "state": "resolved"}),
    );
    house.forbids_both("task.get", |id| json!({"id": id}));
    house.forbids_both("schedule.get", |id| json!({"id": id}));
    house.forbids_both("schedule.delete", |id| json!({"id": id}));
    for kind in [
        "promise.search",
        "task.search",
        "schedule.search",
        "debug.snap",
    ] {
        house.forbids(kind, json!({}));
    }
    let own = json!({"tags": {"resonate:branch": "a.task"}, "cursor": "a."});
    house.forbids("promise.search", own);
}

#[test]
fn a_fence_does_nothing_to_others() {
    let house = House::new();
    house.thief().own("a.task", 90_000, 50_000);
    let settle = |id: &str| json!({"id": id, "state": "resolved"});
    house.forbids_both("task.fence", |id| {
        fence("a.task", 1, "promise.create", create(id, 90_000, json!({})))
    });
    house.forbids_both("task.fence", |id| {
        fence("a.task", 1, "promise.settle", settle(id))
    });
    house.forbids(
        "task.fence",
        fence("b.task", 1, "promise.settle", settle("a.x")),
    );
    let own = fence(
        "a.task",
        1,
        "promise.create",
        create("a.x", 90_000, json!({})),
    );
    house.thief().ok("task.fence", own);
}

#[test]
fn others_can_neither_be_awaited_nor_listened_to() {
    let house = House::new();
    house.thief().own("a.task", 90_000, 50_000);
    house.thief().create("a.x", 90_000, json!({}));
    house.forbids_both("task.suspend", |id| suspend("a.task", 1, &[id]));
    house.forbids_both("task.suspend", |id| suspend("a.task", 1, &["a.x", id]));
    house.forbids("task.suspend", suspend("b.task", 1, &["a.x"]));
    let callback = |awaited: &str, awaiter: &str| json!({"awaited": awaited, "awaiter": awaiter});
    house.forbids_both("promise.register_callback", |id| callback(id, "a.task"));
    house.forbids("promise.register_callback", callback("a.x", "b.task"));
    let listen = |id: &str| json!({"awaited": id, "address": "poll://uni@thieves/1"});
    house.forbids_both("promise.register_listener", listen);

    house.thief().listen("a.x", "poll://uni@thieves/1");
    house.thief().await_by("a.x", "a.task");
    house
        .thief()
        .suspend("a.task", 1, &["a.x"])
        .expect_status(200);
}

#[test]
fn schedules_make_no_promises_of_others() {
    let house = House::new();
    let schedule = |id: &str, template: &str| {
        json!({
            "id": id, "cron": "* * * * * *", "promiseId": template, "promiseTimeout": 1_000,
            "promiseTags": target(),
        })
    };
    for (id, template) in [
        ("b.s", "a.{{.timestamp}}"),
        ("a.s", "b.{{.timestamp}}"),
        ("a.s", "b.secret"),
        ("a.s", "{{.timestamp}}"),
        ("a.s", "a{{.timestamp}}"),
        ("a.s", "{{.timestamp}}a."),
        ("a.s", "b.{{.id}}"),
        ("b.s", "{{.id}}.{{.timestamp}}"),
    ] {
        house.forbids("schedule.create", schedule(id, template));
    }
    house
        .thief()
        .ok("schedule.create", schedule("a.s", "{{.id}}.{{.timestamp}}"));
    house
        .thief()
        .ok("schedule.create", schedule("a.t", "a.{{.timestamp}}"));
    house.server.at(2_000).with(Head(&house.admin)).tick();
    let found = house.admin().ok("promise.search", json!({}));
    assert_eq!(
        ids(&found["promises"]),
        ["a.2000", "a.s.2000", "b.secret", "b.task"]
    );
}

/// The tag that preload goes by is the creator's to choose (protocol §7).
#[test]
fn preload_shows_nothing_of_others() {
    let house = House::new();
    let thief = house.thief();
    let tags = json!({"resonate:target": "poll://any@nobody", "resonate:branch": "b"});
    thief.create("a.x", 90_000, json!({"resonate:branch": "b"}));
    thief.settle("a.x", "resolved");
    let born = json!({
        "pid": "p", "ttl": 50_000,
        "action": {"kind": "promise.create", "data": create("a.task", 90_000, tags)},
    });
    let release = json!({"id": "a.task", "version": 1});
    let acquire = json!({"id": "a.task", "version": 1, "pid": "p", "ttl": 50_000});
    let inner = create("a.y", 90_000, json!({"resonate:branch": "b"}));
    for (kind, data, status, preload) in [
        ("task.create", born, 200, &["a.x"][..]),
        ("task.release", release, 200, &[]),
        ("task.acquire", acquire, 200, &["a.x"]),
        (
            "task.fence",
            fence("a.task", 2, "promise.create", inner),
            200,
            &["a.x", "a.y"],
        ),
        (
            "task.suspend",
            suspend("a.task", 2, &["a.x"]),
            300,
            &["a.x", "a.y"],
        ),
    ] {
        let response = thief.call(kind, data);
        assert_eq!(response.status, status, "{response}");
        if response.data.get("preload").is_some() {
            assert_eq!(ids(&response.data["preload"]), preload, "{response}");
        }
        assert!(!response.to_string().contains(SECRET), "{response}");
    }
    // To others it is there.
    let seen = house.admin().suspend("a.task", 2, &["a.x"]);
    assert_eq!(
        ids(&seen.data["preload"]),
        ["a.x", "a.y", "b.secret"],
        "{seen}"
    );
}

/// §3: with an empty list only matching tasks are renewed.
#[test]
fn heartbeats_renew_only_what_they_may_name() {
    let house = House::new();
    house.thief().own("a.task", 90_000, 50_000);
    let beat = |tasks: Value| json!({"pid": "p", "tasks": tasks});
    let (own, foreign) = (
        json!({"id": "a.task", "version": 1}),
        json!({"id": "b.task", "version": 1}),
    );
    house.forbids("task.heartbeat", beat(json!([foreign])));
    house.forbids("task.heartbeat", beat(json!([own, foreign])));
    let lease = |id: &str| house.admin().snap().task_timeout(id);
    let thief = house.server.at(2_000).with(Header(&house.thief));
    // Both tasks are held by `p`.
    thief.ok("task.heartbeat", beat(json!([])));
    assert_eq!(lease("a.task"), Some((LEASE, 52_000)));
    assert_eq!(lease("b.task"), Some((LEASE, 51_000)));
    let admin = house.server.at(3_000).with(Head(&house.admin));
    admin.ok("task.heartbeat", beat(json!([])));
    assert_eq!(lease("a.task"), Some((LEASE, 53_000)));
    assert_eq!(lease("b.task"), Some((LEASE, 53_000)));
}

/// Who waits for whom is everybody's business: allowed like a search.
#[test]
fn targets_are_for_those_who_may_see_everything() {
    let house = House::new();
    let get = |token: Option<&str>| {
        let bearer = token.map(|token| format!("Bearer {token}"));
        let headers: Vec<(&str, &str)> = bearer.iter().map(|b| ("authorization", &**b)).collect();
        let reply = house.server.request("GET", "/targets", &headers, b"");
        (reply.status(), reply.text())
    };
    for (token, status) in [(None, 401), (Some("x"), 401), (Some(&*house.thief), 403)] {
        let (answered, text) = get(token);
        assert_eq!(answered, status);
        assert!(!text.contains("nobody"), "{text}");
    }
    assert_eq!(get(Some(&house.admin)).0, 200);
}
