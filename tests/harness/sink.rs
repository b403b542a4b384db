//! A worker that is pushed to: an HTTP server on loopback that records what it is sent and answers
//! as it was told to.

use std::collections::VecDeque;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use serde_json::Value;

use super::http::{Connection, DEADLINE, Head};

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

/// What a sink answers: a status, and where a redirect leads.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub location: Option<String>,
}

impl From<u16> for Answer {
    fn from(status: u16) -> Self {
        Answer {
            status,
            location: None,
        }
    }
}

/// The sink. Its listening thread ends with the process.
pub struct Sink {
    addr: SocketAddr,
    deliveries: Receiver<Delivery>,
}

impl Sink {
    /// Answers 200 to everything.
    pub fn start() -> Sink {
        Sink::scripted(Vec::new())
    }

    /// Answers as scripted, then 200.
    pub fn scripted(script: Vec<Answer>) -> Sink {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        Sink::listen(any, script)
    }

    /// Answers 200 to everything that comes to an address of the test's choice.
    pub fn on(addr: SocketAddr) -> Sink {
        Sink::listen(addr, Vec::new())
    }

    fn listen(addr: SocketAddr, script: Vec<Answer>) -> Sink {
        let listener = TcpListener::bind(addr).expect("the loopback port is free");
        let addr = listener.local_addr().expect("a listener has an address");
        let script = Arc::new(Mutex::new(VecDeque::from(script)));
        let (sender, deliveries) = mpsc::channel();
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (script, sender) = (Arc::clone(&script), sender.clone());
                thread::spawn(move || serve(stream, &script, &sender));
            }
        });
        Sink { addr, deliveries }
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
}

fn serve(stream: TcpStream, script: &Mutex<VecDeque<Answer>>, sender: &Sender<Delivery>) {
    let Ok(mut connection) = Connection::over(stream) else {
        return;
    };
    while let Ok(request) = connection.read_reply() {
        let answer = script
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop_front()
            .unwrap_or_else(|| Answer::from(200));
        let header = |name| request.header(name).map(str::to_owned);
        let delivery = Delivery {
            start: request.head.start.clone(),
            content_type: header("content-type"),
            authorization: header("authorization"),
            head: request.head.clone(),
            message: serde_json::from_slice(&request.body).unwrap_or_default(),
        };
        let location = answer
            .location
            .map_or_else(String::new, |url| format!("location: {url}\r\n"));
        let reply = format!(
            "HTTP/1.1 {} Scripted\r\n{location}content-length: 0\r\n\r\n",
            answer.status
        );
        if connection.write(reply.as_bytes()).is_err() || sender.send(delivery).is_err() {
            return;
        }
    }
}
