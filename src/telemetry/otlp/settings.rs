//! Where spans and metrics go, and how: the endpoint is a setting of the server, the rest are the variables
//! that OpenTelemetry's own SDKs read.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use percent_encoding::percent_decode_str;
use serde::{Deserialize, Serialize};
use url::Url;

use crate::telemetry::tracer::Sampler;

/// How long a collector may take to answer, unless `OTEL_EXPORTER_OTLP_TIMEOUT` says otherwise.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How often metrics are sent, unless `OTEL_METRIC_EXPORT_INTERVAL` says otherwise.
const METRICS_INTERVAL: Duration = Duration::from_secs(15);

/// The address of a collector: `host:port`, or an http or https URL.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Endpoint {
    text: String,
    url: Url,
}

/// The text is not an address. Does not repeat it: it may hold a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be host:port, or an http or https URL without user, query and fragment")]
pub struct NotAnEndpoint;

impl FromStr for Endpoint {
    type Err = NotAnEndpoint;

    fn from_str(text: &str) -> Result<Self, NotAnEndpoint> {
        let text = text.trim();
        let has_scheme = text.contains("://");
        let url = if has_scheme {
            Url::parse(text)
        } else {
            Url::parse(&format!("http://{text}"))
        };
        let url = url.map_err(|_| NotAnEndpoint)?;
        let is_bare = url.username().is_empty()
            && url.password().is_none()
            && url.query().is_none()
            && url.fragment().is_none();
        let is_complete = has_scheme || url.port().is_some() && url.path() == "/";
        if !matches!(url.scheme(), "http" | "https") || !is_bare || !is_complete {
            return Err(NotAnEndpoint);
        }
        let text = text.to_owned();
        Ok(Endpoint { text, url })
    }
}

impl TryFrom<String> for Endpoint {
    type Error = NotAnEndpoint;

    fn try_from(text: String) -> Result<Self, NotAnEndpoint> {
        text.parse()
    }
}

impl From<Endpoint> for String {
    fn from(endpoint: Endpoint) -> String {
        endpoint.text
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Endpoint {
    /// The URL of a service.
    pub(super) fn url(&self) -> &Url {
        &self.url
    }

    /// The URL of what is posted, below this one.
    pub(super) fn below(&self, segments: &[&str]) -> Url {
        let mut url = self.url.clone();
        // Every http URL has a path.
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(segments);
        }
        url
    }
}

/// How a collector is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    Grpc,
    HttpProtobuf,
}

/// See the module documentation.
pub struct Settings {
    pub(super) endpoint: Endpoint,
    pub(super) protocol: Protocol,
    /// Headers of every request; values may be secrets.
    pub(super) headers: Vec<(String, String)>,
    pub(super) timeout: Duration,
    pub(super) sampler: Sampler,
    pub(super) metrics_interval: Duration,
    /// What the server is: `service.name` and the like.
    pub(super) resource: Vec<(String, String)>,
    pub(super) has_spans: bool,
    pub(super) has_metrics: bool,
}

impl Settings {
    /// As the environment has it. What cannot be understood there is told by a warning, and left at its
    /// default: the variables are for everything on the machine.
    pub fn new(endpoint: Endpoint, variable: impl Fn(&str) -> Option<String>) -> Self {
        let variable = |name: &str| variable(name).filter(|text| !text.trim().is_empty());
        let millis = |name, default| {
            let text = variable(name)?;
            let millis = text.trim().parse().ok().filter(|ms| *ms > 0);
            Some(millis.map_or_else(|| ignored(name, default), Duration::from_millis))
        };
        let is_wanted = |name| variable(name).as_deref().map(str::trim) != Some("none");
        Settings {
            endpoint,
            protocol: match variable(PROTOCOL).as_deref().map(str::trim) {
                None | Some("grpc") => Protocol::Grpc,
                Some("http/protobuf") => Protocol::HttpProtobuf,
                Some(_) => ignored(PROTOCOL, Protocol::Grpc),
            },
            headers: variable(HEADERS)
                .map(|text| pairs(HEADERS, &text))
                .unwrap_or_default(),
            timeout: millis("OTEL_EXPORTER_OTLP_TIMEOUT", TIMEOUT).unwrap_or(TIMEOUT),
            sampler: sampler(&variable),
            metrics_interval: millis("OTEL_METRIC_EXPORT_INTERVAL", METRICS_INTERVAL)
                .unwrap_or(METRICS_INTERVAL),
            resource: resource(&variable),
            has_spans: is_wanted("OTEL_TRACES_EXPORTER"),
            has_metrics: is_wanted("OTEL_METRICS_EXPORTER"),
        }
    }
}

const PROTOCOL: &str = "OTEL_EXPORTER_OTLP_PROTOCOL";
const HEADERS: &str = "OTEL_EXPORTER_OTLP_HEADERS";
const ATTRIBUTES: &str = "OTEL_RESOURCE_ATTRIBUTES";
const SAMPLER: &str = "OTEL_TRACES_SAMPLER";
const SAMPLER_ARG: &str = "OTEL_TRACES_SAMPLER_ARG";

fn ignored<T>(name: &str, default: T) -> T {
    tracing::warn!("environment variable {name} is not understood and ignored");
    default
}

fn sampler(variable: &impl Fn(&str) -> Option<String>) -> Sampler {
    let default = Sampler {
        ratio: 1.0,
        follows_parent: true,
    };
    let Some(name) = variable(SAMPLER) else {
        return default;
    };
    let name = name.trim();
    let follows_parent = name.starts_with("parentbased_");
    let ratio = match name.trim_start_matches("parentbased_") {
        "always_on" => 1.0,
        "always_off" => 0.0,
        "traceidratio" => {
            let ratio = variable(SAMPLER_ARG).map_or(Some(1.0), |text| text.trim().parse().ok());
            let ratio = ratio.filter(|ratio| (0.0..=1.0).contains(ratio));
            ratio.unwrap_or_else(|| ignored(SAMPLER_ARG, 1.0))
        }
        _ => return ignored(SAMPLER, default),
    };
    Sampler {
        ratio,
        follows_parent,
    }
}

fn resource(variable: &impl Fn(&str) -> Option<String>) -> Vec<(String, String)> {
    let mut resource = vec![
        ("service.name".to_owned(), "resonate".to_owned()),
        (
            "service.version".to_owned(),
            env!("CARGO_PKG_VERSION").to_owned(),
        ),
        (
            "service.instance.id".to_owned(),
            format!("{:032x}", fastrand::u128(..)),
        ),
    ];
    let attributes = variable(ATTRIBUTES).map(|text| pairs(ATTRIBUTES, &text));
    let service = variable("OTEL_SERVICE_NAME").map(|name| ("service.name".to_owned(), name));
    for (name, value) in attributes.into_iter().flatten().chain(service) {
        resource.retain(|(known, _)| *known != name);
        resource.push((name, value));
    }
    resource
}

/// `name=value` between commas, values percent-encoded.
fn pairs(variable: &str, text: &str) -> Vec<(String, String)> {
    let items = text.split(',').map(str::trim);
    let pair = |item: &str| {
        let (name, value) = item.split_once('=')?;
        let value = percent_decode_str(value.trim()).decode_utf8().ok()?;
        let name = Some(name.trim()).filter(|name| !name.is_empty())?;
        Some((name.to_owned(), value.into_owned()))
    };
    let items = items.filter(|item| !item.is_empty()).map(pair);
    let pairs: Option<Vec<_>> = items.collect();
    pairs.unwrap_or_else(|| ignored(variable, Vec::new()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(variables: &[(&str, &str)]) -> Settings {
        let endpoint = "localhost:4317".parse().unwrap();
        Settings::new(endpoint, |name| {
            let of_name = variables.iter().find(|(known, _)| *known == name);
            of_name.map(|(_, value)| (*value).to_owned())
        })
    }

    fn owned(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        pairs.iter().map(own).collect()
    }

    #[test]
    fn an_endpoint_is_an_address_or_a_url() {
        for (text, url) in [
            ("localhost:4317", "http://localhost:4317/v1/traces"),
            ("[::1]:4317", "http://[::1]:4317/v1/traces"),
            ("http://collector", "http://collector/v1/traces"),
            (
                "https://a.example/base/",
                "https://a.example/base/v1/traces",
            ),
        ] {
            let endpoint: Endpoint = text.parse().unwrap();
            assert_eq!(endpoint.below(&["v1", "traces"]).as_str(), url);
            assert_eq!(endpoint.to_string(), text);
        }
        for text in [
            "",
            "collector",
            "collector:4317/path",
            "ftp://collector:1",
            "http://",
            "https://me:secret@collector",
            "https://collector/?key=secret",
            "localhost:99999",
        ] {
            assert_eq!(text.parse::<Endpoint>(), Err(NotAnEndpoint), "{text}");
        }
    }

    #[test]
    fn the_environment_says_how() {
        let settings = settings(&[
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
            (
                "OTEL_EXPORTER_OTLP_HEADERS",
                "authorization=Bearer%20x, a = b",
            ),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "250"),
            ("OTEL_SERVICE_NAME", "mine"),
            ("OTEL_RESOURCE_ATTRIBUTES", "service.name=other,zone=a%2Cb"),
            ("OTEL_TRACES_SAMPLER", "parentbased_traceidratio"),
            ("OTEL_TRACES_SAMPLER_ARG", "0.25"),
            ("OTEL_METRICS_EXPORTER", "none"),
        ]);
        assert_eq!(settings.protocol, Protocol::HttpProtobuf);
        let headers = owned(&[("authorization", "Bearer x"), ("a", "b")]);
        assert_eq!(settings.headers, headers);
        assert_eq!(settings.timeout, Duration::from_millis(250));
        let resource = owned(&[("zone", "a,b"), ("service.name", "mine")]);
        assert_eq!(settings.resource[2..], resource);
        let sampler = Sampler {
            ratio: 0.25,
            follows_parent: true,
        };
        assert_eq!(settings.sampler, sampler);
        assert!(settings.has_spans && !settings.has_metrics);
    }

    #[test]
    fn what_is_not_understood_there_is_ignored() {
        let defaults = settings(&[]);
        let settings = settings(&[
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "carrier/pigeon"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "no pair"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "0"),
            ("OTEL_SERVICE_NAME", ""),
            ("OTEL_TRACES_SAMPLER", "sometimes"),
        ]);
        assert_eq!(settings.protocol, defaults.protocol);
        assert_eq!(settings.headers, []);
        assert_eq!(settings.timeout, defaults.timeout);
        assert_eq!(settings.resource[..2], defaults.resource[..2]);
        assert_eq!(settings.sampler, defaults.sampler);
    }
}
