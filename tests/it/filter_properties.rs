//! Filters are exact: over generated policies, rows and requests, a filter contains a row if and only if Cedar's authorizer
//! allows the request on it. Evaluated in memory, and as SQL on the tables of another service,
//! and as conditions of UCAST by their interpreter for JavaScript.

use crate::engine::{bundle, cedar_decision};
use crate::filter_conditions::{CONDITIONS, NOT_PORTABLE};
use crate::filter_interpreter::{interpret, object};
use crate::filter_tree::holds;
use crate::support::Database;
use cedar_policy::{Context, Entities, EntityUid, PolicySet, Request, Schema};
use cedargate::authz::filter::{Filter, FilterError};
use cedargate::authz::{AuthzRequest, DecisionContext, Engine, Principal};
use cedargate::store::table_filter::{ColumnMap, SqlDialect, TableFilter, render, ucast};
use proptest::option::weighted as optional;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{Config, TestRunner};
use sea_orm::{ConnectionTrait, DatabaseConnection, DbBackend, Statement};
use serde_json::{Map, Value, json};
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;

const SCHEMA: &str = r#"
namespace F {
  entity Group in [Group];
  entity Person in [Group] = { level?: Long, manager?: Person, since?: datetime, limit?: Long, team?: Group };
  entity Folder in [Folder];
  entity Note in [Folder] = {
    owner?: Person,
    editors?: Set<Person>,
    groups?: Set<Group>,
    tags?: Set<String>,
    words?: Set<String>,
    title?: String,
    subtitle?: String,
    size?: Long,
    limit: Long,
    isPublic?: Bool,
    isOld: Bool,
    created?: datetime,
    place?: { city?: String, zip: Long },
    price?: decimal,
    address?: ipaddr,
  };
  action read, list appliesTo { principal: Person, resource: Note, context: { flag?: Bool, word?: String, who?: Person } };
}"#;

const DATA: &str = r#"[
  { "uid": { "type": "F::Group", "id": "all" }, "attrs": {}, "parents": [] },
  { "uid": { "type": "F::Group", "id": "some" }, "attrs": {}, "parents": [{ "type": "F::Group", "id": "all" }] },
  { "uid": { "type": "F::Person", "id": "ann" }, "attrs": {
      "level": 3, "limit": 9223372036854775807, "team": { "type": "F::Group", "id": "some" },
      "since": { "fn": "datetime", "arg": "2025-06-01" }, "manager": { "type": "F::Person", "id": "ben" }
    }, "parents": [{ "type": "F::Group", "id": "some" }] },
  { "uid": { "type": "F::Person", "id": "ben" }, "attrs": {}, "parents": [] },
  { "uid": { "type": "F::Folder", "id": "top" }, "attrs": {}, "parents": [] },
  { "uid": { "type": "F::Folder", "id": "sub" }, "attrs": {}, "parents": [{ "type": "F::Folder", "id": "top" }] },
  { "uid": { "type": "F::Folder", "id": "other" }, "attrs": {}, "parents": [] },
  { "uid": { "type": "F::Note", "id": "stored" }, "attrs": {
      "limit": 1, "isOld": true, "title": "Kept", "owner": { "type": "F::Person", "id": "ann" }
    }, "parents": [{ "type": "F::Folder", "id": "sub" }] }
]"#;

fn condition(conditions: Vec<&'static str>) -> impl Strategy<Value = String> {
    let leaf = select(conditions).prop_map(str::to_owned);
    leaf.prop_recursive(3, 8, 2, |inner| {
        prop_oneof![
            (inner.clone(), inner.clone()).prop_map(|(one, other)| format!("({one}) && ({other})")),
            (inner.clone(), inner.clone()).prop_map(|(one, other)| format!("({one}) || ({other})")),
            inner.clone().prop_map(|one| format!("!({one})")),
            (inner.clone(), inner.clone(), inner)
                .prop_map(|(test, one, other)| format!("if ({test}) then ({one}) else ({other})")),
        ]
    })
}

fn policy(conditions: Vec<&'static str>) -> impl Strategy<Value = String> {
    let effect = prop_oneof![2 => Just("permit"), 1 => Just("forbid")];
    let resource = select(&["resource", "resource is F::Note", r#"resource in F::Folder::"top""#][..]);
    let clause = (prop_oneof![3 => Just("when"), 1 => Just("unless")], condition(conditions));
    (effect, resource, clause).prop_map(|(effect, resource, (clause, condition))| {
        format!("{effect} (principal, action == F::Action::\"read\", {resource}) {clause} {{ {condition} }};")
    })
}

/// The attributes of a row, its id, and the folder that it is in.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    pub(crate) id: String,
    pub(crate) folder: Option<&'static str>,
    pub(crate) attributes: Map<String, Value>,
}

fn row() -> impl Strategy<Value = Row> {
    let person = |id: &str| json!({ "type": "F::Person", "id": id });
    let group = |id: &str| json!({ "type": "F::Group", "id": id });
    const TEXTS: &[&str] = &["Alpha", "alpha", "Abba", "%", "_x", "[a]", "", "a", "Ünü"];
    let sets = || {
        proptest::collection::btree_set(select(&["a", "b", "c", "Alpha"][..]), 0..3)
            .prop_map(|all| json!(all))
    };
    let numbers =
        || select(vec![json!(0), json!(4), json!(5), json!(6), json!(i64::MAX), json!(i64::MIN), json!(2)]);
    let people = proptest::collection::btree_set(select(&["ann", "ben", "zoe"][..]), 0..3)
        .prop_map(move |all| all.into_iter().map(person).collect::<Value>());
    let groups = proptest::collection::btree_set(select(&["all", "some"][..]), 0..2)
        .prop_map(move |all| all.into_iter().map(group).collect::<Value>());
    const TIMES: &[&str] =
        &["2025-12-31T23:59:59.999Z", "2026-01-01T00:00:00Z", "2026-01-01T10:00:00Z", "2025-06-11T00:00:00Z"];
    let extension = |function: &'static str, values: &'static [&'static str]| {
        select(values).prop_map(move |value| json!({ "fn": function, "arg": value }))
    };
    let created = extension("datetime", TIMES);
    let place =
        (proptest::option::of(select(&["Ulm", "Bonn"][..])), select(vec![5, 6])).prop_map(|(city, zip)| {
            let mut place = json!({ "zip": zip });
            if let Some(city) = city {
                place["city"] = json!(city);
            }
            place
        });
    let owned = (
        optional(0.7, select(&["ann", "ben"][..]).prop_map(person)),
        optional(0.7, people),
        optional(0.7, groups),
        optional(0.8, sets()),
        optional(0.8, sets()),
        optional(0.8, select(TEXTS).prop_map(|text| json!(text))),
        optional(0.8, select(TEXTS).prop_map(|text| json!(text))),
    );
    let rest = (
        optional(0.8, numbers()),
        numbers(),
        optional(0.7, any::<bool>().prop_map(|value| json!(value))),
        any::<bool>().prop_map(|value| json!(value)),
        optional(0.8, created),
        optional(0.7, place),
        optional(0.7, select(&["top", "sub", "other"][..])),
        optional(0.7, extension("decimal", &["2.5", "2.4999", "10.0", "9.9", "-1.0"])),
        optional(0.7, extension("ip", &["10.1.2.3", "10.1.0.0/16", "11.0.0.1", "0.0.0.0/0"])),
    );
    (owned, rest).prop_map(|(owned, rest)| {
        let fields = [
            ("owner", owned.0),
            ("editors", owned.1),
            ("groups", owned.2),
            ("tags", owned.3),
            ("words", owned.4),
            ("title", owned.5),
            ("subtitle", owned.6),
            ("size", rest.0),
            ("limit", Some(rest.1)),
            ("isPublic", rest.2),
            ("isOld", Some(rest.3)),
            ("created", rest.4),
            ("place", rest.5),
            ("price", rest.7),
            ("address", rest.8),
        ];
        let attributes = fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
        Row { id: String::new(), folder: rest.6, attributes: attributes.collect() }
    })
}

/// Policies, rows, and a request.
#[derive(Debug, Clone)]
struct Sample {
    policies: Vec<String>,
    rows: Vec<Row>,
    principal: &'static str,
    context: Value,
}

fn sample() -> impl Strategy<Value = Sample> {
    let is_portable = |condition: &&str| !NOT_PORTABLE.iter().any(|part| condition.contains(part));
    let portable = CONDITIONS.iter().copied().filter(is_portable).collect();
    let policies = select(vec![CONDITIONS.to_vec(), portable])
        .prop_flat_map(|conditions| proptest::collection::vec(policy(conditions), 1..5));
    let rows = proptest::collection::vec(row(), 6..12);
    let context = select(vec![json!({}), json!({ "flag": true, "word": "Alpha" }), json!({ "flag": false })]);
    (policies, rows, select(&["ann", "ben", "zoe"][..]), context).prop_map(
        |(policies, mut rows, principal, context)| {
            for (index, row) in rows.iter_mut().enumerate() {
                row.id = if index == 0 { "stored".to_owned() } else { format!("n{index}") };
            }
            Sample { policies, rows, principal, context }
        },
    )
}

/// The attributes that a decision on a row reads, and its folder: those of the data take precedence.
fn effective(row: &Row) -> (Map<String, Value>, Option<&'static str>) {
    if row.id != "stored" {
        return (row.attributes.clone(), row.folder);
    }
    let data: Vec<Value> = serde_json::from_str(DATA).unwrap();
    let stored = data.iter().find(|entity| entity["uid"]["id"] == "stored").unwrap();
    let mut attributes = row.attributes.clone();
    attributes.extend(stored["attrs"].as_object().unwrap().clone());
    (attributes, Some("sub"))
}

/// Whether Cedar's authorizer allows the request on a row.
fn is_allowed(sample: &Sample, row: &Row, all: &PolicySet, schema: &Schema) -> bool {
    let mut entities: Vec<Value> = serde_json::from_str(DATA).unwrap();
    entities.retain(|entity| entity["uid"]["type"] != "F::Note");
    let (attributes, folder) = effective(row);
    let parents: Vec<Value> = folder.iter().map(|id| json!({ "type": "F::Folder", "id": id })).collect();
    entities
        .push(json!({ "uid": { "type": "F::Note", "id": row.id }, "attrs": attributes, "parents": parents }));
    let entities = Entities::from_json_value(Value::Array(entities), Some(schema)).unwrap();
    let uid = |text: String| text.parse::<EntityUid>().unwrap();
    let action = uid("F::Action::\"read\"".to_owned());
    let context = Context::from_json_value(sample.context.clone(), Some((schema, &action))).unwrap();
    let principal = uid(format!("F::Person::\"{}\"", sample.principal));
    let resource = uid(format!("F::Note::\"{}\"", row.id));
    let request = Request::new(principal, action, resource, context, Some(schema)).unwrap();
    cedar_decision(&request, all, &entities).0
}

/// The filter of a sample; none if a policy is refused.
fn filter(sample: &Sample, engine: &Engine) -> Result<Filter, FilterError> {
    let person = engine.external_entities().resolve("F::Person", sample.principal, &Map::new()).unwrap();
    let principal = Principal::external(person);
    let client_context = sample.context.as_object().unwrap().clone();
    let context = DecisionContext { client_context, ..DecisionContext::default() };
    let action = engine.resolve_action("read", "F::Note");
    engine
        .filter(&AuthzRequest { principal: &principal, action, context: &context, recorder: None }, "F::Note")
}

const COLUMNS: &[(&str, &str)] = &[
    ("resource", "id"),
    ("resource in F::Folder", "folder"),
    ("owner", "owner"),
    ("editors", "editors"),
    ("groups", "groups"),
    ("tags", "tags"),
    ("words", "words"),
    ("title", "title"),
    ("subtitle", "subtitle"),
    ("size", "size"),
    ("limit", "notes.limit"),
    ("isPublic", "is_public"),
    ("isOld", "is_old"),
    ("created", "created"),
    ("place", "place_zip"),
    ("place.city", "place_city"),
    ("place.zip", "place_zip"),
    ("price", "price"),
    ("address", "address"),
];

/// The table of the other service.
struct Table {
    connection: DatabaseConnection,
    dialect: SqlDialect,
    _database: Database,
}

impl Table {
    async fn new() -> Self {
        let database = Database::new().await;
        let is_postgres = database.server.is_some();
        let (set, time, flag, price, address) = match is_postgres {
            true => ("text[]", "timestamptz", "boolean", "numeric", "inet"),
            // The collation of a column must not matter.
            false => ("text", "integer", "integer", "text", "text"),
        };
        let text = if is_postgres { "text" } else { "text COLLATE NOCASE" };
        let create = format!(
            "CREATE TABLE notes (id text PRIMARY KEY, folder text, owner text, editors {set}, groups {set}, tags {set}, \
             words {set}, title {text}, subtitle {text}, size bigint, \"limit\" bigint, is_public {flag}, is_old {flag}, \
             created {time}, place_city text, place_zip bigint, price {price}, address {address})"
        );
        database.sql(&create).await;
        let connection = sea_orm::Database::connect(&database.url).await.unwrap();
        let dialect = if is_postgres { SqlDialect::Postgres } else { SqlDialect::Sqlite };
        Self { connection, dialect, _database: database }
    }

    fn backend(&self) -> DbBackend {
        match self.dialect {
            SqlDialect::Postgres => DbBackend::Postgres,
            SqlDialect::Sqlite => DbBackend::Sqlite,
        }
    }

    async fn fill(&self, rows: &[Row]) {
        self.connection.execute_unprepared("DELETE FROM notes").await.unwrap();
        for row in rows {
            let sql = self.insert(row);
            self.connection.execute_unprepared(&sql).await.unwrap();
        }
    }

    fn insert(&self, row: &Row) -> String {
        let get = |name: &str| row.attributes.get(name);
        let quoted = |text: &str| format!("'{}'", text.replace('\'', "''"));
        let null = || "NULL".to_owned();
        let text = |value: Option<&Value>| value.map_or_else(null, |value| quoted(value.as_str().unwrap()));
        let id =
            |value: Option<&Value>| value.map_or_else(null, |value| quoted(value["id"].as_str().unwrap()));
        let plain = |value: Option<&Value>| value.map_or_else(null, ToString::to_string);
        let flag = |value: Option<&Value>| match (value, self.dialect) {
            (None, _) => null(),
            (Some(value), SqlDialect::Postgres) => value.to_string(),
            (Some(value), SqlDialect::Sqlite) => i32::from(value.as_bool().unwrap()).to_string(),
        };
        let set = |value: Option<&Value>| {
            value.map_or_else(null, |value| {
                let texts = value.as_array().unwrap().iter();
                let texts: Vec<&str> =
                    texts.map(|one| one.as_str().unwrap_or_else(|| one["id"].as_str().unwrap())).collect();
                match self.dialect {
                    SqlDialect::Sqlite => quoted(&json!(texts).to_string()),
                    SqlDialect::Postgres => {
                        let texts: Vec<String> = texts.iter().map(|text| quoted(text)).collect();
                        format!("ARRAY[{}]::text[]", texts.join(","))
                    }
                }
            })
        };
        let time = |value: Option<&Value>| {
            value.map_or_else(null, |value| {
                let text = value["arg"].as_str().unwrap();
                let time: cedargate::types::Timestamp = text.parse().unwrap();
                if self.dialect == SqlDialect::Sqlite { time.millis().to_string() } else { quoted(text) }
            })
        };
        let place = get("place");
        let values = [
            quoted(&row.id),
            row.folder.map_or_else(null, quoted),
            id(get("owner")),
            set(get("editors")),
            set(get("groups")),
            set(get("tags")),
            set(get("words")),
            text(get("title")),
            text(get("subtitle")),
            plain(get("size")),
            plain(get("limit")),
            flag(get("isPublic")),
            flag(get("isOld")),
            time(get("created")),
            text(place.and_then(|place| place.get("city"))),
            plain(place.map(|place| &place["zip"])),
            text(get("price").map(|price| &price["arg"])),
            text(get("address").map(|address| &address["arg"])),
        ];
        format!("INSERT INTO notes VALUES ({})", values.join(", "))
    }

    /// The ids of the rows that the condition selects.
    async fn select(&self, condition: &TableFilter) -> BTreeSet<String> {
        let sql = format!("SELECT id FROM notes WHERE {}", condition.sql);
        let values = condition.parameters.iter().map(|value| match value {
            Value::Bool(value) => sea_orm::Value::from(*value),
            Value::Number(number) => sea_orm::Value::from(number.as_i64().unwrap()),
            text => sea_orm::Value::from(text.as_str().unwrap()),
        });
        let statement = Statement::from_sql_and_values(self.backend(), sql, values);
        let rows = self.connection.query_all_raw(statement).await.unwrap();
        rows.iter().map(|row| row.try_get_by_index::<String>(0).unwrap()).collect()
    }
}

/// The filter of generated policies contains exactly the rows that the authorizer allows, in memory and in SQL.
#[test]
fn a_filter_contains_exactly_the_rows_that_the_authorizer_allows() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let table = runtime.block_on(Table::new());
    let columns = ColumnMap::parse(COLUMNS.iter().map(|(key, name)| (*key, Some(*name)))).unwrap();
    let ancestors = BTreeSet::from(["F::Folder".to_owned()]);
    let schema = Schema::from_cedarschema_str(SCHEMA).unwrap().0;
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("f.cedarschema"), SCHEMA).unwrap();
    std::fs::write(directory.path().join("f.json"), DATA).unwrap();
    let (decisions, in_sql, allowed, refused) = (Cell::new(0), Cell::new(0), Cell::new(0), Cell::new(0));
    let kinds = Cell::new([0; 3]);
    // The fields have the names of the attributes.
    let fields = [("resource", Some("id")), ("resource in F::Folder", Some("folder"))];
    let fields = ColumnMap::parse(fields).unwrap();
    let interpreted = RefCell::new(Vec::new());
    let cases = std::env::var("FILTER_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(200);
    let mut runner = TestRunner::new(Config { cases, ..Config::default() });
    let result = runner.run(&sample(), |sample| {
        // A policy that can never apply causes a warning, which is an error: such sets are left out.
        let Ok(bundle) = bundle(directory.path(), &sample.policies) else {
            return Err(TestCaseError::reject("a policy can never apply"));
        };
        let engine = Engine::new(bundle).unwrap();
        let all: PolicySet = sample.policies.join("\n").parse().unwrap();
        let filter = match filter(&sample, &engine) {
            Ok(filter) => filter,
            Err(error) => {
                refused.set(refused.get() + 1);
                return Err(TestCaseError::fail(error.to_string()));
            }
        };
        let mut counted = kinds.get();
        counted[match filter {
            Filter::Always => 0,
            Filter::Never => 1,
            Filter::When(_) => 2,
        }] += 1;
        kinds.set(counted);
        let selected = match render(&filter, table.dialect, &columns, "F::Note", &ancestors) {
            Ok(condition) => {
                runtime.block_on(table.fill(&sample.rows));
                Some((runtime.block_on(table.select(&condition)), condition.sql))
            }
            // SQLite has neither exact decimals nor IP addresses.
            Err(error) => {
                assert!(
                    table.dialect == SqlDialect::Sqlite && error.to_string().contains("SQLite"),
                    "{error}"
                );
                None
            }
        };
        let expected: Vec<bool> =
            sample.rows.iter().map(|row| is_allowed(&sample, row, &all, &schema)).collect();
        if let Filter::When(expr) = &filter
            && let Ok(condition) = ucast(expr, &fields, "F::Note", &ancestors)
        {
            let rows: Vec<Value> = sample.rows.iter().map(object).collect();
            interpreted.borrow_mut().push(json!({
                "condition": condition, "rows": rows, "expected": expected, "policies": sample.policies
            }));
        }
        for (row, expected) in sample.rows.iter().zip(expected) {
            let (attributes, folder) = (&row.attributes, row.folder);
            prop_assert_eq!(
                holds(&filter, ("F::Note", &row.id), attributes, folder.map(|id| ("F::Folder", id))),
                expected,
                "{:?} in memory: {:#?}",
                row,
                filter
            );
            if let Some((selected, sql)) = &selected {
                prop_assert_eq!(selected.contains(&row.id), expected, "{:?} by {}", row, sql);
                in_sql.set(in_sql.get() + 1);
            }
            decisions.set(decisions.get() + 1);
            allowed.set(allowed.get() + usize::from(expected));
        }
        Ok(())
    });
    let [always, never, when] = kinds.get();
    println!(
        "{cases} policy sets ({always} always, {never} never, {when} when; {} refused), {} decisions in memory, {} of them on \
         {:?}, {} allowed; {} conditions of UCAST",
        refused.get(),
        decisions.get(),
        in_sql.get(),
        table.dialect,
        allowed.get(),
        interpreted.borrow().len()
    );
    result.unwrap();
    interpret(&interpreted.into_inner());
    assert!(in_sql.get() * 2 > decisions.get(), "too few conditions in SQL");
    assert!(when > never && allowed.get() * 10 > decisions.get(), "the samples are too uniform");
}
