//! The application log, on standard error, as text or JSON. Events of a request have its id and the id of its trace.

use super::Failure;
use crate::config::{Config, ConfigError, LogFormat};
use crate::http::server::PARSER_LOG_TARGET;
use crate::telemetry::{self, LogGuard};
use std::fmt;
use std::io::IsTerminal;
use tracing::{Event, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::format::{DefaultFields, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// Starts the log. Logging never blocks. Dropping the guard writes the remaining lines.
///
/// # Errors
/// The log filter is invalid, or the thread of the log cannot be started.
pub(super) fn start(config: &Config) -> Result<LogGuard, Failure> {
    let filter = EnvFilter::try_new(&config.log).map_err(|error| ConfigError::new("log", error))?;
    let filter = without_client_errors(filter, &config.log)?;
    let (writer, guard) = telemetry::start_log().map_err(Failure::failed)?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer);
    // No colour codes in files and journals.
    let builder = builder.with_ansi(std::io::stderr().is_terminal());
    match config.log_format {
        LogFormat::Text => builder.with_target(false).fmt_fields(TextFields(DefaultFields::new())).init(),
        LogFormat::Json => builder.json().map_event_format(JsonEvents).init(),
    }
    // The default hook writes to standard error directly, so it blocks if the reader of a pipe does not read.
    std::panic::set_hook(Box::new(|panic| tracing::error!(%panic, "a thread panicked")));
    Ok(guard)
}

/// Adds to the filter that malformed requests are not logged. They are errors to the HTTP library, but clients cause them, and
/// a client could fill the log. They remain at the level `debug`, or where the filter names the library itself.
fn without_client_errors(filter: EnvFilter, text: &str) -> Result<EnvFilter, Failure> {
    let is_detailed = filter.max_level_hint().is_none_or(|level| level >= LevelFilter::DEBUG);
    if is_detailed || text.contains(PARSER_LOG_TARGET) {
        return Ok(filter);
    }
    Ok(filter.add_directive(format!("{PARSER_LOG_TARGET}=off").parse().map_err(Failure::failed)?))
}

/// Formats the fields of a line of text, followed by the ids.
struct TextFields(DefaultFields);

impl<'writer> FormatFields<'writer> for TextFields {
    fn format_fields<R: RecordFields>(&self, mut writer: Writer<'writer>, fields: R) -> fmt::Result {
        self.0.format_fields(writer.by_ref(), fields)?;
        let ids = telemetry::with_request_ids(|request, trace| {
            write!(writer, " requestId={request:?}")?;
            trace.map_or(Ok(()), |trace| write!(writer, " trace_id={trace}"))
        });
        ids.unwrap_or(Ok(()))
    }
}

/// Formats a line of JSON, with the ids as its first members. `trace_id` is the name that OpenTelemetry specifies (Trace
/// Context in non-OTLP Log Formats).
struct JsonEvents<F>(F);

impl<S, N, F> FormatEvent<S, N> for JsonEvents<F>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
    N: for<'writer> FormatFields<'writer> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut line = String::new();
        self.0.format_event(context, Writer::new(&mut line), event)?;
        let with_ids = line.strip_prefix('{').and_then(|rest| {
            telemetry::with_request_ids(|request, trace| {
                write!(writer, "{{\"requestId\":{},", serde_json::Value::from(request))?;
                if let Some(trace) = trace {
                    write!(writer, "\"trace_id\":\"{trace}\",")?;
                }
                writer.write_str(rest)
            })
        });
        with_ids.unwrap_or_else(|| writer.write_str(&line))
    }
}
