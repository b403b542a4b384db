//! An attempt to deliver a message, as the message's trace tells of it.

use std::sync::Arc;

use crate::machine::workspace::Message;
use crate::protocol::record::Id;
use crate::protocol::trace::Trace;
use crate::telemetry::tracer::{Ended, Span, SpanKind, Tracer, text};
use crate::transport::Outcome;

/// See the module documentation.
pub(super) struct Delivery {
    span: Span,
    /// What the message names as where it comes from.
    trace: Option<Arc<Trace>>,
    kind: &'static str,
    id: Id,
    /// Of the address.
    pub scheme: &'static str,
    cause: Option<Arc<Trace>>,
}

impl Delivery {
    /// Begins to hand a message to the transport of a scheme.
    pub fn begin(tracer: &Tracer, message: &Message, scheme: &'static str) -> Delivery {
        let of_message = message.trace();
        match message {
            Message::Execute { id, cause, .. } => {
                let span = tracer.begin(of_message);
                Delivery {
                    trace: span.trace().cloned(),
                    span,
                    kind: "execute",
                    id: id.clone(),
                    scheme,
                    cause: cause.clone(),
                }
            }
            // All that are told of a promise are told the same bytes: each names the settlement.
            Message::Unblock { promise, .. } => Delivery {
                span: match of_message {
                    Some(_) => tracer.begin(of_message),
                    None => Span::default(),
                },
                trace: of_message.cloned(),
                kind: "unblock",
                id: promise.id.clone(),
                scheme,
                cause: None,
            },
        }
    }

    /// What the message is to name.
    pub fn trace(&self) -> Option<&Arc<Trace>> {
        self.trace.as_ref()
    }

    /// Ends. Nothing is told of what met nobody: it is offered again, over and over.
    pub fn end(self, outcome: Outcome) {
        let is_error = match outcome {
            Outcome::Delivered | Outcome::Written(_) => false,
            Outcome::Failed => true,
            Outcome::Nobody | Outcome::Disabled => return,
        };
        self.span.end(|| Ended {
            name: self.kind,
            kind: SpanKind::Producer,
            attributes: vec![
                text("resonate.kind", self.kind),
                text("resonate.id", &*self.id),
                text("resonate.transport", self.scheme),
            ],
            link: self.cause,
            is_error,
        });
    }
}
