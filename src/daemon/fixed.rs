//! What a reload cannot change, and says so.

use crate::config::Config;

/// The keys in which `new` asks for something else than the daemon was started with and that only a restart changes. Of listen addresses the
/// doors speak themselves.
pub(super) fn needs_restart(started: &Config, new: &Config) -> Vec<&'static str> {
    let changed = [
        ("hostname", started.hostname != new.hostname),
        ("data_dir", started.data_dir != new.data_dir),
        ("admin.listen", started.admin.listen != new.admin.listen),
        ("spool.segment_size", started.spool.segment_size != new.spool.segment_size),
        ("events.rotate_size", started.events.rotate_size != new.events.rotate_size),
        ("events.keep", started.events.keep != new.events.keep),
        ("ledger.cache_size", started.ledger.cache_size != new.ledger.cache_size),
        ("feedback.token_key_file", started.feedback.token_key_file != new.feedback.token_key_file),
    ];
    changed.into_iter().filter(|(_, changed)| *changed).map(|(key, _)| key).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_what_stays_as_it_is() {
        let started = Config::default();
        assert_eq!(needs_restart(&started, &started), [""; 0]);
        let mut new = started.clone();
        new.hostname = Some("mta2.example.net".parse().unwrap());
        new.events.keep += 1;
        new.retry.delay_min *= 2;
        assert_eq!(needs_restart(&started, &new), ["hostname", "events.keep"]);
    }
}
