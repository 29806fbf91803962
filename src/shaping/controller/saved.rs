//! What a controller knows, as octets for the ledger.

/// What is worth keeping of a path over a restart.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Saved {
    /// The pace that held, messages a second.
    pub per_second: Option<f64>,
    /// Sessions.
    pub sessions: Option<u32>,
}

/// The first octet of what is written.
const VERSION: u8 = 1;

impl Saved {
    /// The octets.
    pub fn write(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        out.extend(self.per_second.unwrap_or(0.0).to_le_bytes());
        out.extend(self.sessions.unwrap_or(0).to_le_bytes());
        out
    }

    /// What the octets say; `None`: not ours, or nothing that could be true.
    pub fn read(octets: &[u8]) -> Option<Saved> {
        let (rate, sessions) = octets.strip_prefix(&[VERSION])?.split_first_chunk::<8>()?;
        let rate = f64::from_le_bytes(*rate);
        let sessions = u32::from_le_bytes(sessions.try_into().ok()?);
        (rate.is_finite() && rate >= 0.0)
            .then_some(Saved { per_second: (rate > 0.0).then_some(rate), sessions: (sessions > 0).then_some(sessions) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_wrote_and_nothing_else() {
        for (per_second, sessions) in [(None, Some(3)), (Some(0.25), None), (Some(1e5), Some(u32::MAX))] {
            let saved = Saved { per_second, sessions };
            assert_eq!(Saved::read(&saved.write()), Some(saved));
            for end in 0..saved.write().len() {
                assert_eq!(Saved::read(&saved.write()[..end]), None);
            }
        }
        assert_eq!(Saved::read(&[2; 13]), None);
        let mut odd = vec![VERSION];
        odd.extend(f64::NAN.to_le_bytes());
        odd.extend([0; 4]);
        assert_eq!(Saved::read(&odd), None);
    }
}
