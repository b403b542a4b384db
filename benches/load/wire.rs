//! One connection, as little of HTTP/1.1 as a generator needs: what it costs is not the server's.

use std::io;
use std::net::SocketAddr;

use anyhow::{Context, bail, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Bytes that are read at once.
const READ_BYTES: usize = 16 * 1024;
/// Headers of an answer.
const HEADERS_MAX: usize = 64;

/// A connection with at most one request in flight.
pub struct Connection {
    socket: TcpStream,
    host: String,
    written: Vec<u8>,
    read: Vec<u8>,
    /// Bytes of `read` that belong to the answer before.
    used: usize,
}

/// How long the body of an answer is.
enum Length {
    Bytes(usize),
    Chunks,
}

impl Connection {
    /// Connects.
    pub async fn open(address: SocketAddr) -> io::Result<Connection> {
        let socket = TcpStream::connect(address).await?;
        socket.set_nodelay(true)?;
        Ok(Connection {
            socket,
            host: address.to_string(),
            written: Vec::new(),
            read: Vec::with_capacity(READ_BYTES),
            used: 0,
        })
    }

    /// Posts a body; the status and the body of the answer.
    pub async fn post(&mut self, body: &str) -> anyhow::Result<(u16, &[u8])> {
        self.written.clear();
        let (host, bytes) = (&self.host, body.len());
        let head = format!(
            "POST / HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\ncontent-length: {bytes}\r\n\r\n"
        );
        self.written.extend_from_slice(head.as_bytes());
        self.written.extend_from_slice(body.as_bytes());
        self.exchange().await
    }

    /// Gets what is there.
    pub async fn get(&mut self, path: &str) -> anyhow::Result<(u16, &[u8])> {
        self.ask(path);
        self.exchange().await
    }

    fn ask(&mut self, path: &str) {
        self.written.clear();
        let head = format!("GET {path} HTTP/1.1\r\nhost: {}\r\n\r\n", self.host);
        self.written.extend_from_slice(head.as_bytes());
    }

    async fn exchange(&mut self) -> anyhow::Result<(u16, &[u8])> {
        self.socket.write_all(&self.written).await?;
        let (status, length) = self.head().await?;
        let start = self.used;
        match length {
            Length::Bytes(bytes) => {
                while self.read.len() < start + bytes {
                    self.more().await?;
                }
                self.used = start + bytes;
                Ok((status, &self.read[start..start + bytes]))
            }
            Length::Chunks => {
                let mut body = Vec::new();
                while let Some(chunk) = self.chunk().await? {
                    body.extend_from_slice(&chunk);
                }
                // In place of the chunks that it came in.
                let bytes = body.len();
                self.read.splice(..self.used, body);
                self.used = bytes;
                Ok((status, &self.read[..bytes]))
            }
        }
    }

    /// Asks for a stream, and reads the head of the answer. [`Connection::chunk`] has the rest.
    pub async fn stream(&mut self, path: &str) -> anyhow::Result<()> {
        self.ask(path);
        self.socket.write_all(&self.written).await?;
        let (status, length) = self.head().await?;
        ensure!(status == 200, "{path} is answered {status}");
        ensure!(matches!(length, Length::Chunks), "{path} is no stream");
        Ok(())
    }

    /// The next chunk of a body; none after the last.
    pub async fn chunk(&mut self) -> anyhow::Result<Option<Vec<u8>>> {
        let line = loop {
            let rest = &self.read[self.used..];
            if let Some(end) = rest.windows(2).position(|pair| pair == b"\r\n") {
                break end;
            }
            self.more().await?;
        };
        let size = std::str::from_utf8(&self.read[self.used..self.used + line])?;
        let size = size.split(';').next().unwrap_or_default();
        let bytes = usize::from_str_radix(size.trim(), 16).context("no size of a chunk")?;
        let start = self.used + line + 2;
        while self.read.len() < start + bytes + 2 {
            self.more().await?;
        }
        let chunk = self.read[start..start + bytes].to_vec();
        self.used = start + bytes + 2;
        Ok((bytes > 0).then_some(chunk))
    }

    async fn head(&mut self) -> anyhow::Result<(u16, Length)> {
        self.read.drain(..self.used);
        self.used = 0;
        loop {
            let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
            let mut head = httparse::Response::new(&mut headers);
            if let httparse::Status::Complete(bytes) = head.parse(&self.read)? {
                let status = head.code.context("no status")?;
                let length = length(head.headers)?;
                self.used = bytes;
                return Ok((status, length));
            }
            self.more().await?;
        }
    }

    async fn more(&mut self) -> anyhow::Result<()> {
        self.read.reserve(READ_BYTES);
        if self.socket.read_buf(&mut self.read).await? == 0 {
            bail!("the server has closed the connection");
        }
        Ok(())
    }
}

fn length(headers: &[httparse::Header<'_>]) -> anyhow::Result<Length> {
    for header in headers {
        if header.name.eq_ignore_ascii_case("content-length") {
            return Ok(Length::Bytes(std::str::from_utf8(header.value)?.parse()?));
        }
        if header.name.eq_ignore_ascii_case("transfer-encoding") {
            return Ok(Length::Chunks);
        }
    }
    Ok(Length::Bytes(0))
}
