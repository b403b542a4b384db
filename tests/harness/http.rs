//! A small blocking HTTP/1.1 client: every byte of a request is the test's own choice.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Nothing a test asks for takes longer; a server that hangs fails the test instead of the run.
pub const DEADLINE: Duration = Duration::from_secs(15);

/// Status line and headers.
#[derive(Clone, Debug, Default)]
pub struct Head {
    pub status: u16,
    /// The first line, of a request as well as of a response.
    pub start: String,
    headers: Vec<(String, String)>,
}

impl Head {
    /// The first header of that name, compared without case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    /// All members of a comma-separated header, lower case and sorted.
    pub fn list(&self, name: &str) -> Vec<String> {
        let mut members: Vec<String> = self
            .headers
            .iter()
            .filter(|(key, _)| key.eq_ignore_ascii_case(name))
            .flat_map(|(_, value)| value.split(','))
            .map(|member| member.trim().to_lowercase())
            .filter(|member| !member.is_empty())
            .collect();
        members.sort();
        members
    }

    fn is_chunked(&self) -> bool {
        self.header("transfer-encoding")
            .is_some_and(|value| value.eq_ignore_ascii_case("chunked"))
    }
}

/// A whole response (or, in the sink, a whole request).
#[derive(Clone, Debug, Default)]
pub struct Reply {
    pub head: Head,
    pub body: Vec<u8>,
}

impl Reply {
    pub fn status(&self) -> u16 {
        self.head.status
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.header(name)
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// One connection, kept alive.
pub struct Connection {
    stream: BufReader<TcpStream>,
}

impl Connection {
    pub fn open(addr: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&addr, DEADLINE)?;
        Self::over(stream)
    }

    /// Speaks HTTP over an accepted or connected socket.
    pub fn over(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(DEADLINE))?;
        stream.set_write_timeout(Some(DEADLINE))?;
        Ok(Connection {
            stream: BufReader::new(stream),
        })
    }

    /// The socket itself, to change its time limits or to shut it down.
    pub fn socket(&self) -> &TcpStream {
        self.stream.get_ref()
    }

    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.get_mut().write_all(bytes)
    }

    /// Reads the first line and the headers; `UnexpectedEof` when the peer has closed.
    pub fn read_head(&mut self) -> io::Result<Head> {
        let start = self.read_line()?;
        let status = start
            .split(' ')
            .nth(1)
            .and_then(|word| word.parse().ok())
            .unwrap_or_default();
        let mut headers = Vec::new();
        loop {
            let line = self.read_line()?;
            if line.is_empty() {
                break;
            }
            let (name, value) = line.split_once(':').ok_or(io::ErrorKind::InvalidData)?;
            headers.push((name.to_owned(), value.trim().to_owned()));
        }
        Ok(Head {
            status,
            start,
            headers,
        })
    }

    /// Reads a message with a bounded body.
    pub fn read_reply(&mut self) -> io::Result<Reply> {
        let head = self.read_head()?;
        let mut body = Vec::new();
        if head.is_chunked() {
            while let Some(part) = self.read_part(&head)? {
                body.extend(part);
            }
        } else {
            let length = head.header("content-length").unwrap_or("0");
            let length: usize = length.parse().map_err(|_| io::ErrorKind::InvalidData)?;
            body.resize(length, 0);
            self.stream.read_exact(&mut body)?;
        }
        Ok(Reply { head, body })
    }

    /// Waits until something has arrived that was not read, and leaves it so.
    pub fn wait(&mut self) -> io::Result<()> {
        match self.stream.fill_buf()? {
            [] => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    /// Reads what comes next of an endless body: one chunk; none once the stream has ended.
    pub fn read_part(&mut self, head: &Head) -> io::Result<Option<Vec<u8>>> {
        if !head.is_chunked() {
            let part = self.stream.fill_buf()?.to_vec();
            self.stream.consume(part.len());
            return Ok(Some(part).filter(|part| !part.is_empty()));
        }
        let size = self.read_line()?;
        let size = size.split(';').next().unwrap_or_default().trim();
        let size = usize::from_str_radix(size, 16).map_err(|_| io::ErrorKind::InvalidData)?;
        let mut part = vec![0; size];
        self.stream.read_exact(&mut part)?;
        self.read_line()?;
        Ok(Some(part).filter(|part| !part.is_empty()))
    }

    /// Sends a request and reads its response.
    pub fn exchange(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> io::Result<Reply> {
        self.write(&encode(method, path, headers, body))?;
        self.read_reply()
    }

    fn read_line(&mut self) -> io::Result<String> {
        let mut line = Vec::new();
        self.stream.read_until(b'\n', &mut line)?;
        if line.pop() != Some(b'\n') {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if line.last() == Some(&b'\r') {
            line.pop();
        }
        String::from_utf8(line).map_err(|_| io::ErrorKind::InvalidData.into())
    }
}

/// The bytes of a request.
pub fn encode(method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut text = format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\n");
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.push_str(&format!("content-length: {}\r\n\r\n", body.len()));
    let mut bytes = text.into_bytes();
    bytes.extend_from_slice(body);
    bytes
}
