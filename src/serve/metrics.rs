//! Whom the catalogue asks for what nobody keeps count of.

use std::sync::{Arc, Weak};

use crate::driver::Drivers;
use crate::engine::Engine;
use crate::telemetry::metrics::METRICS;
use crate::transport::poll::Hub;

/// Has the gauges of streams, timers and connections to the storage set whenever somebody looks, as long as there are
/// these parts.
pub(super) fn ask(engine: &Arc<Engine>, drivers: &Arc<Drivers>, hub: &Hub) {
    let parts = (Arc::downgrade(engine), Arc::downgrade(drivers));
    let hub = hub.clone();
    METRICS.ask(Box::new(move |metrics| {
        let (engine, drivers) = (Weak::upgrade(&parts.0), Weak::upgrade(&parts.1));
        if let (Some(engine), Some(drivers)) = (engine, drivers) {
            metrics.streams(hub.groups().into_iter());
            metrics.storage_connections(&engine.store().pools());
            drivers.timers.measure(engine.clock().now());
        }
    }));
}
