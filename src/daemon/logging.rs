//! Log lines on standard error, by the management side only. The level follows the configuration.

use log::LevelFilter;

/// Starts logging.
pub(super) fn start(level: LevelFilter) {
    // The logger lets everything pass: the level is set where a reload can change it. Under systemd the journal has
    // the time already.
    let mut builder = env_logger::Builder::new();
    builder.filter_level(LevelFilter::Trace).format_target(false);
    if std::env::var_os("JOURNAL_STREAM").is_some() {
        builder.format_timestamp(None);
    }
    // A second gateway in one process (tests) logs by the first one's logger.
    let _ = builder.try_init();
    log::set_max_level(level);
}
