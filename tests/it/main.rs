//! Integration tests of the whole service over HTTP, with a real server and a real database.

#![allow(
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::print_stdout,
    reason = "tests panic on unexpected results, and nothing links their binary"
)]

mod api_keys;
mod archived_policies;
mod audit;
mod audit_archive;
mod audit_chain;
mod audit_denials;
mod audit_queries;
mod authorize;
mod authorize_questions;
mod authorizer;
mod authzen;
mod authzen_batch;
mod authzen_search;
mod backup;
mod bad_input;
mod browser;
mod bulk_changes;
mod bulk_create;
mod caches_off;
mod caller_credential;
mod certification;
mod clock_steps;
mod cluster;
mod command_line;
mod command_output;
mod commands;
mod configuration;
mod conversations;
mod cors;
mod crash_recovery;
mod creation_authorization;
mod database_outage;
mod decision_log;
mod engine;
mod engine_external;
mod example_ci;
mod example_clients;
mod example_documents;
mod explain_command;
mod explanations;
mod exports;
mod external_domains;
mod forward;
mod forward_routes;
mod health_command;
mod identity_administration;
mod jwt;
mod layering;
mod least_changes;
mod lifecycle;
mod list_language;
mod list_queries;
mod lists;
mod login_flood;
mod login_throttle;
mod migration_crash;
mod multi_process;
mod negative_caching;
mod normalization;
mod oauth;
mod openapi_document;
mod organizations;
mod packages;
mod passwords;
mod permission_table;
mod policy_analyze;
mod policy_cases;
mod policy_check;
mod policy_claims;
mod policy_coverage;
mod policy_diff;
mod policy_docs;
mod policy_files;
mod policy_format;
mod policy_mutants;
mod policy_prove;
mod policy_reload;
mod policy_replay;
mod policy_report;
mod policy_versions;
mod postgres_limits;
mod postgres_load;
mod postgres_migration;
mod postgres_outage;
mod postgres_pooler;
mod postgres_restart;
mod postgres_tls;
mod proxies;
mod public_url;
mod random_input;
mod rate_limits;
mod readme;
mod refresh;
mod relay;
mod reload;
mod repeated_questions;
mod replicas;
mod resource_limits;
mod resource_sizes;
mod resources;
mod revocation;
mod rolling_restart;
mod rustdoc;
mod sdk;
mod search_log;
mod secret_leaks;
mod secret_search;
mod sessions;
mod signing_keys;
mod sqlite_file;
mod stale_decisions;
mod stalled_output;
mod strict_input;
mod support;
mod tenancy;
mod token_families;
mod token_family_model;
mod tokens;
mod traces;
mod transcript;
mod users;
mod verification;
mod views;
mod without_database;
