//! The management core: one manager that everything is asked of, and a socket to ask it by.
//!
//! | module | what it is |
//! | --- | --- |
//! | [`protocol`] | requests and answers, shared by server, client and `--json` |
//! | [`access`], [`keys`] | who may ask what, and the API keys |
//! | [`address`], [`describe`] | addresses, filters and packets as people write them |
//! | [`manager`] | reload, status, counters, sessions, trace, explain |
//! | [`metrics`] | what Prometheus sees |
//! | [`inventory`] | all resources and the rules between them |
//! | [`store`] | where they are kept |
//! | [`writer`] | makes changes durable and in force |
//! | [`departures`] | sessions that outlive the entries that they are of |
//! | [`session_log`] | sessions that began and ended, written where people and collectors read it |
//! | [`metering`] | what gateways and EIPs used, hour by hour |
//! | [`service`] | what a transport needs of whoever answers |
//! | [`socket`] | the Unix socket: listener, connections |
//! | [`client`] | the other end of the socket |

pub mod access;
pub mod address;
pub mod client;
pub mod departures;
pub mod describe;
pub mod inventory;
pub mod keys;
pub mod manager;
pub mod metering;
pub mod metrics;
pub mod protocol;
pub mod service;
pub mod session_log;
pub mod socket;
pub mod store;
mod time;
pub mod writer;
