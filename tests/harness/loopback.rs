//! Servers of the tests' own, each on a thread that ends with the process.

use std::net::SocketAddr;
use std::sync::mpsc;
use std::thread;

use axum::Router;
use tokio::net::TcpListener;

use super::http::DEADLINE;

/// Serves HTTP: where.
pub fn serve(router: Router) -> SocketAddr {
    listen(async |listener| axum::serve(listener, router).await.expect("it never ends"))
}

/// Listens, and hands the listener on: where.
pub fn listen<S>(serve: S) -> SocketAddr
where
    S: AsyncFnOnce(TcpListener) + Send + 'static,
{
    let (found, address) = mpsc::channel();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime starts");
        runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await;
            let listener = listener.expect("a port is free");
            let addr = listener.local_addr().expect("it has an address");
            // The test waits for it.
            let _ = found.send(addr);
            serve(listener).await;
        });
    });
    address.recv_timeout(DEADLINE).expect("the server starts")
}
