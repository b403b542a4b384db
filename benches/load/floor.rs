//! A server that only says hello, and sends back what it is sent: what the HTTP library costs on this machine, and so the
//! most that can be asked of any server that is made with it.

use axum::Router;
use axum::body::Bytes;
use axum::routing::get;
use axum::serve::ListenerExt;
use tokio::net::TcpListener;

/// Serves until it is ended; prints where.
#[allow(clippy::print_stdout, reason = "whoever starts it looks for the port")]
pub async fn serve() -> anyhow::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("listening addr={}", listener.local_addr()?);
    let echo = |body: Bytes| async { body };
    let router = Router::new().route("/", get(|| async { "hello" }).post(echo));
    let listener = listener.tap_io(|socket| {
        // A connection that is gone already answers nothing anyway.
        let _ = socket.set_nodelay(true);
    });
    axum::serve(listener, router).await?;
    Ok(())
}
