//! `cedargate policy`: validates, tests, explains and confirms policies.

use super::{CommandResult, Failure, OutputArgs, block_on, open, print_line, write_or_check};
use crate::api::decisions::evaluation::{self, DecisionError};
use crate::application::policy_reload;
use crate::application::subjects::{
    EntityRef, ResolvedSubject, SubjectError, SubjectResolver, SubjectSelector,
};
use crate::application::{Authorizer, Caller};
use crate::authz::{
    AuthzRequest, Bundle, BundleError, DecisionContext, DenialReason, Engine, PolicyMetadata, Principal,
    Scope, ScopeSet, cases, matrix,
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
    /// Validate and lint schema, policies and entity data, as at startup
    Check,
    /// Write the permission matrix: every action and scope, as Cedar decides
    Matrix {
        /// Write to this file
        #[arg(long, short, default_value = "policies/MATRIX.md", value_name = "FILE")]
        output: PathBuf,
        /// Compare with the file instead of writing it; exit code 3 if it is outdated
        #[arg(long)]
        check: bool,
    },
    /// Evaluate a decision and explain it; needs the database
    Explain(Box<ExplainArgs>),
    /// Run policy tests, in the format of `cedar run-tests`
    Test {
        /// Files with tests [default: cases/*.json in the policy directories]
        files: Vec<PathBuf>,
    },
    /// Confirm a pending policy version; running services whose policy files have it activate it within seconds
    Reload {
        /// Version to confirm, from the log, /health/ready or GET /v2/policies; the policy files must have it
        #[arg(long, value_name = "VERSION")]
        confirm: String,
    },
}

/// The question of `policy explain`.
#[derive(Debug, Args)]
pub(super) struct ExplainArgs {
    /// Email address of the user
    #[arg(long, required_unless_present = "subject")]
    user: Option<Email>,
    /// Evaluate for a credential with this scope instead of the whole role of the user; may be repeated
    #[arg(long = "scope", requires = "user")]
    scopes: Vec<Scope>,
    /// Subject by type and id, instead of a user; may be an external entity
    #[arg(long, value_name = "TYPE:ID", value_parser = parse_entity_uid, conflicts_with = "user")]
    subject: Option<(String, String)>,
    /// Properties of an external subject, as a JSON object
    #[arg(long, value_name = "JSON", value_parser = parse_json_object, requires = "subject", default_value = "{}")]
    subject_properties: JsonObjectArg,
    /// Action, such as fetchForm
    #[arg(long)]
    action: String,
    /// Resource by type and id
    #[arg(long, value_name = "TYPE:ID", value_parser = parse_entity_uid)]
    resource: (String, String),
    /// Properties of an external resource, as a JSON object
    #[arg(long, value_name = "JSON", value_parser = parse_json_object, default_value = "{}")]
    resource_properties: JsonObjectArg,
    /// Context of the request, as a JSON object
    #[arg(long, value_name = "JSON", value_parser = parse_json_object, default_value = "{}")]
    context: JsonObjectArg,
}

pub(super) fn run(config: &Config, command: Command) -> CommandResult {
    let invalid = |error: BundleError| Failure::CheckFailed(error.to_string());
    let bundle = read_policies(config).map_err(invalid)?;
    match command {
        Command::Check => {
            print_line(format_args!("{} policies, version {}", bundle.policies().count(), bundle.version()))
        }
        Command::Matrix { output, check } => {
            let engine = Engine::new(bundle).map_err(invalid)?;
            write_or_check(OutputArgs { output: Some(output), check }, &matrix(&engine))
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

/// Confirms the version of the policy files, after the same checks as at startup.
fn reload(config: &Config, version: &str) -> CommandResult {
    let policies = open_policies(config).map_err(|error| Failure::CheckFailed(error.to_string()))?;
    let actual = policies.current().bundle().version().to_owned();
    if version != actual {
        let message =
            format!("the policy files have the version {actual}, not {version:?}; nothing is confirmed");
        return Err(Failure::Failed(message));
    }
    block_on(async {
        let app = open(config).await?;
        let authorizer = app.terminal_authorizer("reloadPolicies").await?;
        let confirmation = policy_reload::confirm_from_cli(&authorizer, version).await;
        confirmation?;
        print_line(format_args!("confirmed policy version {version}"))
    })
}

/// An argument that is a JSON object.
#[derive(Debug, Clone)]
pub(super) struct JsonObjectArg(Map<String, Value>);

fn parse_json_object(text: &str) -> Result<JsonObjectArg, String> {
    strict_json::check(text.as_bytes()).map_err(|error| format!("expected a JSON object: {error}"))?;
    match serde_json::from_str(text) {
        Ok(Value::Object(fields)) => Ok(JsonObjectArg(fields)),
        Ok(_) => Err("expected a JSON object".to_owned()),
        Err(error) => Err(format!("expected a JSON object: {error}")),
    }
}

/// Splits a type and an id at the first single colon. A type may contain double colons, and an id any.
fn parse_entity_uid(text: &str) -> Result<(String, String), String> {
    let bytes = text.as_bytes();
    let is_colon = |position: Option<usize>| position.and_then(|position| bytes.get(position)) == Some(&b':');
    let colons = text.match_indices(':').map(|(position, _)| position);
    let position = colons
        .into_iter()
        .find(|position| !is_colon(position.checked_sub(1)) && !is_colon(Some(position + 1)));
    match position.and_then(|position| Some((text.get(..position)?, text.get(position + 1..)?))) {
        Some((kind, id)) if !kind.is_empty() && !id.is_empty() => Ok((kind.to_owned(), id.to_owned())),
        _ => Err("expected TYPE:ID, such as Form:599e1fcd9da1c72645c95886".to_owned()),
    }
}

fn entity<'a>(
    (kind, id): &'a (String, String),
    JsonObjectArg(properties): &'a JsonObjectArg,
) -> EntityRef<'a> {
    EntityRef { kind, id, properties }
}

/// Evaluates a question. Returns the lines of the explanation.
async fn explain(app: &App, question: &ExplainArgs) -> Result<Vec<String>, Failure> {
    let authorizer = app.terminal_authorizer("evaluateAccess").await?;
    let engine = authorizer.engine();
    let (name, principal, context) = resolve_principal(app, &authorizer, question).await?;
    let context = DecisionContext { client_context: question.context.0.clone(), ..context };
    let (action, resource) = (&question.action, entity(&question.resource, &question.resource_properties));
    let target = evaluation::resolve_resource(&authorizer, resource).await?;
    let action_name = engine.resolve_action(action, resource.kind);
    let request =
        AuthzRequest { principal: &principal, action: action_name, context: &context, recorder: None };
    let evaluated = evaluation::decide(engine, &request, &target, resource, true);
    let decision = if evaluated.answer.allowed { "allow" } else { "deny" };
    let mut lines = vec![format!("{decision}: {name} {action} {}:{}", resource.kind, resource.id)];
    if !evaluated.answer.policies.is_empty() {
        lines.push(if evaluated.answer.allowed { "  permitted by" } else { "  forbidden by" }.to_owned());
        lines.extend(evaluated.answer.policies.iter().map(|policy| policy_line(policy)));
    }
    if let Some(error) = &evaluated.error {
        lines.push(format!("  error: {}", error.message));
    }
    lines.extend(reason_lines(evaluated.denial_reason.as_ref()));
    lines.push(format!("  policy version {}", engine.bundle().version()));
    Ok(lines)
}

/// Returns the principal that the arguments name, with its name and the context that it brings.
async fn resolve_principal(
    app: &App,
    authorizer: &Authorizer,
    question: &ExplainArgs,
) -> Result<(String, Arc<Principal>, DecisionContext), Failure> {
    let (name, resolved, scopes) = match (&question.user, &question.subject) {
        (Some(user), _) => {
            let account = app.state.store.account_by_email(user).await?;
            let account = account.ok_or_else(|| Failure::failed(format!("no user with the email {user}")))?;
            let scopes = ScopeSet::new(question.scopes.iter().copied());
            let scopes = scopes.map(|scopes| authorizer.engine().effective_scopes(&scopes, account.role));
            // Whether the policies let the command line evaluate users is not asked: it explains any policies.
            let user_subject = Caller::from_account(authorizer.engine(), &account).map(|caller| {
                ResolvedSubject { principal: caller.principal, context: authorizer.bare_context() }
            });
            (user.to_string(), user_subject.ok_or(SubjectError::Blocked), scopes)
        }
        (None, Some(subject)) => {
            let subject = entity(subject, &question.subject_properties);
            let selector = SubjectSelector::Entity(subject, None);
            let resolved = SubjectResolver::for_questions(authorizer).resolve(selector).await;
            (format!("{}:{}", subject.kind, subject.id), resolved, None)
        }
        (None, None) => return Err(Failure::failed("--user or --subject is required")),
    };
    let ResolvedSubject { principal, context } = match resolved {
        Ok(subject) => subject,
        Err(error) => return Err(Failure::failed(DecisionError::from_subject(error)?.message)),
    };
    let principal = match scopes {
        Some(scopes) => principal.with_scopes(scopes.as_ref()).map_or(principal, Arc::new),
        None => principal,
    };
    Ok((name, principal, context))
}

/// Describes what is missing for an allow.
fn reason_lines(reason: Option<&DenialReason>) -> Vec<String> {
    match reason {
        Some(DenialReason::MissingScope(scope)) => vec![format!("  requires the scope {scope}")],
        Some(DenialReason::UnmetConditions(policies)) => {
            let heading =
                "  policies that match except for their conditions, principal or resource:".to_owned();
            let policies = policies.iter().map(|policy| policy_line(policy));
            [heading].into_iter().chain(policies).collect()
        }
        Some(DenialReason::NoPermit) => vec!["  no policy permits this action".to_owned()],
        Some(DenialReason::ForbiddenBy(_)) | None => Vec::new(),
    }
}

fn policy_line(policy: &PolicyMetadata) -> String {
    let doc = policy.doc.as_deref().unwrap_or_default();
    format!("    {}  {}:{}  {doc}", policy.id, policy.file, policy.line)
}

/// Runs the policy tests of these files, or of the policy directories if there are none.
fn test(config: &Config, bundle: &Bundle, mut files: Vec<PathBuf>) -> CommandResult {
    if files.is_empty() {
        files = case_files(config);
    }
    if files.is_empty() {
        return Err(Failure::failed("no tests: no policy directory has cases/*.json"));
    }
    let mut passed = 0;
    let mut parsed = cases::ParsedEntities::default();
    let mut failures = Vec::new();
    for file in files {
        let name = file.display();
        let cases = cases::read(&file).map_err(|error| Failure::failed(format!("{name}: {error}")))?;
        for case in cases {
            match case.run_with(bundle, &mut parsed) {
                Ok(()) => passed += 1,
                Err(message) => failures.push(format!("{name}: {}: {message}", case.name)),
            }
        }
    }
    print_line(format_args!("{passed} passed, {} failed", failures.len()))?;
    if failures.is_empty() { Ok(()) } else { Err(Failure::CheckFailed(failures.join("\n"))) }
}

/// Returns the files `cases/*.json` of the policy directories, hidden ones excepted, in their order.
fn case_files(config: &Config) -> Vec<PathBuf> {
    let is_case = |path: &PathBuf| {
        let is_hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        !is_hidden && path.extension().is_some_and(|extension| extension == "json")
    };
    let directories = config.policies.iter().map(|directory| directory.join("cases"));
    let entries = directories.filter_map(|directory| std::fs::read_dir(directory).ok()).flatten();
    let mut files: Vec<PathBuf> =
        entries.filter_map(|entry| Some(entry.ok()?.path())).filter(is_case).collect();
    files.sort();
    files
}
