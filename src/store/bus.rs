//! How the servers that share a database tell each other something: short texts, to all of them, soon.
//!
//! A text may be lost, when a connection breaks or a server dies; what it says must be found out in
//! another way then. It arrives at its sender too.

use async_trait::async_trait;

use super::Result;

/// The longest text, in bytes.
pub const TEXT_BYTES_MAX: usize = 7_900;

/// See the module documentation.
#[async_trait]
pub trait Bus: Send + Sync + 'static {
    /// Sends texts to every server that listens now, each once and in this order.
    ///
    /// # Errors
    /// [`super::Error::Unavailable`]; some may have been sent.
    async fn publish(&self, texts: &[String]) -> Result<()>;

    /// Begins to listen: what is published from now on is heard.
    ///
    /// # Errors
    /// [`super::Error::Unavailable`].
    async fn subscribe(&self) -> Result<Box<dyn Subscription>>;
}

/// An open ear.
#[async_trait]
pub trait Subscription: Send {
    /// The next text.
    ///
    /// # Errors
    /// [`super::Error::Unavailable`] when some may have been missed; it is over then.
    async fn next(&mut self) -> Result<String>;
}
