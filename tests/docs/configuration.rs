//! `docs/configuration.md` is `resonate.toml` as a page to look things up in. `make docs` writes it anew; that
//! `resonate.toml` itself is complete and true is tested beside the code (`src/config/tests/reference.rs`).

use std::fs;

use resonate::config::Config;
use serde_json::Value;

use super::blocks::{read, repository};

const PAGE: &str = "docs/configuration.md";
const HEAD: &str = "\
# Configuration

Every setting, as [resonate.toml](../resonate.toml) explains it; `make docs` writes this page from that file, and a test compares
them. Settings come from built-in defaults, then `resonate.toml` in the server's working directory, then `RESONATE_*`
variables, then flags; later ones win. A bad value in any of them is refused at start; unknown keys and variables are logged and
ignored. `resonate dev` differs from `serve` in one setting: `storage.sqlite.path` is `:memory:`.
";

/// One setting, as it stands in the file.
struct Setting {
    key: String,
    default: String,
    /// `--flag, VARIABLE`.
    names: String,
    about: String,
}

fn settings() -> Vec<Setting> {
    let (mut found, mut section, mut comment) = (Vec::new(), String::new(), Vec::new());
    for line in read("resonate.toml").lines() {
        if let Some(text) = line.strip_prefix("# ") {
            comment.push(text.to_owned());
        } else if let Some(name) = line.strip_prefix('[') {
            section = format!("{}.", name.trim_end_matches(']'));
            comment.clear();
        } else if let Some((key, default)) =
            line.strip_prefix('#').and_then(|l| l.split_once(" = "))
        {
            let names = comment.pop().unwrap_or_default();
            found.push(Setting {
                key: format!("{section}{key}"),
                default: default.to_owned(),
                names,
                about: std::mem::take(&mut comment).join(" "),
            });
        } else {
            comment.clear();
        }
    }
    found
}

/// In a cell of a table nothing may end it.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('<', "&lt;")
}

fn page() -> String {
    let defaults = serde_json::to_value(Config::default()).expect("settings are data");
    let mut page = HEAD.to_owned();
    let mut open = String::new();
    for setting in settings() {
        let group = setting.key.rsplit_once('.').map_or("", |(group, _)| group);
        if open != group || page.len() == HEAD.len() {
            group.clone_into(&mut open);
            let title = if group.is_empty() { "Top level" } else { group };
            page +=
                &format!("\n## {title}\n\n| Key, flag, variable | Default | |\n|---|---|---|\n");
        }
        let (flag, variable) = setting
            .names
            .rsplit_once(", ")
            .expect("a flag and a variable");
        let (flag, note) = flag.split_once(' ').unwrap_or((flag, ""));
        let about = cell(&setting.about);
        // What the code has no default for can only be shown.
        let is_example = defaults.pointer(&format!("/{}", setting.key.replace('.', "/")));
        let is_example = is_example.is_none_or(Value::is_null);
        let default = match is_example {
            true => format!("none; such as `{}`", setting.default),
            false => format!("`{}`", setting.default),
        };
        let key = &setting.key;
        let note = if note.is_empty() {
            String::new()
        } else {
            format!(" {note}")
        };
        page += &format!("| `{key}`<br>`{flag}`{note}<br>`{variable}` | {default} | {about} |\n");
    }
    page
}

#[test]
fn the_page_is_what_the_file_says() {
    let page = page();
    if std::env::var_os(crate::cli::docs::REWRITE).is_some() {
        fs::write(repository().join(PAGE), page).expect("the page can be written");
        return;
    }
    let written = read(PAGE);
    let differs = written.lines().zip(page.lines()).find(|(a, b)| a != b);
    assert!(
        written == page,
        "{PAGE} is stale, `make docs` writes it: {differs:?}"
    );
}

#[test]
fn the_page_has_every_key() {
    let keys = settings().len();
    assert!(keys > 60, "{keys} keys");
    let toml = read("resonate.toml");
    let lines = toml.lines().filter(|line| {
        line.strip_prefix('#')
            .is_some_and(|key| key.starts_with(|c: char| c.is_ascii_lowercase()))
    });
    assert_eq!(lines.count(), keys);
}
