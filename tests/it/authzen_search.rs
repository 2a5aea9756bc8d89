//! AuthZEN searches for subjects, resources and actions. A search returns exactly what evaluation permits.

use crate::authorize::user;
use crate::authzen::{EVALUATIONS, entity, evaluation_request, start_with_records};
use crate::support::{Client, TestApp, project_file};
use cedargate::authz::Scope;
use reqwest::StatusCode;
use serde_json::{Value, json};
use std::collections::BTreeSet;

pub const SUBJECT_SEARCH: &str = "/access/v1/search/subject";
pub const RESOURCE_SEARCH: &str = "/access/v1/search/resource";
pub const ACTION_SEARCH: &str = "/access/v1/search/action";

/// All results of a search, ids or action names, over all pages.
pub async fn search(client: &Client, path: &str, mut question: Value) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    loop {
        let answer = client.post(path, question.clone()).await.expect(StatusCode::OK);
        for result in answer["results"].as_array().unwrap_or_else(|| panic!("{question}: {answer}")) {
            let name = if path == ACTION_SEARCH { &result["name"] } else { &result["id"] };
            let name = name.as_str().unwrap_or_else(|| panic!("{question}: {answer}"));
            assert!(found.insert(name.to_owned()), "{question}: {name} occurs twice");
        }
        match answer["page"]["next_token"].as_str() {
            None | Some("") => return found,
            Some(token) => question["page"]["token"] = token.into(),
        }
    }
}

/// One page of results, and the token of the next page.
async fn search_page(client: &Client, path: &str, question: &Value) -> (Vec<Value>, String) {
    let answer = client.post(path, question.clone()).await.expect(StatusCode::OK);
    let results = answer["results"].as_array().unwrap().clone();
    assert_eq!(answer["page"]["count"], results.len(), "{answer}");
    (results, answer["page"]["next_token"].as_str().unwrap().to_owned())
}

/// The decisions of evaluation for these questions.
async fn evaluate_all(client: &Client, questions: Vec<Value>) -> Vec<bool> {
    let mut all = Vec::new();
    for part in questions.chunks(1000) {
        let answer = client.post(EVALUATIONS, json!({ "evaluations": part })).await.expect(StatusCode::OK);
        let answers = answer["evaluations"].as_array().unwrap();
        assert_eq!(answers.len(), part.len());
        all.extend(answers.iter().map(|answer| answer["decision"].as_bool().unwrap()));
    }
    all
}

/// Two tenants and the root organization with users of every role, conversations, and a blocked user.
struct Fixture {
    /// A client in each of the three that may ask about others.
    callers: Vec<Client>,
    users: Vec<String>,
    conversations: Vec<String>,
}

impl Fixture {
    async fn new(app: &TestApp) -> Self {
        let root = app.admin().await;
        let mut fixture =
            Self { callers: vec![root.clone()], users: vec![root.id.clone()], conversations: vec![] };
        for name in ["one", "two"] {
            let (_, admin) = app.tenant(name).await;
            fixture.users.push(admin.id.clone());
            fixture.callers.push(admin);
        }
        for (index, client) in fixture.callers.iter().enumerate() {
            for role in Scope::ALL {
                let body = json!({ "email": format!("{role}{index}@example.com"), "role": role });
                fixture.users.push(client.post("/v2/users", body).await.id());
            }
            let body = json!({ "email": format!("blocked{index}@example.com"), "role": "admin", "status": "blocked" });
            fixture.users.push(client.post("/v2/users", body).await.id());
            for category in ["sales", "support"] {
                let created = client.post("/v2/conversations", json!({ "category": category })).await;
                fixture.conversations.push(created.id());
            }
        }
        fixture.callers.push(app.user(Scope::Bot).await);
        fixture.users.push(fixture.callers[3].id.clone());
        fixture
    }
}

const CONVERSATION_ACTIONS: [&str; 4] =
    ["fetchConversation", "updateConversation", "deleteConversation", "referTo"];

/// Those of `all` that evaluation permits.
async fn permitted_by_evaluation(
    client: &Client,
    all: &[impl AsRef<str>],
    question: impl Fn(&str) -> Value,
) -> BTreeSet<String> {
    let questions = all.iter().map(|one| question(one.as_ref())).collect();
    let decisions = evaluate_all(client, questions).await;
    all.iter()
        .zip(decisions)
        .filter(|(_, is_permitted)| *is_permitted)
        .map(|(one, _)| one.as_ref().to_owned())
        .collect()
}

#[tokio::test]
async fn subject_search_agrees_with_evaluation() {
    let app = TestApp::start().await;
    let fixture = Fixture::new(&app).await;
    let mut most = 0;
    for client in &fixture.callers {
        for resource in &fixture.conversations {
            for action in CONVERSATION_ACTIONS {
                let question_about =
                    |id: &str| evaluation_request(user(id), action, entity("Conversation", resource));
                let expected = permitted_by_evaluation(client, &fixture.users, question_about).await;
                let mut question = question_about("");
                question["subject"] = json!({ "type": "User" });
                assert_eq!(search(client, SUBJECT_SEARCH, question.clone()).await, expected, "{action}");
                // The id of the subject is ignored in a subject search.
                question["subject"]["id"] = json!(client.id);
                assert_eq!(search(client, SUBJECT_SEARCH, question).await, expected, "{action}");
                most = most.max(expected.len());
            }
        }
    }
    assert!(most >= 5, "the fixture has too few results");
}

#[tokio::test]
async fn resource_search_agrees_with_evaluation() {
    let app = TestApp::start().await;
    let fixture = Fixture::new(&app).await;
    let mut most = 0;
    for client in &fixture.callers {
        for subject in &fixture.users {
            for action in ["fetchConversation", "deleteConversation"] {
                let question_about =
                    |id: &str| evaluation_request(user(subject), action, entity("Conversation", id));
                let expected = permitted_by_evaluation(client, &fixture.conversations, question_about).await;
                let mut question = question_about("");
                question["resource"] = json!({ "type": "Conversation" });
                assert_eq!(search(client, RESOURCE_SEARCH, question).await, expected, "{action}");
                most = most.max(expected.len());
            }
            let question_about = |id: &str| evaluation_request(user(subject), "fetchUser", user(id));
            let expected = permitted_by_evaluation(client, &fixture.users, question_about).await;
            let mut question = question_about(subject);
            question["resource"] = json!({ "type": "User", "id": "ignored" });
            assert_eq!(search(client, RESOURCE_SEARCH, question).await, expected);
        }
    }
    assert_eq!(most, fixture.conversations.len());
}

#[tokio::test]
async fn action_search_agrees_with_evaluation() {
    let app = TestApp::start().await;
    let fixture = Fixture::new(&app).await;
    let schema = std::fs::read_to_string(project_file("schema/cedargate.cedarschema")).unwrap();
    let words = schema.split(|letter: char| !letter.is_ascii_alphanumeric());
    let verbs = [
        "list",
        "create",
        "fetch",
        "update",
        "delete",
        "refer",
        "evaluate",
        "introspect",
        "reload",
        "set",
        "assign",
        "accept",
        "join",
        "leave",
    ];
    let is_action = |word: &&str| verbs.iter().any(|verb| word.starts_with(verb) && word.len() > verb.len());
    let actions: Vec<&str> = words.filter(is_action).collect::<BTreeSet<_>>().into_iter().collect();
    assert!(actions.len() >= 47);
    let mut most = 0;
    for client in &fixture.callers {
        for subject in &fixture.users {
            for resource in
                [entity("Conversation", &fixture.conversations[0]), user(subject), user(&fixture.users[1])]
            {
                let question_about =
                    |action: &str| evaluation_request(user(subject), action, resource.clone());
                let expected = permitted_by_evaluation(client, &actions, question_about).await;
                let question = json!({ "subject": user(subject), "resource": resource });
                assert_eq!(search(client, ACTION_SEARCH, question.clone()).await, expected, "{question}");
                most = most.max(expected.len());
            }
        }
    }
    assert!(most >= 5);
}

#[tokio::test]
async fn callers_without_permission_may_search_for_themselves_only() {
    let app = start_with_records().await;
    let (guest, agent, admin) =
        (app.user(Scope::Guest).await, app.user(Scope::Agent).await, app.admin().await);
    let conversation = admin.post("/v2/conversations", json!({})).await.id();
    let mut own = evaluation_request(user(&guest.id), "fetchConversation", json!({ "type": "Conversation" }));
    assert_eq!(search(&guest, RESOURCE_SEARCH, own.clone()).await, BTreeSet::from([conversation.clone()]));
    let actions = json!({ "subject": user(&guest.id), "resource": entity("Conversation", &conversation) });
    assert!(search(&guest, ACTION_SEARCH, actions.clone()).await.contains("fetchConversation"));
    own["subject"] = user(&agent.id);
    guest.post(RESOURCE_SEARCH, own).await.expect_problem(403, "forbidden");
    let mut about_other = actions;
    about_other["subject"] = user(&agent.id);
    guest.post(ACTION_SEARCH, about_other).await.expect_problem(403, "forbidden");
    for client in [&guest, &agent] {
        let foreign = evaluation_request(entity("user", "alice"), "read", json!({ "type": "record" }));
        client.post(RESOURCE_SEARCH, foreign).await.expect_problem(403, "forbidden");
        let foreign = evaluation_request(json!({ "type": "user" }), "read", entity("record", "record-1"));
        client.post(SUBJECT_SEARCH, foreign).await.expect_problem(403, "forbidden");
        // A search omits subjects about which the caller may not ask.
        let question = evaluation_request(
            json!({ "type": "User" }),
            "fetchConversation",
            entity("Conversation", &conversation),
        );
        let reply = client.post(SUBJECT_SEARCH, question).await;
        let found: Vec<&Value> = reply.json["results"].as_array().into_iter().flatten().collect();
        assert!(reply.status == StatusCode::FORBIDDEN || found == [&user(&client.id)], "{}", reply.text);
    }
}

#[tokio::test]
async fn searches_with_missing_or_inaccessible_entities_are_empty() {
    let app = TestApp::start().await;
    let (_, ours) = app.tenant("ours").await;
    let (_, theirs) = app.tenant("theirs").await;
    let inaccessible = theirs.post("/v2/conversations", json!({})).await.id();
    for id in [crate::authorize::UNKNOWN_ID, &inaccessible, "no-id"] {
        let question =
            evaluation_request(json!({ "type": "User" }), "fetchConversation", entity("Conversation", id));
        assert_eq!(search(&ours, SUBJECT_SEARCH, question).await, BTreeSet::new());
        let question = json!({ "subject": user(&ours.id), "resource": entity("Conversation", id) });
        assert_eq!(search(&ours, ACTION_SEARCH, question).await, BTreeSet::new());
    }
    for id in [crate::authorize::UNKNOWN_ID, &theirs.id, "no-id"] {
        let question = evaluation_request(user(id), "fetchUser", json!({ "type": "User" }));
        assert_eq!(search(&ours, RESOURCE_SEARCH, question).await, BTreeSet::new());
        let question = json!({ "subject": user(id), "resource": user(&ours.id) });
        assert_eq!(search(&ours, ACTION_SEARCH, question).await, BTreeSet::new());
    }
}

#[tokio::test]
async fn a_search_with_limit_zero_has_no_next_page() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let conversation = admin.post("/v2/conversations", json!({})).await.id();
    let conversation = entity("Conversation", &conversation);
    let me = entity("User", &admin.id);
    for (path, question) in [
        (
            SUBJECT_SEARCH,
            evaluation_request(json!({ "type": "User" }), "fetchConversation", conversation.clone()),
        ),
        (
            RESOURCE_SEARCH,
            evaluation_request(me.clone(), "fetchConversation", json!({ "type": "Conversation" })),
        ),
        (ACTION_SEARCH, json!({ "subject": me, "resource": conversation })),
    ] {
        let mut question = question;
        assert!(!search(&admin, path, question.clone()).await.is_empty(), "{path}");
        question["page"] = json!({ "limit": 0 });
        assert_eq!(search_page(&admin, path, &question).await, (Vec::new(), String::new()), "{path}");
    }
}

#[tokio::test]
async fn search_pages_have_tokens_bound_to_the_query() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let mut users = BTreeSet::from([admin.id.clone()]);
    for index in 0..250 {
        let role = Scope::ALL[index % 4];
        let body = json!({ "email": format!("u{index}@example.com"), "role": role });
        users.insert(admin.post("/v2/users", body).await.id());
    }
    let conversation = admin.post("/v2/conversations", json!({})).await.id();
    let mut question = evaluation_request(
        json!({ "type": "User" }),
        "fetchConversation",
        entity("Conversation", &conversation),
    );
    assert_eq!(
        search(&admin, SUBJECT_SEARCH, question.clone()).await,
        users,
        "any page size without a limit"
    );

    question["page"] = json!({ "limit": 100 });
    let (mut found, mut sizes, mut tokens) = (BTreeSet::new(), Vec::new(), Vec::new());
    loop {
        let (results, token) = search_page(&admin, SUBJECT_SEARCH, &question).await;
        sizes.push(results.len());
        found.extend(results.iter().map(|result| result["id"].as_str().unwrap().to_owned()));
        assert!(sizes.len() <= 5, "{sizes:?}");
        if token.is_empty() {
            break;
        }
        question["page"]["token"] = token.clone().into();
        tokens.push(token);
    }
    assert_eq!((&found, sizes), (&users, vec![100, 100, 51]));
    // The last page has no token, even if it is full. Limits above the maximum are reduced to it.
    for (limit, size) in [(251, 251), (250, 250), (5_000, 251)] {
        question["page"] = json!({ "limit": limit });
        let (results, token) = search_page(&admin, SUBJECT_SEARCH, &question).await;
        assert_eq!((results.len(), token.is_empty()), (size, size == users.len()), "{limit}");
        question["page"]["token"] = token.clone().into();
        let (rest, _) = search_page(&admin, SUBJECT_SEARCH, &question).await;
        assert!(token.is_empty() || rest.len() == users.len() - size, "{limit}: {}", rest.len());
    }

    // A page of rare results contains only permitted ones, regardless of how many candidates are evaluated.
    let mut rare = evaluation_request(
        json!({ "type": "User" }),
        "deleteConversation",
        entity("Conversation", &conversation),
    );
    rare["page"] = json!({ "limit": 10 });
    let (results, _) = search_page(&admin, SUBJECT_SEARCH, &rare).await;
    assert!(results.len() <= 10);
    assert_eq!(search(&admin, SUBJECT_SEARCH, rare).await.len(), 63);

    question["page"] = json!({ "limit": 100, "token": tokens[0] });
    assert_eq!(
        search_page(&admin, SUBJECT_SEARCH, &question).await.1,
        tokens[1],
        "a page can be requested again"
    );
    let changed = |change: &dyn Fn(&mut Value)| {
        let mut question = question.clone();
        change(&mut question);
        question
    };
    let other = admin.post("/v2/conversations", json!({})).await.id();
    for wrong in [
        changed(&|question| question["page"]["limit"] = json!(99)),
        changed(&|question| question["action"]["name"] = json!("deleteConversation")),
        changed(&|question| question["action"]["properties"] = json!({ "soft": true })),
        changed(&|question| question["resource"]["id"] = json!(other)),
        changed(&|question| question["resource"]["properties"] = json!({ "category": "x" })),
        changed(&|question| question["subject"]["type"] = json!("Scope")),
        changed(&|question| question["context"] = json!({ "ip": "192.168.1.1" })),
        changed(&|question| question["page"]["token"] = json!("no token")),
        changed(&|question| question["page"]["token"] = json!(format!("{}x", tokens[0]))),
        changed(&|question| question["page"]["token"] = json!(5)),
        changed(&|question| question["page"]["limit"] = json!(-1)),
        changed(&|question| question["page"]["limit"] = json!("100")),
        changed(&|question| question["page"] = json!("first")),
    ] {
        let reply = admin.post(SUBJECT_SEARCH, wrong.clone()).await;
        assert_eq!(reply.status, StatusCode::BAD_REQUEST, "{wrong}: {}", reply.text);
        assert!(reply.json["code"].is_string(), "{}", reply.text);
    }
    let reply = admin.post(RESOURCE_SEARCH, changed(&|question| question["subject"] = user(&admin.id))).await;
    assert_eq!(reply.status, StatusCode::BAD_REQUEST, "a token of another search: {}", reply.text);
}

#[tokio::test]
async fn searches_of_stored_resources_are_paged() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let mut created = BTreeSet::new();
    for index in 0..25 {
        created.insert(admin.post("/v2/kbitems", json!({ "title": format!("title {index}") })).await.id());
    }
    let mut question =
        evaluation_request(user(&admin.id), "fetchKnowledgeItem", json!({ "type": "KnowledgeItem" }));
    question["page"] = json!({ "limit": 10 });
    let (results, token) = search_page(&admin, RESOURCE_SEARCH, &question).await;
    assert_eq!((results.len(), token.is_empty()), (10, false));
    assert!(results.iter().all(|result| result["type"] == "KnowledgeItem"));
    assert_eq!(search(&admin, RESOURCE_SEARCH, question).await, created);
}

/// The page of a search, and the codes, fields and nearest names of its warnings.
async fn warnings(client: &Client, path: &str, question: &Value) -> (Value, Vec<(String, String, String)>) {
    let answer = client.post(path, question.clone()).await.expect(StatusCode::OK);
    let warnings = answer["context"].get("warnings").map(|warnings| warnings.as_array().unwrap().clone());
    let field = |warning: &Value, name: &str| warning[name].as_str().unwrap_or_default().to_owned();
    let warnings = warnings.unwrap_or_default().into_iter();
    let all = warnings
        .map(|warning| (field(&warning, "code"), field(&warning, "field"), field(&warning, "nearest")));
    (answer, all.collect())
}

#[tokio::test]
async fn a_search_names_misspelt_names_as_an_explained_evaluation_does() {
    let app = TestApp::start_with(|config| {
        config.schema.push(project_file("examples/documents/schema"));
        config.policies.push(project_file("examples/documents/policies"));
    })
    .await;
    let admin = app.admin().await;
    let [people, documents] = ["Docs::Person", "Docs::Document"].map(|kind| json!({ "type": kind }));
    let [ben, plan] = [entity("Docs::Person", "ben"), entity("Docs::Document", "plan")];
    for (path, subject, resource) in
        [(SUBJECT_SEARCH, &people, &plan), (RESOURCE_SEARCH, &ben, &documents), (ACTION_SEARCH, &ben, &plan)]
    {
        let mut question = evaluation_request(subject.clone(), "share", resource.clone());
        question["action"]["properties"] = json!({ "outside": false });
        if path == ACTION_SEARCH {
            question.as_object_mut().unwrap().remove("action");
        }
        // `explain` is no field of the context.
        question["context"] = json!({ "outside": false, "explain": true });
        let (answer, found) = warnings(&admin, path, &question).await;
        assert_eq!((found, answer["context"].as_object().unwrap().len()), (vec![], 1), "{path}: {answer}");
        assert_ne!(answer["results"], json!([]), "{path}");

        let mut expected = Vec::new();
        for (part, misspelt, right) in [("subject", "bne", "ben"), ("resource", "plann", "plan")] {
            if question[part]["id"].is_string() {
                question[part]["id"] = misspelt.into();
                expected.push(("not_in_data", format!("{part}.id"), right));
            }
        }
        if path != ACTION_SEARCH {
            question["action"]["properties"] = json!({ "outsied": false });
            expected.push(("undeclared_context", "action.properties.outsied".to_owned(), "outside"));
        }
        question["context"] = json!({ "out_side": false, "zebra": 1 });
        expected.push(("undeclared_context", "context.out_side".to_owned(), "outside"));
        expected.push(("undeclared_context", "context.zebra".to_owned(), ""));
        let expected: Vec<_> = expected
            .into_iter()
            .map(|(code, field, nearest)| (code.to_owned(), field, nearest.to_owned()))
            .collect();
        let (answer, found) = warnings(&admin, path, &question).await;
        assert_eq!(found, expected, "{path}: {answer}");
    }
    let mut question = json!({ "subject": ben, "resource": plan });
    question["resource"] =
        json!({ "type": "Docs::Document", "id": "new", "properties": { "onwer": 1, "state": "draft" } });
    let (_, found) = warnings(&admin, ACTION_SEARCH, &question).await;
    let undeclared = ("undeclared_property", "resource.properties.onwer", "owner");
    assert_eq!(found, [(undeclared.0.to_owned(), undeclared.1.to_owned(), undeclared.2.to_owned())]);
}

#[tokio::test]
async fn a_search_says_that_its_subject_or_resource_is_not_accessible() {
    let app = TestApp::start().await;
    let (_, ours) = app.tenant("ours").await;
    let (_, theirs) = app.tenant("theirs").await;
    for id in [crate::authorize::UNKNOWN_ID, &theirs.id] {
        let question = evaluation_request(user(id), "fetchUser", json!({ "type": "User" }));
        let (answer, found) = warnings(&ours, RESOURCE_SEARCH, &question).await;
        assert_eq!((answer["context"]["error"]["code"].as_str(), found), (Some("unknown_subject"), vec![]));
        let question = json!({ "subject": user(&ours.id), "resource": user(id) });
        let (_, found) = warnings(&ours, ACTION_SEARCH, &question).await;
        assert_eq!(found, [("not_accessible".to_owned(), "resource.id".to_owned(), String::new())]);
    }
}
