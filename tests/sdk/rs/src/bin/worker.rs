//! The `worker` program of the contract (`../../CONTRACT.md`).

use sdk_conformance_rs::session::{self, Arguments};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let resonate = Arguments::parse()?.connect()?;
    session::listening(&resonate).await?;
    println!("ready");
    // Until killed: the scenarios want a worker that dies without a goodbye, so there is no signal handler.
    std::future::pending().await
}
