//! HAProxy before three nodes, configured by `tests/haproxy.cfg`.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, Stdio};

use super::process::Process;

/// Requests go to the first two nodes in turn, streams to the third. Dropping it kills the process.
pub struct Proxy {
    process: Process,
    addr: SocketAddr,
}

impl Proxy {
    /// Starts it on a socket that listens already: whoever connects too early waits a moment.
    pub fn start(listener: TcpListener, nodes: [SocketAddr; 3]) -> Proxy {
        let addr = listener.local_addr().expect("a listener has an address");
        let configuration = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/haproxy.cfg");
        let mut command = Command::new(program());
        command
            .arg("-db")
            .arg("-f")
            .arg(configuration)
            .env("BIND", "fd@0")
            .stdin(Stdio::from(OwnedFd::from(listener)))
            .stdout(Stdio::null());
        for (name, node) in ["NODE1", "NODE2", "NODE3"].iter().zip(nodes) {
            command.env(name, node.to_string());
        }
        let process = Process::start(&mut command, |_| {});
        Proxy { process, addr }
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// What HAProxy has to say.
    pub fn log(&self) -> String {
        self.process.log()
    }
}

fn program() -> String {
    if let Ok(named) = std::env::var("RESONATE_TEST_HAPROXY") {
        return named;
    }
    let path = std::env::var("PATH").unwrap_or_default();
    path.split(':')
        .chain(["/usr/sbin", "/usr/local/sbin"])
        .map(|folder| format!("{folder}/haproxy"))
        .find(|program| Path::new(program).is_file())
        .expect("three nodes need HAProxy before them: install it, or run `make test`")
}
