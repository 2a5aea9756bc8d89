//! The command line of Cedargate.

use std::process::ExitCode;

fn main() -> ExitCode {
    cedargate::cli::run()
}
