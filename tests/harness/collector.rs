//! An OTLP collector on loopback: the services of gRPC, and what is posted over HTTP. It remembers what it
//! is sent.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::routing::{any, post};
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_server::{
    MetricsService, MetricsServiceServer,
};
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsServiceRequest, ExportMetricsServiceResponse,
};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::metrics::v1::Metric;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use prost::Message;
use resonate::protocol::trace::Trace;
use tonic::{Request, Response, Status};

use super::http::DEADLINE;
use super::loopback::serve;
use super::server::lock;
use super::tls;

/// Its threads end with the process.
pub struct Collector {
    addr: SocketAddr,
    arriving: Receiver<Arrival>,
    arrived: Mutex<Arrived>,
}

/// What has arrived so far.
#[derive(Default)]
pub struct Arrived {
    pub spans: Vec<Span>,
    pub metrics: Vec<Metric>,
    /// `name=value` of whoever sent something.
    pub resources: BTreeSet<String>,
    /// The header `key` of the requests.
    pub keys: BTreeSet<String>,
}

enum Arrival {
    Spans(ExportTraceServiceRequest),
    Metrics(ExportMetricsServiceRequest),
    Key(String),
}

#[derive(Clone)]
struct Intake(Arc<Mutex<Sender<Arrival>>>);

impl Intake {
    fn take(&self, arrival: Arrival) {
        // Nobody listens any more when the test is over.
        let _ = lock(&self.0).send(arrival);
    }

    fn take_key(&self, key: Option<&str>) {
        if let Some(key) = key {
            self.take(Arrival::Key(key.to_owned()));
        }
    }
}

#[tonic::async_trait]
impl TraceService for Intake {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let key = request.metadata().get("key");
        self.take_key(key.and_then(|key| key.to_str().ok()));
        self.take(Arrival::Spans(request.into_inner()));
        Ok(Response::new(Default::default()))
    }
}

#[tonic::async_trait]
impl MetricsService for Intake {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        self.take(Arrival::Metrics(request.into_inner()));
        Ok(Response::new(Default::default()))
    }
}

impl Collector {
    /// Takes everything.
    pub fn start() -> Collector {
        let (sender, arriving) = mpsc::channel();
        let intake = Intake(Arc::new(Mutex::new(sender)));
        let spans = |State(intake): State<Intake>, body: Bytes| async move {
            intake.take(Arrival::Spans(decoded(body)));
        };
        let metrics = |State(intake): State<Intake>, body: Bytes| async move {
            intake.take(Arrival::Metrics(decoded(body)));
        };
        let router = Router::new()
            .route_service(
                "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
                TraceServiceServer::new(intake.clone()),
            )
            .route_service(
                "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
                MetricsServiceServer::new(intake.clone()),
            )
            .route("/v1/traces", post(spans))
            .route("/v1/metrics", post(metrics))
            .with_state(intake);
        Collector::of(router, arriving)
    }

    /// Takes requests and never answers.
    pub fn silent() -> Collector {
        let (_, arriving) = mpsc::channel();
        let router = Router::new().fallback(any(std::future::pending::<()>));
        Collector::of(router, arriving)
    }

    fn of(router: Router, arriving: Receiver<Arrival>) -> Collector {
        Collector {
            addr: serve(router),
            arriving,
            arrived: Mutex::default(),
        }
    }

    /// What `observability.otlp_endpoint` is to be.
    pub fn endpoint(&self) -> String {
        self.addr.to_string()
    }

    /// Where it is behind TLS, and the issuer that has to be trusted, in PEM.
    pub fn secure(&self) -> (String, String) {
        let (port, issuer) = tls::terminate(self.addr);
        (format!("https://localhost:{port}"), issuer)
    }

    /// Exports a span, as clients and workers do.
    pub fn export(&self, span: Span) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime starts");
        let exported = runtime.block_on(async {
            let url = format!("http://{}", self.addr);
            let channel = tonic::transport::Endpoint::from_shared(url).expect("a URL");
            let channel = channel.connect().await.expect("the collector is there");
            let scope_spans = ScopeSpans {
                spans: vec![span],
                ..ScopeSpans::default()
            };
            let resource_spans = ResourceSpans {
                scope_spans: vec![scope_spans],
                ..ResourceSpans::default()
            };
            let mut client = TraceServiceClient::new(channel);
            let request = ExportTraceServiceRequest {
                resource_spans: vec![resource_spans],
            };
            client.export(request).await
        });
        exported.expect("the collector takes it");
    }

    /// What has arrived, once it is enough.
    #[track_caller]
    pub fn until<T>(&self, enough: impl Fn(&Arrived) -> Option<T>) -> T {
        loop {
            let found = enough(&lock(&self.arrived));
            if let Some(found) = found {
                return found;
            }
            let Ok(arrival) = self.arriving.recv_timeout(DEADLINE) else {
                panic!("not enough: {:#?}", lock(&self.arrived).spans);
            };
            lock(&self.arrived).add(arrival);
        }
    }

    /// The span of a trace that has this name and this parent.
    #[track_caller]
    pub fn child(&self, parent: &Trace, name: &str) -> Span {
        self.until(|arrived| {
            let is_it = |span: &&Span| {
                span.name == name
                    && span.trace_id == parent.trace_id().to_be_bytes()
                    && span.parent_span_id == parent.span_id().to_be_bytes()
            };
            arrived.spans.iter().find(is_it).cloned()
        })
    }
}

impl Arrived {
    fn add(&mut self, arrival: Arrival) {
        match arrival {
            Arrival::Spans(request) => {
                for of_resource in request.resource_spans {
                    self.add_resource(of_resource.resource.map(|resource| resource.attributes));
                    let scopes = of_resource.scope_spans.into_iter();
                    self.spans.extend(scopes.flat_map(|scope| scope.spans));
                }
            }
            Arrival::Metrics(request) => {
                for of_resource in request.resource_metrics {
                    self.add_resource(of_resource.resource.map(|resource| resource.attributes));
                    let scopes = of_resource.scope_metrics.into_iter();
                    self.metrics.extend(scopes.flat_map(|scope| scope.metrics));
                }
            }
            Arrival::Key(key) => {
                self.keys.insert(key);
            }
        }
    }

    fn add_resource(&mut self, attributes: Option<Vec<KeyValue>>) {
        let attributes = attributes.into_iter().flatten();
        let pairs = attributes.map(|pair| format!("{}={}", pair.key, shown(&pair)));
        self.resources.extend(pairs);
    }
}

/// The value of an attribute, whatever it is.
fn shown(attribute: &KeyValue) -> String {
    let value = attribute
        .value
        .as_ref()
        .and_then(|value| value.value.as_ref());
    match value {
        Some(Value::StringValue(text)) => text.clone(),
        Some(Value::IntValue(number)) => number.to_string(),
        other => format!("{other:?}"),
    }
}

/// The attribute of a span.
pub fn attribute(span: &Span, name: &str) -> Option<String> {
    let attributes = span.attributes.iter();
    attributes.filter(|pair| pair.key == name).map(shown).next()
}

/// A span, as whoever is caused by it names it.
pub fn trace_of(span: &Span) -> Trace {
    let trace_id = span.trace_id.as_slice().try_into().expect("16 bytes");
    let span_id = span.span_id.as_slice().try_into().expect("8 bytes");
    Trace::new(
        u128::from_be_bytes(trace_id),
        u64::from_be_bytes(span_id),
        true,
    )
}

fn decoded<T: Message + Default>(body: Bytes) -> T {
    T::decode(body).expect("the body is what it should be")
}
