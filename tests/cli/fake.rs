//! Something that is no server of ours, for one request.

use std::net::TcpListener;
use std::sync::mpsc;
use std::thread;

use crate::harness::http::{Connection, Reply};

/// Answers one request with these bytes; its URL, and where to see what was asked.
pub fn answer(bytes: &str) -> (String, mpsc::Receiver<Reply>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = listener.local_addr().expect("it has an address");
    let (sender, asked) = mpsc::channel();
    let bytes = bytes.to_owned();
    thread::spawn(move || {
        let (stream, _) = listener.accept().expect("a client comes");
        let mut connection = Connection::over(stream).expect("a socket can be used");
        let request = connection.read_reply().expect("the request comes");
        connection
            .write(bytes.as_bytes())
            .expect("the client listens");
        // Not every test looks at it.
        let _ = sender.send(request);
    });
    (format!("http://{address}"), asked)
}

/// A whole response with this body.
pub fn response(status: &str, body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\n\r\n{body}")
}
