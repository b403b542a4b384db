//! How a collector is spoken to: gRPC, or protobuf over HTTP.

use std::error::Error;

use anyhow::{Context, anyhow};
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_client::MetricsServiceClient;
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsServiceRequest, ExportMetricsServiceResponse,
};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use prost::Message;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use reqwest::redirect;
use tonic::metadata::MetadataMap;
use tonic::transport::{self, Channel, ClientTlsConfig};
use url::Url;

use super::settings::{Protocol, Settings};

/// What of an export was not taken.
pub(super) struct Rejected {
    pub count: u64,
    pub reason: String,
}

/// A collector. Connects when it is first sent something.
pub(super) struct Collector {
    headers: HeaderMap,
    wire: Wire,
}

enum Wire {
    Grpc {
        spans: TraceServiceClient<Channel>,
        metrics: MetricsServiceClient<Channel>,
    },
    Http {
        client: reqwest::Client,
        spans: Url,
        metrics: Url,
    },
}

impl Collector {
    pub fn new(settings: &Settings) -> anyhow::Result<Self> {
        let headers = headers(&settings.headers)?;
        let endpoint = &settings.endpoint;
        // TLS clients take the process-wide provider. An error only says that there is one.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let wire = match settings.protocol {
            Protocol::Grpc => {
                let url = endpoint.url();
                let mut to = transport::Endpoint::from_shared(url.to_string())?
                    .connect_timeout(settings.timeout);
                if url.scheme() == "https" {
                    to = to.tls_config(ClientTlsConfig::new().with_native_roots())?;
                }
                let channel = to.connect_lazy();
                Wire::Grpc {
                    spans: TraceServiceClient::new(channel.clone()),
                    metrics: MetricsServiceClient::new(channel),
                }
            }
            Protocol::HttpProtobuf => {
                let builder = reqwest::Client::builder().redirect(redirect::Policy::none());
                let builder = match endpoint.url().scheme() {
                    // Certificates are read from the disk: only where they are needed.
                    "http" => builder.tls_certs_only([]),
                    _ => builder,
                };
                Wire::Http {
                    client: builder.build()?,
                    spans: endpoint.below(&["v1", "traces"]),
                    metrics: endpoint.below(&["v1", "metrics"]),
                }
            }
        };
        Ok(Collector { headers, wire })
    }

    /// Sends spans; some may not be taken.
    ///
    /// # Errors
    /// Why none was.
    pub async fn spans(
        &self,
        request: ExportTraceServiceRequest,
    ) -> Result<Option<Rejected>, String> {
        let response: ExportTraceServiceResponse = match &self.wire {
            Wire::Grpc { spans, .. } => {
                let sent = spans.clone().export(self.with_headers(request)).await;
                sent.map_err(|status| refusal(&status))?.into_inner()
            }
            Wire::Http { client, spans, .. } => self.post(client, spans, &request).await?,
        };
        let partial = response.partial_success;
        let partial = partial.filter(|partial| partial.rejected_spans > 0);
        Ok(partial.map(|partial| Rejected {
            count: u64::try_from(partial.rejected_spans).unwrap_or_default(),
            reason: partial.error_message,
        }))
    }

    /// Sends metrics.
    ///
    /// # Errors
    /// Why some were not taken.
    pub async fn metrics(&self, request: ExportMetricsServiceRequest) -> Result<(), String> {
        let response: ExportMetricsServiceResponse = match &self.wire {
            Wire::Grpc { metrics, .. } => {
                let sent = metrics.clone().export(self.with_headers(request)).await;
                sent.map_err(|status| refusal(&status))?.into_inner()
            }
            Wire::Http {
                client, metrics, ..
            } => self.post(client, metrics, &request).await?,
        };
        match response.partial_success {
            Some(partial) if partial.rejected_data_points > 0 => Err(partial.error_message),
            _ => Ok(()),
        }
    }

    fn with_headers<T>(&self, message: T) -> tonic::Request<T> {
        let mut request = tonic::Request::new(message);
        *request.metadata_mut() = MetadataMap::from_headers(self.headers.clone());
        request
    }

    async fn post<T: Message + Default>(
        &self,
        client: &reqwest::Client,
        url: &Url,
        request: &impl Message,
    ) -> Result<T, String> {
        let sent = client
            .post(url.clone())
            .headers(self.headers.clone())
            .header(CONTENT_TYPE, "application/x-protobuf")
            .body(request.encode_to_vec())
            .send();
        let response = sent.await.map_err(|error| innermost(&error))?;
        if !response.status().is_success() {
            return Err(format!("status {}", response.status().as_u16()));
        }
        let bytes = response.bytes().await.map_err(|error| innermost(&error))?;
        T::decode(bytes).map_err(|error| error.to_string())
    }
}

fn headers(pairs: &[(String, String)]) -> anyhow::Result<HeaderMap> {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        let name = HeaderName::try_from(name).context("no name of a header")?;
        let value = HeaderValue::try_from(value);
        let mut value = value.map_err(|_| anyhow!("the value of {name} is none of a header"))?;
        value.set_sensitive(true);
        headers.append(name, value);
    }
    Ok(headers)
}

fn refusal(status: &tonic::Status) -> String {
    match status.source() {
        Some(_) => innermost(status),
        None => format!("{:?}: {}", status.code(), status.message()),
    }
}

/// The innermost cause: it names no URL.
fn innermost(error: &(dyn Error + 'static)) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}
