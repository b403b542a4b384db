//! JSON-RPC messages, one on a line, in and out.
//!
//! rmcp's own transport passes over lines that are not JSON; this one answers them, and goes on. It also
//! gives every call its turn: calls that a client sends in one go are done in the order they came, so
//! that what one creates, the next one finds. Everything else is answered meanwhile.

use std::io;
use std::sync::Arc;

use rmcp::model::{ClientJsonRpcMessage, ClientRequest, ErrorCode, GetExtensions};
use rmcp::model::{JsonRpcMessage, ServerJsonRpcMessage};
use rmcp::service::{RoleServer, RxJsonRpcMessage, TxJsonRpcMessage};
use rmcp::transport::Transport;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Stdout};
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore, mpsc, watch};

/// Bytes of one line; the server takes bodies of 16 MiB unless it is told otherwise.
const LINE_BYTES_MAX: u64 = 64 << 20;
/// Calls that have been read and not been answered. Beyond them nothing is read.
const CALLS_MAX: u16 = 64;

/// Standard input and output, as rmcp takes them.
pub(super) struct Lines {
    messages: mpsc::Receiver<ClientJsonRpcMessage>,
    output: Output,
}

/// Where whole lines go, one after the other.
#[derive(Clone)]
struct Output(Arc<Mutex<Stdout>>);

/// What rmcp does not tell of a call: found among the extensions of the request.
#[derive(Clone)]
pub(super) struct Call {
    /// As they were written: a map would put their members in another order.
    pub arguments: Option<Box<RawValue>>,
    pub turn: Turn,
}

/// The place of a call in the order of calls. The next one's turn comes when it is dropped.
#[derive(Clone)]
pub(super) struct Turn {
    before: watch::Receiver<()>,
    _after: Arc<watch::Sender<()>>,
    _place: Arc<OwnedSemaphorePermit>,
}

impl Turn {
    /// Waits for the call before this one to be done.
    pub(super) async fn comes(&mut self) {
        // Nothing is ever sent: the error is that the other end is gone.
        while self.before.changed().await.is_ok() {}
    }
}

/// Hands out turns.
struct Order {
    places: Arc<Semaphore>,
    last: watch::Receiver<()>,
}

impl Order {
    fn new() -> Order {
        Order {
            places: Arc::new(Semaphore::new(CALLS_MAX.into())),
            last: watch::channel(()).1,
        }
    }

    /// None never: the places are not taken away.
    async fn turn(&mut self) -> Option<Turn> {
        let place = Arc::clone(&self.places).acquire_owned().await.ok()?;
        let (after, last) = watch::channel(());
        Some(Turn {
            before: std::mem::replace(&mut self.last, last),
            _after: Arc::new(after),
            _place: Arc::new(place),
        })
    }

    /// Waits for all calls to be done.
    async fn end(&self) {
        // The places are not taken away.
        let _ = self.places.acquire_many(CALLS_MAX.into()).await;
    }
}

/// What a line of the client comes to.
enum Line {
    Message(Box<ClientJsonRpcMessage>),
    Call(Box<ClientJsonRpcMessage>, Option<Box<RawValue>>),
    /// An error is the answer.
    Refused(Value),
    Ignored,
}

/// The members that say what a message is.
#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(default, deserialize_with = "present")]
    id: Option<Value>,
    #[serde(default)]
    method: Value,
    #[serde(borrow)]
    params: Option<&'a RawValue>,
}

/// The member of a call that is kept as it was written.
#[derive(Deserialize)]
struct Params {
    arguments: Option<Box<RawValue>>,
}

impl Lines {
    /// Begins to read standard input.
    pub(super) fn stdio() -> Lines {
        let output = Output(Arc::new(Mutex::new(tokio::io::stdout())));
        let (sender, messages) = mpsc::channel(1);
        tokio::spawn(read(tokio::io::stdin(), sender, output.clone()));
        Lines { messages, output }
    }
}

impl Transport<RoleServer> for Lines {
    type Error = io::Error;

    fn send(
        &mut self,
        item: TxJsonRpcMessage<RoleServer>,
    ) -> impl Future<Output = io::Result<()>> + Send + 'static {
        let output = self.output.clone();
        async move { output.message(&item).await }
    }

    async fn receive(&mut self) -> Option<RxJsonRpcMessage<RoleServer>> {
        self.messages.recv().await
    }

    async fn close(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Output {
    async fn message(&self, message: &ServerJsonRpcMessage) -> io::Result<()> {
        self.line(serde_json::to_string(message)?).await
    }

    async fn line(&self, mut line: String) -> io::Result<()> {
        line.push('\n');
        let mut stdout = self.0.lock().await;
        stdout.write_all(line.as_bytes()).await?;
        stdout.flush().await
    }
}

/// Reads until the end of the input, or until nobody wants to hear of it. rmcp hears of the end when all calls
/// are done: it waits for their answers, but not for long.
async fn read(
    input: tokio::io::Stdin,
    messages: mpsc::Sender<ClientJsonRpcMessage>,
    output: Output,
) {
    let mut input = BufReader::new(input);
    let mut order = Order::new();
    let mut line = Vec::new();
    loop {
        match next_line(&mut input, &mut line).await {
            Ok(true) => {}
            Ok(false) => return order.end().await,
            Err(error) => {
                tracing::error!(%error, "standard input cannot be read");
                return order.end().await;
            }
        }
        let message = match interpret(&line) {
            Line::Message(message) => *message,
            Line::Call(call, arguments) => match order.turn().await {
                Some(turn) => with(*call, Call { arguments, turn }),
                None => return,
            },
            Line::Refused(answer) => {
                if let Err(error) = output.line(answer.to_string()).await {
                    tracing::error!(%error, "standard output cannot be written");
                }
                continue;
            }
            Line::Ignored => continue,
        };
        if messages.send(message).await.is_err() {
            return;
        }
    }
}

/// Puts the next line into `line`, cut to a byte more than it may have; false at the end.
async fn next_line(
    input: &mut (impl AsyncBufRead + Unpin),
    line: &mut Vec<u8>,
) -> io::Result<bool> {
    line.clear();
    let mut start = (&mut *input).take(LINE_BYTES_MAX + 1);
    start.read_until(b'\n', line).await?;
    if start.limit() == 0 && line.last() != Some(&b'\n') {
        pass_over(input).await?;
    }
    Ok(!line.is_empty())
}

/// Drops the rest of a line.
async fn pass_over(input: &mut (impl AsyncBufRead + Unpin)) -> io::Result<()> {
    loop {
        let bytes = input.fill_buf().await?;
        let end = bytes.iter().position(|byte| *byte == b'\n');
        let taken = end.map_or(bytes.len(), |end| end + 1);
        input.consume(taken);
        if end.is_some() || taken == 0 {
            return Ok(());
        }
    }
}

fn interpret(line: &[u8]) -> Line {
    let is_short = u64::try_from(line.len()).is_ok_and(|bytes| bytes <= LINE_BYTES_MAX);
    let text = line.trim_ascii();
    if is_short && text.is_empty() {
        return Line::Ignored;
    }
    let Some(json) = serde_json::from_slice(text).ok().filter(|_| is_short) else {
        return refused(&Value::Null, ErrorCode::PARSE_ERROR, "Parse error");
    };
    let json: &RawValue = json;
    let Ok(envelope) = serde_json::from_str::<Envelope>(json.get()) else {
        return refused(&Value::Null, ErrorCode::INVALID_REQUEST, "Invalid Request");
    };
    let message = serde_json::from_str::<ClientJsonRpcMessage>(json.get());
    let method = envelope.method.as_str().unwrap_or_default();
    match (envelope.id, message) {
        (Some(_), _) if method.starts_with("notifications/") => Line::Ignored,
        (_, Ok(message)) if is_call(&message) => {
            let params = envelope.params.map(RawValue::get);
            let params = params.and_then(|params| serde_json::from_str::<Params>(params).ok());
            Line::Call(
                Box::new(message),
                params.and_then(|params| params.arguments),
            )
        }
        (_, Ok(message)) => Line::Message(Box::new(message)),
        (None, Err(_)) => Line::Ignored,
        (Some(id), Err(_)) => refused(&id, ErrorCode::INVALID_REQUEST, "Invalid Request"),
    }
}

fn is_call(message: &ClientJsonRpcMessage) -> bool {
    matches!(message, JsonRpcMessage::Request(request)
        if matches!(request.request, ClientRequest::CallToolRequest(_)))
}

fn with(mut message: ClientJsonRpcMessage, call: Call) -> ClientJsonRpcMessage {
    if let JsonRpcMessage::Request(request) = &mut message {
        request.request.extensions_mut().insert(call);
    }
    message
}

/// The answer to what is no message. JSON-RPC wants its `id` to be null where none can be made out;
/// rmcp's type would leave it out.
fn refused(id: &Value, code: ErrorCode, message: &str) -> Line {
    let is_id = id.is_string() || id.is_number();
    let id = if is_id { id } else { &Value::Null };
    let error = json!({"code": code, "message": message});
    Line::Refused(json!({"jsonrpc": "2.0", "id": id, "error": error}))
}

/// A member that is there, even if it is null.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}
