//! Tests of the whole service over HTTP, on a real server and a real database.

mod bad_input;
mod conversations;
mod lists;
mod organizations;
mod random_input;
mod resources;
#[expect(unreachable_pub, reason = "there is nobody to reach a test binary")]
mod support;
mod table;
mod tenancy;
mod users;
