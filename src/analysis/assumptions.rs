//! Assumptions: what the data files say about the entities that policies name.
//!
//! A solver knows the schema, not the data. Without an assumption, an admin that is no agent is a possible principal, although
//! `scopes.json` says otherwise. The assumptions are forbid policies that apply where a fact of the data does not hold. Added
//! to both sides of a question, they exclude such requests; they never make a proof easier that the data does not support.

use cedar_policy::{
    Effect, Entities, Entity, EntityTypeName, EntityUid, Policy, PolicyId, PolicySet, Schema,
};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt::Write;

/// The facts about one entity: which of the other entities that the policies name are its ancestors, and which are not.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Membership {
    member: EntityUid,
    ancestors: Vec<EntityUid>,
    others: Vec<EntityUid>,
}

/// The facts that the data files state about the entities that policies name.
#[derive(Debug, Clone, Default)]
pub struct Assumptions {
    memberships: Vec<Membership>,
    policies: Vec<Policy>,
}

impl Assumptions {
    /// The facts of `data` about the entities that these policies name.
    ///
    /// The number of facts grows with the square of the number of named entities, and so does the time of the solver. Pass the
    /// policies that a question is about rather than all.
    pub fn new<'a>(schema: &Schema, data: &[Entity], policies: impl IntoIterator<Item = &'a Policy>) -> Self {
        // The data has been validated with the bundle; without it there are no facts.
        let Ok(entities) = Entities::from_entities(data.to_vec(), None) else { return Self::default() };
        let named: BTreeSet<EntityUid> = policies.into_iter().flat_map(Policy::entity_literals).collect();
        let memberships: Vec<Membership> = named
            .iter()
            .filter(|uid| entities.get(uid).is_some())
            .map(|member| membership(schema, &entities, member, &named))
            .filter(|facts| !facts.ancestors.is_empty() || !facts.others.is_empty())
            .collect();
        let policies = memberships.iter().filter_map(Membership::to_policy).collect();
        Self { memberships, policies }
    }

    /// Whether the data says nothing about the entities that the policies name.
    pub fn is_empty(&self) -> bool {
        self.policies.is_empty()
    }

    /// A copy of the policy set with the assumptions as additional forbid policies.
    pub fn add_to(&self, policies: &PolicySet) -> PolicySet {
        let mut all = policies.clone();
        for (number, policy) in self.policies.iter().enumerate() {
            let mut id = format!("assumption {number}");
            while all.policy(&PolicyId::new(&id)).is_some() {
                id.push('\'');
            }
            // An id that is not in use is accepted. Without the forbid fewer properties could be proven, not more.
            let _ = all.add(policy.new_id(PolicyId::new(id)));
        }
        all
    }

    /// The policy alone, as a permit, with the assumptions: a set that allows exactly the requests that the policy matches.
    pub fn requests_matched_by(&self, policy: &Policy) -> Option<PolicySet> {
        let policy = with_effect(policy, Effect::Permit)?;
        Some(self.add_to(&PolicySet::from_policies([policy]).ok()?))
    }

    /// The assumptions as text, one sentence an entity, such as `Scope::"bot" is in Scope::"agent", and not in
    /// Scope::"admin"`.
    pub fn sentences(&self) -> Vec<String> {
        self.memberships.iter().map(Membership::sentence).collect()
    }
}

/// The same policy with this effect. None if Cedar cannot convert it, which a validated policy does not cause.
pub fn with_effect(policy: &Policy, effect: Effect) -> Option<Policy> {
    let mut json = policy.to_json().ok()?;
    let word = if effect == Effect::Permit { "permit" } else { "forbid" };
    json.as_object_mut()?.insert("effect".to_owned(), word.into());
    Policy::from_json(Some(policy.id().clone()), json).ok()
}

fn membership(
    schema: &Schema,
    entities: &Entities,
    member: &EntityUid,
    named: &BTreeSet<EntityUid>,
) -> Membership {
    let possible: HashSet<&EntityTypeName> =
        schema.ancestors(member.type_name()).into_iter().flatten().collect();
    let ancestors: HashSet<&EntityUid> = entities.ancestors(member).into_iter().flatten().collect();
    // The parents of an ancestor that the data does not define, such as an organization, are in the database.
    let is_complete = ancestors.iter().all(|ancestor| entities.get(ancestor).is_some());
    let candidates = named.iter().filter(|uid| *uid != member && possible.contains(uid.type_name()));
    let (ancestors, others): (Vec<EntityUid>, Vec<EntityUid>) =
        candidates.cloned().partition(|uid| ancestors.contains(uid));
    let others = if is_complete { others } else { Vec::new() };
    Membership { member: member.clone(), ancestors, others }
}

impl Membership {
    /// The forbid policy that applies where the facts do not hold.
    fn to_policy(&self) -> Option<Policy> {
        let Self { member, ancestors, others } = self;
        let mut conditions: Vec<String> =
            ancestors.iter().map(|ancestor| format!("{member} in {ancestor}")).collect();
        // The elements of a set have one type.
        let mut by_type: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for other in others {
            by_type.entry(other.type_name().to_string()).or_default().push(other.to_string());
        }
        conditions.extend(by_type.values().map(|uids| format!("!({member} in [{}])", uids.join(", "))));
        let text = format!("forbid (principal, action, resource) unless {{ {} }};", conditions.join(" && "));
        Policy::parse(None, text).ok()
    }

    fn sentence(&self) -> String {
        let list = |uids: &[EntityUid]| uids.iter().map(EntityUid::to_string).collect::<Vec<_>>().join(", ");
        let mut text = format!("{} is", self.member);
        if !self.ancestors.is_empty() {
            let _ = write!(text, " in {}", list(&self.ancestors));
        }
        if !self.others.is_empty() {
            let separator = if self.ancestors.is_empty() { "" } else { " and" };
            let _ = write!(text, "{separator} not in {}", list(&self.others));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assumptions(data: &str, policies: &str) -> Assumptions {
        let schema = "entity Scope in [Scope]; entity Org; entity Team in [Org]; entity User in [Scope, Team]; \
                      action read appliesTo { principal: User, resource: User };";
        let (schema, _) = Schema::from_cedarschema_str(schema).unwrap();
        let data = Entities::from_json_str(data, Some(&schema)).unwrap();
        let data: Vec<Entity> =
            data.iter().filter(|entity| entity.uid().type_name().basename() != "Action").cloned().collect();
        let policies: PolicySet = policies.parse().unwrap();
        Assumptions::new(&schema, &data, policies.policies())
    }

    const CASCADE: &str = r#"[
        {"uid": {"type": "Scope", "id": "admin"}, "attrs": {}, "parents": [{"type": "Scope", "id": "bot"}]},
        {"uid": {"type": "Scope", "id": "bot"}, "attrs": {}, "parents": [{"type": "Scope", "id": "guest"}]},
        {"uid": {"type": "Scope", "id": "guest"}, "attrs": {}, "parents": []}]"#;

    #[test]
    fn the_cascade_is_assumed_for_the_scopes_that_the_policies_name() {
        let policies = r#"permit (principal in Scope::"admin", action, resource);
                          permit (principal in Scope::"guest", action, resource);"#;
        let assumed = assumptions(CASCADE, policies);
        assert_eq!(
            assumed.sentences(),
            [
                r#"Scope::"admin" is in Scope::"guest""#.to_owned(),
                r#"Scope::"guest" is not in Scope::"admin""#.to_owned(),
            ]
        );
        let policies: Vec<String> = assumed.policies.iter().map(Policy::to_string).collect();
        assert!(policies[0].contains(r#"Scope::"admin" in Scope::"guest""#), "{policies:?}");
        assert!(policies[1].contains(r#"!(Scope::"guest" in [Scope::"admin"])"#), "{policies:?}");
        assert!(assumptions(CASCADE, "permit (principal, action, resource);").is_empty());
    }

    #[test]
    fn nothing_is_excluded_of_an_entity_whose_parent_is_stored_elsewhere() {
        let data = r#"[
            {"uid": {"type": "Team", "id": "a"}, "attrs": {}, "parents": [{"type": "Org", "id": "stored"}]},
            {"uid": {"type": "Org", "id": "other"}, "attrs": {}, "parents": []}]"#;
        let policies = r#"permit (principal in Team::"a", action, resource)
                          when { Team::"a" in Org::"other" };"#;
        assert_eq!(assumptions(data, policies).sentences(), Vec::<String>::new());
    }
}
