//! Where pages point to, there is something.

use super::blocks::{pages, read, repository};

/// Pages that are written together with what they describe, and may not be there yet.
const COMING: [&str; 2] = ["backup.md", "retention.md"];

/// The targets of Markdown links, code left out.
fn links(text: &str) -> Vec<String> {
    let mut is_code = false;
    let prose = text.lines().filter(|line| {
        let is_fence = line.trim_start().starts_with("```");
        is_code ^= is_fence;
        !is_code && !is_fence
    });
    let mut found = Vec::new();
    for line in prose {
        let targets = line.split("](").skip(1);
        found.extend(
            targets.filter_map(|rest| rest.split_once(')').map(|(target, _)| target.to_owned())),
        );
    }
    found
}

/// The anchors that headings of a page have.
fn anchors(page: &str) -> Vec<String> {
    let text = read(page);
    let titles = text.lines().filter(|line| line.starts_with('#'));
    let titles = titles.map(|line| line.trim_start_matches('#').trim().to_lowercase());
    let anchor = |title: String| {
        let kept = title
            .chars()
            .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    };
    titles.map(anchor).collect()
}

/// What is wrong with a link from a page.
fn fault(page: &str, target: &str) -> Option<String> {
    if target.contains("://") || COMING.contains(&target) {
        return None;
    }
    let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
    let folder = repository().join(page);
    let folder = folder.parent().expect("a page is in a folder");
    let there = match path {
        "" => repository().join(page),
        path => folder.join(path),
    };
    let Ok(there) = there.canonicalize() else {
        return Some(format!("{page} points to {target}, which is not there"));
    };
    if anchor.is_empty() {
        return None;
    }
    let root = repository().canonicalize().expect("it is there");
    let to = there.strip_prefix(root).expect("it is in the repository");
    let has = anchors(&to.to_string_lossy())
        .iter()
        .any(|there| there == anchor);
    (!has).then(|| format!("{page} points to {target}: no such heading"))
}

#[test]
fn every_link_leads_somewhere() {
    let mut faults = Vec::new();
    let mut looked_at = 0;
    for page in pages() {
        for target in links(&read(&page)) {
            looked_at += 1;
            faults.extend(fault(&page, &target));
        }
    }
    assert!(looked_at > 60, "{looked_at} links");
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn every_alert_has_its_section_in_the_runbook() {
    let alerts = read("deploy/prometheus/alerts.yaml");
    let mut sections = 0;
    for line in alerts.lines() {
        let Some(runbook) = line.trim().strip_prefix("runbook: ") else {
            continue;
        };
        sections += 1;
        assert_eq!(fault("README.md", runbook), None);
    }
    assert_eq!(sections, alerts.matches("- alert: ").count());
    assert!(sections > 0);
}

#[test]
fn a_link_to_nowhere_is_found() {
    assert!(fault("README.md", "docs/nowhere.md").is_some());
    assert!(fault("docs/testing.md", "#nowhere").is_some());
    assert_eq!(fault("README.md", "docs/testing.md#simulation"), None);
}
