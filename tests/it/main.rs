//! Tests of the whole service over HTTP, on a real server and a real database.

mod command_line;
mod document;
mod layering;
mod readme;
#[expect(unreachable_pub, reason = "there is nobody to reach a test binary")]
mod support;
mod table;
