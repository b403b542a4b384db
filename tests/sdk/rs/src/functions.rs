//! The functions of the contract (`../../CONTRACT.md`), written with the SDK's public API.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use resonate_sdk::prelude::*;
use serde_json::Value as Json;

static LOG: OnceLock<PathBuf> = OnceLock::new();

/// Names the file that executions of the (log) functions are appended to.
pub fn log_to(path: PathBuf) {
    LOG.set(path).expect("the log is named once, at start");
}

/// Appends one line with one write, so that lines of concurrent workers never interleave.
fn log(function: &str, argument: impl std::fmt::Display) {
    let Some(path) = LOG.get() else { return };
    let mut file = OpenOptions::new()
        .append(true)
        .create(true)
        .open(path)
        .expect("the log can be opened");
    let line = format!("{function} {argument}\n");
    file.write_all(line.as_bytes())
        .expect("the log can be written");
}

#[resonate_sdk::function]
pub async fn hello(name: String) -> Result<String> {
    log("hello", &name);
    Ok(format!("hello {name}"))
}

#[resonate_sdk::function]
pub async fn fail(message: String) -> Result<()> {
    Err(Error::Application { message })
}

#[resonate_sdk::function]
pub async fn slow(tag: String, ms: u64) -> Result<String> {
    log("slow", &tag);
    tokio::time::sleep(Duration::from_millis(ms)).await;
    Ok(tag)
}

#[resonate_sdk::function]
pub async fn blob(n: usize) -> Result<String> {
    Ok("x".repeat(n))
}

#[resonate_sdk::function]
pub async fn square(n: i64) -> Result<i64> {
    Ok(n * n)
}

#[resonate_sdk::function]
pub async fn fanout(ctx: &Context, n: i64) -> Result<i64> {
    // Spawning all before awaiting any makes the children concurrent.
    let mut children = Vec::new();
    for i in 0..n {
        children.push(ctx.run(square, i).spawn()?);
    }
    let mut sum = 0;
    for child in children {
        sum += child.await?;
    }
    Ok(sum)
}

#[resonate_sdk::function]
pub async fn fanout_rpc(ctx: &Context, n: i64, group: String) -> Result<i64> {
    let mut children = Vec::new();
    for i in 0..n {
        children.push(ctx.rpc::<i64>("square", i).target(&group).spawn()?);
    }
    let mut sum = 0;
    for child in children {
        sum += child.await?;
    }
    Ok(sum)
}

#[resonate_sdk::function]
pub async fn recurse(ctx: &Context, d: i64) -> Result<i64> {
    if d <= 0 {
        return Ok(0);
    }
    Ok(1 + ctx.run(recurse, d - 1).await?)
}

#[resonate_sdk::function]
pub async fn recurse_rpc(ctx: &Context, d: i64) -> Result<i64> {
    if d <= 0 {
        return Ok(0);
    }
    // No target: a remote call goes to the caller's own group by default.
    Ok(1 + ctx.rpc::<i64>("recurse_rpc", d - 1).await?)
}

#[resonate_sdk::function]
pub async fn remote_hello(ctx: &Context, name: String, group: String) -> Result<String> {
    let answer: String = ctx.rpc("hello", name).target(&group).await?;
    Ok(format!("via {answer}"))
}

#[resonate_sdk::function]
pub async fn nap(ctx: &Context, ms: u64) -> Result<String> {
    ctx.sleep(Duration::from_millis(ms)).await?;
    Ok("rested".into())
}

#[resonate_sdk::function]
pub async fn tick(i: i64) -> Result<i64> {
    log("tick", i);
    Ok(i)
}

#[resonate_sdk::function]
pub async fn countdown(ctx: &Context, n: i64, ms: u64) -> Result<String> {
    log("countdown", n);
    for i in 0..n {
        ctx.run(tick, i).await?;
        ctx.sleep(Duration::from_millis(ms)).await?;
    }
    Ok("done".into())
}

// The SDK chooses the id of the promise; `_promise_id` is only part of the contract's signature.
#[resonate_sdk::function]
pub async fn ask(ctx: &Context, _promise_id: String) -> Result<Json> {
    ctx.promise::<Json>().await
}

#[resonate_sdk::function]
pub async fn child_id(_id: String) -> Result<String> {
    Err(Error::Application {
        message:
            "unsupported: no call of Context takes an id, the SDK derives it from the parent's"
                .into(),
    })
}

#[resonate_sdk::function]
pub async fn echo(value: Json) -> Result<Json> {
    Ok(value)
}

#[resonate_sdk::function]
pub async fn steps(ctx: &Context, n: i64, ms: u64) -> Result<i64> {
    for i in 0..n {
        ctx.run(slow, (format!("s{i}"), ms)).await?;
    }
    Ok(n)
}

/// Calls `$use!(function)` for every function of the contract.
///
/// Each function has a type of its own, so they cannot be kept in a list.
#[macro_export]
macro_rules! for_each_function {
    ($use:ident) => {
        $use!(
            hello,
            fail,
            slow,
            blob,
            square,
            fanout,
            fanout_rpc,
            recurse,
            recurse_rpc,
            remote_hello,
            nap,
            tick,
            countdown,
            ask,
            child_id,
            echo,
            steps
        )
    };
}

/// Registers every function.
pub fn register_all(resonate: &Resonate) -> Result<()> {
    macro_rules! register {
        ($($function:ident),*) => { $( resonate.register($function)?; )* };
    }
    for_each_function!(register);
    Ok(())
}
