//! What a script is: from its address and the data of its param to a command line, or to the reason why
//! there is none.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::percent_decode_str;
use serde_json::value::RawValue;
use tokio::process::Command;

use super::environment::Environment;
use crate::protocol::address::Bash;

const BAD_SCRIPT: &str = "param.data is missing or not valid base64/utf-8";
const BAD_ARGUMENTS: &str = "param.data must be a JSON array for named scripts";
const NO_ROOT: &str = "bash:///path address requires bash_exec.root_dir in config";

/// Exit codes by which `docker run` tells that the container was killed: by SIGKILL, by SIGTERM.
const DOCKER_KILLED: [i32; 2] = [137, 143];

/// Where named scripts are, and what scripts know of the server.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `transports.bash_exec.root_dir`.
    pub root: Option<PathBuf>,
    /// `transports.bash_exec.working_dir`.
    pub working_dir: WorkingDir,
    /// What scripts inherit: see [`super::environment::inherited`].
    pub environment: Environment,
}

/// Where named scripts run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WorkingDir {
    /// In the root: `<root>`.
    Root,
    /// Where the script is: `<script>`.
    Script,
    /// In a directory of the operator's choice.
    Path(PathBuf),
}

impl WorkingDir {
    /// Reads the setting.
    pub fn of(text: &str) -> WorkingDir {
        match text {
            "<root>" => WorkingDir::Root,
            "<script>" => WorkingDir::Script,
            path => WorkingDir::Path(path.into()),
        }
    }
}

/// What a script is asked to do.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// What kind of script.
    pub bash: &'a Bash,
    /// The data of the param.
    pub data: Option<&'a str>,
    /// What the script is told of its purpose.
    pub variables: &'a [(&'static str, String)],
}

/// A program ready to start.
#[derive(Debug)]
pub struct Script {
    program: &'static str,
    arguments: Vec<OsString>,
    environment: Environment,
    /// The server's own, if none.
    directory: Option<PathBuf>,
    /// Its name, if it is a container: whoever stops the script removes it.
    container: Option<String>,
}

impl Script {
    /// Looks at the disk: blocks for a moment.
    ///
    /// # Errors
    /// Why there is nothing to run, in the words that the specification gives.
    pub fn prepare(settings: &Settings, request: &Request<'_>) -> Result<Script, String> {
        let (arguments, directory, container) = match request.bash {
            Bash::Inline => (vec!["-c".into(), inline(request.data)?], None, None),
            Bash::Named { path } => {
                let (script, directory) = named(settings, path)?;
                let mut command_line = vec![script.into_os_string()];
                command_line.extend(arguments(request.data)?);
                (command_line, Some(directory), None)
            }
            Bash::Docker { image } => {
                let name = format!("resonate-{:032x}", fastrand::u128(..));
                let arguments = docker(image, &name, request)?;
                (arguments, None, Some(name))
            }
        };
        let mut environment = settings.environment.clone();
        let variables = request.variables.iter();
        environment.extend(variables.map(|(name, value)| (name.into(), value.into())));
        Ok(Script {
            program: if container.is_some() {
                "docker"
            } else {
                "bash"
            },
            arguments,
            environment,
            directory,
            container,
        })
    }

    /// What starts it.
    pub fn command(&self) -> Command {
        let mut command = self.bare_command();
        command.args(&self.arguments);
        if let Some(directory) = &self.directory {
            command.current_dir(directory);
        }
        command
    }

    /// What ends it, if ending the program that was started does not: a container outlives the client
    /// that started it.
    pub fn remover(&self) -> Option<Command> {
        let container = self.container.as_ref()?;
        let mut command = self.bare_command();
        command.args(["rm", "--force", container]);
        Some(command)
    }

    /// The reason, if it cannot be started.
    pub fn not_started(&self, error: &io::Error) -> String {
        let program = self.program;
        // The kernel says the same of both.
        match &self.directory {
            Some(directory) if !directory.is_dir() => format!(
                "failed to spawn {program}: no working directory {}",
                directory.display()
            ),
            _ => format!("failed to spawn {program}: {error}"),
        }
    }

    /// Whether it was killed, and did not end by itself.
    pub fn is_killed(&self, code: Option<i32>) -> bool {
        let is_container = self.container.is_some();
        code.is_none_or(|code| is_container && DOCKER_KILLED.contains(&code))
    }

    fn bare_command(&self) -> Command {
        let mut command = Command::new(self.program);
        let environment = self.environment.iter().map(|(name, value)| (name, value));
        command.env_clear().envs(environment);
        command
    }
}

/// The script of a param.
fn inline(data: Option<&str>) -> Result<OsString, String> {
    let script = data.filter(|data| !data.is_empty()).and_then(decode);
    script.map(OsString::from).ok_or(BAD_SCRIPT.to_owned())
}

/// Base64, perhaps broken into lines as the program of that name does.
fn decode(data: &str) -> Option<String> {
    let data: String = data.chars().filter(|c| !matches!(c, '\r' | '\n')).collect();
    String::from_utf8(STANDARD.decode(data).ok()?).ok()
}

/// The file of a named script, and where it runs.
fn named(settings: &Settings, path: &str) -> Result<(PathBuf, PathBuf), String> {
    let root = settings.root.as_ref().ok_or(NO_ROOT)?;
    let escapes = || format!("script path escapes root_dir: {path}");
    let is_missing = || format!("script not found: {path}");
    let relative: Vec<u8> = percent_decode_str(path).collect();
    if relative.split(|byte| *byte == b'/').any(is_suspect) {
        return Err(escapes());
    }
    // The script runs elsewhere.
    let root = std::path::absolute(root).map_err(|_| is_missing())?;
    let script = root.join(OsString::from_vec(relative));
    // A link that leads nowhere is as good as none.
    let canonical = script.canonicalize().map_err(|_| is_missing())?;
    let canonical_root = root.canonicalize().map_err(|_| is_missing())?;
    if !canonical.starts_with(canonical_root) || !canonical.is_file() {
        return Err(escapes());
    }
    let directory = match &settings.working_dir {
        WorkingDir::Root => root,
        WorkingDir::Script => script.parent().map_or(root, Path::to_path_buf),
        WorkingDir::Path(path) => path.clone(),
    };
    Ok((script, directory))
}

fn is_suspect(component: &[u8]) -> bool {
    matches!(component, b"" | b"." | b"..")
        || component.iter().any(|byte| matches!(byte, 0 | b'\\'))
}

/// The arguments of a named script: strings as they are, anything else as its JSON text.
fn arguments(data: Option<&str>) -> Result<Vec<OsString>, String> {
    let Some(data) = data.filter(|data| !data.is_empty()) else {
        return Ok(Vec::new());
    };
    let bad = || BAD_ARGUMENTS.to_owned();
    // What starts like this is not base64.
    let text = match data.trim_start().starts_with('[') {
        true => data.to_owned(),
        false => decode(data).ok_or_else(bad)?,
    };
    let elements: Vec<Box<RawValue>> = serde_json::from_str(&text).map_err(|_| bad())?;
    let texts = elements.iter().map(|element| element.get());
    let arguments =
        texts.map(|text| serde_json::from_str::<String>(text).unwrap_or_else(|_| text.to_owned()));
    Ok(arguments.map(OsString::from).collect())
}

fn docker(image: &str, name: &str, request: &Request<'_>) -> Result<Vec<OsString>, String> {
    // No image is called so; docker would take it for one of its options.
    if image.starts_with('-') {
        return Err(format!("failed to spawn docker: not an image: {image}"));
    }
    let script = inline(request.data)?;
    let mut arguments: Vec<OsString> = ["run", "--rm", "--name", name].map(Into::into).to_vec();
    for (name, value) in request.variables {
        arguments.extend(["-e".into(), format!("{name}={value}").into()]);
    }
    arguments.extend(["--entrypoint", "bash", image, "-c"].map(Into::into));
    arguments.push(script);
    Ok(arguments)
}
