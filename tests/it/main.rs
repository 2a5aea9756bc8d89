//! Tests of the whole service over HTTP, on a real server and a real database.

mod conversations;
mod organizations;
mod resources;
#[expect(unreachable_pub, reason = "there is nobody to reach a test binary")]
mod support;
mod table;
mod users;
