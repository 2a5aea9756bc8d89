//! `cedargate policy matrix`: writes the permission matrix, as a page or as claims.

use crate::authz::{BundleError, Engine, matrix, matrix_claims};
use crate::cli::{CommandResult, Failure, OutputArgs, write_or_check};
use crate::config::Config;
use crate::server::{read_policies, read_policies_without_claims};
use clap::Args;
use std::path::PathBuf;

/// Which form of the permission matrix goes where.
#[derive(Debug, Args)]
pub(in crate::cli) struct MatrixArgs {
    /// Write to this file [default: policies/MATRIX.md; with --claims, policies/claims/matrix.cedar]
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Write the matrix as claims for `policy prove`: who may always perform an action, and who may never
    #[arg(long)]
    claims: bool,
    /// Compare with the file instead of writing it; exit code 3 if it is outdated
    #[arg(long)]
    check: bool,
}

pub(super) fn run(config: &Config, MatrixArgs { output, claims, check }: MatrixArgs) -> CommandResult {
    let invalid = |error: BundleError| Failure::CheckFailed(error.to_string());
    // Claims of an action that no longer exists are invalid, which must not prevent that they are generated anew.
    let bundle = if claims { read_policies_without_claims(config) } else { read_policies(config) };
    let engine = Engine::new(bundle.map_err(invalid)?).map_err(invalid)?;
    let (text, default) = match claims {
        true => (matrix_claims(&engine), "policies/claims/matrix.cedar"),
        false => (matrix(&engine), "policies/MATRIX.md"),
    };
    write_or_check(OutputArgs { output: Some(output.unwrap_or_else(|| default.into())), check }, &text)
}
