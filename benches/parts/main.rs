//! The parts alone: the machine, and each store. `make bench-parts`.
//!
//! What a store is asked is decided by the machine, from requests as they come over the wire.

use criterion::Criterion;

mod machine;
mod requests;
mod stores;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    machine::all(&mut criterion);
    stores::all(&mut criterion);
    criterion.final_summary();
}
