//! The `resonate` binary: parse, load, log, run.

use std::process::ExitCode;

use resonate::cli::{Invocation, parse_and_load};
use resonate::{serve, telemetry};
use tokio::signal::unix::{SignalKind, signal};

fn main() -> ExitCode {
    let invocation = match parse_and_load() {
        Ok(invocation) => invocation,
        // Explained to the user already.
        Err(code) => return code,
    };
    match run(invocation) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("Fatal: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(invocation: Invocation) -> anyhow::Result<()> {
    telemetry::logging::init(&invocation.config.level, invocation.rust_log.as_deref())?;
    invocation.log_warnings();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let stop = async move {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            // A second signal means now.
            tokio::spawn(async move {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
                std::process::exit(130);
            });
        };
        serve::run(invocation.config, stop).await
    })
}
