//! `cedargate policy explain`: evaluates a question and explains the decision.

use super::explain_output::{EvaluatedScopes, ExplainedDecision};
use crate::api::decisions::evaluation::{self, Decision, DecisionError, ResolvedResource};
use crate::api::decisions::question_names::QuestionNames;
use crate::application::subjects::{EntityRef, ResolvedSubject, SubjectError, SubjectResolver};
use crate::application::{Authorizer, Caller};
use crate::authz::{AuthzRequest, DecisionContext, Principal, Scope, ScopeSet, Visibility};
use crate::cli::{CommandResult, Failure, block_on, open, print_line};
use crate::config::Config;
use crate::server::App;
use crate::types::Email;
use crate::types::strict_json;
use clap::{Args, ValueEnum};
use serde_json::{Map, Value};
use std::sync::Arc;

/// The question of `policy explain`.
#[derive(Debug, Args)]
pub(in crate::cli) struct ExplainArgs {
    /// Email address of the user
    #[arg(long, required_unless_present = "subject")]
    user: Option<Email>,
    /// Evaluate for a credential with this scope instead of the whole role of the user; may be repeated
    #[arg(long = "scope", requires = "user", conflicts_with = "subject")]
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
    /// Format of the explanation
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// The format of an explanation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
enum Format {
    /// Lines of text
    #[default]
    Text,
    /// A JSON object
    Json,
}

/// Explains a decision. A deny is exit code 3; a question that cannot be evaluated, such as one with a misspelt action, is 1.
pub(super) fn run(config: &Config, question: &ExplainArgs) -> CommandResult {
    block_on(async {
        let app = open(config).await?;
        let explained = explain(&app, question).await?;
        print_line(match question.format {
            Format::Text => explained.to_text(),
            Format::Json => explained.to_json(),
        })?;
        if explained.decision.decision { Ok(()) } else { Err(Failure::Found) }
    })
}

/// An argument that is a JSON object.
#[derive(Debug, Clone)]
pub(in crate::cli) struct JsonObjectArg(Map<String, Value>);

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

/// Evaluates a question, and explains the decision. The command line may see everything.
async fn explain(app: &App, question: &ExplainArgs) -> Result<ExplainedDecision, Failure> {
    let authorizer = app.terminal_authorizer("evaluateAccess").await?;
    let engine = authorizer.engine();
    let EvaluatedSubject { name, principal, context, scopes } =
        resolve_principal(app, &authorizer, question).await?;
    let context = DecisionContext { client_context: question.context.0.clone(), ..context };
    let resource = entity(&question.resource, &question.resource_properties);
    let target = find_resource(app, &authorizer, resource).await?;
    let request = AuthzRequest {
        principal: &principal,
        action: engine.resolve_action(&question.action, resource.kind),
        context: &context,
        recorder: None,
    };
    if let Some(unknown) = engine.unknown_action(&question.action, resource.kind) {
        return Err(Failure::Failed(unknown.message));
    }
    let mut result = evaluation::decide(engine, &request, &target, resource, Some(Visibility::ALL));
    // A question with invalid values is a wrong use of the command, and no denial by the policies.
    if let Some(error) = result.error.as_ref().filter(|error| error.attribute.is_some()) {
        return Err(Failure::failed(&error.message));
    }
    let names = QuestionNames {
        subject: question.subject.as_ref().map(|subject| entity(subject, &question.subject_properties)),
        action: &question.action,
        action_properties: &Map::new(),
        resource,
        context: &question.context.0,
    };
    // What the warning about an inaccessible resource must not say, the command says itself: the resource does not exist.
    result.warnings = names.warnings(&authorizer);
    Ok(ExplainedDecision {
        subject: name,
        action: question.action.clone(),
        resource: format!("{}:{}", resource.kind, resource.id),
        is_missing: matches!(target, ResolvedResource::NotFound),
        scopes,
        short_version: engine.bundle().short_version().to_owned(),
        decision: Decision::new(&result, engine, true),
    })
}

/// Returns the resource of the question, whether or not the policies let the command line refer to it.
async fn find_resource(
    app: &App,
    authorizer: &Authorizer,
    resource: EntityRef<'_>,
) -> Result<ResolvedResource, Failure> {
    let types = &app.state.resource_types;
    if !types.contains(resource.kind) {
        return Ok(evaluation::resolve_resource(authorizer, resource).await?);
    }
    let found = match resource.id.parse() {
        Ok(id) => types.load(&authorizer.reader(), resource.kind, &[id]).await?.remove(&id),
        Err(_) => None,
    };
    Ok(found.map_or(ResolvedResource::NotFound, ResolvedResource::Found))
}

/// The subject of the question.
struct EvaluatedSubject {
    name: String,
    principal: Arc<Principal>,
    /// The context that it brings.
    context: DecisionContext,
    /// The scopes of a user.
    scopes: Option<EvaluatedScopes>,
}

/// Returns the subject that the arguments name. Whether the policies let the command line evaluate it is not asked: it explains
/// any policies.
async fn resolve_principal(
    app: &App,
    authorizer: &Authorizer,
    question: &ExplainArgs,
) -> Result<EvaluatedSubject, Failure> {
    if let Some(user) = &question.user {
        return resolve_user(app, authorizer, user, &question.scopes).await;
    }
    let Some(subject) = &question.subject else {
        return Err(Failure::failed("--user or --subject is required"));
    };
    let subject = entity(subject, &question.subject_properties);
    let resolved = match subject.kind {
        "User" => resolve_user_id(app, authorizer, subject.id).await?,
        kind if app.state.resource_types.contains(kind) => Err(SubjectError::InvalidType(kind.to_owned())),
        _ => SubjectResolver::for_questions(authorizer).external_subject(subject),
    };
    match resolved {
        Ok(ResolvedSubject { principal, context }) => {
            let name = format!("{}:{}", subject.kind, subject.id);
            Ok(EvaluatedSubject { name, principal, context, scopes: None })
        }
        Err(error) => {
            let unknown_type = authorizer.engine().unknown_type(subject.kind, "subject.type");
            let message = DecisionError::from_subject(authorizer, error)?.message;
            Err(Failure::Failed(unknown_type.map_or(message, |warning| warning.message)))
        }
    }
}

/// Returns the user with this id as subject, with its whole role.
async fn resolve_user_id(
    app: &App,
    authorizer: &Authorizer,
    id: &str,
) -> Result<Result<ResolvedSubject, SubjectError>, Failure> {
    let account = match id.parse() {
        Ok(id) => app.state.store.account(id).await?,
        Err(_) => None,
    };
    let Some(account) = account else { return Ok(Err(SubjectError::UnknownUser)) };
    let caller = Caller::from_account(authorizer.engine(), &account);
    Ok(caller.ok_or(SubjectError::Blocked).map(|caller| {
        let (principal, context) = (caller.principal, authorizer.bare_context());
        ResolvedSubject { principal, context }
    }))
}

/// Returns a user as subject, with these scopes instead of those of its role if there are any.
async fn resolve_user(
    app: &App,
    authorizer: &Authorizer,
    email: &Email,
    scopes: &[Scope],
) -> Result<EvaluatedSubject, Failure> {
    let account = app.state.store.account_by_email(email).await?;
    let account = account.ok_or_else(|| Failure::failed(format!("no user with the email {email}")))?;
    let caller = Caller::from_account(authorizer.engine(), &account);
    let caller = caller.ok_or_else(|| Failure::failed(SubjectError::Blocked))?;
    let requested = ScopeSet::new(scopes.iter().copied());
    let scopes = EvaluatedScopes::new(authorizer.engine(), requested, account.role);
    let principal = match &scopes.requested {
        Some(_) => caller.principal.with_scopes(scopes.effective.as_ref()).map_or(caller.principal, Arc::new),
        None => caller.principal,
    };
    Ok(EvaluatedSubject {
        name: email.to_string(),
        principal,
        context: authorizer.bare_context(),
        scopes: Some(scopes),
    })
}
