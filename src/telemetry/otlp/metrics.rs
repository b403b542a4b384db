//! The metrics as OTLP has them: what the catalogue gathers for Prometheus, series by series.

use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value;
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint, Sum,
};
use prometheus::proto::{self, MetricFamily, MetricType};

use crate::telemetry::tracer::text;

/// What was gathered at `now`, of a process that has counted since `since`; both in nanoseconds since the
/// Unix epoch.
pub(super) fn of(families: &[MetricFamily], since: u64, now: u64) -> Vec<Metric> {
    let at = At { since, now };
    let metric = |family: &MetricFamily| {
        Some(Metric {
            name: family.name().to_owned(),
            description: family.help().to_owned(),
            data: Some(data(family, at)?),
            ..Metric::default()
        })
    };
    families.iter().filter_map(metric).collect()
}

#[derive(Clone, Copy)]
struct At {
    since: u64,
    now: u64,
}

/// None of a kind that the catalogue does not have.
fn data(family: &MetricFamily, at: At) -> Option<Data> {
    let series = family.get_metric().iter();
    Some(match family.get_field_type() {
        MetricType::COUNTER => Data::Sum(Sum {
            data_points: series
                .map(|series| at.number(series, series.get_counter().get_value()))
                .collect(),
            aggregation_temporality: AggregationTemporality::Cumulative.into(),
            is_monotonic: true,
        }),
        MetricType::GAUGE => Data::Gauge(Gauge {
            data_points: series
                .map(|series| at.number(series, series.get_gauge().get_value()))
                .collect(),
        }),
        MetricType::HISTOGRAM => Data::Histogram(Histogram {
            data_points: series.map(|series| at.histogram(series)).collect(),
            aggregation_temporality: AggregationTemporality::Cumulative.into(),
        }),
        MetricType::SUMMARY | MetricType::UNTYPED => return None,
    })
}

impl At {
    fn number(self, series: &proto::Metric, value: f64) -> NumberDataPoint {
        NumberDataPoint {
            attributes: labels(series),
            start_time_unix_nano: self.since,
            time_unix_nano: self.now,
            value: Some(Value::AsDouble(value)),
            ..NumberDataPoint::default()
        }
    }

    /// Prometheus counts what is below each bound, OTLP what is between two, and above the last.
    fn histogram(self, series: &proto::Metric) -> HistogramDataPoint {
        let histogram = series.get_histogram();
        let buckets = histogram.get_bucket().iter();
        let buckets = buckets.filter(|bucket| bucket.upper_bound().is_finite());
        let (mut bounds, mut counts, mut below) = (Vec::new(), Vec::new(), 0);
        for bucket in buckets {
            bounds.push(bucket.upper_bound());
            counts.push(bucket.cumulative_count().saturating_sub(below));
            below = bucket.cumulative_count();
        }
        let count = histogram.get_sample_count().max(below);
        counts.push(count - below);
        HistogramDataPoint {
            attributes: labels(series),
            start_time_unix_nano: self.since,
            time_unix_nano: self.now,
            count,
            sum: Some(histogram.get_sample_sum()),
            bucket_counts: counts,
            explicit_bounds: bounds,
            ..HistogramDataPoint::default()
        }
    }
}

fn labels(series: &proto::Metric) -> Vec<KeyValue> {
    let labels = series.get_label().iter();
    labels
        .map(|label| text(label.name(), label.value()))
        .collect()
}

#[cfg(test)]
mod tests {
    use prometheus::{HistogramOpts, IntCounterVec, IntGauge, Opts, Registry};

    use super::*;

    #[test]
    fn every_series_is_what_prometheus_is_told() {
        let registry = Registry::new();
        let counter = IntCounterVec::new(Opts::new("c_total", "Counts."), &["kind"]).unwrap();
        let gauge = IntGauge::new("g", "Goes up and down.").unwrap();
        let opts = HistogramOpts::new("h_seconds", "Times.").buckets(vec![1.0, 2.0, 3.0]);
        let histogram = prometheus::Histogram::with_opts(opts).unwrap();
        registry.register(Box::new(counter.clone())).unwrap();
        registry.register(Box::new(gauge.clone())).unwrap();
        registry.register(Box::new(histogram.clone())).unwrap();
        counter.with_label_values(&["a"]).inc_by(7);
        gauge.set(-3);
        for value in [0.5, 0.5, 2.5, 9.0] {
            histogram.observe(value);
        }

        let metrics = of(&registry.gather(), 1, 2);
        let [c, g, h] = &metrics[..] else {
            panic!("{metrics:?}");
        };
        assert_eq!((&*c.name, &*c.description), ("c_total", "Counts."));
        let Some(Data::Sum(sum)) = &c.data else {
            panic!("{c:?}");
        };
        assert!(sum.is_monotonic);
        let [point] = &sum.data_points[..] else {
            panic!("{sum:?}");
        };
        assert_eq!(point.value, Some(Value::AsDouble(7.0)));
        assert_eq!(point.attributes, [text("kind", "a")]);
        assert_eq!((point.start_time_unix_nano, point.time_unix_nano), (1, 2));
        let Some(Data::Gauge(gauge)) = &g.data else {
            panic!("{g:?}");
        };
        assert_eq!(gauge.data_points[0].value, Some(Value::AsDouble(-3.0)));
        let Some(Data::Histogram(histogram)) = &h.data else {
            panic!("{h:?}");
        };
        let point = &histogram.data_points[0];
        assert_eq!(point.explicit_bounds, [1.0, 2.0, 3.0]);
        assert_eq!(point.bucket_counts, [2, 0, 1, 1]);
        assert_eq!((point.count, point.sum), (4, Some(12.5)));
    }
}
