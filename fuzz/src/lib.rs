//! The fuzz targets call the same functions as the tests that replay their corpora.

/// The test support, as far as the targets need it.
#[allow(dead_code, missing_docs)]
#[path = "../../tests/support"]
pub mod support {
    pub mod codec;
    pub mod config;
    pub mod entry;
    pub mod invariants;
    pub mod net;
    pub mod packet;
    pub mod requests;
}
