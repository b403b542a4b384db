//! The `resonate` binary: parse, load, log, run.

use std::process::ExitCode;

use resonate::cli::{self, Action, Invocation, Sources, parse_and_load};
use resonate::config::Config;
use resonate::serve;
use resonate::telemetry::logging::Log;
use tokio::signal::unix::{Signal, SignalKind, signal};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let invocation = match parse_and_load() {
        Ok(Action::Serve(invocation)) => invocation,
        Ok(Action::Run(job)) => return job.run(),
        Ok(Action::RunLocally(job)) => return job.run(),
        Ok(Action::Complete(shell)) => return cli::complete(shell),
        // Explained to the user already.
        Err(code) => return code,
    };
    match run(*invocation) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("Fatal: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(invocation: Invocation) -> anyhow::Result<()> {
    let config = &invocation.config;
    let log = Log::start(
        &config.level,
        invocation.rust_log.as_deref(),
        config.observability.log_format,
    )?;
    invocation.log_warnings();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let hangup = signal(SignalKind::hangup())?;
        tokio::spawn(change_level(log, invocation.sources(), hangup));
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
        let is_dev = invocation.is_dev;
        let greet = move |config: &Config, address| {
            if is_dev {
                cli::show_banner(config, address);
            }
        };
        serve::run(invocation.config, greet, stop).await
    })
}

/// Takes the log level from the configuration again whenever the process is told to.
async fn change_level(mut log: Log, sources: Sources, mut hangup: Signal) {
    while hangup.recv().await.is_some() {
        log.change(sources.level());
    }
}
