//! A worker's end of `GET /poll/{group}/{id}`.

use std::io;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use serde_json::Value;
use socket2::{Domain, Socket, Type};

use super::http::{Connection, DEADLINE, Head, encode};
use super::server::Server;

/// An open stream. Dropping it closes the connection.
pub struct Stream {
    pub head: Head,
    events: Receiver<Value>,
    received: Arc<Mutex<Vec<u8>>>,
    socket: TcpStream,
}

impl Stream {
    /// Connects as `id` in `group` (both as they stand in the path).
    #[track_caller]
    pub fn open(server: &Server, group: &str, id: &str) -> Stream {
        let stream = Stream::connect(server.addr(), group, id);
        let stream = stream.expect("the server accepts, and answers at once");
        assert_eq!(stream.head.status, 200, "{:?}", stream.head);
        stream
    }

    /// Same, of a server that may be gone, or about to.
    pub fn connect(addr: SocketAddr, group: &str, id: &str) -> io::Result<Stream> {
        Unread::over(Connection::open(addr)?, group, id)?.read_on()
    }

    fn start(connection: Connection, head: Head) -> io::Result<Stream> {
        let socket = connection.socket().try_clone()?;
        socket.set_read_timeout(None)?;
        let received = Arc::new(Mutex::new(Vec::new()));
        let (sender, events) = mpsc::channel();
        let (bytes, reader_head) = (Arc::clone(&received), head.clone());
        thread::spawn(move || read(connection, &reader_head, &bytes, &sender));
        Ok(Stream {
            head,
            events,
            received,
            socket,
        })
    }

    /// The next message.
    #[track_caller]
    pub fn next(&self) -> Value {
        match self.events.recv_timeout(DEADLINE) {
            Ok(event) => event,
            Err(error) => panic!("no message ({error}); received so far: {}", self.text()),
        }
    }

    /// The next message, if it comes soon.
    pub fn poll(&self, patience: Duration) -> Option<Value> {
        self.events.recv_timeout(patience).ok()
    }

    /// The next message, if it comes soon; tells a stream that is silent from one that has ended.
    pub fn wait(&self, patience: Duration) -> Result<Value, RecvTimeoutError> {
        self.events.recv_timeout(patience)
    }

    /// The next message, which must be an `execute`: task id and version.
    #[track_caller]
    pub fn next_execute(&self) -> (String, i64) {
        let event = self.next();
        assert_eq!(event["kind"], "execute", "{event}");
        let task = &event["data"]["task"];
        let id = task["id"].as_str().expect("an execute names a task");
        (id.to_owned(), task["version"].as_i64().expect("a version"))
    }

    /// The next message, which must be an `unblock`: its promise.
    #[track_caller]
    pub fn next_unblock(&self) -> Value {
        let event = self.next();
        assert_eq!(event["kind"], "unblock", "{event}");
        assert!(event["head"].is_object(), "{event}");
        event["data"]["promise"].clone()
    }

    /// Waits for the server to end the stream; messages still on their way are dropped.
    #[track_caller]
    pub fn expect_end(&self) {
        loop {
            match self.events.recv_timeout(DEADLINE) {
                Ok(_) => {}
                Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => panic!("the stream stays open"),
            }
        }
    }

    /// Every byte of the body so far.
    pub fn bytes(&self) -> Vec<u8> {
        let received = self.received.lock();
        received.unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes()).into_owned()
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // Fails only when the server has closed already.
        let _ = self.socket.shutdown(Shutdown::Both);
    }
}

/// A worker that connects and then reads nothing: what it is sent fills the buffers on the way, which are small on its
/// side. Dropping it closes the connection.
pub struct Unread {
    connection: Connection,
    head: Head,
}

impl Unread {
    /// Connects as `id` in `group`, and reads no more than the greeting.
    #[track_caller]
    pub fn open(server: &Server, group: &str, id: &str) -> Unread {
        let connected = small_socket(server.addr()).and_then(Connection::over);
        let opened = connected.and_then(|connection| Unread::over(connection, group, id));
        let mut unread = opened.expect("the server accepts, and answers at once");
        assert_eq!(unread.head.status, 200, "{:?}", unread.head);
        let greeting = unread.connection.read_part(&unread.head);
        assert!(matches!(greeting, Ok(Some(_))), "{greeting:?}");
        unread
    }

    fn over(mut connection: Connection, group: &str, id: &str) -> io::Result<Unread> {
        let path = format!("/poll/{group}/{id}");
        let headers = [("accept", "text/event-stream")];
        connection.write(&encode("GET", &path, &headers, b""))?;
        let head = connection.read_head()?;
        Ok(Unread { connection, head })
    }

    /// Waits until the beginning of a message has arrived.
    #[track_caller]
    pub fn wait(&mut self) {
        self.connection.wait().expect("a message arrives");
    }

    /// Reads everything from now on.
    #[track_caller]
    pub fn read(self) -> Stream {
        self.read_on().expect("the socket can be shared")
    }

    fn read_on(self) -> io::Result<Stream> {
        Stream::start(self.connection, self.head)
    }
}

fn small_socket(addr: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, None)?;
    socket.set_recv_buffer_size(4096)?;
    socket.connect_timeout(&addr.into(), DEADLINE)?;
    Ok(socket.into())
}

/// Reads until the end of the stream as the strictest SDKs do: split at a blank line, take `data:`
/// lines. The sender is dropped at the end, which the receiver sees.
fn read(mut connection: Connection, head: &Head, bytes: &Mutex<Vec<u8>>, sender: &Sender<Value>) {
    let mut unread = Vec::new();
    while let Ok(Some(part)) = connection.read_part(head) {
        bytes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend_from_slice(&part);
        unread.extend(part);
        while let Some(end) = unread.windows(2).position(|pair| pair == b"\n\n") {
            let event: Vec<u8> = unread.drain(..end + 2).collect();
            for line in String::from_utf8_lossy(&event).lines() {
                let Some(data) = line.strip_prefix("data:") else {
                    continue;
                };
                let message = serde_json::from_str(data)
                    .unwrap_or_else(|error| panic!("an event is not JSON: {error}: {data}"));
                if sender.send(message).is_err() {
                    return;
                }
            }
        }
    }
}
