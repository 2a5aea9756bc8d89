//! `cedargate policy`.

use super::{CommandResult, Failure, block_on, open, print_line, write_or_check};
use crate::api::evaluation::{self, EntityRef, ResolvedSubject};
use crate::api::policy_reload;
use crate::application::Error;
use crate::authz::{
    AuthzRequest, Bundle, BundleError, DecisionContext, DenialReason, Engine, PolicyMetadata, Scope,
    ScopeSet, cases, matrix,
};
use crate::config::Config;
use crate::server::{App, open_policies, read_policies};
use crate::types::Email;
use crate::types::strict_json;
use clap::{Args, Subcommand};
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
    /// Say whether somebody may do something, and why; needs the database
    Explain(Box<ExplainArgs>),
    /// Run test cases in the format of `cedar run-tests`
    Test {
        /// These files [default: cases/*.json in the policy directories]
        files: Vec<PathBuf>,
    },
    /// Confirm a pending policy version: the running services whose files have it activate it within seconds
    Reload {
        /// The version, as the log, /health/ready and GET /v2/policies name it; the policy files must have it
        #[arg(long, value_name = "VERSION")]
        confirm: String,
    },
}

/// May somebody do something?
#[derive(Debug, Args)]
pub(super) struct ExplainArgs {
    /// Who: the address of a user
    #[arg(long, required_unless_present = "subject")]
    user: Option<Email>,
    /// As with a credential of this scope instead of the user's whole role; may be given several times
    #[arg(long = "scope", requires = "user")]
    scopes: Vec<Scope>,
    /// Who instead: somebody by type and id, such as one of another domain
    #[arg(long, value_name = "TYPE:ID", value_parser = parse_entity_uid, conflicts_with = "user")]
    subject: Option<(String, String)>,
    /// What is said of a subject of another domain, as a JSON object
    #[arg(long, value_name = "JSON", value_parser = parse_json_object, requires = "subject", default_value = "{}")]
    subject_properties: JsonObjectArg,
    /// The action, such as fetchForm
    #[arg(long)]
    action: String,
    /// The thing, by type and id
    #[arg(long, value_name = "TYPE:ID", value_parser = parse_entity_uid)]
    resource: (String, String),
    /// What is said of a thing of another domain, as a JSON object
    #[arg(long, value_name = "JSON", value_parser = parse_json_object, default_value = "{}")]
    resource_properties: JsonObjectArg,
    /// What else policies may read, as a JSON object
    #[arg(long, value_name = "JSON", value_parser = parse_json_object, default_value = "{}")]
    context: JsonObjectArg,
}

pub(super) fn run(config: &Config, command: Command) -> CommandResult {
    let found = |error: BundleError| Failure::CheckFailed(error.to_string());
    let bundle = read_policies(config).map_err(found)?;
    match command {
        Command::Check => {
            print_line(format_args!("{} policies, version {}", bundle.policies().count(), bundle.version()))
        }
        Command::Matrix { output, check } => {
            let engine = Engine::new(bundle).map_err(found)?;
            write_or_check(Some(output), check, &matrix(&engine))
        }
        Command::Test { files } => test(config, &bundle, files),
        Command::Reload { confirm } => reload(config, &confirm),
        Command::Explain(question) => block_on(async {
            let app = open(config).await?;
            let lines = explain(&app, &question).await?;
            print_line(lines.join("\n"))
        }),
    }
}

/// Confirms the version in the policy files, after the checks of a start.
fn reload(config: &Config, version: &str) -> CommandResult {
    let policies = open_policies(config).map_err(|error| Failure::CheckFailed(error.to_string()))?;
    let found = policies.current().bundle().version().to_owned();
    if version != found {
        let message =
            format!("the policy files have the version {found}, not {version:?}; nothing is confirmed");
        return Err(Failure::Failed(message));
    }
    block_on(async {
        let app = open(config).await?;
        let authorizer = app.terminal_authorizer("reloadPolicies").await?;
        let confirmed = policy_reload::confirm_from_cli(&authorizer, version).await;
        confirmed?;
        print_line(format_args!("confirmed policy version {version}"))
    })
}

/// A JSON object.
#[derive(Debug, Clone)]
pub(super) struct JsonObjectArg(Map<String, Value>);

fn parse_json_object(text: &str) -> Result<JsonObjectArg, String> {
    strict_json::check(text.as_bytes()).map_err(|error| format!("it is not a JSON object: {error}"))?;
    match serde_json::from_str(text) {
        Ok(Value::Object(fields)) => Ok(JsonObjectArg(fields)),
        Ok(_) => Err("it is not a JSON object".to_owned()),
        Err(error) => Err(format!("it is not a JSON object: {error}")),
    }
}

/// A type and an id, apart at the first single colon: a type may have double ones, and an id any.
fn parse_entity_uid(text: &str) -> Result<(String, String), String> {
    let bytes = text.as_bytes();
    let is_colon = |position: Option<usize>| position.and_then(|position| bytes.get(position)) == Some(&b':');
    let colons = text.match_indices(':').map(|(position, _)| position);
    let position = colons
        .into_iter()
        .find(|position| !is_colon(position.checked_sub(1)) && !is_colon(Some(position + 1)));
    match position.and_then(|position| Some((text.get(..position)?, text.get(position + 1..)?))) {
        Some((kind, id)) if !kind.is_empty() && !id.is_empty() => Ok((kind.to_owned(), id.to_owned())),
        _ => Err("it is not TYPE:ID, such as Form:599e1fcd9da1c72645c95886".to_owned()),
    }
}

/// What the arguments name.
fn named_entity<'a>(
    (kind, id): &'a (String, String),
    JsonObjectArg(properties): &'a JsonObjectArg,
) -> EntityRef<'a> {
    EntityRef { kind, id, properties }
}

/// Decides a question. Returns the lines of the explanation.
async fn explain(app: &App, question: &ExplainArgs) -> Result<Vec<String>, Failure> {
    let authorizer = app.terminal_authorizer("evaluateAccess").await?;
    let engine = authorizer.engine();
    let (name, asked, scopes) = match (&question.user, &question.subject) {
        (Some(user), _) => {
            let account = app.state.store.account_by_email(user).await?;
            let account = account.ok_or_else(|| Failure::failed(format!("there is no user {user}")))?;
            let scopes = ScopeSet::new(question.scopes.iter().copied());
            let scopes = scopes.map(|scopes| engine.effective_scopes(&scopes, account.role));
            (user.to_string(), evaluation::resolve_user_at_full_role(&authorizer, account.id).await?, scopes)
        }
        (None, Some(subject)) => {
            let named = named_entity(subject, &question.subject_properties);
            (
                format!("{}:{}", named.kind, named.id),
                evaluation::resolve_subject(&authorizer, named, None).await?,
                None,
            )
        }
        (None, None) => return Err(Failure::failed("--user or --subject says who")),
    };
    let (principal, circumstances) = match asked {
        ResolvedSubject::Principal(principal, circumstances) => (principal, circumstances),
        ResolvedSubject::Error(obstacle) => return Err(Failure::failed(obstacle.message)),
        ResolvedSubject::Forbidden => return Err(Error::forbidden("evaluateAccess").into()),
    };
    let principal = match scopes {
        Some(scopes) => principal.with_scopes(scopes.as_ref()).map_or(principal, Arc::new),
        None => principal,
    };
    let circumstances = DecisionContext { client_context: question.context.0.clone(), ..circumstances };
    let (action, named) = (&question.action, named_entity(&question.resource, &question.resource_properties));
    let target = evaluation::resolve_resource(&authorizer, named).await?;
    let action_name = engine.resolve_action(action, named.kind);
    let request =
        AuthzRequest { principal: &principal, action: action_name, context: &circumstances, recorder: None };
    let verdict = evaluation::decide(engine, &request, &target, named, true);
    let answer = if verdict.answer.allowed { "yes" } else { "no" };
    let mut lines = vec![format!("{answer}: {name} {action} {}:{}", named.kind, named.id)];
    let line = |policy: &PolicyMetadata| {
        let doc = policy.doc.as_deref().unwrap_or_default();
        format!("    {}  {}:{}  {doc}", policy.id, policy.file, policy.line)
    };
    if !verdict.answer.policies.is_empty() {
        lines.push(if verdict.answer.allowed { "  permitted by" } else { "  forbidden by" }.to_owned());
        lines.extend(verdict.answer.policies.iter().map(|policy| line(policy)));
    }
    if let Some(obstacle) = &verdict.error {
        lines.push(format!("  it cannot be decided: {}", obstacle.message));
    }
    match &verdict.denial_reason {
        Some(DenialReason::MissingScope(scope)) => {
            lines.push(format!("  it would be permitted with the scope {scope}"));
        }
        Some(DenialReason::UnmetConditions(policies)) => {
            let what =
                "  these would permit it, but for their conditions, or permit it to others or of others:";
            lines.push(what.to_owned());
            lines.extend(policies.iter().map(|policy| line(policy)));
        }
        Some(DenialReason::NoPermit) => lines.push("  no policy permits it to anybody".to_owned()),
        Some(DenialReason::ForbiddenBy(_)) | None => {}
    }
    lines.push(format!("  policies of version {}", engine.bundle().version()));
    Ok(lines)
}

fn test(config: &Config, bundle: &Bundle, mut files: Vec<PathBuf>) -> CommandResult {
    if files.is_empty() {
        for directory in &config.policies {
            let Ok(entries) = std::fs::read_dir(directory.join("cases")) else { continue };
            let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
            let is_hidden = |path: &PathBuf| {
                path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."))
            };
            files
                .extend(paths.filter(|path| {
                    path.extension().is_some_and(|found| found == "json") && !is_hidden(path)
                }));
        }
        files.sort();
    }
    if files.is_empty() {
        return Err(Failure::failed("there are no cases: none of the policy directories has cases/*.json"));
    }
    let mut passed = 0;
    let mut parsed = cases::ParsedEntities::default();
    let mut failures = Vec::new();
    for file in files {
        let name = file.display();
        let read = cases::read(&file).map_err(|error| Failure::failed(format!("{name}: {error}")))?;
        for case in read {
            match case.run_with(bundle, &mut parsed) {
                Ok(()) => passed += 1,
                Err(message) => failures.push(format!("{name}: {}: {message}", case.name)),
            }
        }
    }
    print_line(format_args!("{passed} passed, {} failed", failures.len()))?;
    if failures.is_empty() { Ok(()) } else { Err(Failure::CheckFailed(failures.join("\n"))) }
}
