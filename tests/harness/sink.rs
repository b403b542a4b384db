//! A worker that is pushed to: an HTTP server on loopback that records what it is sent and answers
//! as it was told to.

use std::collections::VecDeque;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::Value;

use super::http::{Connection, DEADLINE, Head};
use super::scripts::until;
use super::server::lock;

/// One delivery.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// `POST /path HTTP/1.1`.
    pub start: String,
    pub content_type: Option<String>,
    pub authorization: Option<String>,
    pub head: Head,
    pub message: Value,
}

impl Delivery {
    pub fn path(&self) -> &str {
        self.start.split(' ').nth(1).unwrap_or_default()
    }
}

/// What a sink answers.
#[derive(Clone, Debug)]
pub enum Answer {
    Status(u16),
    Redirect {
        status: u16,
        location: String,
    },
    /// Nothing; the connection stays open.
    Silence,
    /// Nothing; the connection is closed.
    HangUp,
}

impl From<u16> for Answer {
    fn from(status: u16) -> Self {
        Answer::Status(status)
    }
}

/// The sink. Its listening thread ends with the process.
pub struct Sink {
    addr: SocketAddr,
    deliveries: Receiver<Delivery>,
    connections: Arc<AtomicUsize>,
}

impl Sink {
    /// Answers 200 to everything.
    pub fn start() -> Sink {
        Sink::scripted(Vec::new())
    }

    /// Answers as scripted, then 200.
    pub fn scripted(script: Vec<Answer>) -> Sink {
        let script = Mutex::new(VecDeque::from(script));
        Sink::answering(move |_| lock(&script).pop_front().unwrap_or(Answer::Status(200)))
    }

    /// Answers each delivery as it is told to.
    pub fn answering(answer: impl Fn(&Delivery) -> Answer + Send + Sync + 'static) -> Sink {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        Sink::over(listen(any), answer)
    }

    /// Answers 200 to everything that comes to an address of the test's choice.
    pub fn on(addr: SocketAddr) -> Sink {
        Sink::over(listen(addr), |_| Answer::Status(200))
    }

    /// Answers what comes to a socket that listens already.
    pub fn over(
        listener: TcpListener,
        answer: impl Fn(&Delivery) -> Answer + Send + Sync + 'static,
    ) -> Sink {
        let addr = listener.local_addr().expect("a listener has an address");
        let answer = Arc::new(answer);
        let connections = Arc::new(AtomicUsize::new(0));
        let open = Arc::clone(&connections);
        let (sender, deliveries) = mpsc::channel();
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (answer, sender, open) =
                    (Arc::clone(&answer), sender.clone(), Arc::clone(&open));
                open.fetch_add(1, Ordering::SeqCst);
                thread::spawn(move || {
                    serve(stream, &*answer, &sender);
                    open.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        Sink {
            addr,
            deliveries,
            connections,
        }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addr)
    }

    /// The next delivery.
    #[track_caller]
    pub fn next(&self) -> Delivery {
        self.deliveries
            .recv_timeout(DEADLINE)
            .expect("a delivery arrives")
    }

    /// Whether nothing has arrived that the test has not asked for.
    pub fn is_idle(&self) -> bool {
        self.deliveries.try_recv().is_err()
    }

    /// Waits until everything that was sent before is answered and every connection closed: whoever connected has
    /// died.
    #[track_caller]
    pub fn drain(&self) {
        // Connections are taken in their order: those before this one have been.
        let mut last = Connection::open(self.addr).expect("the sink listens");
        let reply = last.exchange("GET", "/", &[], b"");
        reply.expect("the sink answers");
        drop(last);
        until("every connection is closed", || {
            self.connections.load(Ordering::SeqCst) == 0
        });
    }
}

fn listen(addr: SocketAddr) -> TcpListener {
    TcpListener::bind(addr).expect("the loopback port is free")
}

fn serve(stream: TcpStream, answer: impl Fn(&Delivery) -> Answer, sender: &Sender<Delivery>) {
    let Ok(mut connection) = Connection::over(stream) else {
        return;
    };
    while let Ok(request) = connection.read_reply() {
        let header = |name| request.header(name).map(str::to_owned);
        let delivery = Delivery {
            start: request.head.start.clone(),
            content_type: header("content-type"),
            authorization: header("authorization"),
            head: request.head.clone(),
            message: serde_json::from_slice(&request.body).unwrap_or_default(),
        };
        let (status, location) = match answer(&delivery) {
            Answer::Status(status) => (status, String::new()),
            Answer::Redirect { status, location } => (status, format!("location: {location}\r\n")),
            // Nobody looks any more once the test is over.
            Answer::HangUp => {
                let _ = sender.send(delivery);
                return;
            }
            Answer::Silence => {
                let _ = sender.send(delivery);
                // Until the other side has had enough.
                let _ = connection.read_head();
                return;
            }
        };
        let reply = format!("HTTP/1.1 {status} Scripted\r\n{location}content-length: 0\r\n\r\n");
        if connection.write(reply.as_bytes()).is_err() || sender.send(delivery).is_err() {
            return;
        }
    }
}
