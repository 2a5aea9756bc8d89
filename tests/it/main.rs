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

mod absence;
mod access;
mod access_batch;
mod access_search;
mod address;
mod asked_again;
mod audit;
mod audit_archive;
mod audit_chain;
mod audit_reading;
mod audit_refusals;
mod authorize;
mod backup;
mod bad_input;
mod browsers;
mod canary;
mod certification;
mod clock_steps;
mod cluster;
mod command_line;
mod command_output;
mod conversations;
mod creations;
mod decision_log;
mod document;
mod documents;
mod domains;
mod engine;
mod engine_foreign;
mod exhaustion;
mod families;
mod family_model;
mod forward;
mod forward_routes;
mod gate;
mod guessing;
mod health_command;
mod identities;
mod jwt;
mod keys;
mod killed;
mod killed_migration;
mod layering;
mod limits;
mod lists;
mod login_flood;
mod normalization;
mod organizations;
mod outage;
mod own_credential;
mod passwords;
mod policy_cases;
mod policy_reload;
mod postgres_outage;
mod postgres_pooler;
mod postgres_tls;
mod processes;
mod proxies;
mod questions;
mod random_input;
mod readme;
mod refresh;
mod reload;
mod replicas;
mod resources;
mod restart;
mod revocation;
mod rolling_restart;
mod running;
mod secrets;
mod sessions;
mod signing_keys;
mod sqlite_file;
mod stale_decisions;
mod stalled;
mod strict_input;
mod support;
mod table;
mod tenancy;
mod tokens;
mod traces;
mod transcript;
mod users;
