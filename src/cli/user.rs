//! `cedargate user`.

use super::{
    CommandResult, Failure, block_on, open, open_or_create, password_from_stdin, print_created, print_line,
};
use crate::api::organizations::Organization;
use crate::api::users::{self, User};
use crate::authn::random_password;
use crate::authz::{Permitted, Scope};
use crate::config::Config;
use crate::server::App;
use crate::store::ListQuery;
use crate::types::{Email, Id};
use clap::Subcommand;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value, json};
use std::io::Write;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Create a user; prints its id, its password if that is a random one, and on standard error its organization
    Add {
        /// What it logs in with
        #[arg(long)]
        email: Email,
        /// guest, agent, bot or admin: guests and agents act in their own organization only, bots and admins also below it
        #[arg(long, default_value = "guest")]
        role: Scope,
        /// Its organization; without it the root organization, above all tenants
        #[arg(long, value_name = "ID")]
        organization: Option<Id>,
        /// Its given name
        #[arg(long)]
        given_name: Option<String>,
        /// Its family name
        #[arg(long)]
        family_name: Option<String>,
        /// Read the password from standard input instead of making a random one
        #[arg(long)]
        password_stdin: bool,
    },
    /// List the users: id, role, status, email
    List,
    /// End the waits that failed logins of a user have caused
    Unlock {
        /// The user's address
        email: Email,
    },
    /// Give a user another password, from standard input
    SetPassword {
        /// The user's address
        #[arg(long)]
        email: Email,
    },
}

pub(super) fn run(config: &Config, command: Command) -> CommandResult {
    block_on(async {
        let app = match command {
            Command::Add { .. } => open_or_create(config).await?,
            _ => open(config).await?,
        };
        match command {
            Command::Add { email, role, organization, given_name, family_name, password_stdin } => {
                let random = if password_stdin { None } else { Some(SecretString::from(random_password()?)) };
                let password = match &random {
                    Some(password) => password.clone(),
                    None => password_from_stdin()?,
                };
                let mut fields = Map::new();
                let mut set = |name: &str, value: Value| fields.insert(name.into(), value);
                set("email", json!(email));
                set("role", json!(role));
                set("password", password.expose_secret().into());
                for (name, value) in [
                    ("organization", organization.map(|id| json!(id))),
                    ("givenName", given_name.map(Value::String)),
                    ("familyName", family_name.map(Value::String)),
                ] {
                    value.into_iter().for_each(|value| drop(set(name, value)));
                }
                let authorizer = app.terminal_authorizer("createUser").await?;
                let written = |user: &User| match &random {
                    Some(password) => {
                        print_created(format_args!("{}\n{}", user.id, password.expose_secret()))
                    }
                    None => print_created(user.id),
                };
                let user = users::create_user_with(&authorizer, fields, written).await;
                let user = user?;
                let place = describe_placement(&app, &user).await?;
                let _ = writeln!(std::io::stderr(), "{place}");
                Ok(())
            }
            Command::List => list(&app).await,
            Command::Unlock { email } => {
                let id = user_id(&app, &email).await?;
                let authorizer = app.terminal_authorizer("updateUser").await?;
                users::unlock(&authorizer, id).await?;
                print_line(format_args!("unlocked {email}"))
            }
            Command::SetPassword { email } => {
                let id = user_id(&app, &email).await?;
                let password = password_from_stdin()?;
                let patch = Map::from_iter([("password".to_owned(), password.expose_secret().into())]);
                let authorizer = app.terminal_authorizer("updateUser").await?;
                let changed = users::apply_update(&authorizer, &id.to_string(), patch).await;
                changed?;
                Ok(())
            }
        }
    })
}

/// Says in which organization a user is, and where it may act.
async fn describe_placement(app: &App, user: &Permitted<User>) -> Result<String, Failure> {
    let authorizer = app.terminal_authorizer("fetchOrganization").await?;
    let organization = authorizer.find_authorized::<Organization>(&user.organization.to_string()).await?;
    let root_note =
        if organization.parent.is_none() { ", the root organization, above all tenants" } else { "" };
    let reach_text = match user.role {
        Scope::Guest | Scope::Agent => "in it only",
        Scope::Bot | Scope::Admin => "in it and in the organizations below it",
    };
    let (id, name, role) = (organization.id, organization.name.as_str(), user.role);
    Ok(format!(
        "The user belongs to the organization {id} ({name:?}{root_note}). With the role {role} it acts {reach_text}."
    ))
}

/// The user with this address.
pub(super) async fn user_id(app: &App, email: &Email) -> Result<Id, Failure> {
    let account = app.state.store.account_by_email(email).await?;
    account.map(|account| account.id).ok_or_else(|| Failure::failed(format!("there is no user {email}")))
}

async fn list(app: &App) -> CommandResult {
    let authorizer = app.terminal_authorizer("listUsers").await?;
    let organizations = authorizer.authorized_orgs(None).await?;
    let mut query = ListQuery { limit: 1000, ..ListQuery::default() };
    loop {
        let mut lines = Vec::new();
        let add = |user: Permitted<User>| {
            let (role, status) = (user.role.as_str(), user.status.to_string());
            lines.push(format!("{}  {role:5}  {status:7}  {}", user.id, user.email));
            true
        };
        let listed = app.state.store.list::<User>(&organizations, &query, add).await?;
        if !lines.is_empty() {
            print_line(lines.join("\n"))?;
        }
        query.offset += query.limit;
        if query.offset >= listed.total {
            return Ok(());
        }
    }
}
