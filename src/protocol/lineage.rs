//! Which ids belong together: by what they begin with, and by the tags that name others
//! (`protocol.md` §5, §6).

use super::record::{Id, Tags, origin, tag};

/// The ids that `id` is below, shortest first: what is in front of each of its `.` and `:`.
pub fn above(id: &str) -> impl Iterator<Item = &str> {
    id.match_indices(['.', ':']).map(|(at, _)| &id[..at])
}

/// Whether an id is `root`, or below it.
pub fn is_within(id: &str, root: &str) -> bool {
    let rest = id.strip_prefix(root);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', ':']))
}

/// The ranges of ids, from the first and before the second, that hold `root` and all below it; in order. The
/// first of them may hold others too, in a store that takes a NUL in an id.
pub fn ranges(root: &str) -> [(String, String); 3] {
    [("", "\u{1}"), (".", "/"), (":", ";")]
        .map(|(from, until)| (format!("{root}{from}"), format!("{root}{until}")))
}

/// The ids that a promise's tags say it hangs on.
pub fn named(tags: &Tags) -> impl Iterator<Item = &str> {
    [tag::ORIGIN, tag::PARENT, tag::BRANCH]
        .into_iter()
        .filter_map(|name| tags.get(name))
        .filter(|id| !id.is_empty())
}

/// Whether a promise says of itself that it is the root of a tree.
pub fn is_root(id: &str, tags: &Tags) -> bool {
    tags.get(tag::ORIGIN) == Some(id)
}

/// The promises that are there among those that an id is below, and the id itself: what its tree is told by.
/// To be told of ids in ascending order.
#[derive(Debug, Default)]
pub struct Chain {
    /// Each begins with the one before it, byte for byte: what begins with an id follows it without a gap.
    links: Vec<(Id, bool)>,
}

impl Chain {
    /// Takes in the next promise, and answers the root of its tree: the first promise on the way down to it, if
    /// that says of itself that it is a root, else the id's origin.
    pub fn root_of<'a>(&'a mut self, id: &'a Id, tags: &Tags) -> &'a str {
        while self
            .links
            .last()
            .is_some_and(|(link, _)| !id.starts_with(&**link))
        {
            self.links.pop();
        }
        self.links.push((id.clone(), is_root(id, tags)));
        let first = self.links.iter().find(|(link, _)| is_within(id, link));
        match first {
            Some((link, true)) => link,
            _ => origin(id),
        }
    }

    /// Whether a promise of this id is among those that the last one is below, or is the last one.
    pub fn has(&self, id: &str) -> bool {
        self.links.iter().any(|(link, _)| **link == *id)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn roots<'a>(promises: &[(&'a str, Option<&str>)]) -> Vec<(&'a str, String)> {
        let mut chain = Chain::default();
        let root = |(id, origin): &(&'a str, Option<&str>)| {
            let tags = origin.map(|origin| (tag::ORIGIN.to_owned(), origin.to_owned()));
            let tags = Tags::new(BTreeMap::from_iter(tags));
            (*id, chain.root_of(&(*id).into(), &tags).to_owned())
        };
        promises.iter().map(root).collect()
    }

    #[test]
    fn an_id_is_below_what_is_in_front_of_its_separators() {
        let above = |id| above(id).map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(above("a.b:c"), ["a", "a.b"]);
        assert_eq!(above("a"), Vec::<String>::new());
        assert!(is_within("a", "a") && is_within("a.b", "a") && is_within("a:b", "a"));
        assert!(!is_within("ab", "a") && !is_within("a-b", "a") && !is_within("a", "a.b"));
        for id in ["a", "a.", "a.b", "a:", "a:b.c", "a.\u{10ffff}"] {
            let holds = |(from, until): &(String, String)| **from <= *id && *id < **until;
            assert_eq!(
                ranges("a").iter().filter(|range| holds(range)).count(),
                1,
                "{id}"
            );
        }
        for id in ["a-b", "a/", "ab", "a;", "b"] {
            let holds = |(from, until): &(String, String)| **from <= *id && *id < **until;
            assert!(!ranges("a").iter().any(holds), "{id}");
        }
    }

    #[test]
    fn a_tree_is_what_is_below_the_first_promise_that_says_it_is_a_root() {
        let found = roots(&[
            ("job.1", Some("job.1")),
            ("job.1.0", Some("job.1")),
            ("job.1:0.2", Some("job.1")),
            ("job.2", Some("job.2")),
            ("wf", Some("wf")),
            ("wf-2", Some("wf-2")),
            ("wf-2:0", None),
            // It says so of itself, but `wf` is there.
            ("wf.0", Some("wf.0")),
            ("wf:1", None),
        ]);
        let expected = [
            "job.1", "job.1", "job.1", "job.2", "wf", "wf-2", "wf-2", "wf", "wf",
        ];
        for ((id, root), expected) in found.iter().zip(expected) {
            assert_eq!(root, expected, "{id}");
        }
    }

    #[test]
    fn without_such_a_promise_it_is_what_shares_an_origin() {
        let found = roots(&[
            ("a.0", None),
            ("a.1", Some("a")),
            ("b", None),
            ("b.1", None),
        ]);
        let roots: Vec<&str> = found.iter().map(|(_, root)| &**root).collect();
        assert_eq!(roots, ["a", "a", "b", "b"]);
    }
}
