//! Ways in for fuzz targets; see [`crate::probe`].

use std::path::PathBuf;
use std::time::Duration;

use super::brake::{self, Brake, BrakePolicy, Fact, Steps};
use super::controller::Saved;
use super::orders::Order;
use super::provider::{Profiles, named_wait};
use super::warmup::{self, Plan, Room, Sign, Warmup};
use crate::clock::Timestamp;
use crate::mail::wording::comparable;

/// What a reply says: a wait that is read from it is one that may be believed, and is read again from what it was read
/// from, whatever stands behind it.
pub fn wait(octets: &[u8]) {
    let text = comparable(&String::from_utf8_lossy(octets));
    let Some(wait) = named_wait(&text) else { return };
    assert!((Duration::from_secs(1)..=Duration::from_secs(86_400)).contains(&wait), "{wait:?}");
    assert_eq!(named_wait(&format!("{text} . queued as 12")), Some(wait), "the first wait counts: {text:?}");
}

/// What the ledger has of a path, an order, a source that is warmed up, or what the brake counted: what can be read is written so that it
/// reads the same; counting goes on from it, and holds nothing back for longer than a plan has days or a window hours.
pub fn kept(octets: &[u8]) {
    if let Some(saved) = Saved::read(octets) {
        assert_eq!(Saved::read(&saved.write()), Some(saved));
    }
    if let Ok(order) = serde_json::from_slice::<Order>(octets) {
        let text = serde_json::to_string(&order).expect("every field is text");
        assert_eq!(serde_json::from_str::<Order>(&text).ok(), Some(order), "{text}");
    }
    if let Ok(kept) = serde_json::from_slice::<warmup::Kept>(octets) {
        warmed(kept);
    }
    if let Ok(kept) = serde_json::from_slice::<brake::Kept>(octets) {
        braked(kept);
    }
}

/// A day, in milliseconds.
const DAY: u64 = 86_400_000;

const NOW: Timestamp = Timestamp(1_795_348_800_000);

fn warmed(kept: warmup::Kept) {
    let (source, provider) = (kept.source.clone(), kept.provider.clone());
    let text = serde_json::to_string(&kept).expect("plain data");
    assert_eq!(serde_json::from_str::<warmup::Kept>(&text).ok().as_ref(), Some(&kept));
    let plan = Plan {
        source: source.clone(),
        provider: None,
        start: None,
        per_day: vec![50, 100, 200],
        deferrals_max: 0.2,
        complaints_max: 0.002,
    };
    let mut warmup = Warmup::new(vec![plan.clone()], vec![kept]);
    warmup.take(&source, &provider, 1, NOW);
    for sign in [Sign::Delivered, Sign::Refused, Sign::Complained] {
        warmup.sign(&source, &provider, sign, 20, NOW);
    }
    if let Room::Full(until) = warmup.room(&source, &provider, NOW) {
        assert!(NOW < until && until.0 <= NOW.0 + 3 * DAY, "{until:?}");
    }
    let progress = warmup.progress(NOW);
    assert!(progress.iter().all(|progress| (1..=progress.days).contains(&progress.day)), "{progress:?}");
    let mut again = Warmup::new(vec![plan], warmup.changed());
    assert_eq!(again.progress(NOW), progress);
    let later = Timestamp(NOW.0 + 3 * DAY);
    assert!(!matches!(again.room(&source, &provider, later), Room::Full(_)), "it never ends");
}

fn braked(kept: brake::Kept) {
    let text = serde_json::to_string(&kept).expect("plain data");
    assert_eq!(serde_json::from_str::<brake::Kept>(&text).ok().as_ref(), Some(&kept));
    let steps = Steps { warn: 0.001, slow: 0.003, pause: 0.01, harm_min: 1 };
    let policy = BrakePolicy { complaints: steps, unknown_users: steps, recipients_min: 1 };
    let mut brake = Brake::new(policy);
    let watched = kept.watched.clone();
    brake.restore([kept], NOW);
    assert!(brake.len() <= 1);
    brake.count(&watched, Fact::Delivered, 100, NOW);
    for kept in brake.changed().into_iter().filter_map(|(_, kept)| kept) {
        let mut again = Brake::new(policy);
        again.restore([kept], NOW);
        assert_eq!(again.shares(&watched), brake.shares(&watched));
    }
    // Whatever there was, a day later it is gone.
    let later = Timestamp(NOW.0 + DAY + DAY / 24);
    brake.count(&watched, Fact::Delivered, 1, later);
    assert_eq!(brake.shares(&watched), Some((0.0, 0.0)));
}

/// A provider file over those that are built in: refused, with problems of one line that name a file and a line there is, or every provider
/// there was is there, and gives advice on a reply.
pub fn profile(octets: &[u8]) {
    let Ok(text) = std::str::from_utf8(octets) else { return };
    let file = PathBuf::from("own.toml");
    let read = Profiles::read(&[(file.clone(), text.to_owned())]);
    let (Ok((_, problems)) | Err(problems)) = &read;
    for problem in problems {
        let told = problem.to_string();
        assert!(!told.chars().any(char::is_control), "{told:?}");
        let lines = text.split('\n').count();
        assert!(problem.file != file || problem.line.is_none_or(|line| (1..=lines).contains(&line)), "{told}");
    }
    assert!(read.is_ok() || problems.iter().any(|problem| problem.file == file), "nobody is told of the file");
    let Ok((profiles, _)) = read else { return };
    let names: Vec<&str> = profiles.iter().map(|profile| profile.name).collect();
    assert!(Profiles::built_in().iter().all(|profile| names.contains(&profile.name)), "{names:?}");
    for name in names {
        assert_eq!(profiles.get(name).name, name);
        let advice = profiles.advise_text(name, Some(421), None, "4.7.28 try again in 5 minutes");
        assert!(advice.wait.is_some());
    }
}
