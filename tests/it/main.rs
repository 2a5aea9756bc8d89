//! Tests of the whole service over HTTP, on a real server and a real database.

#![allow(
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::print_stdout,
    reason = "a test ends where something is not as expected, and nobody reaches into its binary"
)]

mod authorize;
mod command_line;
mod document;
mod gate;
mod jwt;
mod keys;
mod layering;
mod outage;
mod questions;
mod readme;
mod refresh;
mod support;
mod table;
mod tokens;
mod transcript;
