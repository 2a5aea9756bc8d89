//! The log: on standard error, as text or JSON. What is logged while a request is handled has the ids of the request and of
//! its trace.

use super::Failure;
use crate::config::{Config, ConfigError, LogFormat};
use crate::telemetry::{self, LogGuard};
use std::fmt;
use std::io::IsTerminal;
use tracing::{Event, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::format::{DefaultFields, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// Begins to write the log as the settings say, without blocking those who log. It ends when the guard is dropped.
pub(super) fn start(config: &Config) -> Result<LogGuard, Failure> {
    let filter = EnvFilter::try_new(&config.log).map_err(|error| ConfigError::new("log", error))?;
    let (writer, guard) = telemetry::start_log().map_err(Failure::failed)?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer);
    // No colour codes in a file or a journal.
    let builder = builder.with_ansi(std::io::stderr().is_terminal());
    match config.log_format {
        LogFormat::Text => builder.with_target(false).fmt_fields(TextFields(DefaultFields::new())).init(),
        LogFormat::Json => builder.json().map_event_format(JsonEvents).init(),
    }
    // The default hook writes to standard error itself, and so waits for its reader.
    std::panic::set_hook(Box::new(|panic| tracing::error!(%panic, "a thread panicked")));
    Ok(guard)
}

/// The fields of a line of text, and after them the ids.
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

/// A line of JSON, with the ids as its first members. That of the trace is called what OpenTelemetry calls it (Trace Context
/// in non-OTLP Log Formats).
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
