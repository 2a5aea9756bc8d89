//! Measures what each cache gains: the service with all caches and without one of them, in turn.

use super::{Server, insert_rows, loads, log_in, measure, median, service_command, start, start_cedargate};
use std::path::Path;

/// How often each server is measured. The median counts.
const ROUNDS: usize = 3;

/// The workloads that the caches serve.
const LOADS: [&str; 4] =
    ["GET /v2/users/me", "fetch a conversation", "evaluation, distinct", "batch of 1,000, distinct"];

/// Starts the service with a database of its own and without this cache; with all if there is no name.
async fn start_without(directory: &Path, cache: Option<&str>, rows: usize) -> Server {
    drop(start_cedargate(directory, "off"));
    insert_rows(directory, rows).await;
    let policies = Path::new(env!("CARGO_MANIFEST_DIR")).join("policies");
    let mut command = service_command(directory, "all", &policies);
    if let Some(cache) = cache {
        command.env("CEDARGATE_CACHES_OFF", cache);
    }
    start(command)
}

/// Prints the requests per second without each cache, relative to those with all of them.
pub(super) async fn run_benchmark(rows: usize) {
    println!("requests/s without a cache, relative to all caches, every decision logged");
    println!("{:12} {}", "", LOADS.map(|name| format!("{name:>26}")).join(""));
    let script = tempfile::tempdir().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let all = start_without(directory.path(), None, rows).await;
    let all_token = log_in(&all.base).await;
    for cache in ["callers", "users", "rows", "decisions"] {
        let directory = tempfile::tempdir().unwrap();
        let without = start_without(directory.path(), Some(cache), rows).await;
        let token = log_in(&without.base).await;
        let mut ratios = String::new();
        for name in LOADS {
            let mut rates = [Vec::new(), Vec::new()];
            for _ in 0..ROUNDS {
                for (rates, (server, token)) in rates.iter_mut().zip([(&all, &all_token), (&without, &token)])
                {
                    let loads = loads(token);
                    let load = loads.iter().find(|load| load.name == name).unwrap();
                    rates.push(measure(&server.base, load.path, load, script.path()));
                }
            }
            let [all_rate, rate] = rates.map(median);
            ratios += &format!("{:>26.2}", rate / all_rate);
        }
        println!("{cache:12} {ratios}");
    }
}
