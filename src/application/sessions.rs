//! Ending the sessions of a user.

use super::{Authorizer, Error};
use crate::resource::user::User;
use crate::store::{EndReason, SessionSelection};

/// Ends sessions of a user, if permitted, and returns their number. Without a selection, none ends, but the permission is
/// required all the same.
///
/// # Errors
/// As [`Authorizer::authorize`]; or the caller's own credential has ended.
pub async fn end(
    authorizer: &Authorizer,
    id: &str,
    which: Option<SessionSelection>,
    reason: EndReason,
) -> Result<u64, Error> {
    authorizer.lookups().find_authorized::<User>(id).await?;
    let work = authorizer.begin().await?;
    let user = authorizer.authorize(
        authorizer.lookups().find_unchecked_in::<User>(&work, id).await?,
        &authorizer.request_context(),
    )?;
    let now = authorizer.state().clock.now();
    authorizer.caller().ensure_credential_still_valid(&work, now).await?;
    let ended = match which {
        Some(which) => work.end_sessions(user.id, which, reason, now).await?,
        None => 0,
    };
    work.commit().await?;
    Ok(ended)
}
