//! Explanations down to the condition: the parts of policies that decided, the values that they read, the least change that gives
//! an allow, and names that the schema or the data do not have.

use crate::authorize::{UNKNOWN_ID, user};
use crate::authzen::{entity, evaluate, evaluation_request};
use crate::authzen_search::{ACTION_SEARCH, RESOURCE_SEARCH, SUBJECT_SEARCH};
use crate::support::{Client, TestApp, project_file};
use cedargate::authz::Scope;
use reqwest::StatusCode;
use serde_json::{Value, json};

/// Starts the service with the document store, and with these additional policies.
async fn start(policies: &str) -> TestApp {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("more.cedar"), policies).unwrap();
    TestApp::start_with(|config| {
        config.schema.push(project_file("examples/documents/schema"));
        config.policies.push(project_file("examples/documents/policies"));
        if !policies.is_empty() {
            config.policies.push(directory.path().to_owned());
        }
    })
    .await
}

fn person(id: &str) -> Value {
    entity("Docs::Person", id)
}

fn document(id: &str) -> Value {
    entity("Docs::Document", id)
}

/// The context of an explained answer.
async fn explain(client: &Client, mut question: Value) -> Value {
    question["context"]["explain"] = json!(true);
    let answer = evaluate(client, question.clone()).await;
    let context = answer["context"].clone();
    assert_eq!(
        context["reasons"]["outcome"] == "allowed",
        answer["decision"] == true && context.get("error").is_none(),
        "{answer}"
    );
    // The other endpoint gives the same explanation.
    let other = client.post("/v2/authorize", question).await;
    if other.status == StatusCode::OK {
        for member in ["policies", "missing", "reasons", "warnings", "error"] {
            assert_eq!(other.json["context"][member], context[member], "{member}");
        }
    }
    context
}

/// The parts of an explanation, each as `policy clause expression holds`.
fn parts(reasons: &Value) -> Vec<String> {
    let policies = reasons["policies"].as_array().unwrap_or_else(|| panic!("{reasons}"));
    let parts = policies.iter().flat_map(|policy| {
        let parts = policy["parts"].as_array().unwrap();
        parts.iter().map(move |part| {
            let text = |value: &Value| value.as_str().unwrap().to_owned();
            let holds = part.get("holds").map_or("hidden".to_owned(), Value::to_string);
            format!("{} {} {} {holds}", text(&policy["id"]), text(&part["clause"]), text(&part["expression"]))
        })
    });
    parts.collect()
}

/// The changes of an explanation, in words.
fn changes(reasons: &Value) -> Vec<&str> {
    reasons["changes"].as_array().unwrap().iter().map(|change| change["text"].as_str().unwrap()).collect()
}

/// The values of an explanation, each as `name=value`.
fn values(reasons: &Value) -> Vec<String> {
    let parts =
        reasons["policies"].as_array().unwrap().iter().flat_map(|policy| policy["parts"].as_array().unwrap());
    let values = parts.flat_map(|part| part["values"].as_array().unwrap());
    values
        .map(|value| match value.get("value") {
            Some(shown) => format!("{}={shown}", value["name"].as_str().unwrap()),
            None => format!("{} {}", value["name"].as_str().unwrap(), value["missing"].as_str().unwrap()),
        })
        .collect()
}

/// The codes, fields and nearest names of the warnings.
fn warnings(context: &Value) -> Vec<(&str, &str, Option<&str>)> {
    let warnings = context["warnings"].as_array().map(Vec::as_slice).unwrap_or_default();
    warnings
        .iter()
        .map(|warning| {
            let (code, field) = (warning["code"].as_str().unwrap(), warning["field"].as_str().unwrap());
            (code, field, warning["nearest"].as_str())
        })
        .collect()
}

#[tokio::test]
async fn answers_name_the_parts_that_decided_and_what_would_give_an_allow() {
    let app = start("").await;
    let admin = app.admin().await;
    let share = |outside: Value| {
        let mut question = evaluation_request(person("ben"), "share", document("plan"));
        question["context"] = outside;
        question
    };
    type Case = (Value, &'static str, Vec<&'static str>, Vec<&'static str>, Vec<&'static str>);
    let cases: Vec<Case> = vec![
        (
            share(json!({ "outside": true })),
            "forbidden",
            vec![
                "docs.outside when context.outside true",
                "docs.outside unless principal in Docs::Group::\"publishers\" false",
            ],
            vec![
                "context.outside=true",
                "ancestors of principal=[\"Docs::Group::\\\"engineers\\\"\",\"Docs::Group::\\\"staff\\\"\"]",
            ],
            vec!["without context.outside", "with context.outside = false"],
        ),
        (
            share(json!({})),
            "allowed",
            vec![
                "docs.outside when context has outside false",
                "docs.suspended when principal has suspended false",
            ],
            vec!["context.outside absent", "principal.suspended absent"],
            vec![],
        ),
        (
            evaluation_request(person("cleo"), "edit", document("report")),
            "forbidden",
            vec!["docs.final when resource.state == \"final\" true"],
            vec!["resource.state=\"final\""],
            vec![],
        ),
        (
            evaluation_request(person("dan"), "edit", document("plan")),
            "not_permitted",
            vec![
                "docs.editor when resource has editors false",
                "docs.editor when principal in resource.editorGroups false",
                "docs.home when principal has home false",
                "docs.owner when resource.owner == principal false",
            ],
            vec![
                "resource.editors absent",
                "ancestors of principal=[]",
                r#"resource.editorGroups=["Docs::Group::\"engineers\""]"#,
                "principal.home absent",
                r#"resource.owner="Docs::Person::\"ben\"""#,
                r#"principal="Docs::Person::\"dan\"""#,
            ],
            vec![],
        ),
    ];
    for (question, outcome, expected_parts, expected_values, expected_changes) in cases {
        let context = explain(&admin, question.clone()).await;
        let reasons = &context["reasons"];
        assert_eq!(reasons["outcome"], outcome, "{reasons}");
        assert_eq!(parts(reasons), expected_parts, "{question}");
        assert_eq!(values(reasons), expected_values, "{question}");
        assert_eq!(changes(reasons), expected_changes, "{question}");
    }
}

#[tokio::test]
async fn parts_have_their_place_in_the_source() {
    let app = start("").await;
    let admin = app.admin().await;
    let source =
        std::fs::read_to_string(project_file("examples/documents/policies/documents.cedar")).unwrap();
    let mut places = 0;
    for (who, action, id) in [
        ("dan", "edit", "plan"),
        ("cleo", "edit", "report"),
        ("dan", "delete", "vpn"),
        ("eve", "read", "vpn"),
    ] {
        let context = explain(&admin, evaluation_request(person(who), action, document(id))).await;
        for policy in context["reasons"]["policies"].as_array().unwrap() {
            assert_eq!(policy["file"], "documents.cedar");
            for part in policy["parts"].as_array().unwrap() {
                let number = |name: &str| usize::try_from(part[name].as_u64().unwrap()).unwrap();
                let line = source.lines().nth(number("line") - 1).unwrap();
                let place = &line[number("column") - 1..];
                let expression = part["expression"].as_str().unwrap();
                let start = expression.split([' ', '(']).next().unwrap();
                assert!(place.starts_with(start), "{expression} is not at {place:?}");
                places += 1;
            }
        }
    }
    assert!(places >= 6, "{places}");
}

#[tokio::test]
async fn scope_requirements_are_parts_too() {
    let app = start("").await;
    let (admin, bot) = (app.admin().await, app.user(Scope::Bot).await);
    let form = entity("Form", &admin.post("/v2/forms", json!({ "name": "form" })).await.id());
    let reasons =
        explain(&admin, evaluation_request(user(&bot.id), "fetchForm", form)).await["reasons"].clone();
    assert_eq!(reasons["outcome"], "not_permitted");
    assert_eq!(parts(&reasons), ["admin principal principal in Scope::\"admin\" false"]);
    let scopes = r#"ancestors of principal=["Scope::\"agent\"","Scope::\"bot\"","Scope::\"guest\""]"#;
    assert_eq!(values(&reasons), [scopes]);
    assert_eq!(changes(&reasons), ["with the scope admin"]);
    assert_eq!(reasons["changes"][0]["scope"], "admin");
}

#[tokio::test]
async fn misspelt_names_have_warnings_with_the_nearest_name() {
    let app = start("").await;
    let admin = app.admin().await;
    let conversation = admin.post("/v2/conversations", json!({})).await.id();
    let with = |mut question: Value, path: &str, value: Value| {
        *question.pointer_mut(path).unwrap() = value;
        question
    };
    let share = evaluation_request(person("ben"), "share", document("plan"));
    let with_member = |part: &str, value: Value| {
        let mut question = share.clone();
        question[part] = value;
        question
    };
    for (question, expected) in [
        (share.clone(), vec![]),
        (
            with_member("context", json!({ "out_side": true, "zebra": 1 })),
            vec![
                ("undeclared_context", "context.out_side", Some("outside")),
                ("undeclared_context", "context.zebra", None),
            ],
        ),
        (
            with_member("action", json!({ "name": "share", "properties": { "outsied": true } })),
            vec![("undeclared_context", "action.properties.outsied", Some("outside"))],
        ),
        (
            with_member("action", json!({ "name": "shaer" })),
            vec![("unknown_action", "action.name", Some("share"))],
        ),
        (with(share.clone(), "/subject/id", json!("bne")), vec![("not_in_data", "subject.id", Some("ben"))]),
        (
            with(share.clone(), "/resource/id", json!("plann")),
            vec![("not_in_data", "resource.id", Some("plan"))],
        ),
        (with(share.clone(), "/resource/id", json!("xyzzy")), vec![("not_in_data", "resource.id", None)]),
        (
            with(share.clone(), "/resource/type", json!("Docs::Documnt")),
            vec![("unknown_type", "resource.type", Some("Docs::Document"))],
        ),
        (
            with(
                share.clone(),
                "/resource",
                json!({ "type": "Docs::Document", "id": "new", "properties": { "onwer": 1, "state": "draft" } }),
            ),
            vec![("undeclared_property", "resource.properties.onwer", Some("owner"))],
        ),
        (
            with(
                share.clone(),
                "/resource",
                json!({ "type": "Docs::Document", "id": "report", "properties": { "state": "draft" } }),
            ),
            vec![("ignored_property", "resource.properties.state", None)],
        ),
        (
            evaluation_request(
                user(&admin.id),
                "fetchConversation",
                json!({ "type": "Conversation", "id": conversation, "properties": { "status": "open" } }),
            ),
            vec![("ignored_property", "resource.properties.status", None)],
        ),
        (
            evaluation_request(user(&admin.id), "fetchConversation", entity("Conversation", UNKNOWN_ID)),
            vec![("not_accessible", "resource.id", None)],
        ),
    ] {
        let context = explain(&admin, question.clone()).await;
        assert_eq!(warnings(&context), expected, "{question}: {context}");
        for warning in context["warnings"].as_array().into_iter().flatten() {
            let message = warning["message"].as_str().unwrap();
            let nearest = warning["nearest"].as_str();
            assert_eq!(message.contains("did you mean"), nearest.is_some(), "{message}");
            assert!(nearest.is_none_or(|nearest| message.contains(nearest)), "{message}");
        }
    }
    // Those who may not evaluate external subjects cannot search for them, and get no suggestion.
    let guest = app.user(Scope::Guest).await;
    let question = evaluation_request(user(&guest.id), "read", document("plann"));
    assert_eq!(warnings(&explain(&guest, question).await), [("not_in_data", "resource.id", None)]);
}

/// Policies that read attributes which their readers may not fetch.
const SECRETS: &str = r#"
@id("more.hidden") forbid (principal, action == Action::"fetchConversation", resource) when { resource has category };
@id("more.delete") forbid (principal, action == Action::"deleteConversation", resource)
  when { context has credential && resource has category }
  when { resource.category like "red*" || resource has status && resource.status == "closed" };
@id("more.users") forbid (principal, action == Action::"fetchUser", resource) unless { principal in Scope::"admin" };
@id("more.mail") forbid (principal, action == Action::"listForms", resource)
  when { principal has email && principal.email like "*@example.com" && principal.role != Scope::"admin" };
"#;

#[tokio::test]
async fn attributes_that_the_caller_may_not_fetch_are_in_no_answer() {
    let app = start(SECRETS).await;
    let (admin, bot) = (app.admin().await, app.user(Scope::Bot).await);
    let agent = app.user(Scope::Agent).await;
    let mut answers = Vec::new();
    // Two resources that the policy forbids for different reasons.
    for body in [json!({ "category": "red-4711" }), json!({ "category": "blue-4712", "status": "closed" })] {
        let id = admin.post("/v2/conversations", body).await.id();
        admin.get(&format!("/v2/conversations/{id}")).await.expect(StatusCode::NOT_FOUND);
        let question = evaluation_request(user(&admin.id), "deleteConversation", entity("Conversation", &id));
        let mut context = explain(&admin, question).await;
        context["evaluation_id"] = Value::Null;
        let text = context.to_string().replace(&id, "ID");
        assert!(!text.contains("4711") && !text.contains("4712"), "{text}");
        assert_eq!(
            parts(&context["reasons"]),
            [
                "more.delete when resource.category like \"red*\" hidden",
                "more.delete when resource has status hidden",
                "more.delete when resource.status == \"closed\" hidden",
            ]
        );
        answers.push(text);
    }
    assert_eq!(answers[0], answers[1], "the reasons do not depend on what is hidden");

    let organization = admin.get("/v2/users/me").await.json["organization"].as_str().unwrap().to_owned();
    let about = |client: &Client| {
        evaluation_request(user(&client.id), "listForms", entity("Organization", &organization))
    };
    agent.get("/v2/users/me").await.expect_problem(403, "forbidden");
    let context = explain(&bot, about(&agent)).await;
    assert!(!context.to_string().contains("@example.com\""), "{context}");
    assert!(parts(&context["reasons"]).iter().all(|part| part.ends_with("hidden")), "{context}");
    // An admin may fetch the same user, and sees the same parts with their values.
    let context = explain(&admin, about(&agent)).await;
    assert!(context.to_string().contains("@example.com\""), "{context}");
}

#[tokio::test]
async fn reasons_of_missing_and_inaccessible_resources_are_the_same() {
    let app = start(SECRETS).await;
    let (_, ours) = app.tenant("ours").await;
    let (_, theirs) = app.tenant("theirs").await;
    let secret =
        theirs.post("/v2/conversations", json!({ "category": "red-4711", "status": "closed" })).await.id();
    for action in ["fetchConversation", "deleteConversation", "updateConversation"] {
        let mut answers = Vec::new();
        for id in [UNKNOWN_ID, &secret, "no-id"] {
            let question = evaluation_request(user(&ours.id), action, entity("Conversation", id));
            let mut context = explain(&ours, question).await;
            context["evaluation_id"] = Value::Null;
            assert_eq!(context["reasons"]["changes"], json!([]), "nothing gives an allow: {context}");
            answers.push(context.to_string().replace(id, "ID"));
        }
        answers.dedup();
        assert_eq!(answers.len(), 1, "{answers:#?}");
        assert!(answers[0].contains("reasons"), "{}", answers[0]);
    }
}

/// The reasons of a 403.
fn reasons_of_problem(reply: crate::support::Reply) -> Value {
    reply.expect_problem(403, "forbidden");
    assert!(reply.json["reasons"].is_object(), "{}", reply.text);
    reply.json["reasons"].clone()
}

#[tokio::test]
async fn a_403_has_the_reasons_of_the_callers_own_request() {
    let app = TestApp::start().await;
    let (admin, agent, guest) =
        (app.admin().await, app.user(Scope::Agent).await, app.user(Scope::Guest).await);
    let reasons = reasons_of_problem(guest.post("/v2/forms", json!({ "name": "form" })).await);
    assert_eq!(reasons["outcome"], "not_permitted");
    assert_eq!(parts(&reasons), ["bot principal principal in Scope::\"bot\" false"]);
    assert_eq!(changes(&reasons), ["with the scope bot"]);

    let reasons = reasons_of_problem(guest.get("/v2/forms").await);
    assert_eq!(changes(&reasons), ["with the scope bot"]);

    // The caller's own user: the same change without the role would be allowed.
    let promotion = json!({ "role": "admin", "meta": { "color": "red" } });
    let reasons = reasons_of_problem(agent.patch("/v2/users/me", promotion).await);
    assert_eq!(reasons["outcome"], "forbidden");
    assert_eq!(
        parts(&reasons),
        [
            r#"self.place when context.changes.containsAny([Field::"role", Field::"organization", Field::"status"]) true"#,
            r#"self.place unless principal in Scope::"admin" false"#,
        ]
    );
    assert_eq!(changes(&reasons), ["with the scope admin", "without \"role\" in context.changes"]);

    // An API key: a session may do it.
    let key = app.bearer(&admin.key(&[Scope::Admin]).await);
    let reasons = reasons_of_problem(key.delete(&format!("/v2/users/{}", guest.id)).await);
    assert_eq!(reasons["policies"][0]["id"], "key.identities");
    assert_eq!(changes(&reasons)[0], "with context.credential = session");

    // Questions about others.
    let question = evaluation_request(user(&agent.id), "fetchUser", user(&agent.id));
    let reasons = reasons_of_problem(guest.post("/access/v1/evaluation", question.clone()).await);
    assert_eq!(changes(&reasons), ["with the scope bot"]);
    assert!(reasons_of_problem(guest.post("/v2/authorize", question).await)["policies"].is_array());

    // No other problem has reasons.
    for (reply, status) in [
        (app.anonymous().get("/v2/forms").await, 401),
        (admin.get(&format!("/v2/forms/{UNKNOWN_ID}")).await, 404),
        (admin.post("/v2/forms", json!({})).await, 400),
    ] {
        assert_eq!((reply.status.as_u16(), reply.json.get("reasons")), (status, None), "{}", reply.text);
    }
}

#[tokio::test]
async fn searches_reject_misspelt_names_and_missing_context() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    std::fs::write(
        at("gate.cedarschema"),
        r#"namespace Gate { entity Person; entity Door;
          action pass appliesTo { principal: Person, resource: Door, context: { hour: Long, note?: String } }; }"#,
    )
    .unwrap();
    let policy = r#"@id("gate.day") permit (principal is Gate::Person, action == Gate::Action::"pass", resource)
        when { context.hour > 6 };"#;
    std::fs::write(at("gate.cedar"), policy).unwrap();
    let data = r#"[{ "uid": { "type": "Gate::Person", "id": "ada" }, "attrs": {}, "parents": [] },
      { "uid": { "type": "Gate::Door", "id": "front" }, "attrs": {}, "parents": [] }]"#;
    std::fs::write(at("gate.json"), data).unwrap();
    let app = TestApp::start_with(|config| {
        config.schema.push(directory.path().to_owned());
        config.policies.push(directory.path().to_owned());
    })
    .await;
    let bot = app.user(Scope::Bot).await;
    let (person, door) = (entity("Gate::Person", "ada"), entity("Gate::Door", "front"));
    for (path, found) in [(SUBJECT_SEARCH, "ada"), (RESOURCE_SEARCH, "front"), (ACTION_SEARCH, "pass")] {
        let question = |change: &dyn Fn(&mut Value)| {
            let mut question = evaluation_request(person.clone(), "pass", door.clone());
            question["context"] = json!({ "hour": 12 });
            change(&mut question);
            question
        };
        let results = bot.post(path, question(&|_| ())).await.expect(StatusCode::OK)["results"].to_string();
        assert!(results.contains(found), "{path}: {results}");
        let mut cases: Vec<(Value, &str, &str)> = vec![
            (question(&|question| question["context"] = json!({})), "context.hour", "missing_context"),
            (
                question(&|question| question["context"]["hour"] = json!("noon")),
                "context.hour",
                "invalid_context",
            ),
            (
                question(&|question| question["subject"]["type"] = json!("Gate::Persn")),
                "subject.type",
                "unknown_type",
            ),
            (
                question(&|question| question["resource"]["type"] = json!("gate::door")),
                "resource.type",
                "unknown_type",
            ),
        ];
        if path != ACTION_SEARCH {
            cases.push((
                question(&|question| question["action"]["name"] = json!("psas")),
                "action.name",
                "unknown_action",
            ));
            cases.push((
                question(&|question| question["action"]["name"] = json!("x")),
                "action.name",
                "unknown_action",
            ));
        }
        for (question, field, code) in cases {
            let reply = bot.post(path, question.clone()).await;
            reply.expect_problem(400, "invalid_fields");
            assert_eq!(reply.field_errors(), [(field.to_owned(), code.to_owned())], "{path}: {question}");
        }
        let reply =
            bot.post(path, question(&|question| question["resource"]["type"] = json!("Gate::Dor"))).await;
        let message = reply.json["errors"][0]["message"].as_str().unwrap();
        assert!(message.ends_with("did you mean \"Gate::Door\"?"), "{message}");
    }
}
