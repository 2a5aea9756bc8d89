//! AuthZEN's searches: who may do it, to what it may be done, and what may be done. What they find is exactly what
//! evaluation permits.

use crate::access::{EVALUATIONS, may, thing, with_records};
use crate::authorize::user;
use crate::support::{Client, TestApp};
use cedargate::authz::Scope;
use reqwest::StatusCode;
use serde_json::{Value, json};
use std::collections::BTreeSet;

pub const SUBJECTS: &str = "/access/v1/search/subject";
pub const RESOURCES: &str = "/access/v1/search/resource";
pub const ACTIONS: &str = "/access/v1/search/action";

/// All that is found: the ids, or the names of actions. Page after page, if there are several.
pub async fn find(client: &Client, path: &str, mut question: Value) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    loop {
        let answer = client.post(path, question.clone()).await.expect(StatusCode::OK);
        for result in answer["results"].as_array().unwrap_or_else(|| panic!("{question}: {answer}")) {
            let name = if path == ACTIONS { &result["name"] } else { &result["id"] };
            let name = name.as_str().unwrap_or_else(|| panic!("{question}: {answer}"));
            assert!(found.insert(name.to_owned()), "{question}: {name} is found twice");
        }
        match answer["page"]["next_token"].as_str() {
            None | Some("") => return found,
            Some(token) => question["page"]["token"] = token.into(),
        }
    }
}

/// A page of what is found, and the token of the next one.
async fn page(client: &Client, path: &str, question: &Value) -> (Vec<Value>, String) {
    let answer = client.post(path, question.clone()).await.expect(StatusCode::OK);
    let results = answer["results"].as_array().unwrap().clone();
    assert_eq!(answer["page"]["count"], results.len(), "{answer}");
    (results, answer["page"]["next_token"].as_str().unwrap().to_owned())
}

/// Which of these questions evaluation permits.
async fn permitted(client: &Client, questions: Vec<Value>) -> Vec<bool> {
    let mut all = Vec::new();
    for part in questions.chunks(1000) {
        let answer = client.post(EVALUATIONS, json!({ "evaluations": part })).await.expect(StatusCode::OK);
        let answers = answer["evaluations"].as_array().unwrap();
        assert_eq!(answers.len(), part.len());
        all.extend(answers.iter().map(|answer| answer["decision"].as_bool().unwrap()));
    }
    all
}

/// Two tenants and the root with users of every role, conversations, and somebody who is blocked.
struct World {
    /// One who may ask about others in each of the three.
    callers: Vec<Client>,
    users: Vec<String>,
    conversations: Vec<String>,
}

impl World {
    async fn new(app: &TestApp) -> Self {
        let root = app.admin().await;
        let mut world =
            Self { callers: vec![root.clone()], users: vec![root.id.clone()], conversations: vec![] };
        for name in ["one", "two"] {
            let (_, admin) = app.tenant(name).await;
            world.users.push(admin.id.clone());
            world.callers.push(admin);
        }
        for (at, client) in world.callers.iter().enumerate() {
            for role in Scope::ALL {
                let body = json!({ "email": format!("{role}{at}@example.com"), "role": role });
                world.users.push(client.post("/v2/users", body).await.id());
            }
            let body =
                json!({ "email": format!("blocked{at}@example.com"), "role": "admin", "status": "blocked" });
            world.users.push(client.post("/v2/users", body).await.id());
            for category in ["sales", "support"] {
                let made = client.post("/v2/conversations", json!({ "category": category })).await;
                world.conversations.push(made.id());
            }
        }
        world.callers.push(app.user(Scope::Bot).await);
        world.users.push(world.callers[3].id.clone());
        world
    }
}

const CONVERSATION_ACTIONS: [&str; 4] =
    ["fetchConversation", "updateConversation", "deleteConversation", "referTo"];

/// Those of `all` that the questions permit.
async fn those_permitted(
    client: &Client,
    all: &[impl AsRef<str>],
    question: impl Fn(&str) -> Value,
) -> BTreeSet<String> {
    let questions = all.iter().map(|one| question(one.as_ref())).collect();
    let decisions = permitted(client, questions).await;
    all.iter().zip(decisions).filter(|(_, yes)| *yes).map(|(one, _)| one.as_ref().to_owned()).collect()
}

#[tokio::test]
async fn who_may_do_it_is_whoever_evaluation_permits() {
    let app = TestApp::start().await;
    let world = World::new(&app).await;
    let mut most = 0;
    for client in &world.callers {
        for resource in &world.conversations {
            for action in CONVERSATION_ACTIONS {
                let asked = |id: &str| may(user(id), action, thing("Conversation", resource));
                let expected = those_permitted(client, &world.users, asked).await;
                let mut question = asked("");
                question["subject"] = json!({ "type": "User" });
                assert_eq!(find(client, SUBJECTS, question.clone()).await, expected, "{action}");
                // An id of the subject is ignored.
                question["subject"]["id"] = json!(client.id);
                assert_eq!(find(client, SUBJECTS, question).await, expected, "{action}");
                most = most.max(expected.len());
            }
        }
    }
    assert!(most >= 5, "the world is too small to show anything");
}

#[tokio::test]
async fn to_what_it_may_be_done_is_whatever_evaluation_permits() {
    let app = TestApp::start().await;
    let world = World::new(&app).await;
    let mut most = 0;
    for client in &world.callers {
        for subject in &world.users {
            for action in ["fetchConversation", "deleteConversation"] {
                let asked = |id: &str| may(user(subject), action, thing("Conversation", id));
                let expected = those_permitted(client, &world.conversations, asked).await;
                let mut question = asked("");
                question["resource"] = json!({ "type": "Conversation" });
                assert_eq!(find(client, RESOURCES, question).await, expected, "{action}");
                most = most.max(expected.len());
            }
            let asked = |id: &str| may(user(subject), "fetchUser", user(id));
            let expected = those_permitted(client, &world.users, asked).await;
            let mut question = asked(subject);
            question["resource"] = json!({ "type": "User", "id": "ignored" });
            assert_eq!(find(client, RESOURCES, question).await, expected);
        }
    }
    assert_eq!(most, world.conversations.len());
}

#[tokio::test]
async fn what_may_be_done_is_whatever_evaluation_permits() {
    let app = TestApp::start().await;
    let world = World::new(&app).await;
    let schema =
        std::fs::read_to_string(crate::support::project_file("schema/cedargate.cedarschema")).unwrap();
    let words = schema.split(|letter: char| !letter.is_ascii_alphanumeric());
    let verbs = ["list", "create", "fetch", "update", "delete", "refer", "evaluate", "introspect", "reload"];
    let is_action = |word: &&str| verbs.iter().any(|verb| word.starts_with(verb) && word.len() > verb.len());
    let actions: Vec<&str> = words.filter(is_action).collect::<BTreeSet<_>>().into_iter().collect();
    assert!(actions.len() >= 47);
    let mut most = 0;
    for client in &world.callers {
        for subject in &world.users {
            for resource in
                [thing("Conversation", &world.conversations[0]), user(subject), user(&world.users[1])]
            {
                let asked = |action: &str| may(user(subject), action, resource.clone());
                let expected = those_permitted(client, &actions, asked).await;
                let question = json!({ "subject": user(subject), "resource": resource });
                assert_eq!(find(client, ACTIONS, question.clone()).await, expected, "{question}");
                most = most.max(expected.len());
            }
        }
    }
    assert!(most >= 5);
}

#[tokio::test]
async fn everybody_searches_for_itself_and_who_may_not_ask_finds_nothing_about_others() {
    let app = with_records().await;
    let (guest, agent, admin) =
        (app.user(Scope::Guest).await, app.user(Scope::Agent).await, app.admin().await);
    let conversation = admin.post("/v2/conversations", json!({})).await.id();
    let mut own = may(user(&guest.id), "fetchConversation", json!({ "type": "Conversation" }));
    assert_eq!(find(&guest, RESOURCES, own.clone()).await, BTreeSet::from([conversation.clone()]));
    let actions = json!({ "subject": user(&guest.id), "resource": thing("Conversation", &conversation) });
    assert!(find(&guest, ACTIONS, actions.clone()).await.contains("fetchConversation"));
    own["subject"] = user(&agent.id);
    guest.post(RESOURCES, own).await.expect_problem(403, "forbidden");
    let mut about_other = actions;
    about_other["subject"] = user(&agent.id);
    guest.post(ACTIONS, about_other).await.expect_problem(403, "forbidden");
    for client in [&guest, &agent] {
        let foreign = may(thing("user", "alice"), "read", json!({ "type": "record" }));
        client.post(RESOURCES, foreign).await.expect_problem(403, "forbidden");
        let foreign = may(json!({ "type": "user" }), "read", thing("record", "record-1"));
        client.post(SUBJECTS, foreign).await.expect_problem(403, "forbidden");
        // Whom it cannot ask about, it does not find.
        let question =
            may(json!({ "type": "User" }), "fetchConversation", thing("Conversation", &conversation));
        let reply = client.post(SUBJECTS, question).await;
        let found: Vec<&Value> = reply.json["results"].as_array().into_iter().flatten().collect();
        assert!(reply.status == StatusCode::FORBIDDEN || found == [&user(&client.id)], "{}", reply.text);
    }
}

#[tokio::test]
async fn a_thing_that_is_missing_and_one_out_of_reach_find_nothing_alike() {
    let app = TestApp::start().await;
    let (_, ours) = app.tenant("ours").await;
    let (_, theirs) = app.tenant("theirs").await;
    let far = theirs.post("/v2/conversations", json!({})).await.id();
    for id in [crate::authorize::NOBODY, &far, "no-id"] {
        let question = may(json!({ "type": "User" }), "fetchConversation", thing("Conversation", id));
        assert_eq!(find(&ours, SUBJECTS, question).await, BTreeSet::new());
        let question = json!({ "subject": user(&ours.id), "resource": thing("Conversation", id) });
        assert_eq!(find(&ours, ACTIONS, question).await, BTreeSet::new());
    }
    for id in [crate::authorize::NOBODY, &theirs.id, "no-id"] {
        let question = may(user(id), "fetchUser", json!({ "type": "User" }));
        assert_eq!(find(&ours, RESOURCES, question).await, BTreeSet::new());
        let question = json!({ "subject": user(id), "resource": user(&ours.id) });
        assert_eq!(find(&ours, ACTIONS, question).await, BTreeSet::new());
    }
}

#[tokio::test]
async fn a_search_for_no_results_has_no_next_page() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let conversation = admin.post("/v2/conversations", json!({})).await.id();
    let conversation = thing("Conversation", &conversation);
    let me = thing("User", &admin.id);
    for (path, question) in [
        (SUBJECTS, may(json!({ "type": "User" }), "fetchConversation", conversation.clone())),
        (RESOURCES, may(me.clone(), "fetchConversation", json!({ "type": "Conversation" }))),
        (ACTIONS, json!({ "subject": me, "resource": conversation })),
    ] {
        let mut question = question;
        assert!(!find(&admin, path, question.clone()).await.is_empty(), "{path}");
        question["page"] = json!({ "limit": 0 });
        assert_eq!(page(&admin, path, &question).await, (Vec::new(), String::new()), "{path}");
    }
}

#[tokio::test]
async fn what_is_found_comes_in_pages_whose_tokens_refuse_another_question() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let mut users = BTreeSet::from([admin.id.clone()]);
    for at in 0..250 {
        let role = Scope::ALL[at % 4];
        let body = json!({ "email": format!("u{at}@example.com"), "role": role });
        users.insert(admin.post("/v2/users", body).await.id());
    }
    let conversation = admin.post("/v2/conversations", json!({})).await.id();
    let mut question =
        may(json!({ "type": "User" }), "fetchConversation", thing("Conversation", &conversation));
    assert_eq!(find(&admin, SUBJECTS, question.clone()).await, users, "whatever a page is without a limit");

    question["page"] = json!({ "limit": 100 });
    let (mut found, mut sizes, mut tokens) = (BTreeSet::new(), Vec::new(), Vec::new());
    loop {
        let (results, token) = page(&admin, SUBJECTS, &question).await;
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
    // Nothing follows on the last page, however full it is; and what is more than the most is the most.
    for (limit, size) in [(251, 251), (250, 250), (5_000, 251)] {
        question["page"] = json!({ "limit": limit });
        let (results, token) = page(&admin, SUBJECTS, &question).await;
        assert_eq!((results.len(), token.is_empty()), (size, size == users.len()), "{limit}");
        question["page"]["token"] = token.clone().into();
        let (rest, _) = page(&admin, SUBJECTS, &question).await;
        assert!(token.is_empty() || rest.len() == users.len() - size, "{limit}: {}", rest.len());
    }

    // Few of many: what a page holds is permitted, however many are looked at for it.
    let mut rare = may(json!({ "type": "User" }), "deleteConversation", thing("Conversation", &conversation));
    rare["page"] = json!({ "limit": 10 });
    let (results, _) = page(&admin, SUBJECTS, &rare).await;
    assert!(results.len() <= 10);
    assert_eq!(find(&admin, SUBJECTS, rare).await.len(), 63);

    question["page"] = json!({ "limit": 100, "token": tokens[0] });
    assert_eq!(page(&admin, SUBJECTS, &question).await.1, tokens[1], "a page can be had again");
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
        let reply = admin.post(SUBJECTS, wrong.clone()).await;
        assert_eq!(reply.status, StatusCode::BAD_REQUEST, "{wrong}: {}", reply.text);
        assert!(reply.json["code"].is_string(), "{}", reply.text);
    }
    let reply = admin.post(RESOURCES, changed(&|question| question["subject"] = user(&admin.id))).await;
    assert_eq!(reply.status, StatusCode::BAD_REQUEST, "a token of another search: {}", reply.text);
}

#[tokio::test]
async fn the_resources_of_the_store_come_in_pages_too() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let mut made = BTreeSet::new();
    for at in 0..25 {
        made.insert(admin.post("/v2/kbitems", json!({ "title": format!("title {at}") })).await.id());
    }
    let mut question = may(user(&admin.id), "fetchKnowledgeItem", json!({ "type": "KnowledgeItem" }));
    question["page"] = json!({ "limit": 10 });
    let (results, token) = page(&admin, RESOURCES, &question).await;
    assert_eq!((results.len(), token.is_empty()), (10, false));
    assert!(results.iter().all(|result| result["type"] == "KnowledgeItem"));
    assert_eq!(find(&admin, RESOURCES, question).await, made);
}
