//! File descriptors: as many as the system lets us have, and a word where the connections allowed can take them all.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::config::Config;

/// Besides connections: segments, event logs, the index, sockets for name servers.
const OTHERS: u64 = 512;

/// Raises the soft limit to the hard one, and warns where the configuration allows connections beyond that: when clients hold all
/// descriptors, no segment can be begun and no receiver reached until they leave.
pub(super) fn provide(config: &Config) {
    let open_max = raise();
    let connections = connections_max(config);
    if open_max < connections + OTHERS {
        tracing::warn!(
            open_max,
            connections,
            "all connections together that the configuration allows, and {OTHERS} files, are more than may be open at once; \
             while they are, mail is put off: raise the limit (LimitNOFILE=, ulimit -n) or lower connections_max"
        );
    }
}

/// How many files the process may have open from here on.
fn raise() -> u64 {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current == maximum {
        return current.unwrap_or(u64::MAX);
    }
    match setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        Ok(()) => maximum.unwrap_or(u64::MAX),
        Err(error) => {
            tracing::debug!(%error, "the limit of open files stays as it is");
            current.unwrap_or(u64::MAX)
        }
    }
}

/// Connections at once, by all doors that are open, and to receivers.
fn connections_max(config: &Config) -> u64 {
    let (submission, page) = (&config.submission, &config.unsubscribe);
    let doors = [
        (submission.smtp.listen.len() + submission.smtp.listen_tls.len(), submission.smtp.connections_max),
        (submission.grpc.listen.len() + submission.grpc.listen_unix.len(), submission.grpc.connections_max),
        (submission.http.listen.len() + submission.http.listen_unix.len(), submission.http.connections_max),
        (config.inbound.listen.len(), config.inbound.connections_max),
        (page.listen.len(), page.connections_max),
    ];
    let inside = doors.iter().filter(|(listeners, _)| *listeners > 0).map(|(_, most)| *most);
    inside.chain([config.delivery.connections_max]).map(|most| most as u64).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doors_that_are_open_count() {
        let mut config = Config::default();
        config.submission.smtp.connections_max = 300;
        config.submission.grpc.connections_max = 20;
        config.submission.grpc.listen = Vec::new();
        config.submission.grpc.listen_unix = Vec::new();
        config.submission.http.listen = Vec::new();
        config.submission.http.listen_unix = vec!["a".into()];
        config.submission.http.connections_max = 7;
        config.inbound.listen = Vec::new();
        config.unsubscribe.listen = Vec::new();
        config.delivery.connections_max = 1000;
        assert_eq!(connections_max(&config), 1307);
    }

    #[test]
    fn what_may_be_open_is_what_the_system_allows() {
        let open_max = raise();
        let limit = getrlimit(Resource::Nofile);
        assert_eq!((limit.current, limit.maximum.unwrap_or(u64::MAX)), (limit.maximum, open_max));
    }
}
