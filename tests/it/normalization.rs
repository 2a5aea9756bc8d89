//! Email addresses and passwords are compared independently of the encoding of their characters (see "Normalization" in
//! docs/decisions.md).

use crate::command_line::program;
use crate::support::{PASSWORD, TestApp};
use reqwest::StatusCode;
use serde_json::json;
use std::io::Write;
use std::process::Stdio;

/// An address with `é` as one character (composed).
const COMPOSED: &str = "r\u{e9}my@b\u{fc}cher.example";
const DECOMPOSED: &str = "Re\u{301}my@BU\u{308}CHER.example";
const STORED: &str = "r\u{e9}my@xn--bcher-kva.example";

#[tokio::test]
async fn equivalent_email_spellings_identify_one_user() {
    for first in [COMPOSED, DECOMPOSED, STORED] {
        let app = TestApp::start().await;
        let admin = app.admin().await;
        let user = admin.post("/v2/users", json!({ "email": first, "password": PASSWORD })).await;
        let user = user.expect(StatusCode::CREATED);
        assert_eq!(user["email"], STORED, "{first}");
        for email in [COMPOSED, DECOMPOSED, STORED] {
            let another = admin.post("/v2/users", json!({ "email": email })).await;
            assert_eq!(another.expect_problem(409, "conflict"), ["email"], "{first} {email}");
            assert_eq!(app.log_in(email).await["user"], user["id"], "{first} {email}");
            let query =
                url::form_urlencoded::Serializer::new(String::new()).append_pair("email", email).finish();
            let found = admin.get(&format!("/v2/users?{query}")).await.expect(StatusCode::OK);
            assert_eq!(found[0]["id"], user["id"], "{first} {email}");
        }
        let tokens = app.log_in(STORED).await;
        let refresh = json!({ "refreshToken": tokens["refreshToken"], "clientId": DECOMPOSED });
        app.anonymous().post("/v2/auth/token", refresh).await.expect(StatusCode::OK);
    }
}

#[tokio::test]
async fn email_addresses_with_invisible_characters_are_rejected() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let user = app.client(crate::support::ADMIN).await;
    for email in [
        "ad\u{200b}a@example.com",
        "ada\u{200d}@example.com",
        "\u{202e}ada@example.com",
        "\u{feff}ada@example.com",
        "ada@exam\u{ad}ple.com",
        "ada\u{9f}@example.com",
        "ada\u{e0041}@example.com",
    ] {
        for refused in [
            admin.post("/v2/users", json!({ "email": email })).await,
            user.patch("/v2/users/me", json!({ "email": email })).await,
            admin.post("/v2/contacts", json!({ "email": email })).await,
            app.anonymous().post("/v2/auth/token", json!({ "email": email, "password": PASSWORD })).await,
        ] {
            assert_eq!(refused.expect_problem(400, "invalid_fields"), ["email"], "{email:?}");
        }
    }
}

#[tokio::test]
async fn passwords_are_normalized() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let (composed, decomposed) =
        ("z\u{fc}rcher gr\u{fc}\u{df}e 1871", "zu\u{308}rcher gru\u{308}\u{df}e 1871");
    let log_in = async |password: &str| {
        app.anonymous()
            .post("/v2/auth/token", json!({ "email": "ada@example.com", "password": password }))
            .await
    };
    let user = json!({ "email": "ada@example.com", "password": decomposed });
    admin.post("/v2/users", user).await.expect(StatusCode::CREATED);
    log_in(composed).await.expect(StatusCode::OK);
    let tokens = log_in(decomposed).await.expect(StatusCode::OK);
    log_in("zurcher gru\u{df}e 1871").await.expect_problem(401, "invalid_credentials");
    // The current password is compared in the same way, and the new one is normalized before it is hashed.
    let own = app.bearer(tokens["token"].as_str().unwrap());
    let next = format!("{composed} \u{e5}ngstr\u{f6}m");
    let change = json!({ "currentPassword": composed, "password": next });
    own.patch("/v2/users/me", change).await.expect(StatusCode::OK);
    log_in(&format!("{decomposed} a\u{30a}ngstro\u{308}m")).await.expect(StatusCode::OK);

    // The length of 200 characters is counted after normalization.
    let letter =
        |n: u64| char::from(b'a' + u8::try_from(n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 59).unwrap() % 26);
    let [long, longer] =
        [199, 200].map(|rest| format!("o\u{308}{}", (0..rest).map(letter).collect::<String>()));
    let set = async |password: &str| {
        let id = tokens["user"].as_str().unwrap();
        admin.patch(&format!("/v2/users/{id}"), json!({ "password": password })).await
    };
    assert_eq!(set(&longer).await.expect_problem(400, "invalid_fields"), ["password"]);
    set(&long).await.expect(StatusCode::OK);
    log_in(&long).await.expect(StatusCode::OK);
    assert_eq!(log_in(&longer).await.expect_problem(400, "invalid_fields"), ["password"]);
}

#[tokio::test]
async fn a_byte_order_mark_is_not_part_of_a_password() {
    let app = TestApp::start().await;
    let settings = [("CEDARGATE_DATABASE_URL", app.url())];
    for arguments in [
        &["user", "add", "--email", "ada@example.com", "--password-stdin"] as &[_],
        &["user", "set-password", "--email", "ada@example.com"],
    ] {
        let mut command = program(app.directory(), &settings);
        let mut child = command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        write!(child.stdin.take().unwrap(), "\u{feff}{PASSWORD}\r\n").unwrap();
        assert!(child.wait().unwrap().success(), "{arguments:?}");
        app.log_in("ada@example.com").await;
    }
}
