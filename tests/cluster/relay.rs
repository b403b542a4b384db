//! A wire between a server and its database, to be cut at the worst moment: after the database has heard what it is to
//! do, and before the server hears that it is done.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use crate::harness::database::Database;
use crate::harness::server::lock;

/// See the module documentation.
pub struct Relay {
    addr: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    database: SocketAddr,
    wires: Mutex<Vec<Arc<Wire>>>,
    swallowed: AtomicUsize,
    is_blocked: AtomicBool,
    refused: AtomicUsize,
}

/// One connection.
struct Wire {
    ends: [TcpStream; 2],
    is_mute: AtomicBool,
}

impl Relay {
    /// Listens for connections to a database. It does so until the test ends.
    pub fn to(database: &Database) -> Relay {
        let url = url::Url::parse(&database.url()).expect("a URL");
        let addresses = url.socket_addrs(|| None).expect("an address");
        Relay::start(addresses[0])
    }

    fn start(database: SocketAddr) -> Relay {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let addr = listener.local_addr().expect("it has an address");
        let shared = Arc::new(Shared {
            database,
            wires: Mutex::default(),
            swallowed: AtomicUsize::new(0),
            is_blocked: AtomicBool::new(false),
            refused: AtomicUsize::new(0),
        });
        let accepting = Arc::clone(&shared);
        thread::spawn(move || {
            for server in listener.incoming().map_while(Result::ok) {
                // Without a database the server finds its connection closed.
                let _ = accepting.connect(server);
            }
        });
        Relay { addr, shared }
    }

    /// The URL of a database, by way of this.
    pub fn url(&self, database: &str) -> String {
        let mut url = url::Url::parse(database).expect("a URL");
        let port = self.addr.port();
        url.set_port(Some(port)).expect("a URL with a host");
        url.into()
    }

    /// Keeps what the database says from the servers for a moment, then breaks all connections.
    pub fn cut(&self, moment: Duration) {
        let wires = std::mem::take(&mut *lock(&self.shared.wires));
        for wire in &wires {
            wire.is_mute.store(true, Ordering::SeqCst);
        }
        thread::sleep(moment);
        for wire in &wires {
            wire.close();
        }
    }

    /// Breaks all connections, and lets nobody through from now on.
    pub fn block(&self) {
        let mut wires = lock(&self.shared.wires);
        self.shared.is_blocked.store(true, Ordering::SeqCst);
        wires.drain(..).for_each(|wire| wire.close());
    }

    /// Lets everybody through again.
    pub fn unblock(&self) {
        self.shared.is_blocked.store(false, Ordering::SeqCst);
    }

    /// How many connections were not let through.
    pub fn refused(&self) -> usize {
        self.shared.refused.load(Ordering::SeqCst)
    }

    /// How many answers of the database were lost.
    pub fn swallowed(&self) -> usize {
        self.shared.swallowed.load(Ordering::SeqCst)
    }
}

impl Shared {
    fn connect(self: &Arc<Self>, server: TcpStream) -> std::io::Result<()> {
        // Held until the new wire is among them, for who blocks to find it.
        let mut wires = lock(&self.wires);
        if self.is_blocked.load(Ordering::SeqCst) {
            self.refused.fetch_add(1, Ordering::SeqCst);
            return Ok(());
        }
        let database = TcpStream::connect(self.database)?;
        for end in [&server, &database] {
            end.set_nodelay(true)?;
        }
        let [mut asked, mut answers] = [server.try_clone()?, database.try_clone()?];
        let [mut to_database, mut to_server] = [database.try_clone()?, server.try_clone()?];
        let wire = Arc::new(Wire {
            ends: [server, database],
            is_mute: AtomicBool::new(false),
        });
        wires.push(Arc::clone(&wire));
        drop(wires);
        let asking = Arc::clone(&wire);
        thread::spawn(move || {
            // Either way it is over.
            let _ = std::io::copy(&mut asked, &mut to_database);
            asking.close();
        });
        let shared = Arc::clone(self);
        thread::spawn(move || {
            let mut buffer = [0; 64 * 1024];
            while let Ok(length @ 1..) = answers.read(&mut buffer) {
                if wire.is_mute.load(Ordering::SeqCst) {
                    shared.swallowed.fetch_add(1, Ordering::SeqCst);
                } else if to_server.write_all(&buffer[..length]).is_err() {
                    break;
                }
            }
            wire.close();
        });
        Ok(())
    }
}

impl Wire {
    fn close(&self) {
        for end in &self.ends {
            // Fails when it is closed already.
            let _ = end.shutdown(Shutdown::Both);
        }
    }
}
