//! Export of spans to a collector, in batches from a dedicated thread, by OTLP over HTTP.

use super::TRACER;
use crate::config::{Config, ConfigError};
use async_trait::async_trait;
use opentelemetry::trace::TracerProvider;
use opentelemetry::{Key, KeyValue};
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{Protocol, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{SdkTracerProvider, SpanData, SpanExporter};
use rustls::crypto::aws_lc_rs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use ureq::Agent;
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};

/// The time limit for a request to the collector (the default of `OTEL_EXPORTER_OTLP_TIMEOUT`).
const EXPORT_TIMEOUT: Duration = Duration::from_secs(10);

/// The time limit for the last export at shutdown.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(3);

/// The exporter of this process. It must be shut down before the process exits, or the last spans are lost.
#[derive(Debug)]
pub struct TracingGuard(SdkTracerProvider);

impl TracingGuard {
    /// Exports the remaining spans, within three seconds.
    pub fn shutdown(self) {
        if let Err(error) = self.0.shutdown_with_timeout(SHUTDOWN_TIMEOUT) {
            tracing::warn!(%error, "cannot export the last spans");
        }
    }
}

/// Enables traces for this process if `CEDARGATE_OTLP_ENDPOINT` is set.
///
/// # Errors
/// The endpoint is invalid, or the certificates for an https endpoint cannot be read.
pub fn start(config: &Config) -> Result<Option<TracingGuard>, ConfigError> {
    if config.otlp_endpoint.is_empty() {
        return Ok(None);
    }
    let collector = Arc::new(CollectorClient::new(&config.otlp_endpoint)?);
    let exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_http()
        .with_shared_http_client(Arc::clone(&collector) as Arc<dyn HttpClient>)
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(format!("{}/v1/traces", config.otlp_endpoint.trim_end_matches('/')))
        .build()
        .map_err(|error| ConfigError::new("otlp_endpoint", error))?;
    let exporter = LogOnceExporter { exporter, collector, is_failing: AtomicBool::new(false) };
    let provider =
        SdkTracerProvider::builder().with_resource(resource()).with_batch_exporter(exporter).build();
    let _ = TRACER.set(provider.tracer("cedargate"));
    Ok(Some(TracingGuard(provider)))
}

/// Returns the resource attributes: those of `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES`, with the name and version of
/// this program as defaults.
fn resource() -> Resource {
    let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
    let from_environment = Resource::builder().build();
    let is_named = from_environment
        .get(&Key::new("service.name"))
        .is_some_and(|name| !name.as_str().starts_with("unknown_service"));
    let builder = Resource::builder_empty().with_attribute(version);
    let builder = builder.with_attributes(
        from_environment.iter().map(|(key, value)| KeyValue::new(key.clone(), value.clone())),
    );
    if is_named { builder.build() } else { builder.with_service_name("cedargate").build() }
}

/// An exporter that logs the first failure of a series, and not every batch.
#[derive(Debug)]
struct LogOnceExporter {
    exporter: opentelemetry_otlp::SpanExporter,
    collector: Arc<CollectorClient>,
    is_failing: AtomicBool,
}

impl SpanExporter for LogOnceExporter {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        match self.exporter.export(batch).await {
            Ok(()) if self.is_failing.swap(false, Ordering::Relaxed) => {
                tracing::info!("traces exported again");
            }
            Err(error) if !self.is_failing.swap(true, Ordering::Relaxed) => {
                let error = self.collector.failure().unwrap_or_else(|| error.to_string());
                tracing::warn!(error, "cannot export traces; spans are lost");
            }
            _ => {}
        }
        Ok(())
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

/// The HTTP client of the exporter.
#[derive(Debug)]
struct CollectorClient {
    agent: Agent,
    /// Why the last request failed; the error of the exporter does not say it.
    failure: Mutex<Option<String>>,
}

impl CollectorClient {
    fn new(address: &str) -> Result<Self, ConfigError> {
        let mut tls = TlsConfig::builder();
        if address.starts_with("https:") {
            let roots = trusted_roots().map_err(|error| ConfigError::new("otlp_endpoint", error))?;
            tls = tls
                .root_certs(roots)
                .unversioned_rustls_crypto_provider(Arc::new(aws_lc_rs::default_provider()));
        }
        let config = Agent::config_builder()
            .timeout_global(Some(EXPORT_TIMEOUT))
            .http_status_as_error(false)
            .max_redirects(0)
            .tls_config(tls.build());
        Ok(Self { agent: config.build().new_agent(), failure: Mutex::default() })
    }

    fn failure(&self) -> Option<String> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>, ureq::Error> {
        let (head, body) = request.into_parts();
        let response = self.agent.run(Request::from_parts(head, &*body))?;
        let (head, mut body) = response.into_parts();
        Ok(Response::from_parts(head, body.read_to_vec()?.into()))
    }
}

#[async_trait]
impl HttpClient for CollectorClient {
    // Blocking is fine: this runs on the dedicated thread of the exporter.
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let sent = self.send(request);
        let failure = sent.as_ref().err().map(ToString::to_string);
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = failure;
        Ok(sent?)
    }
}

/// The variables of OpenTelemetry that name the certificates to trust.
const CA_FILE_VARIABLES: [&str; 2] =
    ["OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE", "OTEL_EXPORTER_OTLP_CERTIFICATE"];

fn trusted_roots() -> Result<RootCerts, String> {
    let file = CA_FILE_VARIABLES.iter().find_map(std::env::var_os).ok_or_else(|| {
        let [_, name] = CA_FILE_VARIABLES;
        format!(
            "an https URL requires {name}, the name of a PEM file with the certificates to trust, such as \
             /etc/ssl/certs/ca-certificates.crt"
        )
    })?;
    let name = std::path::Path::new(&file).display();
    let pem = std::fs::read(&file).map_err(|error| format!("{name}: {error}"))?;
    let pem = crate::types::strip_bom_bytes(pem);
    let certificates: Vec<Certificate<'static>> = parse_pem(&pem)
        .filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(Ok(certificate)),
            Ok(_) => None,
            Err(error) => Some(Err(format!("{name}: {error}"))),
        })
        .collect::<Result<_, _>>()?;
    if certificates.is_empty() {
        return Err(format!("{name}: no certificate found"));
    }
    Ok(certificates.into())
}
