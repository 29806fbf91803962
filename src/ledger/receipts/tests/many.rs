//! What ten million keys cost.

use super::*;

/// What the README says of ten million keys. `cargo test --release --lib ten_million -- --ignored --nocapture`
#[test]
#[ignore = "prints numbers"]
fn ten_million_keys() {
    const KEYS: u32 = 10_000_000;
    let dir = tempfile::tempdir().unwrap();
    let metrics = Arc::new(Metrics::new());
    let disk = Arc::new(crate::log::DiskFiles);
    let receipts = Receipts::open(dir.path(), 7 * DAY, Pace::default(), disk, Arc::clone(&metrics), Clock).unwrap();
    let writing = Arc::clone(&receipts);
    let thread = std::thread::spawn(move || writing.run());
    let open = Open { receipts, metrics, thread: Some(thread) };
    let now = Clock.timestamp();
    let (mut caller, mut most) = (Duration::ZERO, 0);
    let all = cpu(rustix::time::ClockId::ProcessCPUTime);
    for start in (0..KEYS).step_by(50_000) {
        let keys: Vec<Keyed> = (start..start + 50_000).map(|n| keyed(&format!("order-{n}"), 1)).collect();
        let before = cpu(rustix::time::ClockId::ThreadCPUTime);
        for (n, keyed) in (start..).zip(&keys) {
            let Begun::New(ticket) = open.receipts.begin("shop", keyed) else { panic!("{n} is new") };
            ticket.hand_over();
            open.receipts.record("shop", keyed, receipt(n.into(), now), now, position(n));
        }
        caller += cpu(rustix::time::ClockId::ThreadCPUTime) - before;
        most = most.max(resident());
        while open.receipts.lock().frozen.is_some() {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    open.settle();
    let all = cpu(rustix::time::ClockId::ProcessCPUTime) - all;
    let stats = open.receipts.log.as_ref().unwrap().stats();
    println!("new keys: caller {:?} a key, all threads {:?} a key", caller / KEYS, all / KEYS);
    println!("{stats:?}, {} runs, {most} KB resident at most", open.receipts.lock().runs.len());
    let known: Vec<Keyed> = (0..KEYS).step_by(97).map(|n| keyed(&format!("order-{n}"), 1)).collect();
    let before = cpu(rustix::time::ClockId::ThreadCPUTime);
    assert!(known.iter().all(|keyed| matches!(open.receipts.begin("shop", keyed), Begun::Known(_))));
    println!("known keys: {:?}", (cpu(rustix::time::ClockId::ThreadCPUTime) - before) / known.len() as u32);
    drop(open);
    let (before, metrics) = (Clock.instant(), Arc::new(Metrics::new()));
    let disk = Arc::new(crate::log::DiskFiles);
    let receipts = Receipts::open(dir.path(), 7 * DAY, Pace::default(), disk, metrics, Clock).unwrap();
    println!("opened again in {:?}, {} KB resident", Clock.instant() - before, resident());
    assert_eq!(receipts.lock().keys(), KEYS as usize);
}

fn cpu(clock: rustix::time::ClockId) -> Duration {
    let time = rustix::time::clock_gettime(clock);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Memory of this process in KB.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}
