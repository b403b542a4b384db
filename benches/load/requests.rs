//! The requests of the workloads, as text: nothing is built that is not sent.

use crate::client::now_ms;

/// Deadline of promises that are not to time out during a run.
const DAY_MS: u64 = 86_400_000;

/// What every process of a generator is called.
pub const PID: &str = "bench";

/// A request of a kind with this data.
pub fn request(kind: &str, data: &str) -> String {
    format!(
        r#"{{"kind":"{kind}","head":{{"corrId":"bench","version":"2026-04-01"}},"data":{data}}}"#
    )
}

/// Data of a promise that no deadline settles during a run; `tags` are members of a JSON object.
pub fn promise(id: &str, tags: &str) -> String {
    let timeout_at = now_ms() + DAY_MS;
    format!(
        r#"{{"id":"{id}","timeoutAt":{timeout_at},"param":{{"data":"e30="}},"tags":{{{tags}}}}}"#
    )
}

/// Tags of a promise that any worker of a group executes.
pub fn target(group: &str) -> String {
    format!(r#""resonate:target":"poll://any@{group}""#)
}

/// `promise.create`.
pub fn create(id: &str, tags: &str) -> String {
    request("promise.create", &promise(id, tags))
}

/// `promise.get`.
pub fn get(id: &str) -> String {
    request("promise.get", &format!(r#"{{"id":"{id}"}}"#))
}

fn resolved(id: &str) -> String {
    format!(r#"{{"id":"{id}","state":"resolved","value":{{"data":"MQ=="}}}}"#)
}

/// `promise.settle`.
pub fn settle(id: &str) -> String {
    request("promise.settle", &resolved(id))
}

/// `promise.register_listener`.
pub fn listen(id: &str, address: &str) -> String {
    let data = format!(r#"{{"awaited":"{id}","address":"{address}"}}"#);
    request("promise.register_listener", &data)
}

/// `promise.search`, its first page.
pub fn search() -> String {
    request("promise.search", r#"{"state":"pending","limit":10}"#)
}

/// `task.create`: the promise, and its task acquired.
pub fn task(id: &str, group: &str) -> String {
    let promise = promise(id, &target(group));
    let action = format!(r#"{{"kind":"promise.create","data":{promise}}}"#);
    request(
        "task.create",
        &format!(r#"{{"pid":"{PID}","ttl":60000,"action":{action}}}"#),
    )
}

/// `task.acquire`.
pub fn acquire(id: &str, version: u64) -> String {
    let data = format!(r#"{{"id":"{id}","version":{version},"pid":"{PID}","ttl":60000}}"#);
    request("task.acquire", &data)
}

/// `task.fence` that creates a child.
pub fn fence(id: &str, child: &str) -> String {
    let promise = promise(child, "");
    let action = format!(r#"{{"kind":"promise.create","data":{promise}}}"#);
    request(
        "task.fence",
        &format!(r#"{{"id":"{id}","version":1,"action":{action}}}"#),
    )
}

/// `task.suspend` until a promise is settled.
pub fn suspend(id: &str, awaited: &str) -> String {
    let data = format!(r#"{{"awaited":"{awaited}","awaiter":"{id}"}}"#);
    let action = format!(r#"{{"kind":"promise.register_callback","data":{data}}}"#);
    request(
        "task.suspend",
        &format!(r#"{{"id":"{id}","version":1,"actions":[{action}]}}"#),
    )
}

/// `task.fulfill`.
pub fn fulfill(id: &str, version: u64) -> String {
    let action = format!(r#"{{"kind":"promise.settle","data":{}}}"#, resolved(id));
    request(
        "task.fulfill",
        &format!(r#"{{"id":"{id}","version":{version},"action":{action}}}"#),
    )
}
