//! What every client command shares: which server, as whom, and how the answer is printed.

use std::io::{self, IsTerminal};
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use serde_json::Value;
use serde_json::value::RawValue;

use super::output;
use crate::client::{self, Client, Token};
use crate::config::Environment;
use crate::protocol::trace::Trace;

pub(super) const DEFAULT_SERVER: &str = "http://localhost:8001";
const SERVER_VARIABLE: &str = "RESONATE_URL";
const TOKEN_VARIABLE: &str = "RESONATE_TOKEN";
/// As tools that trace have it for what they start.
const TRACE_VARIABLES: [&str; 2] = ["TRACEPARENT", "TRACESTATE"];

const HEADING: &str = "Server and output";

/// Where these flags may stand: before the command, between command and subcommand, after it.
#[derive(Args, Clone, Debug, Default)]
pub(super) struct Flags {
    /// Server to speak to; for https, SSL_CERT_FILE may name a file of certificates to trust in place of
    /// the system's [default: http://localhost:8001] [env: RESONATE_URL]
    #[arg(short = 'S', long, value_name = "URL", global = true, help_heading = HEADING)]
    pub server: Option<String>,
    /// Token that says who asks; others on this machine can read it in the list of processes, unlike
    /// one in the environment [env: RESONATE_TOKEN]
    #[arg(short = 'T', long, value_name = "JWT", global = true, help_heading = HEADING)]
    pub token: Option<String>,
    /// How to print the answer [default: text on a terminal, else json]
    #[arg(short, long, value_name = "FORMAT", global = true, help_heading = HEADING)]
    pub output: Option<Format>,
}

/// How an answer is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// For people: tables, and records with decoded values
    Text,
    /// What the server answered, values as they are stored
    Json,
}

impl Flags {
    /// These, and those of `outer` that are missing.
    pub(super) fn or(self, outer: Flags) -> Flags {
        Flags {
            server: self.server.or(outer.server),
            token: self.token.or(outer.token),
            output: self.output.or(outer.output),
        }
    }

    /// The name of one that was given.
    pub(super) fn given(&self) -> Option<&'static str> {
        let names = [
            (self.server.is_some(), "--server"),
            (self.token.is_some(), "--token"),
            (self.output.is_some(), "--output"),
        ];
        names.into_iter().find_map(|(is, name)| is.then_some(name))
    }
}

/// What the flags and the environment say.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Settings {
    server: String,
    token: Option<Token>,
    trace: Option<Trace>,
    format: Option<Format>,
    /// Given by flag, so that other commands need the flag too.
    is_server_flag: bool,
}

impl Settings {
    /// Flags come before variables; an empty variable is none.
    pub(super) fn new(flags: Flags, environment: &Environment) -> Settings {
        let variable = |name| environment.get(name).filter(|value| !value.is_empty());
        let server = flags.server.as_ref().or_else(|| variable(SERVER_VARIABLE));
        let token = flags.token.or_else(|| variable(TOKEN_VARIABLE).cloned());
        let [parent, state] = TRACE_VARIABLES.map(|name| variable(name).map(String::as_str));
        Settings {
            server: server.map_or(DEFAULT_SERVER, String::as_str).to_owned(),
            token: token.and_then(Token::new),
            trace: parent.and_then(|parent| Trace::read(parent, state)),
            format: flags.output,
            is_server_flag: flags.server.is_some(),
        }
    }
}

/// Why a command did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error(transparent)]
    Client(#[from] client::Error),
    /// A flag holds what cannot be sent.
    #[error("{0}")]
    Input(String),
    #[error("cannot write the output: {0}")]
    Output(io::Error),
    #[error("{0:#}")]
    Internal(#[from] anyhow::Error),
}

/// A server, and whom the answers are for.
pub(super) struct Session {
    pub client: Client,
    /// As it was asked for.
    pub format: Option<Format>,
    server_flag: Option<String>,
}

impl Session {
    pub(super) fn new(settings: Settings) -> Result<Session, Failure> {
        Ok(Session {
            client: Client::new(&settings.server, settings.token, settings.trace.as_ref())?,
            format: settings.format,
            server_flag: settings.is_server_flag.then_some(settings.server),
        })
    }

    /// Whether answers are made readable rather than handed on.
    pub(super) fn is_text(&self) -> bool {
        match self.format {
            Some(format) => format == Format::Text,
            None => io::stdout().is_terminal(),
        }
    }

    /// Sends a request and prints what is answered.
    pub(super) async fn show(&self, request: &Request) -> Result<ExitCode, Failure> {
        self.print(&self.client.call(request.kind, &request.data).await?)
    }

    /// Prints what was answered.
    pub(super) fn print(&self, data: &RawValue) -> Result<ExitCode, Failure> {
        let text = self.is_text().then(|| output::readable(data)).flatten();
        output::print(&text.unwrap_or_else(|| output::pretty(data)))?;
        Ok(ExitCode::SUCCESS)
    }

    /// A command line of this program that speaks to the same server. The token is left out: it would
    /// end up in a log.
    pub(super) fn command_line(&self, arguments: &[&str]) -> String {
        let mut line = "resonate".to_owned();
        let server = self.server_flag.as_deref();
        let server = server.map_or_else(Vec::new, |server| vec!["-S", server]);
        for argument in server.iter().chain(arguments) {
            line.push(' ');
            // Only NUL cannot be quoted, and no argument has one.
            line.push_str(&shlex::try_quote(argument).unwrap_or_default());
        }
        line
    }
}

/// One request that a command stands for.
#[derive(Debug)]
pub(super) struct Request {
    pub kind: &'static str,
    /// Without the members that were not given.
    pub data: Value,
}

impl Request {
    /// Leaves out what is null in `data`: absent means absent.
    pub(super) fn new(kind: &'static str, mut data: Value) -> Request {
        if let Value::Object(members) = &mut data {
            members.retain(|_, value| !value.is_null());
        }
        Request { kind, data }
    }
}
