//! `PATCH` and `DELETE` with a filter change all resources that match, or none.

use crate::authzen::start_with_policies;
use crate::resources::{ResourceSpec, create_resource, resource_specs, unique_email};
use crate::support::{Client, PASSWORD, TestApp};
use cedargate::authz::Scope;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::collections::BTreeSet;

fn ids(resources: &Value) -> Vec<String> {
    resources.as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap().to_owned()).collect()
}

/// The ids in the answer of a bulk request, which are ascending and counted.
#[track_caller]
fn changed(answer: &Value, is_dry_run: bool) -> Vec<String> {
    let changed: Vec<String> =
        answer["ids"].as_array().unwrap().iter().map(|id| id.as_str().unwrap().to_owned()).collect();
    assert_eq!(answer["count"], changed.len());
    assert_eq!(answer["dryRun"], is_dry_run);
    assert!(changed.is_sorted());
    changed
}

/// Sorted, since the ids of resources of the same second are in no particular order.
fn sorted(mut ids: Vec<String>) -> Vec<String> {
    ids.sort_unstable();
    ids
}

#[tokio::test]
async fn every_resource_is_changed_and_deleted_by_a_filter_as_by_single_requests() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    for ResourceSpec { path, minimal, patch, .. } in resource_specs(&admin).await {
        let mut created = Vec::new();
        for index in 0..4 {
            let mut body = minimal.clone();
            if path == "/v2/users" {
                body["email"] = unique_email().into();
            }
            body["meta"] = json!({ "batch": index < 3 });
            created.push(create_resource(&admin, path, body).await);
        }
        let (chosen, other) = (sorted(created[..3].to_vec()), created[3].clone());
        let mut patch = patch.clone();
        // Unique, so it cannot be set on several.
        patch.as_object_mut().unwrap().shift_remove("email");
        patch["meta"] = json!({ "batch": true, "done": 1 });
        app.clock.advance(1_000);
        let one = admin.patch(&format!("{path}/{other}"), patch.clone()).await.expect(StatusCode::OK);
        admin
            .patch(&format!("{path}/{other}"), json!({ "meta": { "batch": false } }))
            .await
            .expect(StatusCode::OK);

        let filter = format!("{path}?meta.batch=true&id=[{}]", created.join(","));
        let before = admin.get(&filter).await.expect(StatusCode::OK);
        let dry = admin.patch(&format!("{filter}&dryRun=true"), patch.clone()).await.expect(StatusCode::OK);
        assert_eq!(changed(&dry, true), chosen, "{path}");
        assert_eq!(
            admin.get(&filter).await.expect(StatusCode::OK),
            before,
            "{path}: a dry run changes nothing"
        );
        let answer = admin.patch(&filter, patch.clone()).await.expect(StatusCode::OK);
        assert_eq!(changed(&answer, false), chosen, "{path}");
        for id in &chosen {
            let mut resource = admin.get(&format!("{path}/{id}")).await.expect(StatusCode::OK);
            let mut expected = one.clone();
            for field in ["id", "email", "path", "createdAt"] {
                for resource in [&mut resource, &mut expected] {
                    resource.as_object_mut().unwrap().shift_remove(field);
                }
            }
            assert_eq!(resource, expected, "{path}");
        }

        let dry = admin.delete(&format!("{filter}&dryRun=true")).await.expect(StatusCode::OK);
        assert_eq!(changed(&dry, true), chosen, "{path}");
        assert_eq!(ids(&admin.get(&filter).await.json).len(), 3, "{path}");
        let answer = admin.delete(&filter).await.expect(StatusCode::OK);
        assert_eq!(changed(&answer, false), chosen, "{path}");
        let left = admin.get(&format!("{path}?id=[{}]", created.join(","))).await;
        assert_eq!(ids(&left.json), [other], "{path}");
        assert_eq!(changed(&admin.delete(&filter).await.expect(StatusCode::OK), false), [] as [&str; 0]);
    }
}

#[tokio::test]
async fn a_filter_is_required_and_parameters_of_pages_are_not_accepted() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let form = create_resource(&admin, "/v2/forms", json!({ "name": "form" })).await;
    for (query, field, code) in [
        ("", "", "required"),
        ("?dryRun=true", "", "required"),
        ("?limit=1&name=form", "limit", "unknown_field"),
        ("?sort=name&name=form", "sort", "unknown_field"),
        ("?select=name&name=form", "select", "unknown_field"),
        ("?nme=form", "nme", "unknown_field"),
        ("?name=form&dryRun=maybe", "dryRun", "invalid_format"),
        ("?name=form&dryRun=true&dryRun=false", "dryRun", "duplicate"),
        ("?id=x", "id", "invalid_format"),
    ] {
        let path = format!("/v2/forms{query}");
        for reply in [admin.delete(&path).await, admin.patch(&path, json!({ "name": "x" })).await] {
            reply.expect_problem(400, "invalid_fields");
            assert_eq!(reply.field_errors(), [(field.to_owned(), code.to_owned())], "{query}");
        }
    }
    for (body, field, code) in [
        (json!({ "nme": 1 }), "nme", "unknown_field"),
        (json!({ "id": form }), "id", "unknown_field"),
        (json!({ "name": "" }), "name", "too_short"),
    ] {
        let reply = admin.patch("/v2/forms?name=form", body).await;
        reply.expect_problem(400, "invalid_fields");
        assert_eq!(reply.field_errors(), [(field.to_owned(), code.to_owned())]);
    }
    // Also if nothing matches.
    let reply = admin.patch("/v2/forms?name=none", json!({ "nme": 1 })).await;
    assert_eq!(reply.expect_problem(400, "invalid_fields"), ["nme"]);
    let tagged = admin.send(Method::DELETE, "/v2/forms?name=form", &[("if-match", "\"a\"")], None).await;
    assert_eq!(tagged.expect_problem(400, "invalid_fields"), ["If-Match"]);
    admin.get(&format!("/v2/forms/{form}")).await.expect(StatusCode::OK);
}

#[tokio::test]
async fn more_than_a_thousand_matches_are_refused() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let some = |count: usize| (0..count).map(|_| json!({ "name": "same" })).collect::<Value>();
    admin.post("/v2/forms", some(1000)).await.expect(StatusCode::CREATED);
    let dry = admin.delete("/v2/forms?name=same&dryRun=true").await.expect(StatusCode::OK);
    assert_eq!(changed(&dry, true).len(), 1000);
    admin.post("/v2/forms", some(1)).await.expect(StatusCode::CREATED);
    for query in ["", "&dryRun=true"] {
        let path = format!("/v2/forms?name=same{query}");
        admin.delete(&path).await.expect_problem(400, "too_many_matches");
        admin.patch(&path, json!({ "name": "other" })).await.expect_problem(400, "too_many_matches");
    }
    assert_eq!(admin.get("/v2/forms?name=same").await.header("x-total-count"), "1001");
    let one = ids(&admin.get("/v2/forms?limit=1").await.json);
    let answer = admin.delete(&format!("/v2/forms?name=same&id=!{}", one[0])).await.expect(StatusCode::OK);
    assert_eq!(answer["count"], 1000);
    assert_eq!(ids(&admin.get("/v2/forms").await.json), one);
}

#[tokio::test]
async fn what_the_caller_may_not_list_cannot_be_matched() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let (acme, acme_admin) = app.tenant("acme").await;
    let (other, _) = app.tenant("other").await;
    let mut forms = Vec::new();
    for organization in [&acme, &other] {
        let form = json!({ "name": "form", "organization": organization });
        forms.push(create_resource(&admin, "/v2/forms", form).await);
    }
    let answer = acme_admin.patch("/v2/forms?name=form", json!({ "name": "changed" })).await;
    assert_eq!(changed(&answer.expect(StatusCode::OK), false), [forms[0].clone()]);
    let hidden = format!("/v2/forms?id={}", forms[1]);
    assert_eq!(changed(&acme_admin.delete(&hidden).await.expect(StatusCode::OK), false), [] as [&str; 0]);
    acme_admin.delete(&format!("/v2/forms?organization={other}")).await.expect_problem(404, "not_found");
    admin.get(&format!("/v2/forms/{}", forms[1])).await.expect(StatusCode::OK);
    // Guests list no forms; bots list and change them, and delete none.
    let guest = app.user(Scope::Guest).await;
    guest.patch("/v2/forms?name=form", json!({ "name": "x" })).await.expect_problem(403, "forbidden");
    let bot = app.user(Scope::Bot).await;
    bot.delete("/v2/forms?name=none").await.expect_problem(403, "forbidden");
    bot.delete("/v2/forms?name=form").await.expect_problem(403, "forbidden");
    let answer = bot.patch("/v2/forms?name=form", json!({ "name": "by a bot" })).await.expect(StatusCode::OK);
    assert_eq!(changed(&answer, false), [forms[1].clone()]);
}

#[tokio::test]
async fn one_denied_resource_denies_the_request_and_is_named() {
    let app = start_with_policies(
        r#"@id("published") forbid (principal, action in [Action::"updateKnowledgeItem", Action::"deleteKnowledgeItem"],
             resource is KnowledgeItem)
           when { resource has status && resource.status == KnowledgeStatus::"published" };"#,
    )
    .await;
    let admin = app.admin().await;
    let mut published = Vec::new();
    for status in ["draft", "published", "draft", "published"] {
        let item = create_resource(&admin, "/v2/kbitems", json!({ "title": "a", "status": status })).await;
        if status == "published" {
            published.push(item);
        }
    }
    let expected: Vec<(String, String)> =
        sorted(published).into_iter().map(|id| (id, "not_allowed".to_owned())).collect();
    let before = admin.get("/v2/kbitems").await.json;
    for query in ["/v2/kbitems?title=a", "/v2/kbitems?title=a&dryRun=true"] {
        for reply in [admin.delete(query).await, admin.patch(query, json!({ "title": "b" })).await] {
            reply.expect_problem(403, "forbidden");
            let mut errors = reply.field_errors();
            errors.sort_unstable();
            assert_eq!(errors, expected);
        }
    }
    assert_eq!(admin.get("/v2/kbitems").await.json, before);
    // Also if the change itself would lead there.
    let reply = admin.patch("/v2/kbitems?status=draft", json!({ "status": "published" })).await;
    reply.expect_problem(403, "forbidden");
    assert_eq!(
        changed(&admin.delete("/v2/kbitems?status=draft").await.expect(StatusCode::OK), false).len(),
        2
    );
}

#[tokio::test]
async fn the_last_admins_and_organizations_with_resources_are_not_deleted() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    for _ in 0..2 {
        app.user(Scope::Admin).await;
    }
    let reply = admin.delete("/v2/users?role=admin").await;
    reply.expect_problem(409, "last_root_admin");
    assert_eq!(reply.field_errors().len(), 1);
    let reply = admin.patch("/v2/users?role=admin", json!({ "role": "agent" })).await;
    reply.expect_problem(409, "last_root_admin");
    assert_eq!(admin.get("/v2/users?role=admin").await.header("x-total-count"), "3");
    let others = format!("/v2/users?role=admin&id=!{}", admin.id);
    let seq = admin.get("/v2/audit?sort=-seq&limit=1").await.json[0]["seq"].as_i64().unwrap();
    let blocked = admin.patch(&others, json!({ "status": "blocked" })).await.expect(StatusCode::OK);
    assert_eq!(blocked["count"], 2);
    let events = admin.get(&format!("/v2/audit?seq=>{seq}&event=user.blocked")).await;
    assert_eq!(events.header("x-total-count"), "2");
    let reply = admin.patch(&others, json!({ "password": PASSWORD })).await;
    reply.expect_problem(400, "invalid_fields");
    assert_eq!(reply.field_errors(), [("password".to_owned(), "not_allowed".to_owned())]);

    // A subtree is deleted from below; one that owns something is not.
    let top = create_resource(&admin, "/v2/organizations", json!({ "name": "top" })).await;
    let mut parent = top.clone();
    for name in ["a", "b"] {
        parent =
            create_resource(&admin, "/v2/organizations", json!({ "name": name, "parent": parent })).await;
    }
    let form = create_resource(&admin, "/v2/forms", json!({ "name": "form", "organization": parent })).await;
    let subtree = format!("/v2/organizations?orgPath=^{top}");
    let reply = admin.delete(&subtree).await;
    reply.expect_problem(409, "conflict");
    assert_eq!(reply.field_errors(), [(parent.clone(), "conflict".to_owned())]);
    admin.delete(&format!("/v2/forms/{form}")).await.expect(StatusCode::NO_CONTENT);
    assert_eq!(changed(&admin.delete(&subtree).await.expect(StatusCode::OK), false).len(), 3);
}

/// A generator of numbers, which are the same in every run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

#[tokio::test]
async fn a_dry_run_says_what_the_real_request_then_does() {
    let app = start_with_policies(
        r#"@id("archived") forbid (principal, action in [Action::"updateKnowledgeItem", Action::"deleteKnowledgeItem"],
             resource is KnowledgeItem)
           when { resource has status && resource.status == KnowledgeStatus::"archived" } unless { principal in Scope::"admin" };"#,
    )
    .await;
    let (admin, bot) = (app.admin().await, app.user(Scope::Bot).await);
    let statuses = ["draft", "published", "archived"];
    let mut numbers = Numbers(1);
    let mut outcomes = BTreeSet::new();
    for _ in 0..30 {
        let items: Value = (0..8)
            .map(|_| {
                let status = statuses[usize::try_from(numbers.below(3)).unwrap()];
                json!({ "title": format!("title {}", numbers.below(4)), "status": status })
            })
            .collect();
        admin.post("/v2/kbitems", items).await.expect(StatusCode::CREATED);
        let filter = match numbers.below(4) {
            0 => format!("title=title {}", numbers.below(4)),
            1 => format!("status={}", statuses[usize::try_from(numbers.below(3)).unwrap()]),
            2 => format!("status=!archived&title=~{}", numbers.below(4)),
            _ => format!("title=[title {},title {}]", numbers.below(4), numbers.below(4)),
        };
        let client: &Client = if numbers.below(2) == 0 { &admin } else { &bot };
        let (method, body) = match numbers.below(3) {
            0 => (Method::DELETE, None),
            1 => (Method::PATCH, Some(json!({ "title": format!("title {}", numbers.below(4)) }))),
            _ => (
                Method::PATCH,
                Some(json!({ "status": statuses[usize::try_from(numbers.below(3)).unwrap()] })),
            ),
        };
        let everything = async || admin.get("/v2/kbitems?limit=1000&total=false").await.json;
        let before = everything().await;
        let path = format!("/v2/kbitems?{filter}");
        let dry = client.call(method.clone(), &format!("{path}&dryRun=true"), body.clone()).await;
        assert_eq!(everything().await, before);
        let real = client.call(method.clone(), &path, body).await;
        assert_eq!((dry.status, dry.field_errors()), (real.status, real.field_errors()), "{method} {path}");
        if real.status == StatusCode::OK {
            assert_eq!(changed(&dry.json, true), changed(&real.json, false), "{method} {path}");
            let matching: BTreeSet<String> = changed(&real.json, false).into_iter().collect();
            for resource in before.as_array().unwrap() {
                let is_matching = matching.contains(resource["id"].as_str().unwrap());
                let after = everything().await;
                let same = after.as_array().unwrap().iter().any(|other| other["id"] == resource["id"]);
                assert_eq!(same, !(is_matching && method == Method::DELETE), "{method} {path}");
            }
        } else {
            assert_eq!(everything().await, before, "{method} {path}");
        }
        outcomes.insert((real.status.as_u16(), method.to_string()));
    }
    assert!(outcomes.len() >= 3, "{outcomes:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn bulk_requests_on_the_same_resources_do_not_wait_for_each_other() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    for round in 0..10 {
        let conversations: Value = (0..20).map(|_| json!({ "name": "race" })).collect();
        let conversations =
            ids(&admin.post("/v2/conversations", conversations).await.expect(StatusCode::CREATED));
        let contacts: Value = conversations
            .iter()
            .map(|id| json!({ "conversation": id, "profile": { "name": "race" } }))
            .collect();
        admin.post("/v2/contacts", contacts).await.expect(StatusCode::CREATED);
        let message = |id: &String| json!({ "conversation": id, "text": "race" });
        let forwards: Value = conversations.iter().map(message).collect();
        let backwards: Value = conversations.iter().rev().map(message).collect();
        let requests = [
            (Method::POST, "/v2/messages", Some(forwards)),
            (Method::POST, "/v2/messages", Some(backwards)),
            (Method::PATCH, "/v2/conversations?name=race", Some(json!({ "status": "open" }))),
            (Method::PATCH, "/v2/conversations?name=^rac", Some(json!({ "category": "race" }))),
            (Method::PATCH, "/v2/contacts?profile.name=race", Some(json!({ "meta": { "race": round } }))),
            (Method::PATCH, "/v2/contacts?profile.name=~ACE", Some(json!({ "meta": { "ace": round } }))),
        ];
        let mut tasks = tokio::task::JoinSet::new();
        for (method, path, body) in requests {
            let admin = admin.clone();
            tasks.spawn(async move { admin.call(method, path, body).await });
        }
        for reply in tasks.join_all().await {
            assert!(reply.status.is_success(), "{reply:?}");
            assert!(reply.status == StatusCode::CREATED || reply.json["count"] == 20, "{reply:?}");
        }
        let deleted = ["/v2/conversations?name=race", "/v2/conversations?status=open"].map(|path| {
            let admin = admin.clone();
            async move { admin.delete(path).await }
        });
        let [one, other] = deleted;
        let (one, other) = tokio::join!(one, other);
        let counts = [one, other].map(|reply| reply.expect(StatusCode::OK)["count"].as_u64().unwrap());
        assert_eq!(counts.iter().sum::<u64>(), 20, "each is deleted once");
        admin.delete("/v2/contacts?profile.name=race").await.expect(StatusCode::OK);
    }
}
