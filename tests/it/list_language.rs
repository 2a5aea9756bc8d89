//! Generated lists: filters, orders and pages agree with an evaluation in memory, whatever the database and its collation.

use crate::lists::{fetch_all_pages, query};
use crate::support::{Client, Database, TestApp};
use reqwest::StatusCode;
use serde_json::{Map, Value, json};
use std::cmp::Ordering;
use std::fmt::Write as _;

/// Numbers that look random, the same in every run.
struct Generator(u64);

impl Generator {
    fn next(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % u64::try_from(below).unwrap()).unwrap()
    }

    fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.next(items.len())]
    }

    fn chance(&mut self, percent: usize) -> bool {
        self.next(100) < percent
    }
}

/// Texts that databases compare differently: case, accents, wildcards, operators, and code points at the edges.
const TEXTS: [&str; 34] = [
    "a",
    "A",
    "b",
    "B",
    "ab",
    "aB",
    "Ab",
    "ä",
    "Ä",
    "äb",
    "é",
    "É",
    "ß",
    "ẞ",
    "İ",
    "i",
    "K",
    "\u{212a}",
    "σ",
    "Σ",
    "ς",
    "a%b",
    "a_b",
    "axb",
    "%",
    "_",
    "\\",
    "'",
    "\"",
    "!x",
    "null",
    "[a,b]",
    "\u{e000}",
    "\u{10ffff}",
];

fn text(generator: &mut Generator) -> String {
    let mut text = (*generator.pick(&TEXTS)).to_owned();
    while generator.chance(30) {
        let more = *generator.pick(&TEXTS);
        text += more;
    }
    text
}

/// A value in a free object.
fn free_value(generator: &mut Generator) -> Value {
    match generator.next(9) {
        0 => Value::Null,
        1 => json!(generator.next(4)),
        2 => json!([0.5, 1.0, 2.0, -1.5][generator.next(4)]),
        3 => json!(generator.chance(50)),
        4 => json!((*generator.pick(&["1", "true", "2.0", "null"])).to_owned()),
        5 => json!({ "a": text(generator) }),
        6 => (0..generator.next(3)).map(|_| free_scalar(generator)).collect(),
        _ => json!(text(generator)),
    }
}

fn free_scalar(generator: &mut Generator) -> Value {
    match free_value(generator) {
        value @ (Value::Object(_) | Value::Array(_)) => json!(value.to_string()),
        value => value,
    }
}

fn free_object(generator: &mut Generator) -> Value {
    let mut object = Map::new();
    for name in ["a", "b", "long name", "Ä'?$1"] {
        if generator.chance(60) {
            object.insert(name.to_owned(), free_value(generator));
        }
    }
    if generator.chance(40) {
        object.insert("n".to_owned(), json!({ "m": free_value(generator) }));
    }
    Value::Object(object)
}

fn optional(generator: &mut Generator, value: impl FnOnce(&mut Generator) -> Value) -> Value {
    if generator.chance(75) { value(generator) } else { Value::Null }
}

/// A field that a query filters: its name, its kind, and the path to its values.
struct FieldSpec(&'static str, Kind, &'static [&'static str]);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Word,
    Boolean,
    Integer,
    Time,
    Free,
}

/// Values of a filter, as the service reads them.
#[derive(Debug, Clone, PartialEq)]
enum Operand {
    Text(String),
    Number(f64),
    Boolean(bool),
}

#[derive(Debug, Clone)]
enum Test {
    OneOf(Vec<Operand>, bool),
    Compare(&'static str, Operand),
    Contains(String),
    StartsWith(String),
}

/// The lower-case form, as docs/lists.md defines it.
fn lower(text: &str) -> String {
    let one = |letter: char| {
        let all: Vec<char> = letter.to_lowercase().collect();
        match all.as_slice() {
            [lower] if letter.is_ascii() || !lower.is_ascii() => *lower,
            _ => letter,
        }
    };
    text.chars().map(one).collect()
}

/// The values at a path: those of all elements of arrays at its beginning, and the items of an array at its end.
fn values(resource: &Value, path: &[&str]) -> Vec<Value> {
    let Some((name, rest)) = path.split_first() else {
        return match resource {
            Value::Array(items) => items.clone(),
            Value::Null => Vec::new(),
            other => vec![other.clone()],
        };
    };
    if *name == "*" {
        return resource.as_array().unwrap().iter().flat_map(|item| values(item, rest)).collect();
    }
    resource.get(name).map(|value| values(value, rest)).unwrap_or_default()
}

fn operand_of(value: &Value) -> Option<Operand> {
    match value {
        Value::String(text) => Some(Operand::Text(text.clone())),
        Value::Number(number) => Some(Operand::Number(number.as_f64().unwrap())),
        Value::Bool(value) => Some(Operand::Boolean(*value)),
        _ => None,
    }
}

fn passes(value: &Value, test: &Test) -> bool {
    let Some(value) = operand_of(value) else { return false };
    match (test, &value) {
        (Test::OneOf(values, _), value) => values.contains(value),
        (Test::Compare(operator, with), value) => {
            let order = match (value, with) {
                (Operand::Text(value), Operand::Text(with)) => value.cmp(with),
                (Operand::Number(value), Operand::Number(with)) => value.partial_cmp(with).unwrap(),
                _ => return false,
            };
            match *operator {
                ">" => order == Ordering::Greater,
                ">=" => order != Ordering::Less,
                "<" => order == Ordering::Less,
                _ => order != Ordering::Greater,
            }
        }
        (Test::Contains(part), Operand::Text(text)) => lower(text).contains(&lower(part)),
        (Test::StartsWith(start), Operand::Text(text)) => text.starts_with(start.as_str()),
        _ => false,
    }
}

fn matches(resource: &Value, path: &[&str], test: &Test, is_negated: bool) -> bool {
    let values = values(resource, path);
    let is_absent = values.iter().all(Value::is_null);
    let accepts_absent = matches!(test, Test::OneOf(_, true));
    (values.iter().any(|value| passes(value, test)) || accepts_absent && is_absent) != is_negated
}

/// An operand and the text that stands for it.
fn operand(generator: &mut Generator, kind: Kind) -> (Operand, String) {
    let plain = |text: &str| (Operand::Text(text.to_owned()), text.to_owned());
    match kind {
        Kind::Word => {
            let word = *generator.pick(&["contact", "agent", "bot", "system"]);
            plain(word)
        }
        Kind::Boolean => {
            let value = generator.chance(50);
            (Operand::Boolean(value), value.to_string())
        }
        Kind::Integer => {
            let number = generator.next(4);
            (Operand::Number(f64::from(u32::try_from(number).unwrap())), number.to_string())
        }
        Kind::Time => plain(&format!("2026-01-31T12:00:00.00{}Z", generator.next(9))),
        Kind::Free if generator.chance(40) => match generator.next(3) {
            0 => (Operand::Number(1.0), (*generator.pick(&["1", "1.0", "1e0"])).to_owned()),
            1 => (Operand::Number(0.5), "0.5".to_owned()),
            _ => (Operand::Boolean(true), "true".to_owned()),
        },
        Kind::Text | Kind::Free => {
            let text = if generator.chance(10) { "1".to_owned() } else { text(generator) };
            // Always as a JSON string: most of them begin like an operator.
            (Operand::Text(text.clone()), serde_json::to_string(&text).unwrap())
        }
    }
}

/// A test and the text that stands for it.
fn test(generator: &mut Generator, kind: Kind) -> (Test, String) {
    let is_text = matches!(kind, Kind::Text | Kind::Free);
    let is_ordered = matches!(kind, Kind::Text | Kind::Free | Kind::Integer | Kind::Time);
    match generator.next(6) {
        0 => (Test::OneOf(Vec::new(), true), "null".to_owned()),
        1 => {
            let items: Vec<(Operand, String)> =
                (0..generator.next(4)).map(|_| operand(generator, kind)).collect();
            let or_null = generator.chance(30);
            let mut texts: Vec<String> = items.iter().map(|(_, text)| text.clone()).collect();
            if or_null {
                texts.push("null".to_owned());
            }
            (
                Test::OneOf(items.into_iter().map(|(value, _)| value).collect(), or_null),
                format!("[{}]", texts.join(",")),
            )
        }
        2 | 3 if is_ordered => {
            let operator = *generator.pick(&[">", ">=", "<", "<="]);
            let (value, text) = loop {
                let (value, text) = operand(generator, kind);
                if !matches!(value, Operand::Boolean(_)) {
                    break (value, text);
                }
            };
            (Test::Compare(operator, value), format!("{operator}{text}"))
        }
        4 if is_text => {
            let part = text(generator);
            (Test::Contains(part.clone()), format!("~{}", serde_json::to_string(&part).unwrap()))
        }
        5 if is_text => {
            let start = text(generator);
            (Test::StartsWith(start.clone()), format!("^{}", serde_json::to_string(&start).unwrap()))
        }
        _ => {
            let (value, text) = operand(generator, kind);
            (Test::OneOf(vec![value], false), text)
        }
    }
}

/// The value of a field, which may be within an object.
fn value_at<'a>(resource: &'a Value, name: &str) -> &'a Value {
    name.split('.').fold(resource, |value, name| &value[name])
}

/// Compares two resources by fields: nulls last, then by creation time and id.
fn compare(a: &Value, b: &Value, sort: &[(&str, bool)]) -> Ordering {
    // The id has the direction of the creation time.
    let reverses_ids = sort.iter().any(|(name, is_descending)| *name == "createdAt" && *is_descending);
    for (name, is_descending) in sort.iter().chain(&[("createdAt", false), ("id", reverses_ids)]) {
        let order = match (value_at(a, name), value_at(b, name)) {
            (Value::Null, Value::Null) => Ordering::Equal,
            (Value::Null, _) => Ordering::Greater,
            (_, Value::Null) => Ordering::Less,
            (a, b) => {
                let order = match (operand_of(a).unwrap(), operand_of(b).unwrap()) {
                    (Operand::Text(a), Operand::Text(b)) => a.cmp(&b),
                    (Operand::Number(a), Operand::Number(b)) => a.partial_cmp(&b).unwrap(),
                    (Operand::Boolean(a), Operand::Boolean(b)) => a.cmp(&b),
                    _ => panic!("{a} {b}"),
                };
                if *is_descending { order.reverse() } else { order }
            }
        };
        if order != Ordering::Equal {
            return order;
        }
    }
    Ordering::Equal
}

fn ids<'a>(resources: impl IntoIterator<Item = &'a Value>) -> Vec<&'a str> {
    resources.into_iter().map(|resource| resource["id"].as_str().unwrap()).collect()
}

/// Checks generated queries against the resources of a list.
async fn check(client: &Client, path: &str, fields: &[FieldSpec], sortable: &[&'static str], seed: u64) {
    let generator = &mut Generator(seed);
    let all = client.get(&format!("{path}?limit=1000")).await.expect(StatusCode::OK);
    let all = all.as_array().unwrap();
    let (mut matched, mut paged) = (0, 0);
    for _ in 0..150 {
        let (mut pairs, mut filters, mut sort) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..=generator.next(2) {
            let FieldSpec(name, kind, path) = generator.pick(fields);
            let (test, mut text) = test(generator, *kind);
            let is_negated = generator.chance(30);
            if is_negated {
                text.insert(0, '!');
            }
            pairs.push(((*name).to_owned(), text));
            filters.push((*path, test, is_negated));
        }
        let mut order = String::new();
        for _ in 0..generator.next(3) {
            let name = *generator.pick(sortable);
            if sort.iter().all(|(other, _)| *other != name) {
                let is_descending = generator.chance(50);
                let comma = if order.is_empty() { "" } else { "," };
                write!(order, "{comma}{}{name}", if is_descending { "-" } else { "" }).unwrap();
                sort.push((name, is_descending));
            }
        }
        if !order.is_empty() {
            pairs.push(("sort".to_owned(), order));
        }
        let mut expected: Vec<&Value> = all
            .iter()
            .filter(|row| {
                filters.iter().all(|(path, test, is_negated)| matches(row, path, test, *is_negated))
            })
            .collect();
        expected.sort_by(|a, b| compare(a, b, &sort));
        let limit = (1 + generator.next(20)).to_string();
        let borrowed: Vec<(&str, &str)> =
            pairs.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
        let list = query(path, &[borrowed.as_slice(), &[("limit", limit.as_str())]].concat());
        let first = client.get(&list).await;
        assert_eq!(first.header("x-total-count"), expected.len().to_string(), "{pairs:?}: {}", first.text);
        let pages = fetch_all_pages(client, &list).await;
        let found: Vec<Value> = pages.iter().flat_map(|page| page.as_array().unwrap().clone()).collect();
        assert_eq!(ids(&found), ids(expected.iter().copied()), "{pairs:?} limit {limit}");
        matched += expected.len();
        paged += pages.len() - 1;
    }
    // The queries are neither all empty nor all of a single page.
    assert!(matched > 1000 && paged > 100, "{matched} {paged}");
}

#[tokio::test]
async fn generated_queries_return_what_an_evaluation_in_memory_returns() {
    let app = TestApp::start_on(Database::with_linguistic_collation().await).await;
    let admin = app.admin().await;
    let generator = &mut Generator(0x2545_f491_4f6c_dd1d);
    let mut users = Vec::new();
    for index in 0..3 {
        let body = json!({ "email": format!("u{index}@example.com") });
        users.push(admin.post("/v2/users", body).await.id());
    }
    for _ in 0..80 {
        app.clock.advance(i64::try_from(generator.next(2)).unwrap());
        let mut participants = Vec::new();
        for user in &users {
            if generator.chance(40) {
                let role = optional(generator, |generator| json!(text(generator)));
                participants.push(json!({ "user": user, "role": role, "active": generator.chance(50) }));
            }
        }
        let kind = *generator.pick(&["contact", "agent", "bot", "system"]);
        let body = json!({
            "type": kind,
            "name": optional(generator, |generator| json!(text(generator))),
            "category": optional(generator, |generator| json!(text(generator))),
            "participants": participants,
            "meta": free_object(generator),
        });
        let conversation = admin.post("/v2/conversations", body).await;
        let conversation = conversation.expect(StatusCode::CREATED)["id"].clone();
        let message = json!({
            "conversation": conversation,
            "text": text(generator),
            "role": optional(generator, |generator| json!(text(generator))),
            "delay": optional(generator, |generator| json!(generator.next(4))),
            "isBackchannel": generator.chance(50),
            "actions": (0..generator.next(3)).map(|_| free_object(generator)).collect::<Vec<_>>(),
        });
        admin.post("/v2/messages", message).await.expect(StatusCode::CREATED);
        let profile = json!({
            "name": optional(generator, |generator| json!(text(generator))),
            "locale": optional(generator, |generator| json!(text(generator))),
        });
        admin.post("/v2/contacts", json!({ "profile": profile })).await.expect(StatusCode::CREATED);
        let options: Vec<String> = (0..generator.next(3)).map(|_| text(generator)).collect();
        let fields: Vec<Value> = (0..generator.next(3))
            .map(|_| json!({ "name": text(generator), "required": generator.chance(50), "options": options }))
            .collect();
        let form = json!({ "name": text(generator), "fields": fields });
        admin.post("/v2/forms", form).await.expect(StatusCode::CREATED);
    }
    let conversations = [
        FieldSpec("name", Kind::Text, &["name"]),
        FieldSpec("category", Kind::Text, &["category"]),
        FieldSpec("type", Kind::Word, &["type"]),
        FieldSpec("createdAt", Kind::Time, &["createdAt"]),
        FieldSpec("participants.role", Kind::Text, &["participants", "*", "role"]),
        FieldSpec("participants.active", Kind::Boolean, &["participants", "*", "active"]),
        FieldSpec("meta.a", Kind::Free, &["meta", "a"]),
        FieldSpec("meta.b", Kind::Free, &["meta", "b"]),
        FieldSpec("meta.long name", Kind::Free, &["meta", "long name"]),
        FieldSpec("meta.Ä'?$1", Kind::Free, &["meta", "Ä'?$1"]),
        FieldSpec("meta.n.m", Kind::Free, &["meta", "n", "m"]),
        FieldSpec("meta.a.a", Kind::Free, &["meta", "a", "a"]),
    ];
    let sortable = ["name", "category", "type", "createdAt", "updatedAt", "id", "status"];
    check(&admin, "/v2/conversations", &conversations, &sortable, 1).await;
    let messages = [
        FieldSpec("text", Kind::Text, &["text"]),
        FieldSpec("role", Kind::Text, &["role"]),
        FieldSpec("delay", Kind::Integer, &["delay"]),
        FieldSpec("isBackchannel", Kind::Boolean, &["isBackchannel"]),
        FieldSpec("actions.a", Kind::Free, &["actions", "*", "a"]),
        FieldSpec("actions.n.m", Kind::Free, &["actions", "*", "n", "m"]),
    ];
    check(&admin, "/v2/messages", &messages, &["text", "role", "delay", "isBackchannel", "createdAt"], 2)
        .await;
    let contacts = [
        FieldSpec("profile.name", Kind::Text, &["profile", "name"]),
        FieldSpec("profile.locale", Kind::Text, &["profile", "locale"]),
    ];
    check(
        &admin,
        "/v2/contacts",
        &contacts,
        &["profile.name", "profile.locale", "conversation", "createdAt", "id"],
        3,
    )
    .await;
    let forms = [
        FieldSpec("name", Kind::Text, &["name"]),
        FieldSpec("fields.name", Kind::Text, &["fields", "*", "name"]),
        FieldSpec("fields.required", Kind::Boolean, &["fields", "*", "required"]),
        FieldSpec("fields.options", Kind::Text, &["fields", "*", "options"]),
    ];
    check(&admin, "/v2/forms", &forms, &["name", "createdAt"], 4).await;
}
