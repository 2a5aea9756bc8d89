//! AuthZEN evaluations: a batch of questions, with defaults for parts that an item omits.
//!
//! A default is parsed when an item first uses it. An invalid item, or an invalid default that it uses, is a denial of that
//! item; only errors of the batch as a whole fail the request.

use super::authzen_body::RawBody;
use super::authzen_evaluation::{
    Action, Entity, Evaluation, Subject, authzen_response, evaluate, evaluate_single, is_explain_requested,
};
use super::evaluation::{self, Decision, DecisionError, EvaluationResult};
use crate::application::Authorizer;
use crate::http::openapi::OperationDoc;
use crate::http::{FieldError, Problem, body};
use crate::types::strict_json;
use crate::types::{FieldErrorCode, Id, null_as_default, object_only};
use actix_web::{HttpRequest, HttpResponse};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};
use std::cell::OnceCell;
use utoipa::openapi::schema::{
    AllOfBuilder, AnyOfBuilder, ArrayBuilder, ObjectBuilder, Schema, SchemaType, Type,
};
use utoipa::openapi::{Ref, RefOr};
use utoipa::{PartialSchema, ToSchema};

/// A batch of questions. The members are defaults for items that omit them.
#[derive(Debug, ToSchema)]
#[schema(as = EvaluationsFields)]
#[expect(dead_code, reason = "only the OpenAPI document uses it")]
struct BatchFields {
    /// The default of the items, which is validated when an item uses it; so are the next three.
    #[schema(value_type = Option<Value>)]
    subject: Option<Value>,
    #[schema(value_type = Option<Value>)]
    action: Option<Value>,
    #[schema(value_type = Option<Value>)]
    resource: Option<Value>,
    #[schema(value_type = Option<Value>)]
    context: Option<Value>,
    /// The questions: objects with any of `subject`, `action`, `resource` and `context`. An invalid one is denied, with
    /// the reason in its `context.error`.
    #[schema(value_type = Option<Vec<Value>>)]
    evaluations: Option<Vec<Value>>,
    /// Options of the batch.
    options: Option<Options>,
}

/// A batch of questions, or a single one if there are no `evaluations`.
#[derive(Debug)]
pub(super) struct Evaluations;

impl PartialSchema for Evaluations {
    fn schema() -> RefOr<Schema> {
        let needs =
            |names: &[&str]| names.iter().fold(ObjectBuilder::new(), |object, name| object.required(*name));
        let several = needs(&["evaluations"]).property("evaluations", ArrayBuilder::new().min_items(Some(1)));
        let context = SchemaType::from_iter([Type::Object, Type::Null]);
        let one = needs(&["subject", "action", "resource"])
            .property("subject", Ref::from_schema_name(<Subject as ToSchema>::name()))
            .property("action", Ref::from_schema_name(<Action as ToSchema>::name()))
            .property("resource", Ref::from_schema_name(<Entity as ToSchema>::name()))
            .property("context", ObjectBuilder::new().schema_type(context));
        AllOfBuilder::new()
            .description(Some("A batch of questions, or a single one if there are no `evaluations`."))
            .item(Ref::from_schema_name(BatchFields::name()))
            .item(AnyOfBuilder::new().item(several).item(one))
            .into()
    }
}

impl ToSchema for Evaluations {
    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        schemas.push((BatchFields::name().into_owned(), BatchFields::schema()));
        BatchFields::schemas(schemas);
    }
}

/// Options of a batch.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(remote = "Self")]
struct Options {
    /// Whether to evaluate all items, or to stop at the first denial or permit.
    #[serde(default, deserialize_with = "null_as_default")]
    #[schema(value_type = Option<Semantic>)]
    evaluations_semantic: Semantic,
}

object_only!(Options, read);

/// When a batch stops.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum Semantic {
    /// Evaluate all items.
    #[default]
    ExecuteAll,
    /// Stop at the first denial.
    DenyOnFirstDeny,
    /// Stop at the first permit.
    PermitOnFirstPermit,
}

impl Semantic {
    /// Whether a batch ends with this decision.
    fn stops_after(self, decision: bool) -> bool {
        match self {
            Self::ExecuteAll => false,
            Self::DenyOnFirstDeny => !decision,
            Self::PermitOnFirstPermit => decision,
        }
    }
}

/// The decisions of a batch, in the order of its items.
#[derive(Debug, Serialize, ToSchema)]
struct Decisions {
    evaluations: Vec<Decision>,
}

/// The decisions of a batch, or of a single question.
#[derive(Debug, ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "only the OpenAPI document uses it")]
enum EvaluationsResponse {
    Several(Decisions),
    One(Box<Decision>),
}

/// Documents the operation.
pub(super) fn evaluations_doc() -> OperationDoc {
    let example = json!({
        "subject": {"type": "User", "id": "me"},
        "resource": {"type": "Conversation", "id": Id::EXAMPLE},
        "evaluations": [{"action": {"name": "fetchConversation"}}, {"action": {"name": "deleteConversation"}}],
    });
    OperationDoc::new("Evaluate a batch (AuthZEN)")
        .describe(
            "All items are evaluated with one policy version and one request time. Each item sees the stored data at the moment \
             of its evaluation. A default is validated when an item uses it. Without `evaluations` it is a single evaluation.",
        )
        .body::<Evaluations>(Some(example))
        .response::<EvaluationsResponse>(200, "The decisions, in the order of the items.", None)
        .response_header(200, "X-Policy-Version", Type::String, "The policy version of the decision.")
}

/// The members of a batch.
#[derive(Debug, Default)]
struct Batch<'a> {
    defaults: Defaults<'a>,
    items: Vec<&'a RawValue>,
    options: Options,
}

/// The defaults of a batch.
#[derive(Debug, Default)]
struct Defaults<'a> {
    subject: BatchDefault<'a, Subject>,
    action: BatchDefault<'a, Action>,
    resource: BatchDefault<'a, Entity>,
    context: BatchDefault<'a, Map<String, Value>>,
}

/// A default: its text, and once an item has used it the parsed value or the error.
#[derive(Debug)]
struct BatchDefault<'a, T> {
    text: Option<&'a RawValue>,
    value: OnceCell<Result<T, DecisionError>>,
}

/// An item of a batch, without the defaults.
#[derive(Debug, Default, Deserialize)]
#[serde(remote = "Self")]
struct Item {
    #[serde(default)]
    subject: Option<Subject>,
    #[serde(default)]
    action: Option<Action>,
    #[serde(default)]
    resource: Option<Entity>,
    #[serde(default)]
    context: Option<Map<String, Value>>,
}

object_only!(Item, read);

impl<T> Default for BatchDefault<'_, T> {
    fn default() -> Self {
        Self { text: None, value: OnceCell::new() }
    }
}

impl<T: DeserializeOwned> BatchDefault<'_, T> {
    /// The parsed value; none if there is no default.
    fn get(&self, name: &str) -> Result<Option<&T>, DecisionError> {
        let Some(text) = self.text else { return Ok(None) };
        let parsed = self.value.get_or_init(|| body::parse_value(text, name).map_err(DecisionError::invalid));
        parsed.as_ref().map(Some).map_err(Clone::clone)
    }
}

impl<'a> Batch<'a> {
    /// Parses the members of the batch; items and defaults are parsed when they are evaluated.
    fn parse(bytes: &'a [u8], limit: usize) -> Result<Self, Problem> {
        let mut batch = Self::default();
        if !body::is_object(bytes) {
            // Distinguishes malformed JSON from JSON that is not an object.
            strict_json::check(bytes)?;
            return Err(body::not_an_object());
        }
        for (name, text) in strict_json::members(bytes)? {
            let is_null = text.get() == "null";
            match &*name {
                "subject" | "action" | "resource" | "context" | "evaluations" | "options" if is_null => {}
                "subject" => batch.defaults.subject.text = Some(text),
                "action" => batch.defaults.action.text = Some(text),
                "resource" => batch.defaults.resource.text = Some(text),
                "context" => batch.defaults.context.text = Some(text),
                "evaluations" => batch.items = parse_items(text, limit)?,
                "options" => batch.options = body::parse_value(text, &name)?,
                _ => body::check_value(text, &name)?,
            }
        }
        Ok(batch)
    }
}

/// The texts of the items, at most `max`.
fn parse_items(text: &RawValue, max: usize) -> Result<Vec<&RawValue>, Problem> {
    let items: Vec<&RawValue> = serde_json::from_str(text.get()).map_err(|_| {
        Problem::invalid_field("evaluations", FieldErrorCode::InvalidType, "expected an array")
    })?;
    if items.len() > max {
        let message = format!("expected at most {max} items, got {}", items.len());
        return Err(Problem::invalid_field("evaluations", FieldErrorCode::TooManyItems, message));
    }
    Ok(items)
}

/// `POST /access/v1/evaluations`.
///
/// # Errors
/// 400 if the batch as a whole is invalid, or has no items and is not a valid question; 403 if it is a question about a subject
/// that the caller may not evaluate; 503 if the database is unavailable.
pub(super) async fn evaluations(
    authorizer: Authorizer,
    (request, RawBody(body)): (HttpRequest, RawBody),
) -> Result<HttpResponse, Problem> {
    let batch = Batch::parse(&body, authorizer.state().request_config.access_batch_limit)?;
    if batch.items.is_empty() {
        let question: Evaluation = body::parse(&body)?;
        return evaluate_single(&authorizer, &request, &question).await;
    }
    let authorizer = authorizer.with_batched_log();
    let mut decisions = Vec::with_capacity(batch.items.len());
    for item in batch.items {
        let decision = decide_item(&authorizer, &request, &batch.defaults, item).await?;
        let is_last = batch.options.evaluations_semantic.stops_after(decision.decision);
        decisions.push(decision);
        if is_last {
            break;
        }
    }
    Ok(authzen_response(&authorizer, &Decisions { evaluations: decisions }))
}

/// An item with its defaults: each part is its own, the default, absent, or an error.
struct ResolvedItem<'a> {
    subject: Result<Option<&'a Subject>, DecisionError>,
    action: Result<Option<&'a Action>, DecisionError>,
    resource: Result<Option<&'a Entity>, DecisionError>,
    context: Result<Option<&'a Map<String, Value>>, DecisionError>,
}

impl<'a> ResolvedItem<'a> {
    fn new(item: &'a Item, defaults: &'a Defaults<'_>) -> Self {
        fn part<'a, T: DeserializeOwned>(
            value: Option<&'a T>,
            default: &'a BatchDefault<'_, T>,
            name: &str,
        ) -> Result<Option<&'a T>, DecisionError> {
            value.map_or_else(|| default.get(name), |value| Ok(Some(value)))
        }
        Self {
            subject: part(item.subject.as_ref(), &defaults.subject, "subject"),
            action: part(item.action.as_ref(), &defaults.action, "action"),
            resource: part(item.resource.as_ref(), &defaults.resource, "resource"),
            context: part(item.context.as_ref(), &defaults.context, "context"),
        }
    }

    /// The errors of the parts, or those of the required parts that are missing.
    fn error(&self) -> Option<DecisionError> {
        let Self { subject, action, resource, context } = self;
        let errors =
            [subject.as_ref().err(), action.as_ref().err(), resource.as_ref().err(), context.as_ref().err()];
        let combined = errors.into_iter().flatten().cloned().reduce(|first, next| DecisionError {
            message: format!("{}; {}", first.message, next.message),
            errors: first.errors.into_iter().chain(next.errors).collect(),
            ..first
        });
        let is_missing = [
            ("subject", matches!(subject, Ok(None))),
            ("action", matches!(action, Ok(None))),
            ("resource", matches!(resource, Ok(None))),
        ];
        let missing = is_missing.into_iter().filter(|(_, is_missing)| *is_missing);
        let missing: Vec<FieldError> = missing
            .map(|(name, _)| FieldError::new(name, FieldErrorCode::Required, "this field is required"))
            .collect();
        combined.or_else(|| {
            (!missing.is_empty()).then(|| DecisionError::invalid(Problem::invalid_fields(missing)))
        })
    }

    /// The denial of an invalid item.
    fn denied_decision(&self, authorizer: &Authorizer, error: DecisionError) -> Decision {
        fn valid<'a, T>(part: &Result<Option<&'a T>, DecisionError>) -> Option<&'a T> {
            part.as_ref().ok().copied().flatten()
        }
        let action = valid(&self.action).map(|action| action.name.as_str()).unwrap_or_default();
        let subject = valid(&self.subject).map(Subject::type_and_id).unwrap_or_default();
        let resource = valid(&self.resource).map(Entity::type_and_id).unwrap_or_default();
        let result = evaluation::record_failed_evaluation(authorizer, subject, action, resource, error);
        Decision::new(&result, authorizer.engine(), false)
    }
}

/// Evaluates one item of a batch; an invalid item is denied with the reason.
async fn decide_item(
    authorizer: &Authorizer,
    request: &HttpRequest,
    defaults: &Defaults<'_>,
    text: &RawValue,
) -> Result<Decision, Problem> {
    let parsed = match text.get().starts_with('{') {
        true => body::parse_value::<Item>(text, ""),
        false => Err(body::not_an_object()),
    };
    let (item, parse_error) = match parsed {
        Ok(item) => (item, None),
        Err(problem) => (Item::default(), Some(DecisionError::invalid(problem))),
    };
    let resolved = ResolvedItem::new(&item, defaults);
    if let Some(error) = parse_error.or_else(|| resolved.error()) {
        return Ok(resolved.denied_decision(authorizer, error));
    }
    let (Ok(Some(subject)), Ok(Some(action)), Ok(Some(resource)), Ok(context)) =
        (&resolved.subject, &resolved.action, &resolved.resource, &resolved.context)
    else {
        return Ok(resolved.denied_decision(authorizer, DecisionError::new("invalid", "invalid evaluation")));
    };
    let none = Map::new();
    let context = context.unwrap_or(&none);
    let explain = is_explain_requested(request, context);
    let result = evaluate(authorizer, subject, action, resource, context, explain).await?;
    Ok(Decision::new(
        &result.unwrap_or_else(EvaluationResult::subject_forbidden),
        authorizer.engine(),
        explain,
    ))
}
