//! The kinds of request that the protocol knows (`protocol.md` §8–11).

/// All of them.
pub const ALL: [&str; 26] = [
    "promise.get",
    "promise.create",
    "promise.settle",
    "promise.register_callback",
    "promise.register_listener",
    "promise.search",
    "task.get",
    "task.create",
    "task.acquire",
    "task.fence",
    "task.heartbeat",
    "task.suspend",
    "task.fulfill",
    "task.release",
    "task.halt",
    "task.continue",
    "task.search",
    "schedule.get",
    "schedule.create",
    "schedule.delete",
    "schedule.search",
    "debug.start",
    "debug.stop",
    "debug.reset",
    "debug.tick",
    "debug.snap",
];

/// The kind as a constant, if the protocol knows it.
pub fn known(kind: &str) -> Option<&'static str> {
    ALL.into_iter().find(|known| *known == kind)
}
