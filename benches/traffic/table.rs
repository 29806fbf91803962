//! The steps of capacity at every shape of receiver, as Markdown: the tables of docs/traffic.md.

use posthaste::shaping::controller::sim::{Rule, Scenario, run};

/// Seconds at each capacity; seconds until it should be followed.
const PHASE: u64 = 600;
const SETTLED: usize = 60;

/// 100 messages a second, 10, and 100 again, ten minutes each.
fn steps(rule: Rule, latency: u64) -> Scenario {
    let capacity = vec![(0, 100.0), (PHASE, 10.0), (2 * PHASE, 100.0)];
    Scenario { capacity, seconds: 3 * PHASE, ..Scenario::steps(rule, latency) }
}

pub fn print() {
    head("receiver");
    let shapes = [
        ("bucket of 0.1 s", Rule::Bucket(0.1)),
        ("bucket of 1 s", Rule::Bucket(1.0)),
        ("bucket of 10 s", Rule::Bucket(10.0)),
        ("1 s of the clock", Rule::Window(1.0)),
        ("10 s of the clock", Rule::Window(10.0)),
        ("a minute of the clock", Rule::Window(60.0)),
        ("any 1 s", Rule::Sliding(1.0)),
        ("any 10 s", Rule::Sliding(10.0)),
        ("any minute", Rule::Sliding(60.0)),
        ("bucket of 1 s, refusals cost", Rule::Charging(1.0)),
        ("bucket of 10 s, refusals cost", Rule::Charging(10.0)),
    ];
    for (name, rule) in shapes {
        for latency in [10, 200, 1000] {
            row(name, &steps(rule, latency));
        }
    }
    println!();
    head("bucket of 1 s, and");
    for latency in [10, 200, 1000] {
        let plain = steps(Rule::Bucket(1.0), latency);
        row("4 sessions at most, of which each waits for its answers", &Scenario { sessions: 4, ..plain.clone() });
        row("two daemons that share it", &Scenario { daemons: 2, ..plain.clone() });
        row("four daemons that share it", &Scenario { daemons: 4, ..plain.clone() });
        row("5 % put off for other reasons", &Scenario { other: 0.05, ..plain.clone() });
        row("0.1 % told to slow down by chance", &Scenario { noise: 0.001, ..plain.clone() });
        row("1 % told to slow down by chance", &Scenario { noise: 0.01, ..plain.clone() });
        row("5 % told to slow down by chance", &Scenario { noise: 0.05, ..plain });
    }
}

fn head(what: &str) {
    println!("| {what} | latency | 100 to 10 | throttled at 10 | used | 10 to 100 | throttled at 100 | used |");
    println!("|---|---|---|---|---|---|---|---|");
}

fn row(name: &str, scenario: &Scenario) {
    let trace = run(scenario);
    let phase = |number: usize, capacity: f64| {
        let (from, until) = (number * PHASE as usize, (number + 1) * PHASE as usize);
        let settled = from + SETTLED;
        let followed = trace.followed(from, until).map_or("never".into(), |seconds| format!("{seconds} s"));
        let share = 100.0 * trace.refusals(settled, until);
        // Four sessions a second away cannot send more than four a second.
        let most = f64::from(scenario.sessions) * 1000.0 / scenario.latency as f64;
        let used = 100.0 * trace.passed(settled, until) / capacity.min(most);
        format!("{followed} | {share:.1} % | {used:.0} %")
    };
    println!("| {name} | {} ms | {} | {} |", scenario.latency, phase(1, 10.0), phase(2, 100.0));
}
