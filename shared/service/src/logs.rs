//! The log filter of a daemon: the configured one, or the one in the environment; read again at SIGHUP.

use telemetry::{Guard, LogConfig};

/// Environment variable that overrides `log.filter`.
pub const LOG_VARIABLE: &str = "SANDERLING_LOG";

/// Filter of ONNX Runtime's own messages where the configuration does not name one: they matter only to those who ask.
const ORT_FILTER: &str = "ort=warn";

/// Returns the log configuration in force: the environment overrides the configured filter.
#[must_use]
pub fn in_force(configured: &LogConfig) -> LogConfig {
    let overriding = std::env::var(LOG_VARIABLE).ok();
    with_filter(configured, overriding.as_deref())
}

fn with_filter(configured: &LogConfig, overriding: Option<&str>) -> LogConfig {
    let mut log = configured.clone();
    if let Some(filter) = overriding {
        filter.clone_into(&mut log.filter);
    }
    if !log.filter.contains("ort=") {
        log.filter.push(',');
        log.filter.push_str(ORT_FILTER);
    }
    log
}

/// Replaces the log filter by the one that `read` returns, and logs the result; on an error the old filter stays.
///
/// `read` returns the log section of the configuration file as it is now, or an error text.
pub fn reload(guard: &Guard, read: impl FnOnce() -> Result<LogConfig, String>) {
    let log = match read() {
        Ok(configured) => in_force(&configured),
        Err(error) => {
            tracing::error!(error, "the configuration was not reloaded: it has mistakes; the old log filter stays");
            return;
        }
    };
    match guard.set_filter(&log.filter) {
        Ok(()) => tracing::info!(filter = log.filter, "log filter reloaded"),
        Err(error) => tracing::error!(error = telemetry::chain(&error), "the log filter was not reloaded"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_overrides_the_file_and_onnx_runtime_is_quiet_unless_named() {
        let configured = LogConfig { filter: "debug".to_owned(), ..LogConfig::default() };
        assert_eq!(with_filter(&configured, None).filter, "debug,ort=warn");
        assert_eq!(with_filter(&configured, Some("warn")).filter, "warn,ort=warn");
        assert_eq!(with_filter(&configured, Some("info,ort=debug")).filter, "info,ort=debug");
    }
}
