//! The `client` program of the contract (`../../CONTRACT.md`): runs one command, prints one JSON line.

use std::time::{Duration, Instant};

use futures::stream::{self, StreamExt, TryStreamExt};
use resonate_sdk::codec::encode_error;
use resonate_sdk::prelude::*;
use resonate_sdk::types::Value;
use sdk_conformance_rs::for_each_function;
use sdk_conformance_rs::functions::*;
use sdk_conformance_rs::session::Arguments;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value as Json, json};

const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// One command, as the contract writes it; each kind uses some of the fields.
#[derive(Clone, Default, serde::Deserialize)]
#[serde(default)]
struct Command {
    cmd: String,
    id: String,
    func: String,
    args: Vec<Json>,
    group: String,
    timeout_ms: Option<u64>,
    value: Json,
    cron: String,
    prefix: String,
    count: usize,
    concurrency: usize,
}

impl Command {
    /// The SDK encodes one argument as itself and several as a tuple.
    fn arguments(&self) -> Json {
        match self.args.as_slice() {
            [one] => one.clone(),
            several => Json::Array(several.to_vec()),
        }
    }

    fn timeout(&self) -> Option<Duration> {
        self.timeout_ms.map(Duration::from_millis)
    }
}

fn answer_timed(started: Instant, value: Json) -> Json {
    json!({ "ok": value, "latency_ms": started.elapsed().as_secs_f64() * 1000.0 })
}

async fn begin_remote(resonate: &Resonate, command: &Command) -> Result<ResonateHandle<Json>> {
    let mut call = resonate
        .rpc(&command.id, &command.func, command.arguments())
        .target(&command.group);
    if let Some(timeout) = command.timeout() {
        call = call.timeout(timeout);
    }
    call.spawn().await
}

async fn rpc(resonate: &Resonate, command: &Command) -> Result<Json> {
    let started = Instant::now();
    let value = begin_remote(resonate, command).await?.result().await?;
    Ok(answer_timed(started, value))
}

async fn begin(resonate: &Resonate, command: &Command) -> Result<Json> {
    Ok(json!({ "ok": begin_remote(resonate, command).await?.id }))
}

/// Runs a function by its name: the SDK wants its type.
async fn run(resonate: &Resonate, command: &Command) -> Result<Json> {
    macro_rules! dispatch {
        ($($function:ident),*) => {
            match command.func.as_str() {
                $( stringify!($function) => run_function(resonate, command, $function).await, )*
                unknown => Err(Error::FunctionNotFound(unknown.into())),
            }
        };
    }
    for_each_function!(dispatch)
}

async fn run_function<D, Args, T>(
    resonate: &Resonate,
    command: &Command,
    function: D,
) -> Result<Json>
where
    D: Durable<Args, T>,
    Args: Serialize + DeserializeOwned,
    T: Serialize + DeserializeOwned,
{
    let args: Args = serde_json::from_value(command.arguments())?;
    let started = Instant::now();
    let mut call = resonate.run(&command.id, function, args);
    if let Some(timeout) = command.timeout() {
        call = call.timeout(timeout);
    }
    let value = call.spawn().await?.result().await?;
    Ok(answer_timed(started, serde_json::to_value(value)?))
}

async fn get(resonate: &Resonate, command: &Command) -> Result<Json> {
    let started = Instant::now();
    let value = resonate.get(&command.id).await?.result().await?;
    Ok(answer_timed(started, value))
}

async fn resolve(resonate: &Resonate, command: &Command) -> Result<Json> {
    let value = Value::from_serializable(&command.value)?;
    Ok(json!({ "ok": resonate.promises.resolve(&command.id, value).await?.id }))
}

async fn reject(resonate: &Resonate, command: &Command) -> Result<Json> {
    // Encoded as the error that the awaiting workflow then sees, with this very message.
    let message = match &command.value {
        Json::String(text) => text.clone(),
        other => other.to_string(),
    };
    let value = Value::from_serializable(encode_error(&Error::Application { message }))?;
    Ok(json!({ "ok": resonate.promises.reject(&command.id, value).await?.id }))
}

async fn schedule(resonate: &Resonate, command: &Command) -> Result<Json> {
    let mut schedule = resonate
        .schedule(
            &command.id,
            &command.cron,
            &command.func,
            command.arguments(),
        )
        .target(&command.group);
    if let Some(timeout) = command.timeout() {
        schedule = schedule.timeout(timeout);
    }
    schedule.await?;
    Ok(json!({ "ok": command.id }))
}

async fn many(resonate: &Resonate, command: &Command) -> Result<Json> {
    let call = |index: usize| {
        let argument = if command.func == "hello" {
            json!(index.to_string())
        } else {
            json!(index)
        };
        let id = format!("{}{index}", command.prefix);
        let call = Command {
            id,
            args: vec![argument],
            ..command.clone()
        };
        async move { begin_remote(resonate, &call).await?.result().await }
    };
    let started = Instant::now();
    let results: Vec<Json> = stream::iter((0..command.count).map(call))
        .buffered(command.concurrency)
        .try_collect()
        .await?;
    Ok(answer_timed(started, Json::Array(results)))
}

async fn execute(resonate: &Resonate, command: &Command) -> Result<Json> {
    match command.cmd.as_str() {
        "rpc" => rpc(resonate, command).await,
        "begin" => begin(resonate, command).await,
        "run" => run(resonate, command).await,
        "get" => get(resonate, command).await,
        "resolve" => resolve(resonate, command).await,
        "reject" => reject(resonate, command).await,
        "schedule" => schedule(resonate, command).await,
        "many" => many(resonate, command).await,
        unknown => Err(Error::DecodingError(format!("unknown command {unknown}"))),
    }
}

async fn answer(arguments: &Arguments, command: &Command) -> Result<Json> {
    let resonate = arguments.connect()?;
    let answer = execute(&resonate, command)
        .await
        .unwrap_or_else(|error| json!({ "error": error.to_string() }));
    // Within bounds: the command is done, and the server may be away by now.
    let _ = tokio::time::timeout(STOP_TIMEOUT, resonate.stop()).await;
    Ok(answer)
}

#[tokio::main]
async fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let arguments = Arguments::parse()?;
    let command: Command = match arguments.rest.as_slice() {
        [stdin] if stdin == "-" => serde_json::from_reader(std::io::stdin().lock())?,
        [command] => serde_json::from_str(command)?,
        _ => return Err("expected one command: a JSON object, or - for standard input".into()),
    };
    println!("{}", answer(&arguments, &command).await?);
    Ok(())
}
