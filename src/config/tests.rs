use super::table::Kind;
use super::{Config, ConfigError, SETTINGS};
use ipnet::IpNet;
use std::path::PathBuf;

fn config_from(pairs: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let nothing = tempfile::NamedTempFile::new().unwrap();
    let pairs = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Config::from_environment(Some(nothing.path()), pairs)
}

#[test]
fn the_environment_overrides_the_file() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "access_ttl = 60\nrefresh_ttl = 120\npolicies = [\"a\", \"b\"]\n").unwrap();
    let environment = vec![
        ("CEDARGATE_ACCESS_TTL".into(), "90".into()),
        ("CEDARGATE_SCHEMA".into(), "x, y".into()),
        ("HOME".into(), "/".into()),
    ];
    let config = Config::from_environment(Some(file.path()), environment).unwrap();
    assert_eq!((config.access_ttl, config.refresh_ttl), (90, 120));
    assert_eq!(config.policies, [PathBuf::from("a"), PathBuf::from("b")]);
    assert_eq!(config.schema, [PathBuf::from("x"), PathBuf::from("y")]);
}

#[test]
fn defaults_are_accepted_and_in_range() {
    assert_eq!(Config::default().check(), Ok(()));
    assert!(config_from(&[]).is_ok());
}

#[test]
fn every_number_is_checked_against_its_range() {
    let mut checked = 0;
    for setting in SETTINGS {
        let outside: Vec<u64> = match setting.accepts.kind {
            Kind::Number(min, max) => min.checked_sub(1).into_iter().chain([max + 1]).collect(),
            Kind::NumberOrZero(min, max) => vec![min - 1, max + 1],
            _ => continue,
        };
        for number in outside {
            let error = config_from(&[(&setting.variable(), &number.to_string())]).unwrap_err().to_string();
            assert!(error.contains(&setting.variable()), "{error}");
            checked += 1;
        }
    }
    assert!(checked > 60, "{checked}");
}

#[test]
fn an_invalid_setting_is_named() {
    let strong = "0123456789abcdefghijklmnopqrstuvwxyz";
    assert!(config_from(&[("CEDARGATE_JWT_SECRET", strong)]).is_ok());
    for (name, value) in [
        ("CEDARGATE_ACCESS_TTL", "soon"),
        ("CEDARGATE_ACCESS_TTL", "0"),
        ("CEDARGATE_REFRESH_REUSE_GRACE", "601"),
        ("CEDARGATE_SESSION_TTL", "0"),
        ("CEDARGATE_CLEANUP_INTERVAL", "-1"),
        ("CEDARGATE_EXPIRED_TOKEN_STATUS", "404"),
        ("CEDARGATE_LISTEM", "127.0.0.1:1"),
        ("CEDARGATE_JWT_SECRET", "short"),
        ("CEDARGATE_JWT_SECRET", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"),
        ("CEDARGATE_JWT_SECRET_FILE", "/no/such/file"),
        ("CEDARGATE_TOKEN_ALGORITHM", "RS256"),
        ("CEDARGATE_TOKEN_ALGORITHM", "none"),
        ("CEDARGATE_SIGNING_KEY_ROTATION", "60"),
        ("CEDARGATE_SIGNING_KEY_ROTATION", "-1"),
        ("CEDARGATE_PUBLIC_URL", "example.com"),
        ("CEDARGATE_DATABASE_URL", "mysql://localhost"),
        ("CEDARGATE_LOG_FORMAT", "xml"),
        ("CEDARGATE_LOG", "inof"),
        ("CEDARGATE_LOG", "cedargate=loud"),
        ("CEDARGATE_LOG", "info,cedargate"),
        ("CEDARGATE_WORKERS", "0"),
        ("CEDARGATE_TRUSTED_PROXIES", "10.0.0.0/33"),
        ("CEDARGATE_TRUSTED_PROXIES", "10.0.0.1,proxy.example.com"),
        ("CEDARGATE_LOGIN_BACKOFF_MAX", "0"),
        ("CEDARGATE_RATE_LIMIT_PER_CALLER", "-1"),
        ("CEDARGATE_RATE_LIMIT_WINDOW", "0"),
        ("CEDARGATE_PASSWORD_PROFILE", "lax"),
        ("CEDARGATE_ARGON2_MEMORY_KIB", "64"),
        ("CEDARGATE_ARGON2_ITERATIONS", "0"),
        ("CEDARGATE_ARGON2_PARALLELISM", "0"),
        ("CEDARGATE_OTLP_ENDPOINT", "localhost:4318"),
        ("CEDARGATE_OTLP_ENDPOINT", "grpc://localhost:4317"),
        ("CEDARGATE_OTLP_ENDPOINT", "http://"),
        ("CEDARGATE_OTLP_ENDPOINT", "http://localhost:4318/?key=x"),
        ("CEDARGATE_OTLP_ENDPOINT", "http://localhost:4318/v1/traces/"),
        ("CEDARGATE_OTLP_ENDPOINT", "http://user@localhost:4318"),
        ("CEDARGATE_DECISION_LOG", "some"),
        ("CEDARGATE_DECISION_LOG_MAX_BYTES", "1"),
        ("CEDARGATE_DECISION_LOG_MAX_FILES", "0"),
        ("CEDARGATE_DECISION_LOG_QUEUE", "0"),
        ("CEDARGATE_DECISION_LOG_OVERFLOW", "wait"),
        ("CEDARGATE_DECISION_LOG_MASK", "email,,phone"),
    ] {
        let error = config_from(&[(name, value)]).unwrap_err().to_string();
        assert!(error.contains(name), "{name}={value}: {error}");
    }
}

#[test]
fn jwt_secret_excludes_rotation_and_other_algorithms() {
    let secret = ("CEDARGATE_JWT_SECRET", "0123456789abcdefghijklmnopqrstuvwxyz");
    for (name, value) in [("CEDARGATE_TOKEN_ALGORITHM", "EdDSA"), ("CEDARGATE_SIGNING_KEY_ROTATION", "86400")]
    {
        assert!(config_from(&[(name, value)]).is_ok());
        let error = config_from(&[secret, (name, value)]).unwrap_err().to_string();
        assert!(error.contains(name) && error.contains("jwt_secret"), "{error}");
    }
    let long = [("CEDARGATE_ACCESS_TTL", "31622400"), ("CEDARGATE_SIGNING_KEY_ROTATION", "86400")];
    assert!(config_from(&long).unwrap_err().to_string().contains("CEDARGATE_SIGNING_KEY_ROTATION"));
}

#[test]
fn trusted_proxies_are_addresses_or_ranges() {
    let proxies = |text| config_from(&[("CEDARGATE_TRUSTED_PROXIES", text)]).unwrap().trusted_proxies;
    let expected: Vec<IpNet> = ["10.0.0.0/8", "192.0.2.1/32", "192.0.2.2/32", "2001:db8::/32"]
        .iter()
        .map(|text| text.parse().unwrap())
        .collect();
    assert_eq!(proxies("10.0.0.0/8, 192.0.2.1, ::ffff:192.0.2.2, 2001:db8::/32"), expected);
    assert!(proxies("").is_empty());
}

#[test]
fn masked_names_are_comma_separated() {
    let masked = |text| config_from(&[("CEDARGATE_DECISION_LOG_MASK", text)]).unwrap().decision_log_mask;
    assert_eq!(masked("email, phone"), ["email", "phone"]);
    assert_eq!(masked(""), [] as [&str; 0]);
}

#[test]
fn secrets_are_read_from_files_and_hidden_in_debug_output() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "t0pZ3kR3t\n").unwrap();
    let config = config_from(&[("CEDARGATE_ADMIN_PASSWORD_FILE", file.path().to_str().unwrap())]).unwrap();
    let password = config.admin_password.clone().unwrap();
    assert_eq!(secrecy::ExposeSecret::expose_secret(&password), "t0pZ3kR3t");
    assert!(!format!("{config:?}").contains("t0pZ3kR3t"));
}

#[test]
fn empty_values_are_treated_as_unset() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "shutdown_drain_seconds = 3\nadmin_password = \"\"\nlog = \"\"\n").unwrap();
    let names =
        ["SHUTDOWN_DRAIN_SECONDS", "JWT_SECRET", "JWT_SECRET_FILE", "POLICIES", "LOG_FORMAT", "WORKERS"];
    let environment = names.map(|name| (format!("CEDARGATE_{name}"), String::new()));
    let config = Config::from_environment(Some(file.path()), environment.into()).unwrap();
    assert_eq!((config.shutdown_drain_seconds, config.log.as_str()), (3, "info"));
    assert!(config.jwt_secret.is_none() && config.admin_password.is_none() && config.workers.is_none());
    assert_eq!(config.policies, [PathBuf::from("policies")]);
}

#[test]
fn an_invalid_choice_lists_the_accepted_values() {
    for (name, words) in [
        ("CEDARGATE_POLICY_RELOAD", "guarded, auto, manual"),
        ("CEDARGATE_POLICY_TESTS", "enforce, warn, off"),
        ("CEDARGATE_LOG_FORMAT", "text, json"),
        ("CEDARGATE_PASSWORD_PROFILE", "standard, strict"),
        ("CEDARGATE_TOKEN_ALGORITHM", "HS256, EdDSA"),
        ("CEDARGATE_DECISION_LOG", "off, denials, all"),
        ("CEDARGATE_DECISION_LOG_OVERFLOW", "block, drop"),
    ] {
        let error = config_from(&[(name, "xml")]).unwrap_err().to_string();
        assert!(error.contains(name) && error.contains(words), "{error}");
    }
}
