//! Masked attributes.

use super::*;

#[test]
fn masked_attributes_keep_only_their_names() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let mask = vec!["email".into(), "address".into()];
    let log = DecisionLog::open(&Settings { mask, ..settings(&path) }).unwrap();
    let person = json!({"uid": "ada", "attrs": {"email": "ada@example.com", "role": "agent"}});
    let document = json!({"attrs": {"mail": "email"}});
    let context = json!({"named": [{"address": {"street": "\"Elm\" 1"}}, {"mail": "email"}]});
    let errors = ["guest: no date: ada@example.com", r#"guest: "\"Elm\" 1""#].map(str::to_owned);
    let inputs = inputs([&person, &document], &context);
    assert!(log.record(&Record { inputs, errors: &errors, ..record("1") }));
    log.close();
    let [line] = lines(&path).try_into().unwrap();
    let person = json!({"uid": "ada", "attrs": {"email": "***", "role": "agent"}});
    let context = json!({"named": [{"address": "***"}, {"mail": "email"}]});
    assert_eq!(line["inputs"], json!({"entities": [person, document], "context": context}));
    assert_eq!(line["errors"], json!(["***", "***"]));
    assert_eq!(line["masked"], true);
}

#[test]
fn a_line_is_marked_as_masked_even_if_the_masked_value_is_no_text() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let log = DecisionLog::open(&Settings { mask: vec!["vip".into()], ..settings(&path) }).unwrap();
    let vip = json!({"uid": "ada", "attrs": {"vip": true}});
    let bare = json!({"uid": "dan", "attrs": {}});
    for (number, entity) in [("1", &vip), ("2", &bare)] {
        let inputs = inputs([entity, &bare], &json!({}));
        assert!(log.record(&Record { inputs, ..record(number) }));
    }
    log.close();
    let [marked, unmarked] = lines(&path).try_into().unwrap();
    assert_eq!((&marked["masked"], &unmarked["masked"]), (&json!(true), &Value::Null));
}

#[test]
fn masking_context_masks_the_whole_context() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let log = DecisionLog::open(&Settings { mask: vec!["context".into()], ..settings(&path) }).unwrap();
    let entity = json!({"uid": "ada"});
    let inputs = inputs([&entity, &entity], &json!({"code": "open sesame"}));
    let errors = ["guest: no date: open sesame".to_owned()];
    assert!(log.record(&Record { inputs, errors: &errors, ..record("1") }));
    log.close();
    let [line] = lines(&path).try_into().unwrap();
    assert_eq!(line["inputs"], json!({"entities": [{"uid": "ada"}, {"uid": "ada"}], "context": "***"}));
    assert_eq!(line["errors"], json!(["***"]));
}

#[test]
fn a_masked_value_appears_nowhere_in_the_line() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let mask = ["email", "salary", "born", "pin"].map(str::to_owned).to_vec();
    let log = DecisionLog::open(&Settings { mask, ..settings(&path) }).unwrap();
    let person = json!({
        "uid": {"type": "Person", "id": "ada@example.com"},
        "attrs": {
            "email": "ada@example.com", "salary": 81234, "pin": "12", "role": "agent",
            "born": {"__extn": {"fn": "datetime", "arg": "1815-12-10"}}, "note": "mail ada@example.com",
        },
    });
    let context = json!({"named": "ada@example.com", "code": "12", "room": "512"});
    let errors = [
        "error while evaluating policy `pay`: integer overflow while attempting to add the values `81234` and `1`",
        "error while evaluating policy `age`: `1815-12-10T00:00:00.000Z` is no duration",
        "something else with 81234",
    ];
    let errors = errors.map(str::to_owned);
    let inputs = inputs([&person, &json!({})], &context);
    let subject = leak_json(&Subject { kind: "Person", id: "ada@example.com", scopes: &[], claimed: &[] });
    let request = Some("for-ada@example.com");
    assert!(log.record(&Record { inputs, subject, request, errors: &errors, ..record("ada@example.com") }));
    log.close();
    let text = std::fs::read_to_string(&path).unwrap();
    for masked in ["ada@example.com", "81234", "1815", "\"12\""] {
        assert!(!text.contains(masked), "{masked}: {text}");
    }
    let [line] = lines(&path).try_into().unwrap();
    assert_eq!(line["errors"][0], "error while evaluating policy `pay`: ***");
    assert_eq!(line["inputs"]["entities"][0]["attrs"]["note"], "mail ***");
    assert_eq!(line["inputs"]["context"], json!({"named": "***", "code": "***", "room": "512"}));
    assert_eq!((&line["requestId"], &line["subject"]["id"]), (&json!("for-***"), &json!("***")));
    assert_eq!(line["inputs"]["entities"][0]["attrs"]["role"], "agent");
}
