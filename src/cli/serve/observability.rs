//! The flags of `[observability]`.

use clap::Args;

use super::Given;

#[derive(Args, Default)]
#[command(next_help_heading = "Observability")]
pub(super) struct ObservabilityFlags {
    /// Port of the metrics endpoint, 0 to 65535; 0 is off
    #[arg(long, value_name = "PORT", allow_negative_numbers = true)]
    observability_metrics_port: Option<i64>,
    /// Address to bind for metrics; by default --server-bind
    #[arg(long, value_name = "ADDRESS")]
    observability_metrics_bind: Option<String>,
    /// Collector that spans and metrics are exported to over OTLP: host:port, or an http or https
    /// URL; nothing is exported without one. OTEL_EXPORTER_OTLP_ENDPOINT sets it too
    #[arg(long, value_name = "ENDPOINT")]
    observability_otlp_endpoint: Option<String>,
    /// How the log is written: text, or json, one object per line
    #[arg(long, value_name = "FORMAT")]
    observability_log_format: Option<String>,
    /// Requests that take longer are logged, with where their time went, in milliseconds; 0 is off
    #[arg(long, value_name = "MS", allow_negative_numbers = true)]
    observability_slow_request: Option<i64>,
}

impl ObservabilityFlags {
    pub(super) fn given(self, given: &mut Given) {
        given.add(
            "observability.metrics_port",
            self.observability_metrics_port,
        );
        given.add(
            "observability.metrics_bind",
            self.observability_metrics_bind,
        );
        given.add(
            "observability.otlp_endpoint",
            self.observability_otlp_endpoint,
        );
        given.add("observability.log_format", self.observability_log_format);
        given.add(
            "observability.slow_request",
            self.observability_slow_request,
        );
    }
}
