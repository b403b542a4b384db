//! The alerts and the dashboard in `deploy/` ask for series that there are, and can be parsed.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use promql_parser::parser::{self, Expr, VectorSelector};
use promql_parser::util::{ExprVisitor, walk_expr};
use serde_json::Value;

use super::metrics::documented;

fn file(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The alerts: name and rule.
fn alerts() -> Vec<(String, Value)> {
    let file: Value =
        serde_saphyr::from_str(&file("deploy/prometheus/alerts.yaml")).expect("it is YAML");
    let groups = file["groups"].as_array().expect("there are groups");
    let rules = groups
        .iter()
        .flat_map(|group| group["rules"].as_array().cloned());
    let named = |rule: Value| {
        (
            rule["alert"].as_str().expect("it has a name").to_owned(),
            rule,
        )
    };
    rules.flatten().map(named).collect()
}

/// What an expression asks for: each series, and the labels that it is chosen by.
#[derive(Default)]
struct Asked(Vec<(String, Vec<String>)>);

impl ExprVisitor for Asked {
    type Error = ();

    fn pre_visit(&mut self, expr: &Expr) -> Result<bool, ()> {
        match expr {
            Expr::VectorSelector(selector) => self.note(selector),
            Expr::MatrixSelector(matrix) => self.note(&matrix.vs),
            _ => {}
        }
        Ok(true)
    }
}

impl Asked {
    fn of(expression: &str) -> Asked {
        let parsed = parser::parse(expression);
        let parsed = parsed.unwrap_or_else(|error| panic!("{expression}: {error}"));
        let mut asked = Asked::default();
        walk_expr(&mut asked, &parsed).expect("a walk ends");
        assert!(!asked.0.is_empty(), "{expression} asks for nothing");
        asked
    }

    fn note(&mut self, selector: &VectorSelector) {
        let name = selector.name.clone().expect("series are asked for by name");
        let matchers = selector.matchers.matchers.iter();
        self.0
            .push((name, matchers.map(|matcher| matcher.name.clone()).collect()));
    }
}

/// The row of docs/metrics.md on a series, or on the histogram that it is of.
fn row(name: &str) -> Option<&'static str> {
    let documentation = include_str!("../../docs/metrics.md");
    let of = |name: &str, kind: &str| {
        let start = format!("| `{name}` | {kind}");
        documentation.lines().find(|line| line.starts_with(&start))
    };
    let part = ["_bucket", "_sum", "_count"]
        .into_iter()
        .find_map(|end| name.strip_suffix(end));
    match part {
        Some(histogram) => of(histogram, "histogram"),
        None => of(name, "counter").or_else(|| of(name, "gauge")),
    }
}

/// Checks that all that is asked for is there.
#[track_caller]
fn check(expression: &str) -> Vec<String> {
    let asked = Asked::of(expression).0;
    for (name, labels) in &asked {
        // What Prometheus says of a scrape itself.
        if name == "up" {
            continue;
        }
        let row = row(name).unwrap_or_else(|| panic!("{expression}: there is no {name}"));
        for label in labels {
            let is_there =
                ["job", "instance"].contains(&&**label) || row.contains(&format!("`{label}`"));
            assert!(is_there, "{expression}: {name} has no label {label}");
        }
    }
    asked.into_iter().map(|(name, _)| name).collect()
}

#[test]
fn alerts_ask_for_what_there_is_and_have_a_place_in_the_runbook() {
    let runbook = file("docs/operations.md");
    let alerts = alerts();
    assert!(!alerts.is_empty());
    for (name, rule) in &alerts {
        check(rule["expr"].as_str().expect("an expression"));
        assert!(
            ["page", "ticket"].contains(&rule["labels"]["severity"].as_str().unwrap_or_default())
        );
        let place = format!("docs/operations.md#{}", name.to_lowercase());
        assert_eq!(rule["annotations"]["runbook"], place.as_str());
        assert!(
            runbook.contains(&format!("## {name}\n")),
            "docs/operations.md has nothing on {name}"
        );
        assert!(
            rule["annotations"]["summary"].is_string(),
            "{name} says nothing"
        );
    }
    let sections = runbook
        .lines()
        .filter_map(|line| line.strip_prefix("## Resonate"));
    for section in sections {
        let name = format!("Resonate{section}");
        // The node exporter's to raise: the server knows nothing of disks.
        if name == "ResonateDiskFull" {
            continue;
        }
        assert!(
            alerts.iter().any(|(alert, _)| *alert == name),
            "there is no alert {name}"
        );
    }
}

#[test]
fn the_dashboard_shows_every_series_and_asks_for_no_other() {
    let dashboard = file("deploy/grafana/resonate.json");
    let dashboard: Value = serde_json::from_str(&dashboard).expect("it is JSON");
    let panels = dashboard["panels"].as_array().expect("it has panels");
    let mut shown = BTreeSet::new();
    for target in panels
        .iter()
        .flat_map(|panel| panel["targets"].as_array())
        .flatten()
    {
        let expression = target["expr"].as_str().expect("an expression");
        // What Grafana fills in.
        let filled = expression
            .replace("$__rate_interval", "1m")
            .replace("$job", "resonate")
            .replace("$instance", ".*");
        shown.extend(check(&filled));
    }
    for name in documented() {
        let is_shown = shown.iter().any(|shown| shown.starts_with(name));
        // Of little use to look at.
        let is_plain = ["process_virtual_memory_bytes", "process_threads"].contains(&name);
        assert!(is_shown || is_plain, "the dashboard does not show {name}");
    }
}
