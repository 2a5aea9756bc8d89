//! `cedargate policy explain`: evaluates a question and explains the decision.

use crate::api::decisions::evaluation::{self, DecisionError};
use crate::application::subjects::{
    EntityRef, ResolvedSubject, SubjectError, SubjectResolver, SubjectSelector,
};
use crate::application::{Authorizer, Caller};
use crate::authz::{AuthzRequest, DecisionContext, DenialReason, PolicyMetadata, Principal, Scope, ScopeSet};
use crate::cli::{CommandResult, Failure, block_on, open, print_line};
use crate::config::Config;
use crate::server::App;
use crate::types::Email;
use crate::types::strict_json;
use clap::Args;
use serde_json::{Map, Value};
use std::sync::Arc;

/// The question of `policy explain`.
#[derive(Debug, Args)]
pub(in crate::cli) struct ExplainArgs {
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

pub(super) fn run(config: &Config, question: &ExplainArgs) -> CommandResult {
    block_on(async {
        let app = open(config).await?;
        let lines = explain(&app, question).await?;
        print_line(lines.join("\n"))
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
    lines.push(format!("  policy version {}", engine.bundle().short_version()));
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
