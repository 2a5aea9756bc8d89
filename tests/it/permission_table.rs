//! The permission table, read from the text of the specification: tested on the engine, over HTTP with real tokens, and with
//! API keys.

use crate::support::{Client, TestApp, project_file};
use cedargate::authz::Scope;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// A row of the table.
#[derive(Debug, Clone)]
struct Row {
    /// The name in the specification, such as `Fetch user details (self)`.
    name: String,
    /// One cell per scope, in ascending order.
    cells: [bool; 4],
}

/// The rows of the table in the text of the specification.
fn rows() -> Vec<Row> {
    let text = std::fs::read_to_string(project_file("tests/fixtures/seed.txt")).unwrap();
    let table = text.lines().skip_while(|line| !line.starts_with("Permission Guest Agent Bot Admin")).skip(1);
    let rows: Vec<Row> = table
        .take_while(|line| !line.is_empty())
        .filter(|line| !line.starts_with('-'))
        .map(|line| {
            let words: Vec<&str> = line.split(' ').collect();
            let (name, cells) = words.split_at(words.len() - 4);
            let cell = |index: usize| match cells[index] {
                "+" => true,
                "-" => false,
                other => panic!("{line}: invalid cell {other:?}"),
            };
            Row { name: name.join(" "), cells: [cell(0), cell(1), cell(2), cell(3)] }
        })
        .collect();
    assert_eq!(rows.len(), 40, "the specification has 40 rows");
    rows
}

const RESOURCE_TYPES: [&str; 9] = [
    "Organization",
    "OrganizationGroup",
    "User",
    "Conversation",
    "Message",
    "Contact",
    "KnowledgeItem",
    "Form",
    "Service",
];

/// The actions of a row (see "Literal reading of the permission table" and "Delete other resource" in docs/decisions.md), and
/// whether the row is about the caller's own user.
fn actions_of_row(row: &str) -> (Vec<String>, bool) {
    let own = row.ends_with(" (self)");
    let words = row.trim_end_matches(" (self)").to_lowercase();
    let (verb, noun) = words.split_once(' ').unwrap();
    if noun == "other resource" {
        let others = RESOURCE_TYPES.iter().filter(|noun| **noun != "KnowledgeItem");
        return (others.map(|noun| format!("{verb}{noun}")).collect(), own);
    }
    let noun = noun.trim_end_matches(" details").trim_end_matches('s').replace(' ', "");
    let found = RESOURCE_TYPES
        .iter()
        .find(|known| known.to_lowercase() == noun)
        .unwrap_or_else(|| panic!("{row}: {noun}"));
    let plural = if verb == "list" { "s" } else { "" };
    (vec![format!("{verb}{found}{plural}")], own)
}

/// A cell: the expected decision of a row for one action and one scope.
#[derive(Debug, Clone)]
pub struct Cell {
    row: String,
    pub action: String,
    is_self: bool,
    pub scope: Scope,
    pub expected: bool,
}

/// All cells.
pub fn cells() -> Vec<Cell> {
    let mut cells = Vec::new();
    for row in rows() {
        let (actions, is_self) = actions_of_row(&row.name);
        for action in actions {
            for (scope, expected) in Scope::ALL.into_iter().zip(row.cells) {
                cells.push(Cell { row: row.name.clone(), action: action.clone(), is_self, scope, expected });
            }
        }
    }
    assert_eq!(cells.len(), 47 * 4);
    cells
}

/// The cells whose result differs from the specification.
fn mismatches(got: &[(Cell, bool, String)]) -> Vec<String> {
    let wrong = got.iter().filter(|(cell, got, _)| cell.expected != *got);
    let sign = |permitted: bool| if permitted { "+" } else { "-" };
    wrong
        .map(|(cell, got, how)| {
            let Cell { row, action, scope, expected, .. } = cell;
            format!(
                "row {row:?} ({action}), scope {scope}: expected {}, got {} ({how})",
                sign(*expected),
                sign(*got)
            )
        })
        .collect()
}

#[test]
fn the_fixture_matches_the_list_of_cells() {
    let csv = std::fs::read_to_string(project_file("tests/fixtures/matrix.csv")).unwrap();
    let listed: Vec<String> = csv.lines().skip(1).map(str::to_owned).collect();
    let rows: BTreeMap<String, Row> = rows().into_iter().map(|row| (row.name.clone(), row)).collect();
    assert_eq!(listed.len(), 47);
    for line in listed {
        let fields: Vec<&str> = line.split(',').collect();
        let (own, cells) = (fields[2] == "yes", &fields[3..]);
        let row = &rows[fields[0]];
        let read = row.cells.map(|cell| if cell { "+" } else { "-" });
        assert_eq!(read.as_slice(), cells, "{line}");
        let (actions, self_row) = actions_of_row(fields[0]);
        assert!(actions.contains(&fields[1].to_owned()) && self_row == own, "{line}");
    }
}

mod on_the_engine {
    use super::*;
    use cedargate::authz::{
        AuthzRequest, Bundle, DecisionContext, Engine, Principal, ScopeSet, Sources, Unchecked,
        UserAttributes,
    };
    use cedargate::types::{Id, OrgPath, UserStatus};
    use std::path::Path;

    struct TestResource<const KIND: usize>(Id);

    impl<const KIND: usize> cedargate::authz::AuthzResource for TestResource<KIND> {
        const TYPE: &'static str = RESOURCE_TYPES[KIND];

        fn id(&self) -> Id {
            self.0
        }

        fn attributes(&self) -> Vec<(&'static str, cedargate::authz::Attribute)> {
            let facts = UserAttributes {
                organization: home().org_id(),
                role: Scope::Guest,
                status: UserStatus::Active,
                email: None,
            };
            if RESOURCE_TYPES[KIND] == "User" { facts.attributes() } else { Vec::new() }
        }
    }

    fn home() -> OrgPath {
        OrgPath::root("599e1fcd9da1c72645c95800".parse().unwrap())
    }

    fn resource(noun: &str, id: Id) -> std::sync::Arc<cedargate::authz::ResourceEntity> {
        let path = home();
        match RESOURCE_TYPES.iter().position(|known| *known == noun).unwrap() {
            0 => Unchecked::new(TestResource::<0>(path.org_id()), path).resource_entity(),
            1 => Unchecked::new(TestResource::<1>(id), path).resource_entity(),
            2 => Unchecked::new(TestResource::<2>(id), path).resource_entity(),
            3 => Unchecked::new(TestResource::<3>(id), path).resource_entity(),
            4 => Unchecked::new(TestResource::<4>(id), path).resource_entity(),
            5 => Unchecked::new(TestResource::<5>(id), path).resource_entity(),
            6 => Unchecked::new(TestResource::<6>(id), path).resource_entity(),
            7 => Unchecked::new(TestResource::<7>(id), path).resource_entity(),
            _ => Unchecked::new(TestResource::<8>(id), path).resource_entity(),
        }
    }

    fn engine(policies: &Path) -> Engine {
        let sources = Sources {
            schema: vec![project_file("schema")],
            policies: vec![policies.to_owned()],
            stored: vec![],
        };
        Engine::new(Bundle::read(&sources).unwrap()).unwrap()
    }

    fn decide_all_cells(engine: &Engine) -> Vec<String> {
        let got: Vec<_> = cells()
            .into_iter()
            .map(|cell| {
                let own: Id = "599e1fcd9da1c72645c95886".parse().unwrap();
                let facts = UserAttributes {
                    organization: home().org_id(),
                    role: cell.scope,
                    status: UserStatus::Active,
                    email: None,
                };
                let scopes = engine.effective_scopes(&ScopeSet::from(cell.scope), cell.scope);
                let principal = Principal::new(own, &home(), facts, scopes.as_ref());
                let circumstances = DecisionContext::default();
                let ask = AuthzRequest {
                    principal: &principal,
                    action: &cell.action,
                    context: &circumstances,
                    recorder: None,
                };
                let verb = ["list", "create"].iter().any(|verb| cell.action.starts_with(verb));
                let noun =
                    if verb { "Organization" } else { cell.action.trim_start_matches(char::is_lowercase) };
                let id = if cell.is_self { own } else { "599e1fcd9da1c72645c95887".parse().unwrap() };
                let answer = engine.decide(&ask, &resource(noun, id));
                assert_eq!(answer.errors, [] as [&str; 0], "{cell:?}");
                (
                    cell,
                    answer.allowed,
                    format!("{:?}", answer.policies.iter().map(|p| &p.id).collect::<Vec<_>>()),
                )
            })
            .collect();
        mismatches(&got)
    }

    #[test]
    fn every_cell_matches_the_specification() {
        let wrong = decide_all_cells(&engine(&project_file("policies")));
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }

    #[test]
    fn a_broken_policy_is_reported_with_its_cell() {
        let copy = tempfile::tempdir().unwrap();
        for entry in std::fs::read_dir(project_file("policies")).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                let text = std::fs::read_to_string(&path).unwrap();
                let text = text.replace("     Action::\"listForms\",\n", "");
                std::fs::write(copy.path().join(path.file_name().unwrap()), text).unwrap();
            }
        }
        let wrong = decide_all_cells(&engine(copy.path()));
        assert_eq!(
            wrong,
            [
                "row \"List forms\" (listForms), scope bot: expected +, got - ([])",
                "row \"List forms\" (listForms), scope admin: expected +, got - ([])",
            ]
        );
    }
}

/// Resources of every type in the root organization, as targets of the cells.
pub struct Fixture {
    admin: Client,
    other_user: String,
}

/// The target of a cell.
pub struct Target {
    verb: String,
    noun: String,
    /// The path of the resource; empty for list and create.
    path: String,
    conversation: String,
}

impl Target {
    /// Type and id of the resource of the decision: for list and create, the organization `home`.
    pub fn resource<'a>(&'a self, home: &'a str) -> (&'a str, &'a str) {
        match self.path.rsplit_once('/') {
            Some((_, id)) => (&self.noun, id),
            None => ("Organization", home),
        }
    }
}

impl Fixture {
    pub async fn new(app: &TestApp) -> Self {
        let admin = app.admin().await;
        let other_user = app.user(Scope::Guest).await.id;
        Self { admin, other_user }
    }

    /// The path and the minimal body of a resource.
    fn body(&self, noun: &str, conversation: &str) -> (&'static str, Value) {
        match noun {
            "Organization" => ("/v2/organizations", json!({ "name": "below" })),
            "OrganizationGroup" => ("/v2/orggroups", json!({ "name": "group" })),
            "User" => {
                let email =
                    format!("{}@example.com", cedargate::types::Id::new(&cedargate::types::Clock::system()));
                ("/v2/users", json!({ "email": email }))
            }
            "Conversation" => ("/v2/conversations", json!({})),
            "Message" => ("/v2/messages", json!({ "conversation": conversation, "text": "hello" })),
            "Contact" => ("/v2/contacts", json!({})),
            "KnowledgeItem" => ("/v2/kbitems", json!({ "title": "title" })),
            "Form" => ("/v2/forms", json!({ "name": "form" })),
            "Service" => ("/v2/services", json!({ "name": "service" })),
            other => panic!("{other}"),
        }
    }

    async fn make(&self, noun: &str) -> (String, String) {
        let conversation = self.admin.post("/v2/conversations", json!({})).await.id();
        let (path, body) = self.body(noun, &conversation);
        let created = self.admin.post(path, body).await;
        assert_eq!(created.status, StatusCode::CREATED, "{}", created.text);
        (format!("{path}/{}", created.id()), conversation)
    }

    /// Creates the target of a cell for `client`.
    pub async fn target(&self, client: &Client, cell: &Cell) -> Target {
        let verb: String = cell.action.chars().take_while(|letter| letter.is_lowercase()).collect();
        let noun = cell.action.trim_start_matches(char::is_lowercase);
        let noun = if verb == "list" { noun.trim_end_matches('s') } else { noun };
        let (path, conversation) = match (noun, verb.as_str()) {
            (_, "list" | "create") => {
                (String::new(), self.admin.post("/v2/conversations", json!({})).await.id())
            }
            ("User", _) if cell.is_self => (format!("/v2/users/{}", client.id), String::new()),
            ("User", "fetch" | "update") => (format!("/v2/users/{}", self.other_user), String::new()),
            _ => self.make(noun).await,
        };
        Target { noun: noun.to_owned(), verb, path, conversation }
    }

    /// The method and path of the request for a target.
    pub fn request(&self, target: &Target) -> (Method, String) {
        let Target { verb, noun, path: resource_path, conversation } = target;
        let (path, _) = self.body(noun, conversation);
        match verb.as_str() {
            "list" => (Method::GET, path.to_owned()),
            "create" => (Method::POST, path.to_owned()),
            "fetch" => (Method::GET, resource_path.clone()),
            "update" => (Method::PATCH, resource_path.clone()),
            _ => (Method::DELETE, resource_path.clone()),
        }
    }

    /// Sends the request of a cell as `client`. Returns whether it was permitted, and a description of the response.
    pub async fn perform(&self, client: &Client, cell: &Cell, target: &Target) -> (bool, String) {
        let Target { verb, noun, path: resource_path, conversation } = target;
        let (path, body) = self.body(noun, conversation);
        let reply = match verb.as_str() {
            "list" => client.get(path).await,
            "create" => client.post(path, body).await,
            "fetch" => client.get(resource_path).await,
            "update" => client.patch(resource_path, json!({ "meta": { "touched": cell.scope } })).await,
            _ => client.delete(resource_path).await,
        };
        let permitted = match (verb.as_str(), reply.status.as_u16()) {
            // An update returns 204 if the caller may not fetch the resource (see "Update response" in docs/decisions.md).
            ("list" | "fetch" | "update", 200) | ("create", 201) | ("update" | "delete", 204) => true,
            (_, 403) if reply.json["code"] == "forbidden" => false,
            (_, status) => panic!("{cell:?}: {status} {}", reply.text),
        };
        (permitted, format!("{} {}", reply.status, reply.text))
    }

    /// Asserts every cell. `administers`: whether the clients' credentials may administer identities.
    async fn assert_all_cells(&self, clients: &BTreeMap<&'static str, Client>, administers: bool) {
        let mut got = Vec::new();
        for mut cell in cells() {
            // See "API keys never administer identities" in docs/decisions.md.
            cell.expected &= administers || !["createUser", "deleteUser"].contains(&cell.action.as_str());
            let client = &clients[cell.scope.as_str()];
            let target = self.target(client, &cell).await;
            let (permitted, how) = self.perform(client, &cell, &target).await;
            got.push((cell, permitted, how));
        }
        let wrong = mismatches(&got);
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }
}

#[tokio::test]
async fn every_cell_matches_the_specification_over_http_with_tokens() {
    let app = TestApp::start().await;
    let fixture = Fixture::new(&app).await;
    let mut clients = BTreeMap::new();
    for scope in Scope::ALL {
        clients.insert(scope.as_str(), app.user(scope).await);
    }
    fixture.assert_all_cells(&clients, true).await;
}

#[tokio::test]
async fn every_cell_matches_the_specification_over_http_with_api_keys_except_identities() {
    let app = TestApp::start().await;
    let fixture = Fixture::new(&app).await;
    let mut clients = BTreeMap::new();
    for scope in Scope::ALL {
        // The user could do more: the scopes of the key count.
        let admin = app.user(Scope::Admin).await;
        let key = admin.key(&[scope]).await;
        clients.insert(scope.as_str(), Client { id: admin.id, ..app.bearer(&key) });
    }
    fixture.assert_all_cells(&clients, false).await;
}

#[tokio::test]
async fn the_self_rows_apply_to_the_alias_me() {
    let app = TestApp::start().await;
    for scope in Scope::ALL {
        let user = app.user(scope).await;
        assert_eq!(user.get("/v2/users/me").await.expect(StatusCode::OK)["id"], user.id.as_str());
        let changed = user.patch("/v2/users/me", json!({ "givenName": "Ada" })).await;
        assert_eq!(changed.expect(StatusCode::OK)["name"], "Ada");
    }
}

#[tokio::test]
async fn every_cell_has_a_route_and_every_route_an_action_of_the_schema() {
    let schema = std::fs::read_to_string(project_file("schema/cedargate.cedarschema")).unwrap();
    let schema: cedar_policy::Schema = schema.parse().unwrap();
    let declared: std::collections::BTreeSet<String> =
        schema.actions().map(|action| action.id().unescaped().to_owned()).collect();
    let all = cedargate::api::all_routes();
    let routes = || all.iter().flat_map(|part| part.routes());
    let named: std::collections::BTreeSet<String> = routes()
        .flat_map(|route| route.action.iter().chain(route.additional_actions))
        .map(|action| (*action).to_owned())
        .collect();
    assert_eq!(declared, named);
    for cell in cells() {
        assert!(routes().any(|route| route.action == Some(cell.action.as_str())), "{cell:?}");
    }
}
