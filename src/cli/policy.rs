//! `cedargate policy`.

use super::{Failure, Outcome, block_on, open, say, write_or_check};
use crate::api::question::{self, Asked, Named};
use crate::app::{App, read_policies};
use crate::authz::{
    About, Ask, Bundle, BundleError, Circumstances, Engine, Missing, Scope, ScopeSet, cases, matrix,
};
use crate::config::Config;
use crate::http::Problem;
use crate::values::Email;
use clap::Subcommand;
use serde_json::{Map, Value};
use std::path::PathBuf;
use std::sync::Arc;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Validate and lint schema, policies and data, as the start does
    Check,
    /// Write who may do what: every action and scope, as Cedar answers
    Matrix {
        /// To this file
        #[arg(long, short, default_value = "policies/MATRIX.md", value_name = "FILE")]
        output: PathBuf,
        /// Write nothing, but compare: exit 3 if the file is not what would be written
        #[arg(long)]
        check: bool,
    },
    /// Say whether a user may do something, and why; needs the database
    Explain {
        /// The user's address
        #[arg(long)]
        user: Email,
        /// As with a credential of this scope instead of the user's whole role; may be given several times
        #[arg(long = "scope")]
        scopes: Vec<Scope>,
        /// The action, such as fetchForm
        #[arg(long)]
        action: String,
        /// The thing, as TYPE:ID
        #[arg(long, value_name = "TYPE:ID")]
        resource: String,
        /// What else policies may read, as a JSON object
        #[arg(long, value_name = "JSON")]
        context: Option<String>,
    },
    /// Run test cases in the format of `cedar run-tests`
    Test {
        /// These files [default: cases/*.json in the policy directories]
        files: Vec<PathBuf>,
    },
}

pub(super) fn run(config: &Config, command: Command) -> Outcome {
    let found = |error: BundleError| Failure::Found(error.to_string());
    let bundle = read_policies(config).map_err(found)?;
    match command {
        Command::Check => {
            say(format_args!("{} policies, version {}", bundle.policies().count(), bundle.version()));
            Ok(())
        }
        Command::Matrix { output, check } => {
            let engine = Engine::new(bundle).map_err(found)?;
            write_or_check(Some(output), check, &matrix(&engine))
        }
        Command::Test { files } => test(config, &bundle, files),
        Command::Explain { user, scopes, action, resource, context } => block_on(async {
            let app = open(config).await?;
            let said = match context.as_deref().map(serde_json::from_str) {
                None => Map::new(),
                Some(Ok(Value::Object(fields))) => fields,
                Some(_) => return Err(Failure::failed("--context is not a JSON object")),
            };
            let (kind, id) =
                resource.rsplit_once(':').map(|(kind, id)| (kind.trim_end_matches(':'), id)).ok_or_else(
                    || Failure::failed("--resource is not TYPE:ID, such as Form:599e1fcd9da1c72645c95886"),
                )?;
            let none = Map::new();
            let question =
                Question { scopes, action: &action, named: Named { kind, id, properties: &none }, said };
            explain(&app, &user, question).await.map_err(|problem| Failure::problem(&problem))
        }),
    }
}

struct Question<'a> {
    scopes: Vec<Scope>,
    action: &'a str,
    named: Named<'a>,
    said: Map<String, Value>,
}

async fn explain(app: &App, user: &Email, question: Question<'_>) -> Result<(), Problem> {
    let Question { scopes, action, named, said } = question;
    let gate = app.terminal("evaluateAccess").await.map_err(Problem::internal)?;
    let account = app.parts.store.account_by_email(user).await?;
    let account = account.ok_or_else(|| Problem::bad_request(format!("there is no user {user}")))?;
    let (principal, circumstances) = match question::user_by_role(&gate, account.id).await? {
        Asked::Known(principal, circumstances) => (principal, circumstances),
        Asked::Unknown(obstacle) => return Err(Problem::bad_request(obstacle.message)),
        Asked::Refused => return Err(Problem::forbidden("evaluateAccess")),
    };
    let engine = gate.engine();
    let principal = match ScopeSet::new(scopes) {
        Some(scopes) => {
            let scopes = engine.effective(&scopes, account.role);
            principal.with_scopes(scopes.as_ref()).map_or(principal, Arc::new)
        }
        None => principal,
    };
    let circumstances = Circumstances { said, ..circumstances };
    let target = question::target(&gate, named).await?;
    let name = engine.action_for(action, named.kind);
    let ask = Ask { principal: &principal, action: name, circumstances: &circumstances, trail: None };
    let verdict = question::decide(engine, &ask, &target, named, true);
    let answer = if verdict.answer.allowed { "yes" } else { "no" };
    say(format_args!("{answer}: {user} {action} {}:{}", named.kind, named.id));
    let line = |about: &About| {
        let doc = about.doc.as_deref().unwrap_or_default();
        say(format_args!("    {}  {}:{}  {doc}", about.id, about.file, about.line));
    };
    if !verdict.answer.policies.is_empty() {
        say(if verdict.answer.allowed { "  permitted by" } else { "  forbidden by" });
        verdict.answer.policies.iter().for_each(|about| line(about));
    }
    if let Some(obstacle) = &verdict.obstacle {
        say(format_args!("  it cannot be decided: {}", obstacle.message));
    }
    match &verdict.missing {
        Some(Missing::Scope(scope)) => say(format_args!("  it would be permitted with the scope {scope}")),
        Some(Missing::Conditions(policies)) => {
            say("  it would be permitted, but for the conditions of");
            policies.iter().for_each(|about| line(about));
        }
        Some(Missing::Nothing) => say("  no policy permits it to anybody"),
        Some(Missing::Forbidden(_)) | None => {}
    }
    say(format_args!("  policies of version {}", engine.bundle().version()));
    Ok(())
}

fn test(config: &Config, bundle: &Bundle, mut files: Vec<PathBuf>) -> Outcome {
    if files.is_empty() {
        for directory in &config.policies {
            let Ok(entries) = std::fs::read_dir(directory.join("cases")) else { continue };
            let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
            files.extend(paths.filter(|path| path.extension().is_some_and(|found| found == "json")));
        }
        files.sort();
    }
    if files.is_empty() {
        return Err(Failure::failed("there are no cases: none of the policy directories has cases/*.json"));
    }
    let mut passed = 0;
    let mut failures = Vec::new();
    for file in files {
        let name = file.display();
        let read = cases::read(&file).map_err(|error| Failure::failed(format!("{name}: {error}")))?;
        for case in read {
            match case.run(bundle) {
                Ok(()) => passed += 1,
                Err(message) => failures.push(format!("{name}: {}: {message}", case.name)),
            }
        }
    }
    say(format_args!("{passed} passed, {} failed", failures.len()));
    if failures.is_empty() { Ok(()) } else { Err(Failure::Found(failures.join("\n"))) }
}
