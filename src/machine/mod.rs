//! The functional core: what every request and every internal step does to the objects.

pub mod object;
