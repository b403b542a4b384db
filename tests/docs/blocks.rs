//! The fenced blocks of the documentation.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

/// A block between two fences.
pub struct Block {
    /// Relative to the repository.
    pub file: String,
    /// Of the opening fence, from 1.
    pub line: usize,
    /// What stands behind the opening fence.
    pub language: String,
    pub text: String,
}

impl Block {
    /// Its first line, by which tables name it.
    pub fn first_line(&self) -> &str {
        self.text.lines().next().unwrap_or_default().trim()
    }
}

impl fmt::Display for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}:{} ({})\n{}",
            self.file, self.line, self.language, self.text
        )
    }
}

pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A file of the repository.
pub fn read(name: &str) -> String {
    fs::read_to_string(repository().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The files below a folder whose names end so, relative to the repository, in order. What is built or installed
/// there is left out.
pub fn files(folder: &str, endings: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    let mut open: Vec<PathBuf> = vec![repository().join(folder)];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(&folder).expect("the folder is readable") {
            let path = entry.expect("the entry is readable").path();
            let relative = path.strip_prefix(repository()).expect("it is below");
            let name = relative.to_string_lossy().into_owned();
            let last = name.rsplit('/').next().unwrap_or_default();
            if path.is_dir() {
                if !last.starts_with('.') && !["target", "node_modules"].contains(&last) {
                    open.push(path);
                }
            } else if endings.iter().any(|ending| last.ends_with(ending)) {
                found.push(name);
            }
        }
    }
    found.sort();
    found
}

/// Every page that users are to read.
pub fn pages() -> Vec<String> {
    let mut pages = vec!["README.md".to_owned(), "CHANGELOG.md".to_owned()];
    for folder in ["docs", "deploy"] {
        pages.extend(files(folder, &[".md"]));
    }
    pages
}

/// The blocks of a page, in order.
pub fn blocks(page: &str) -> Vec<Block> {
    let mut found: Vec<Block> = Vec::new();
    let mut is_open = false;
    for (n, line) in read(page).lines().enumerate() {
        match line.trim_start().strip_prefix("```") {
            Some(_) if is_open => is_open = false,
            Some(language) => {
                is_open = true;
                found.push(Block {
                    file: page.to_owned(),
                    line: n + 1,
                    language: language.trim().to_owned(),
                    text: String::new(),
                });
            }
            None if is_open => {
                let block = found.last_mut().expect("one is open");
                block.text += &format!("{line}\n");
            }
            None => {}
        }
    }
    assert!(!is_open, "{page}: the last block does not end");
    found
}
