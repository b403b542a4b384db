//! `resonate invoke`: a promise that a worker executes as a function call (`cli.md` §5).

use std::process::ExitCode;

use clap::{ArgAction, Args};
use serde::Serialize;
use serde_json::json;
use serde_json::value::{RawValue, to_raw_value};

use super::session::{Failure, Flags, Request, Session};
use super::{duration, input, output, wait};
use crate::client::{self, clock};
use crate::protocol::record::{Millis, Promise, tag};

#[derive(Args)]
#[command(disable_version_flag = true)]
pub(super) struct Command {
    /// Id of the promise; one that exists already is not invoked again
    id: String,
    /// Name of the function
    #[arg(short, long, value_name = "NAME")]
    func: String,
    /// Argument, read as JSON if it is JSON, else as a string; repeatable
    #[arg(long, value_name = "VALUE", allow_negative_numbers = true)]
    arg: Vec<String>,
    /// All arguments, in place of --arg
    #[arg(long, value_name = "JSON_ARRAY")]
    json_args: Option<String>,
    /// Version of the function
    #[arg(
        long = "version",
        value_name = "N",
        default_value_t = 1,
        allow_negative_numbers = true
    )]
    number: i64,
    /// How long it may take, counted from the end of the delay
    #[arg(
        short,
        long,
        value_name = "DURATION",
        default_value = "1h",
        value_parser = duration::parse
    )]
    timeout: Millis,
    /// Who is to execute it
    #[arg(long, value_name = "ADDRESS", default_value = "poll://any@default")]
    target: String,
    /// How long to hold it back
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    delay: Option<Millis>,
    /// Wait until it is settled, and print its value as `promises await` does
    #[arg(short, long)]
    wait: bool,
    /// Print version
    #[arg(short = 'V', action = ArgAction::Version, display_order = 999)]
    print: (),
    #[command(flatten)]
    pub flags: Flags,
}

/// What `param.data` says, to SDKs of every language.
#[derive(Serialize)]
struct Call<'a> {
    func: &'a str,
    args: Vec<Box<RawValue>>,
    version: i64,
}

impl Command {
    pub(super) async fn run(self, session: &Session) -> Result<ExitCode, Failure> {
        let request = self.request(clock::now_ms())?;
        if !self.wait {
            return session.show(&request).await;
        }
        let data = session.client.call(request.kind, &request.data).await?;
        let promise: Promise = client::promise_of(&data)?;
        wait::show(session, promise).await
    }

    fn request(&self, now: Millis) -> Result<Request, Failure> {
        if self.number <= 0 {
            return Err(Failure::Input("version must be greater than 0".to_owned()));
        }
        let call = Call {
            func: &self.func,
            args: self.arguments()?,
            version: self.number,
        };
        let call = serde_json::to_string(&call).map_err(anyhow::Error::from)?;
        let mut tags = json!({
            tag::TARGET: self.target,
            tag::ORIGIN: self.id,
            tag::BRANCH: self.id,
            tag::PARENT: self.id,
            tag::SCOPE: "global",
        });
        let mut start_at = now;
        if let Some(delay) = self.delay {
            start_at = now.saturating_add(delay);
            tags[tag::DELAY] = start_at.to_string().into();
        }
        let data = json!({
            "id": self.id,
            "timeoutAt": start_at.saturating_add(self.timeout),
            "param": {"headers": {}, "data": input::base64(&call)},
            "tags": tags,
        });
        Ok(Request::new("promise.create", data))
    }

    /// As they were written, without blanks.
    fn arguments(&self) -> Result<Vec<Box<RawValue>>, Failure> {
        let Some(array) = &self.json_args else {
            return self.arg.iter().map(|text| argument(text)).collect();
        };
        let arguments: Vec<&RawValue> = serde_json::from_str(array)
            .map_err(|error| Failure::Input(format!("Failed to parse --json-args: {error}")))?;
        arguments.into_iter().map(compact).collect()
    }
}

fn argument(text: &str) -> Result<Box<RawValue>, Failure> {
    match serde_json::from_str(text) {
        Ok(json) => compact(json),
        Err(_) => Ok(to_raw_value(text).map_err(anyhow::Error::from)?),
    }
}

fn compact(json: &RawValue) -> Result<Box<RawValue>, Failure> {
    let text = output::compact(json);
    Ok(RawValue::from_string(text).map_err(anyhow::Error::from)?)
}
