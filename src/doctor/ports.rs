//! Whether the ports are free, and if not, who is there.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use serde_json::Value;
use tokio::net::{TcpSocket, lookup_host};

use super::Check;
use crate::config::Config;

/// How long whoever is there may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// What answers at a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Surface {
    Api,
    Metrics,
}

/// Looks at the port of the API, and at that of metrics if it is on.
pub(super) async fn checks(config: &Config) -> Vec<Check> {
    let server = &config.server;
    let scheme = match server.tls.cert {
        Some(_) => "https",
        None => "http",
    };
    let mut checks = vec![look("port", &server.bind, server.port, Surface::Api, scheme).await];
    let metrics = &config.observability;
    if metrics.metrics_port != 0 {
        let host = metrics.metrics_bind.as_ref().unwrap_or(&server.bind);
        let port = metrics.metrics_port;
        checks.push(look("metrics port", host, port, Surface::Metrics, "http").await);
    }
    checks
}

async fn look(name: &'static str, host: &str, port: u16, surface: Surface, scheme: &str) -> Check {
    let place = format!("{host}:{port}");
    let addresses = match lookup_host((host.trim_matches(['[', ']']), port)).await {
        Ok(addresses) => addresses.collect::<Vec<_>>(),
        Err(error) => {
            let found = format!("{host} is no address: {error}");
            return Check::fail(name, found, "the name or address of this machine");
        }
    };
    let Some(address) = addresses.first().copied() else {
        let found = format!("{host} has no address");
        return Check::fail(name, found, "the name or address of this machine");
    };
    if port == 0 {
        return Check::ok(name, "0: the system chooses a free one");
    }
    // A server takes the first that it can have.
    let mut refusals = addresses.iter().map(|address| bind(*address));
    let Err(error) = refusals
        .find(Result::is_ok)
        .unwrap_or_else(|| bind(address))
    else {
        return Check::ok(name, format!("{place} is free"));
    };
    match error.kind() {
        io::ErrorKind::AddrInUse if is_resonate(address, surface, scheme).await => {
            Check::ok(name, format!("a resonate server answers at {place}"))
        }
        io::ErrorKind::AddrInUse => Check::fail(
            name,
            format!("another program listens on {place}"),
            "stop it, or take another port",
        ),
        _ => Check::fail(
            name,
            format!("{place} cannot be listened on: {error}"),
            "an address of this machine, and a port of 1024 or more unless it may take others",
        ),
    }
}

/// Takes the port, without listening, and gives it back.
fn bind(address: SocketAddr) -> io::Result<()> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    socket.set_reuseaddr(true)?;
    socket.bind(address)
}

/// Whether who is there speaks as a resonate server does.
async fn is_resonate(address: SocketAddr, surface: Surface, scheme: &str) -> bool {
    let mut reachable = address;
    if address.ip().is_unspecified() {
        reachable.set_ip(match address.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    asked(&format!("{scheme}://{reachable}"), surface)
        .await
        .unwrap_or(false)
}

async fn asked(root: &str, surface: Surface) -> reqwest::Result<bool> {
    // An error only says that there is one already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::builder()
        .timeout(PATIENCE)
        .no_proxy()
        // Its certificate is for another name than this address, and nothing is told it.
        .tls_danger_accept_invalid_certs(true)
        .build()?;
    match surface {
        Surface::Api => {
            // No request at all: it is refused in an envelope, whoever asks.
            let answer = client.post(root).body("{}").send().await?;
            let answer: Value = serde_json::from_slice(&answer.bytes().await?).unwrap_or_default();
            Ok(answer["head"]["version"].is_string() && answer["kind"].is_string())
        }
        Surface::Metrics => {
            let answer = client.get(format!("{root}/metrics")).send().await?;
            Ok(answer.text().await?.contains("resonate_"))
        }
    }
}
