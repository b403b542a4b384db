//! The call graph below a promise, as a tree (`cli.md` §6).

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};

use serde::Deserialize;
use serde_json::json;

use super::output::payload;
use crate::client::{Client, Error};
use crate::protocol::record::{Promise, PromiseState, tag};

const PAGE: usize = 100;

/// What is known of a root and its descendants.
pub(super) struct Graph {
    root: String,
    promises: BTreeMap<String, Promise>,
}

/// One promise in its place.
pub(super) struct Line<'a> {
    /// What is drawn before the id.
    pub prefix: String,
    pub id: &'a str,
    /// None for a root that does not exist.
    pub promise: Option<&'a Promise>,
}

impl Line<'_> {
    /// Icon and detail, as far as there are any.
    pub(super) fn description(&self) -> String {
        let Some(promise) = self.promise else {
            return String::new();
        };
        let icon = match promise.state {
            PromiseState::Pending => "🟡",
            PromiseState::Resolved => "🟢",
            PromiseState::Rejected
            | PromiseState::RejectedCanceled
            | PromiseState::RejectedTimedout => "🔴",
        };
        let detail = detail(promise);
        format!(
            " {icon}{}{detail}",
            if detail.is_empty() { "" } else { " " }
        )
    }
}

/// What the promise is: `(sleep)`, `(rpc order)`, `(run charge)`.
pub(super) fn detail(promise: &Promise) -> String {
    let is_timer = promise
        .tags
        .get(tag::TIMER)
        .is_some_and(|tag| !tag.is_empty());
    let how = match promise.tags.get(tag::SCOPE) {
        _ if is_timer => return "(sleep)".to_owned(),
        Some("global") => "rpc",
        Some("local") => "run",
        _ => return String::new(),
    };
    match payload::function(&promise.param) {
        Some(function) => format!("({how} {function})"),
        None => format!("({how})"),
    }
}

#[derive(Deserialize)]
pub(super) struct Page {
    pub promises: Vec<Promise>,
    pub cursor: Option<String>,
}

/// A page of the promises whose origin is `root`.
pub(super) async fn page(
    client: &Client,
    root: &str,
    limit: usize,
    cursor: Option<String>,
) -> Result<Page, Error> {
    let mut data = json!({"tags": {tag::ORIGIN: root}, "limit": limit});
    if let Some(cursor) = cursor {
        data["cursor"] = cursor.into();
    }
    client.ask("promise.search", &data).await
}

impl Graph {
    /// Asks for all of it.
    ///
    /// # Errors
    /// When there is neither the root nor a descendant, as when the server refuses.
    pub(super) async fn fetch(client: &Client, root: &str) -> Result<Graph, Error> {
        let mut promises = Vec::new();
        let mut cursor = None;
        loop {
            let page = page(client, root, PAGE, cursor).await?;
            promises.extend(page.promises);
            cursor = page.cursor;
            if cursor.is_none() {
                break;
            }
        }
        match client.promise(root).await {
            Ok(promise) => promises.push(promise),
            Err(Error::Refused { status: 404, .. }) if !promises.is_empty() => {}
            Err(error) => return Err(error),
        }
        Ok(Graph::new(root, promises))
    }

    fn new(root: &str, promises: Vec<Promise>) -> Graph {
        let by_id = |promise: Promise| (promise.id.to_string(), promise);
        Graph {
            root: root.to_owned(),
            promises: promises.into_iter().map(by_id).collect(),
        }
    }

    /// Whether the root, or all there is without one, has been settled.
    pub(super) fn is_settled(&self) -> bool {
        let is_settled = |promise: &Promise| promise.state != PromiseState::Pending;
        match self.promises.get(&self.root) {
            Some(root) => is_settled(root),
            None => self.promises.values().all(is_settled),
        }
    }

    /// All promises, the root first, every other below its parent.
    pub(super) fn lines(&self) -> Vec<Line<'_>> {
        let children = self.children();
        let mut lines = Vec::new();
        // What is still to be drawn, the next one last: id, what stands before those below it, whether
        // it is the last of its siblings. Not recursive: chains of calls may be long.
        let mut open: Vec<(&str, String, Option<bool>)> = vec![(&self.root, String::new(), None)];
        while let Some((id, indent, is_last)) = open.pop() {
            let (branch, below) = match is_last {
                None => ("", ""),
                Some(false) => ("├── ", "│   "),
                Some(true) => ("└── ", "    "),
            };
            let below = format!("{indent}{below}");
            lines.push(Line {
                prefix: format!("{indent}{branch}"),
                id,
                promise: self.promises.get(id),
            });
            let children = children.get(id).map_or(&[][..], Vec::as_slice);
            for (n, child) in children.iter().enumerate().rev() {
                open.push((child, below.clone(), Some(n + 1 == children.len())));
            }
        }
        lines
    }

    /// Who stands below whom: by birth, then by id. Whoever cannot be reached otherwise stands below the
    /// root: because the parent is not there, or because parents go in circles.
    fn children(&self) -> HashMap<&str, Vec<&str>> {
        let mut promises: Vec<&Promise> = self.promises.values().collect();
        promises.sort_by(|a, b| (a.created_at, &a.id).cmp(&(b.created_at, &b.id)));
        let mut children: HashMap<&str, Vec<&str>> = HashMap::new();
        let mut parents: HashMap<&str, &str> = HashMap::new();
        for promise in promises.iter().filter(|promise| *promise.id != *self.root) {
            let parent = self.parent(promise);
            parents.insert(&promise.id, parent);
        }
        // By which walk each was seen first; the root by none.
        let mut seen: HashMap<&str, usize> = HashMap::from([(self.root.as_str(), usize::MAX)]);
        for (walk, promise) in promises.iter().enumerate() {
            let mut id: &str = &promise.id;
            let mut last = id;
            while let Entry::Vacant(unseen) = seen.entry(id) {
                unseen.insert(walk);
                last = id;
                id = parents.get(id).copied().unwrap_or(&self.root);
            }
            if seen.get(id) == Some(&walk) {
                parents.insert(last, &self.root);
            }
        }
        for promise in &promises {
            if let Some(parent) = parents.get(&*promise.id) {
                children.entry(parent).or_default().push(&promise.id);
            }
        }
        children
    }

    fn parent(&self, promise: &Promise) -> &str {
        let parent = promise.tags.get(tag::PARENT);
        let known = parent.filter(|parent| **parent != *promise.id);
        known
            .and_then(|parent| self.promises.get_key_value(parent))
            .map_or(&self.root, |(id, _)| id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn promise(id: &str, created_at: i64, parent: Option<&str>) -> Promise {
        let mut tags = serde_json::Map::new();
        tags.extend(parent.map(|parent| (tag::PARENT.to_owned(), parent.into())));
        let record = json!({
            "id": id, "state": "pending", "param": {}, "value": {}, "tags": tags,
            "timeoutAt": i64::MAX, "createdAt": created_at,
        });
        serde_json::from_str(&record.to_string()).unwrap()
    }

    fn drawn(root: &str, promises: &[(&str, i64, Option<&str>)]) -> Vec<String> {
        let promises = promises
            .iter()
            .map(|(id, at, parent)| promise(id, *at, *parent));
        let graph = Graph::new(root, promises.collect());
        let lines = graph.lines();
        lines
            .iter()
            .map(|line| format!("{}{}", line.prefix, line.id))
            .collect()
    }

    #[test]
    fn children_stand_below_their_parents_by_birth_then_id() {
        let promises = [
            ("r", 1, Some("r")),
            ("r.b", 3, Some("r")),
            ("r.a", 3, Some("r")),
            ("r.c", 2, Some("r")),
            ("r.c.0", 9, Some("r.c")),
            ("r.b.0", 9, Some("r.b")),
            ("r.c.0.0", 9, Some("r.c.0")),
        ];
        assert_eq!(
            drawn("r", &promises),
            [
                "r",
                "├── r.c",
                "│   └── r.c.0",
                "│       └── r.c.0.0",
                "├── r.a",
                "└── r.b",
                "    └── r.b.0",
            ]
        );
    }

    #[test]
    fn who_has_no_parent_there_stands_below_the_root() {
        let promises = [
            ("r.0", 1, Some("gone")),
            ("r.1", 2, None),
            ("r.2", 3, Some("r.2")),
        ];
        let expected = ["r", "├── r.0", "├── r.1", "└── r.2"];
        assert_eq!(drawn("r", &promises), expected);
    }

    #[test]
    fn parents_that_go_in_circles_are_all_shown_once() {
        let promises = [
            ("r", 1, Some("c")),
            ("a", 2, Some("b")),
            ("b", 3, Some("c")),
            ("c", 4, Some("b")),
            ("d", 5, Some("c")),
        ];
        let expected = ["r", "└── c", "    ├── b", "    │   └── a", "    └── d"];
        assert_eq!(drawn("r", &promises), expected);
    }

    #[test]
    fn long_chains_are_no_matter() {
        let ids: Vec<String> = (0..3_000).map(|n| format!("r{n}")).collect();
        let promises: Vec<(&str, i64, Option<&str>)> = ids
            .iter()
            .enumerate()
            .map(|(n, id)| {
                (
                    id.as_str(),
                    1,
                    ids.get(n.wrapping_sub(1)).map(String::as_str),
                )
            })
            .collect();
        assert_eq!(drawn("r0", &promises).len(), 3_000);
    }
}
