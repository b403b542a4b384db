//! Layers as a user gives them: a file, an environment, flags, and what is made of them.

use std::path::Path;

use super::*;

mod auth;
mod errors;
mod layers;
mod postgres;
mod push_auth;
mod push_targets;
pub(crate) mod reference;
mod unknown;

/// The layers of a test: a file's text, variables, and flags by key.
#[derive(Default)]
struct Given {
    file: Option<String>,
    environment: Environment,
    flags: Vec<Flag>,
    is_dev: bool,
}

fn given() -> Given {
    Given::default()
}

impl Given {
    fn file(mut self, text: &str) -> Self {
        self.file = Some(text.to_owned());
        self
    }

    fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.insert(name.to_owned(), value.to_owned());
        self
    }

    fn flag(mut self, key: &'static str, value: impl Into<figment::value::Value>) -> Self {
        self.flags.push(Flag::new(key, value));
        self
    }

    fn dev(mut self) -> Self {
        self.is_dev = true;
        self
    }

    fn load(self) -> Result<Loaded, Error> {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join(FILE);
        if let Some(text) = &self.file {
            std::fs::write(&file, text).unwrap();
        }
        self.load_with(&file)
    }

    fn load_with(self, file: &Path) -> Result<Loaded, Error> {
        let Given {
            environment,
            flags,
            is_dev,
            ..
        } = &self;
        load(&Layers {
            file,
            environment,
            flags,
            is_dev: *is_dev,
        })
    }

    fn config(self) -> Config {
        let loaded = self.load().unwrap();
        assert_eq!(loaded.warnings, Vec::<String>::new());
        loaded.config
    }

    fn warnings(self) -> Vec<String> {
        self.load().unwrap().warnings
    }

    /// What the user reads after `Fatal: Configuration error: `.
    fn error(self) -> String {
        let error = self.load().unwrap_err().to_string();
        error
            .strip_prefix("Configuration error: ")
            .unwrap()
            .to_owned()
    }
}
