//! The five verbs, for every resource that does not differ: the whole path of a request on one screen.

use super::address::absolute;
use super::list::Field;
use super::page::PageWriter;
use super::{Gate, Json, PathId, Problem, body, list};
use crate::authz::{Permitted, Undecided};
use crate::resource::{self, Reference, Resource, Stamp};
use crate::store::Reader;
use crate::values::{Id, OrgPath};
use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse};
use serde::Serialize;
use serde_json::{Map, Value};
use std::sync::Arc;

/// The fields of an update: a JSON object, of which each field is merged at the top level.
pub type Patch = Map<String, Value>;

/// `GET /`: what is there, of the organizations of which the list is permitted.
pub async fn list<R: Resource>(
    gate: Gate,
    request: HttpRequest,
    fields: Arc<Vec<Field>>,
) -> Result<HttpResponse, Problem> {
    let within = gate.listable(list::organization(&request).as_deref()).await?;
    let wanted = list::Wanted::parse(&request, &fields)?;
    let mut page = PageWriter::new(gate.parts());
    let listed = gate.parts().store.list::<R>(&within, &wanted.query, |row| page.push(&row)).await?;
    list::answer(&request, &wanted, page, listed)
}

/// `GET /{id}`: the thing.
pub async fn fetch<R: Resource>(gate: Gate, id: PathId) -> Result<HttpResponse, Problem> {
    Ok(shown(&gate.find::<R>(&id.0).await?))
}

/// `POST /`: a new thing.
pub async fn create<R: Resource>(
    gate: Gate,
    (request, Json(body)): (HttpRequest, Json<R::Body>),
) -> Result<HttpResponse, Problem> {
    let row: R = resource::compose(&body, stamp(&gate, gate.caller().organization.own()))?;
    let row = permitted_new(&gate, row).await?;
    let work = gate.begin().await?;
    let row = work.insert(row).await?;
    work.commit().await?;
    Ok(created(&request, row.id(), &row))
}

/// What the service itself writes on a new row of this organization.
pub fn stamp(gate: &Gate, organization: Id) -> Stamp {
    Stamp { id: gate.new_id(), organization, now: gate.parts().clock.now() }
}

/// The new row, if the caller may make it where it says and may name what it names.
pub async fn permitted_new<R: Resource>(gate: &Gate, row: R) -> Result<Permitted<R>, Problem> {
    let holder = gate.holder(&gate.reader(), Some(row.organization()), "organization").await?;
    let references = row.references();
    let row = gate.decide_new(&holder, Undecided::new(row, holder.clone()))?;
    gate.check_references(&gate.reader(), references).await?;
    Ok(row)
}

/// `PATCH /{id}`: the thing with some fields changed.
pub async fn update<R: Resource>(
    gate: Gate,
    (id, Json(patch)): (PathId, Json<Patch>),
) -> Result<HttpResponse, Problem> {
    let change = Change { patch: &patch, also: &[] };
    let stays = |_: &mut R| None;
    // Asked first without keeping anybody waiting; then once more of the row as it is until it is written.
    let first = change.proposed(&gate, &gate.reader(), gate.look_up(&id.0).await?, stays).await?;
    gate.check_references(&gate.reader(), first.references).await?;
    let work = gate.begin().await?;
    let thing = gate.look_up_in(&work, &id.0).await?;
    let row = change.proposed(&gate, &work.reader(), thing, stays).await?.row;
    let row = work.save(row).await?;
    work.commit().await?;
    Ok(updated(&gate, &row))
}

/// What an update wants.
#[derive(Debug, Clone, Copy)]
pub struct Change<'a> {
    /// The fields to set.
    pub patch: &'a Patch,
    /// What changes besides the row.
    pub also: &'a [&'a str],
}

/// A changed row that may be saved, once what it newly names has been checked.
#[derive(Debug)]
pub struct Proposal<R> {
    /// The row as it was.
    pub before: Permitted<R>,
    /// The changed row.
    pub row: Permitted<R>,
    /// What it names that it did not name before.
    pub references: Vec<Reference>,
}

impl Change<'_> {
    /// The changed row, if the caller may change it like this: asked with the names of the changed fields, of the thing
    /// as it is, and once more as it would be. `settle` sets what follows from the changed fields, and says where the
    /// thing then stands if its organization does not tell.
    pub async fn proposed<R: Resource>(
        &self,
        gate: &Gate,
        reader: &Reader<'_>,
        thing: Option<Undecided<R>>,
        settle: impl FnOnce(&mut R) -> Option<OrgPath>,
    ) -> Result<Proposal<R>, Problem> {
        let also = || self.also.iter().map(|&field| field.to_owned());
        let mut all = gate.circumstances();
        all.changes = Some(self.patch.keys().cloned().chain(also()).collect());
        let mut circumstances = gate.circumstances();
        circumstances.changes = thing.as_ref().map_or_else(
            || all.changes.clone(),
            |thing| Some(thing.differing(self.patch).into_iter().chain(also()).collect()),
        );
        let row = gate.decide_or(thing, &circumstances, &all)?;

        let body: R::Body = body::from_value(Value::Object(resource::patched(&*row, self.patch)?), "")?;
        let mut changed: R = resource::amend(&*row, &body, gate.parts().clock.now())?;
        let holder = match settle(&mut changed) {
            Some(place) => place,
            None if changed.organization() == row.organization() => row.path().clone(),
            None => {
                let named = Some(changed.organization());
                gate.step("referTo").holder(reader, named, "organization").await?
            }
        };
        let references = new_references(&*row, &changed);
        if changed.granted_role() != row.granted_role() {
            circumstances.role = changed.granted_role();
        }
        let before = row;
        let row = gate.decide_changed(before.changed(changed, holder), &circumstances)?;
        Ok(Proposal { before, row, references })
    }
}

/// What a changed thing names that it did not name before. What it names already may have gone since.
fn new_references<R: Resource>(old: &R, new: &R) -> Vec<Reference> {
    let known = old.references();
    let is_new =
        |reference: &Reference| !known.iter().any(|old| (old.kind, old.id) == (reference.kind, reference.id));
    new.references().into_iter().filter(is_new).collect()
}

/// `DELETE /{id}`.
pub async fn delete<R: Resource>(gate: Gate, id: PathId) -> Result<HttpResponse, Problem> {
    gate.find::<R>(&id.0).await?;
    let work = gate.begin().await?;
    let row = gate.decide(gate.look_up_in::<R>(&work, &id.0).await?, &gate.circumstances())?;
    work.delete(&row).await?;
    work.commit().await?;
    Ok(HttpResponse::NoContent().finish())
}

/// The answer to an update: 200 with the resource if the caller may fetch it, else 204 (decision 21).
pub fn updated<R: Resource>(gate: &Gate, row: &Permitted<R>) -> HttpResponse {
    if gate.may_fetch(row) { shown(row) } else { HttpResponse::NoContent().finish() }
}

/// 200 with the thing.
fn shown<T: Serialize>(thing: &Permitted<T>) -> HttpResponse {
    HttpResponse::Ok().json(thing)
}

/// 201 with the thing and its `Location`.
pub fn created(request: &HttpRequest, id: Id, thing: &impl Serialize) -> HttpResponse {
    let location = absolute(request, &format!("{}/{id}", request.path().trim_end_matches('/')));
    HttpResponse::Created().insert_header((header::LOCATION, location)).json(thing)
}
