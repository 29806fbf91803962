//! What sessions share and must not exhaust: memory for content, connections.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use super::refusal::{Reason, Refusal};
use crate::config::SmtpConfig;

/// Memory for content being received, in all sessions together.
#[derive(Debug)]
pub(super) struct Memory {
    used: AtomicUsize,
    max: AtomicUsize,
}

impl Memory {
    /// At most `max` octets.
    pub(super) fn new(max: usize) -> Arc<Memory> {
        Arc::new(Memory { used: AtomicUsize::new(0), max: AtomicUsize::new(max) })
    }

    /// Changes the limit. What is in use above a lower one drains by itself.
    pub(super) fn set_max(&self, max: usize) {
        self.max.store(max, Ordering::Relaxed);
    }

    /// Octets in use.
    #[cfg(test)]
    pub(super) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    fn take(&self, octets: usize) -> bool {
        let max = self.max.load(Ordering::Relaxed);
        let add = |used: usize| used.checked_add(octets).filter(|sum| *sum <= max);
        self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add).is_ok()
    }

    fn give_back(&self, octets: usize) {
        self.used.fetch_sub(octets, Ordering::Relaxed);
    }
}

/// One buffer's part of the [`Memory`]; returns it when dropped.
#[derive(Debug)]
pub(super) struct MemoryShare {
    memory: Arc<Memory>,
    octets: usize,
}

impl MemoryShare {
    /// Nothing yet.
    pub(super) fn empty(memory: Arc<Memory>) -> MemoryShare {
        MemoryShare { memory, octets: 0 }
    }

    /// Makes it `octets` in all. `false`, and nothing changed, if that is more than there is.
    pub(super) fn resize(&mut self, octets: usize) -> bool {
        match octets.checked_sub(self.octets) {
            Some(more) if !self.memory.take(more) => return false,
            Some(_) => {}
            None => self.memory.give_back(self.octets - octets),
        }
        self.octets = octets;
        true
    }
}

impl Drop for MemoryShare {
    fn drop(&mut self) {
        self.memory.give_back(self.octets);
    }
}

/// Who is connected.
#[derive(Debug, Default)]
pub(super) struct Clients {
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    total: usize,
    by_client: HashMap<IpAddr, usize>,
}

impl Clients {
    /// Gives a seat to a client, by its canonical address.
    ///
    /// # Errors
    /// `421 4.7.0` when there are as many sessions as allowed, in all or from this client.
    pub(super) fn admit(self: &Arc<Clients>, client: IpAddr, config: &SmtpConfig) -> Result<Seat, Refusal> {
        let full = |limit: &'static str, max: usize| {
            let text = format!("too many connections: {limit} is {max}, try again later");
            Refusal::new(Reason::Connections, 421, (4, 7, 0), text).fatal()
        };
        let mut open = self.open.lock().expect("no code panics under this lock");
        if open.total >= config.connections_max {
            return Err(full("connections_max", config.connections_max));
        }
        if open.by_client.get(&client).is_some_and(|count| *count >= config.connections_per_client_max) {
            return Err(full("connections_per_client_max", config.connections_per_client_max));
        }
        open.total += 1;
        *open.by_client.entry(client).or_default() += 1;
        Ok(Seat { clients: self.clone(), client })
    }
}

/// One session's place among the [`Clients`]; free again when dropped.
#[derive(Debug)]
pub(super) struct Seat {
    clients: Arc<Clients>,
    client: IpAddr,
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut open = self.clients.open.lock().expect("no code panics under this lock");
        open.total -= 1;
        if let Some(count) = open.by_client.get_mut(&self.client) {
            *count -= 1;
            if *count == 0 {
                open.by_client.remove(&self.client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_returned() {
        let memory = Memory::new(100);
        let mut one = MemoryShare::empty(memory.clone());
        let mut two = MemoryShare::empty(memory.clone());
        assert!(one.resize(60) && !two.resize(50) && two.resize(40));
        assert!(!one.resize(61) && one.resize(10) && two.resize(90));
        drop(two);
        assert_eq!(memory.used(), 10);
        memory.set_max(5);
        assert!(!one.resize(11) && one.resize(4));
        drop(one);
        assert_eq!(memory.used(), 0);
    }

    #[test]
    fn seats_are_counted_in_all_and_per_client() {
        let clients = Arc::new(Clients::default());
        let config = SmtpConfig { connections_max: 3, connections_per_client_max: 2, ..SmtpConfig::default() };
        let [a, b]: [IpAddr; 2] = [[192, 0, 2, 1].into(), [192, 0, 2, 2].into()];
        let admit = |client| clients.admit(client, &config).map_err(|refusal| refusal.reply.to_string());
        let first = admit(a).expect("room");
        let _second = admit(a).expect("room");
        let third = admit(a).expect_err("two are there");
        assert_eq!(third, "421 4.7.0 too many connections: connections_per_client_max is 2, try again later");
        let _other = admit(b).expect("room");
        assert!(admit(b).expect_err("three in all").contains("connections_max is 3"));
        drop(first);
        assert!(admit(a).is_ok());
    }
}
