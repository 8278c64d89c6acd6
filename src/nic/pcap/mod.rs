//! Captures: a port that replays one and writes another ([`replay`]), and a decorator that writes what passes
//! ([`capture`]).
//!
//! Both read and write files where other back ends only poll: they are for tests and for looking into a fault, and a
//! worker may wait for the disk.

pub mod capture;
mod read;
pub mod replay;
mod write;
