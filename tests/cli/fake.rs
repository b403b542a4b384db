//! Something that is no server of ours.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::{Arc, mpsc};
use std::thread;

use rustls::{ServerConnection, StreamOwned};
use serde_json::Value;

use crate::harness::http::{Connection, Reply};
use crate::harness::tls::localhost;

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

/// Answers every request with these bytes; its URL, and where to see what was asked.
pub fn answer_all(bytes: &str) -> (String, mpsc::Receiver<Reply>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = listener.local_addr().expect("it has an address");
    let (sender, asked) = mpsc::channel();
    let bytes: Arc<str> = bytes.into();
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let (sender, bytes) = (sender.clone(), Arc::clone(&bytes));
            thread::spawn(move || {
                let mut connection = Connection::over(stream).expect("a socket can be used");
                while let Ok(request) = connection.read_reply() {
                    // Not every test looks at all of it, and a client that has gone does not mind.
                    let _ = sender.send(request);
                    let _ = connection.write(bytes.as_bytes());
                }
            });
        }
    });
    (format!("http://{address}"), asked)
}

/// Answers every request whose body `answer` has something to say to, and leaves the others waiting; its URL, and
/// the bodies of all requests.
pub fn answer_some(answer: fn(&Value) -> Option<Value>) -> (String, mpsc::Receiver<Value>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = listener.local_addr().expect("it has an address");
    let (sender, asked) = mpsc::channel();
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let sender = sender.clone();
            thread::spawn(move || {
                let mut connection = Connection::over(stream).expect("a socket can be used");
                while let Ok(request) = connection.read_reply() {
                    let request = serde_json::from_slice(&request.body).unwrap_or_default();
                    let answered = answer(&request);
                    // Not every test looks at it.
                    let _ = sender.send(request);
                    if let Some(body) = answered {
                        let response = response("200 OK", &body.to_string());
                        // A client that has gone does not mind.
                        let _ = connection.write(response.as_bytes());
                    }
                }
            });
        }
    });
    (format!("http://{address}"), asked)
}

/// A whole response with this body.
pub fn response(status: &str, body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\n\r\n{body}")
}

/// A server with TLS that answers every request with nothing: its port, and the issuer of its certificate for
/// `localhost`.
pub fn answer_tls() -> (u16, String) {
    let (config, issuer) = localhost();
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let port = listener.local_addr().expect("it has an address").port();
    thread::spawn(move || {
        for socket in listener.incoming().map_while(Result::ok) {
            let connection = ServerConnection::new(Arc::clone(&config)).expect("it can begin");
            let mut stream = StreamOwned::new(connection, socket);
            let mut request = [0; 4096];
            // Fails for who does not trust us.
            if stream.read(&mut request).is_ok() {
                let answer = response("200 OK", r#"{"head":{"status":200},"data":{}}"#);
                let _ = stream.write_all(answer.as_bytes());
                let _ = stream.flush();
            }
        }
    });
    (port, issuer)
}
