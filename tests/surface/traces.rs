//! Traces: W3C trace context from the client through the server to workers, and spans over OTLP
//! (configuration §2, `observability.otlp_endpoint`).

use std::fs;

use opentelemetry_proto::tonic::trace::v1::Span;
use resonate::protocol::trace::Trace;
use serde_json::{Value, json};

use crate::harness::collector::{Collector, attribute, trace_of};
use crate::harness::database::Database;
use crate::harness::google::PubSub;
use crate::harness::process::Signal;
use crate::harness::scripts::{self, base64};
use crate::harness::server::{Server, free_port, unique};
use crate::harness::sink::Sink;
use crate::harness::sse::Stream;
use crate::harness::store::{Store, forgets_on_restart, store};
use crate::surface::metrics;

const FAR: i64 = i64::MAX;
const STATE: &str = "vendor=opaque, other=1";

/// A span of its own trace, or of a trace, that is no server's.
fn outside(name: &str, parent: Option<&Trace>) -> (Span, Trace) {
    let trace = match parent {
        Some(parent) => parent.with_span(fastrand::u64(1..)),
        None => Trace::new(fastrand::u128(1..), fastrand::u64(1..), true),
    };
    let span = Span {
        name: name.to_owned(),
        trace_id: trace.trace_id().to_be_bytes().into(),
        span_id: trace.span_id().to_be_bytes().into(),
        parent_span_id: parent
            .map(|parent| parent.span_id().to_be_bytes().into())
            .unwrap_or_default(),
        ..Span::default()
    };
    (span, trace)
}

/// A request that is answered, and changes nothing.
fn get_nothing(server: &Server) {
    let answer = server.call("promise.get", json!({"id": "none"}));
    answer.expect_status(404);
}

/// What a message names as where it comes from.
#[track_caller]
fn named(message: &Value) -> Trace {
    let head = &message["head"];
    let parent = head["traceparent"].as_str();
    let parent = parent.unwrap_or_else(|| panic!("no trace: {message}"));
    let trace = Trace::read(parent, head["tracestate"].as_str());
    trace.unwrap_or_else(|| panic!("a traceparent: {message}"))
}

fn target(address: &str) -> Value {
    json!({"resonate:target": address})
}

fn export_to(collector: &Collector) -> [String; 2] {
    [
        "--observability-otlp-endpoint".to_owned(),
        collector.endpoint(),
    ]
}

fn exporting(collector: &Collector) -> Server {
    let flags = export_to(collector);
    Server::with(&flags.each_ref().map(String::as_str))
}

#[test]
fn a_workflow_is_one_trace_from_the_client_to_its_workers_and_back() {
    let collector = Collector::start();
    let server = exporting(&collector);
    let (group, root) = (unique("g"), unique("r"));
    let child = format!("{root}.1");
    let worker = Stream::open(&server, &group, "w");
    let pushed_to = Sink::start();

    // The client.
    let (span, client) = outside("client", None);
    collector.export(span);
    let asked = server.client().in_trace(&client);
    asked.create(&root, FAR, target(&format!("poll://any@{group}")));
    asked.listen(&root, &format!("poll://uni@{group}/w"));

    // A worker on a stream, which calls another and waits for it.
    let told = worker.next();
    assert_eq!(told["data"]["task"]["id"], json!(root));
    let (span, running) = outside("worker", Some(&named(&told)));
    collector.export(span);
    let asked = server.client().in_trace(&running);
    asked.acquire(&root, 0, 60_000);
    asked.create(&child, FAR, target(&pushed_to.url("/run")));
    asked.suspend(&root, 1, &[&child]).expect_status(200);

    // That other, which is pushed to.
    let pushed = pushed_to.next();
    let pushed_in = named(&pushed.message);
    assert_eq!(
        pushed.head.header("traceparent"),
        Some(&*pushed_in.parent())
    );
    let (span, pushing) = outside("pushed", Some(&pushed_in));
    collector.export(span);
    let asked = server.client().in_trace(&pushing);
    asked.acquire(&child, 0, 60_000);
    asked.ok("task.fulfill", fulfill(&child, 1));

    // The first goes on, and the client hears of it.
    let resumed = worker.next();
    assert_eq!(resumed["data"]["task"]["version"], 1);
    let (span, resuming) = outside("resumed", Some(&named(&resumed)));
    collector.export(span);
    let asked = server.client().in_trace(&resuming);
    asked.acquire(&root, 1, 60_000);
    asked.ok("task.fulfill", fulfill(&root, 2));
    let over = worker.next();
    assert_eq!(over["data"]["promise"]["state"], "resolved");

    // Every parent is a span that has arrived, all of one trace.
    let create = collector.child(&client, "promise.create");
    let execute = collector.child(&trace_of(&create), "execute");
    let in_worker = collector.child(&trace_of(&execute), "worker");
    assert_eq!(trace_of(&in_worker), running);
    collector.child(&running, "task.acquire");
    collector.child(&running, "task.suspend");
    let create_child = collector.child(&running, "promise.create");
    let push = collector.child(&trace_of(&create_child), "execute");
    assert_eq!(trace_of(&push), pushed_in);
    collector.child(&pushed_in, "pushed");
    let settle = collector.child(&pushing, "task.fulfill");
    collector.child(&resuming, "task.fulfill");
    // It continues what its own creation began, and refers to what woke it.
    let again = collector.child(&trace_of(&create), "execute");
    assert_eq!(again.name, "execute");
    let continued = collector.until(|arrived| {
        let named = named(&resumed).span_id().to_be_bytes();
        let is_it = |span: &&Span| span.span_id == named;
        arrived.spans.iter().find(is_it).cloned()
    });
    assert_eq!(continued.parent_span_id, create.span_id);
    let links: Vec<_> = continued.links.iter().map(|link| &link.span_id).collect();
    // A server that finds a task waiting, before another has told it, does not know what woke it.
    let may_be_found = store() == Store::Cluster && links.is_empty();
    assert!(may_be_found || links == [&settle.span_id], "{links:?}");
    // Likewise: an `unblock` that a server finds names nothing.
    let is_told = over["head"]["traceparent"].is_string();
    assert!(is_told || store() == Store::Cluster, "{over}");
    if is_told {
        let told = collector.child(&named(&over), "unblock");
        let transport = attribute(&told, "resonate.transport");
        assert_eq!(transport.as_deref(), Some("poll"));
    }
    let expected = 16 + usize::from(is_told);
    let orphans = collector.until(|arrived| {
        let of_trace = |span: &&Span| span.trace_id == client.trace_id().to_be_bytes();
        let spans: Vec<&Span> = arrived.spans.iter().filter(of_trace).collect();
        let is_there = |id: &Vec<u8>| spans.iter().any(|span| span.span_id == *id);
        let orphans = spans.iter().filter(|span| !is_there(&span.parent_span_id));
        let names: Vec<String> = orphans.map(|span| span.name.clone()).collect();
        (spans.len() >= expected).then_some(names)
    });
    assert_eq!(orphans, ["client"]);
}

fn fulfill(id: &str, version: i64) -> Value {
    let settle = json!({"id": id, "state": "resolved", "value": {}});
    let head = json!({"corrId": "a", "version": "2026-04-01"});
    let action = json!({"kind": "promise.settle", "head": head, "data": settle});
    json!({"id": id, "version": version, "action": action})
}

#[test]
fn a_span_says_what_was_asked_and_nothing_that_is_secret() {
    let collector = Collector::start();
    let server = exporting(&collector);
    let (_, client) = outside("client", None);
    let asked = server.client().in_trace(&client);
    let id = unique("p");
    let data = json!({"id": id, "timeoutAt": FAR, "param": {"data": "s3cret"}});
    asked.ok("promise.create", data);
    asked.refused(
        "promise.get",
        json!({"id": "none"}),
        404,
        "Promise not found",
    );
    let span = collector.child(&client, "promise.create");
    assert_eq!(
        attribute(&span, "resonate.kind").as_deref(),
        Some("promise.create")
    );
    assert_eq!(attribute(&span, "resonate.status").as_deref(), Some("200"));
    assert_eq!(attribute(&span, "resonate.id"), Some(id));
    for part in ["queue", "load", "decide", "commit"] {
        let name = format!("resonate.{part}_ms");
        assert!(attribute(&span, &name).is_some(), "{name}: {span:?}");
    }
    assert!(!format!("{span:?}").contains("s3cret"), "{span:?}");
    let span = collector.child(&client, "promise.get");
    assert_eq!(attribute(&span, "resonate.status").as_deref(), Some("404"));
}

#[test]
fn what_begins_in_the_server_is_a_trace_too_and_what_is_not_sampled_is_not_recorded() {
    let collector = Collector::start();
    let server = exporting(&collector);
    let group = unique("g");
    let worker = Stream::open(&server, &group, "w");
    let address = target(&format!("poll://any@{group}"));
    server.client().create(&unique("p"), FAR, address.clone());
    let told = named(&worker.next());
    assert!(told.is_sampled());

    let unsampled = Trace::read(&client_parent("00"), None).expect("it is well formed");
    let asked = server.client().in_trace(&unsampled);
    asked.create(&unique("p"), FAR, address);
    assert_eq!(named(&worker.next()), unsampled);
    // It would have come before what is asked for now.
    get_nothing(&server);
    collector.until(|arrived| {
        let has = |name: &str| arrived.spans.iter().any(|span| span.name == name);
        has("promise.get").then_some(())
    });
    collector.until(|arrived| {
        let trace_id = unsampled.trace_id().to_be_bytes();
        let recorded = arrived.spans.iter().any(|span| span.trace_id == trace_id);
        assert!(!recorded, "{:?}", arrived.spans);
        Some(())
    });
}

fn client_parent(flags: &str) -> String {
    format!("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-{flags}")
}

/// A trace that nobody records here is carried on as it came, to every kind of worker.
#[test]
fn a_trace_is_carried_to_workers_without_a_collector() {
    let pubsub = PubSub::start();
    let flags = [
        &scripts::ENABLED[..],
        &["--transports-gcps-enabled", "true"],
    ]
    .concat();
    let env = [
        ("PUBSUB_EMULATOR_HOST", &*pubsub.host()),
        ("TRACEPARENT", "x"),
    ];
    let server = Server::with_env(&flags, &env);
    let client = Trace::read(&client_parent("01"), Some(STATE)).expect("it is well formed");
    let asked = server.client().in_trace(&client);
    let group = unique("g");
    let worker = Stream::open(&server, &group, "w");
    asked.create(&unique("p"), FAR, target(&format!("poll://any@{group}")));
    assert_eq!(named(&worker.next()), client);

    let sink = Sink::start();
    asked.create(&unique("p"), FAR, target(&sink.url("/")));
    let pushed = sink.next();
    assert_eq!(named(&pushed.message), client);
    assert_eq!(pushed.head.header("traceparent"), Some(&*client.parent()));
    assert_eq!(pushed.head.header("tracestate"), Some(STATE));

    asked.create(&unique("p"), FAR, target("gcps://project/topic"));
    let published = pubsub.next();
    assert_eq!(named(&published.message), client);
    assert_eq!(published.attributes["traceparent"], client.parent());
    assert_eq!(published.attributes["tracestate"], STATE);

    let id = unique("p");
    let script = base64("echo $TRACEPARENT $TRACESTATE");
    let data = json!({
        "id": id, "timeoutAt": FAR, "param": {"data": script}, "tags": target("bash:///"),
    });
    asked.ok("promise.create", data);
    let settled = scripts::settled(&server, &id);
    let printed = settled["value"]["data"].as_str().expect("it has printed");
    assert_eq!(printed.trim(), client.to_string(), "{settled}");

    // Who has no trace is told of none.
    server
        .client()
        .create(&unique("p"), FAR, target(&format!("poll://any@{group}")));
    let told = worker.next();
    assert!(told["head"].get("traceparent").is_none(), "{told}");
}

#[test]
fn what_is_malformed_is_no_trace() {
    let server = Server::start();
    let group = unique("g");
    let worker = Stream::open(&server, &group, "w");
    let good = client_parent("01");
    for headers in [
        &[("traceparent", "00-abc")][..],
        &[("traceparent", &*good), ("traceparent", &*good)],
        &[("tracestate", STATE)],
    ] {
        let data = json!({
            "id": unique("p"), "timeoutAt": FAR, "tags": target(&format!("poll://any@{group}")),
        });
        let head = json!({"corrId": "c", "version": "2026-04-01"});
        let body = json!({"kind": "promise.create", "head": head, "data": data}).to_string();
        server
            .post_with(headers, body.as_bytes())
            .expect_status(200);
        let told = worker.next();
        assert!(
            told["head"].get("traceparent").is_none(),
            "{headers:?}: {told}"
        );
    }
}

#[test]
fn a_trace_outlives_the_server_that_was_asked() {
    if forgets_on_restart() {
        return;
    }
    let collector = Collector::start();
    let server = exporting(&collector);
    let (group, id) = (unique("g"), unique("p"));
    let client = Trace::read(&client_parent("01"), Some(STATE)).expect("it is well formed");
    let asked = server.client().in_trace(&client);
    asked.create(&id, FAR, target(&format!("poll://any@{group}")));
    let create = collector.child(&client, "promise.create");
    let server = server.restart(Signal::Kill);
    let told = named(&Stream::open(&server, &group, "w").next());
    assert_eq!(told.state(), Some(STATE));
    let execute = collector.child(&trace_of(&create), "execute");
    assert_eq!(trace_of(&execute).parent(), told.parent());
    // Whether or not anybody records it.
    let server = server.restart_with(Signal::Kill, &[]);
    let told = named(&Stream::open(&server, &group, "w").next());
    assert_eq!(told.parent(), trace_of(&create).parent());
    assert_eq!(told.state(), Some(STATE));
}

#[test]
fn a_trace_goes_on_on_another_node() {
    let collector = Collector::start();
    let database = Database::own();
    let flags = export_to(&collector);
    let flags = flags.each_ref().map(String::as_str);
    let [a, b] = [(); 2].map(|()| Server::on(&database.url(), &flags));
    let (_, client) = outside("client", None);
    let asked = a.client().in_trace(&client);
    let stream = Stream::open(&b, "g", "w");
    asked.create("p", FAR, target("poll://any@g"));
    let told = named(&stream.next());
    let create = collector.child(&client, "promise.create");
    let execute = collector.child(&trace_of(&create), "execute");
    assert_eq!(trace_of(&execute), told);
    // It is told of where the settlement came from, too.
    asked.listen("p", "poll://uni@g/w");
    asked.settle("p", "resolved");
    let settle = collector.child(&client, "promise.settle");
    assert_eq!(named(&stream.next()), trace_of(&settle));
}

#[test]
fn metrics_are_exported_as_they_are_scraped() {
    let collector = Collector::start();
    let port = free_port();
    let flags = export_to(&collector);
    let mut flags = flags.each_ref().map(String::as_str).to_vec();
    let port_flag = port.to_string();
    flags.extend([
        "--observability-metrics-port",
        &port_flag,
        "--level",
        "trace",
    ]);
    let env = [
        ("OTEL_METRIC_EXPORT_INTERVAL", "50"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "key=s3cret%20key"),
        ("OTEL_SERVICE_NAME", "mine"),
        ("OTEL_RESOURCE_ATTRIBUTES", "zone=z"),
    ];
    let server = Server::single_with_env(&flags, &env);
    get_nothing(&server);
    let scraped = metrics::scrape(port);
    let names: Vec<&str> = scraped
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next())
        .collect();
    assert!(names.contains(&"resonate_request_total"), "{scraped}");
    collector.until(|arrived| {
        let has = |name: &&&str| arrived.metrics.iter().any(|metric| metric.name == **name);
        (names.iter().filter(has).count() == names.len()).then_some(())
    });
    collector.until(|arrived| {
        let has = |text: &str| arrived.resources.contains(text);
        let is_named = has("service.name=mine") && has("zone=z");
        (is_named && arrived.keys.contains("s3cret key")).then_some(())
    });
    // Who may export is nobody else's business.
    assert!(!server.log().contains("s3cret"), "{}", server.log());
}

#[test]
fn a_collector_may_be_spoken_to_over_http() {
    let collector = Collector::start();
    let endpoint = format!("http://{}/", collector.endpoint());
    let env = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &*endpoint),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
        ("OTEL_TRACES_SAMPLER", "always_on"),
    ];
    let server = Server::with_env(&[], &env);
    get_nothing(&server);
    collector.until(|arrived| {
        let has_span = arrived.spans.iter().any(|span| span.name == "promise.get");
        (has_span && !arrived.metrics.is_empty()).then_some(())
    });
}

#[test]
fn a_collector_behind_tls_has_to_be_trusted() {
    let collector = Collector::start();
    let (endpoint, issuer) = collector.secure();
    let folder = tempfile::tempdir().expect("a folder can be made");
    let trusted = folder.path().join("issuer.pem");
    fs::write(&trusted, issuer).expect("the folder is writable");
    let trusted = trusted.to_str().expect("paths are UTF-8");
    for (protocol, id) in [("grpc", "g"), ("http/protobuf", "h")] {
        let env = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", &*endpoint),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol),
        ];
        let stranger = Server::single_with_env(&[], &env);
        get_nothing(&stranger);
        stranger.logs("the OTLP collector does not take what it is sent");
        let env = [&env[..], &[("SSL_CERT_FILE", trusted)]].concat();
        let server = Server::single_with_env(&[], &env);
        server.call("promise.get", json!({"id": id}));
        collector.until(|arrived| {
            let is_it = |span: &Span| attribute(span, "resonate.id").as_deref() == Some(id);
            arrived.spans.iter().any(is_it).then_some(())
        });
    }
}

#[test]
fn a_collector_that_is_slow_or_not_there_keeps_nobody_waiting() {
    let silent = Collector::silent();
    let nowhere = format!("127.0.0.1:{}", free_port());
    for endpoint in [silent.endpoint(), nowhere] {
        let port = free_port().to_string();
        let flags = [
            "--observability-otlp-endpoint",
            &endpoint,
            "--observability-metrics-port",
            &port,
        ];
        let env = [("OTEL_EXPORTER_OTLP_TIMEOUT", "200")];
        let mut server = Server::single_with_env(&flags, &env);
        for _ in 0..200 {
            get_nothing(&server);
        }
        let dropped = "resonate_otlp_spans_dropped_total{reason=\"refused\"}";
        metrics::reaches(port.parse().expect("a number"), dropped, 1.0);
        server.signal(Signal::Term);
        assert_eq!(server.wait(), Some(0), "{}", server.log());
        let told = server.log();
        let told = told.matches("the OTLP collector does not take what it is sent");
        assert_eq!(told.count(), 1, "{}", server.log());
    }
}
