//! `cedargate user`: creates, lists and unlocks users, and sets passwords.

use super::{
    CommandResult, Failure, block_on, open, open_or_create, password_from_stdin, print_created, print_line,
};
use crate::application::creation;
use crate::application::password_change::PasswordChange;
use crate::application::users::{self, CreateUser, UpdateUser};
use crate::authn::random_password;
use crate::authz::{Permitted, Scope};
use crate::config::Config;
use crate::resource::organization::Organization;
use crate::resource::user::{User, UserBody};
use crate::server::App;
use crate::store::ListQuery;
use crate::types::{Email, Id, Name};
use clap::Subcommand;
use secrecy::{ExposeSecret, SecretString};
use std::io::Write;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Create a user: prints its id, and its password if that is a random one; standard error names its organization
    Add {
        /// Email address, with which the user logs in
        #[arg(long)]
        email: Email,
        /// Role: guest, agent, bot or admin. Guests and agents act in their own organization only, bots and admins also below it
        #[arg(long, default_value = "guest")]
        role: Scope,
        /// Organization of the user [default: the root organization, above all tenants]
        #[arg(long, value_name = "ID")]
        organization: Option<Id>,
        /// Given name
        #[arg(long)]
        given_name: Option<Name>,
        /// Family name
        #[arg(long)]
        family_name: Option<Name>,
        /// Read the password from standard input instead of generating one
        #[arg(long)]
        password_stdin: bool,
    },
    /// List the users: id, role, status and email address
    List,
    /// End the back-off after failed logins of a user
    Unlock {
        /// Email address of the user
        email: Email,
    },
    /// Set the password of a user, from standard input
    SetPassword {
        /// Email address of the user
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
                let fields = UserBody { role, organization, given_name, family_name, ..UserBody::new(email) };
                add(&app, fields, password_stdin).await
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
                let password = PasswordChange { password, current: None, end_keys: None };
                let command = UpdateUser { password: Some(password), ..UpdateUser::default() };
                let authorizer = app.terminal_authorizer("updateUser").await?;
                users::update(&authorizer, &id.to_string(), command).await?;
                Ok(())
            }
        }
    })
}

/// Creates a user with a random password, or with the one on standard input.
async fn add(app: &App, fields: UserBody, password_stdin: bool) -> CommandResult {
    let random = if password_stdin { None } else { Some(SecretString::from(random_password()?)) };
    let password = match &random {
        Some(password) => password.clone(),
        None => password_from_stdin()?,
    };
    let command = CreateUser { fields, password: Some(password) };
    let authorizer = app.terminal_authorizer("createUser").await?;
    let print = |user: &User| match &random {
        Some(password) => print_created(format_args!("{}\n{}", user.id, password.expose_secret())),
        None => print_created(user.id),
    };
    let user = creation::create_with(&authorizer, command, print).await?;
    let placement = describe_placement(app, &user).await?;
    let _ = writeln!(std::io::stderr(), "{placement}");
    Ok(())
}

/// Describes the organization of a user, and the organizations in which it may act.
async fn describe_placement(app: &App, user: &Permitted<User>) -> Result<String, Failure> {
    let authorizer = app.terminal_authorizer("fetchOrganization").await?;
    let organization =
        authorizer.lookups().find_authorized::<Organization>(&user.organization.to_string()).await?;
    let root_note =
        if organization.parent.is_none() { ", the root organization, above all tenants" } else { "" };
    let reach_text = match user.role {
        Scope::Guest | Scope::Agent => "in this organization only",
        Scope::Bot | Scope::Admin => "in this organization and in those below it",
    };
    let (id, name, role) = (organization.id, organization.name.as_str(), user.role);
    Ok(format!(
        "The user belongs to the organization {id} ({name:?}{root_note}). With the role {role}, it can act {reach_text}."
    ))
}

/// Returns the id of the user with this email address.
///
/// # Errors
/// No user has this address, or the database is unavailable.
pub(super) async fn user_id(app: &App, email: &Email) -> Result<Id, Failure> {
    let account = app.state.store.account_by_email(email).await?;
    account
        .map(|account| account.id)
        .ok_or_else(|| Failure::failed(format!("no user with the email {email}")))
}

async fn list(app: &App) -> CommandResult {
    let authorizer = app.terminal_authorizer("listUsers").await?;
    let organizations = authorizer.lookups().authorized_orgs(None).await?;
    let mut query = ListQuery { limit: 1000, skips_total: true, ..ListQuery::default() };
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
        if !listed.has_more {
            return Ok(());
        }
    }
}
