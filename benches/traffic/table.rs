//! The steps of capacity at every shape of receiver, as Markdown: the tables of docs/traffic.md.

use posthaste::shaping::controller::sim::{Rule, Scenario, Trace, run};

/// Seconds at each capacity.
const PHASE: u64 = 600;
/// Seconds until a step should be followed, and the share of attempts that may be throttled after that.
const FOLLOWED: usize = 60;
const THROTTLED: f64 = 0.02;
/// How often each shape is thrown.
const THROWS: u64 = 20;
const LATENCIES: [u64; 3] = [10, 200, 1000];

/// What a receiver counts by.
struct Shape(&'static str, Rule);

/// Those whose capacity is by the second.
const BY_THE_SECOND: [Shape; 7] = [
    Shape("bucket of 0.1 s", Rule::Bucket(0.1)),
    Shape("bucket of 1 s", Rule::Bucket(1.0)),
    Shape("bucket of 10 s", Rule::Bucket(10.0)),
    Shape("1 s of the clock", Rule::Window(1.0)),
    Shape("any 1 s", Rule::Sliding(1.0)),
    Shape("bucket of 1 s, refusals cost", Rule::Charging(1.0)),
    Shape("bucket of 10 s, refusals cost", Rule::Charging(10.0)),
];

/// Those that count by longer windows.
const BY_WINDOWS: [Shape; 4] = [
    Shape("10 s of the clock", Rule::Window(10.0)),
    Shape("any 10 s", Rule::Sliding(10.0)),
    Shape("a minute of the clock", Rule::Window(60.0)),
    Shape("any minute", Rule::Sliding(60.0)),
];

/// Seconds until a step should be followed: a minute, or one window and a half, for what was sent before it counts for one.
fn followed_max(rule: Rule) -> usize {
    match rule {
        Rule::Window(seconds) | Rule::Sliding(seconds) => FOLLOWED.max((1.5 * seconds) as usize),
        _ => FOLLOWED,
    }
}

/// 100 messages a second, 10, and 100 again, ten minutes each.
fn steps(rule: Rule, latency: u64) -> Scenario {
    let capacity = vec![(0, 100.0), (PHASE, 10.0), (2 * PHASE, 100.0)];
    Scenario { capacity, seconds: 3 * PHASE, ..Scenario::steps(rule, latency) }
}

/// The same with the steps up to half a minute later, and the latency by up to a tenth other.
fn thrown(rule: Rule, latency: u64, throw: u64) -> Scenario {
    let later = 3 * throw % 31;
    let mut scenario = steps(rule, latency * (90 + 2 * (7 * throw % 11)) / 100);
    scenario.capacity.iter_mut().skip(1).for_each(|(from, _)| *from += later);
    scenario.seconds += later;
    scenario
}

/// How a step was met.
struct Met {
    followed: Option<usize>,
    throttled: f64,
    /// The share of the capacity that was used.
    used: f64,
    within: bool,
}

/// How the second and the third capacity were met.
fn met(scenario: &Scenario, trace: &Trace) -> [Met; 2] {
    [1, 2].map(|step| {
        let (from, capacity) = scenario.capacity[step];
        let (from, until, most) = (from as usize, (from + PHASE) as usize, followed_max(scenario.rule));
        // Four sessions a second away cannot send more than four a second.
        let possible = f64::from(scenario.sessions) * 1000.0 / scenario.latency as f64;
        let (followed, throttled) = (trace.followed(from, until), trace.refusals(from + most, until));
        let used = trace.passed(from + most, until) / capacity.min(possible);
        let within = followed.is_some_and(|seconds| seconds <= most) && throttled <= THROTTLED;
        Met { followed, throttled, used, within }
    })
}

/// One run of every shape.
pub fn print() {
    for shapes in [BY_THE_SECOND.as_slice(), &BY_WINDOWS] {
        head("receiver");
        for Shape(name, rule) in shapes {
            LATENCIES.into_iter().for_each(|latency| row(name, &steps(*rule, latency)));
        }
        println!();
    }
    head("bucket of 1 s, and");
    for latency in LATENCIES {
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

/// Of many runs of every shape, how many meet the aim at both steps. Takes a minute with `--release`.
pub fn print_throws() {
    for shapes in [BY_THE_SECOND.as_slice(), &BY_WINDOWS] {
        println!("| of {THROWS} throws | 10 ms | 200 ms | 1000 ms |\n|---|---|---|---|");
        let mut all = 0;
        for Shape(name, rule) in shapes {
            let met = LATENCIES.map(|latency| (1..=THROWS).filter(|throw| is_met(*rule, latency, *throw)).count());
            println!("| {name} | {} | {} | {} |", met[0], met[1], met[2]);
            all += met.iter().sum::<usize>();
        }
        println!("\n{all} of {}\n", shapes.len() * LATENCIES.len() * THROWS as usize);
    }
}

fn is_met(rule: Rule, latency: u64, throw: u64) -> bool {
    let scenario = thrown(rule, latency, throw);
    met(&scenario, &run(&scenario)).iter().all(|step| step.within)
}

fn head(what: &str) {
    println!("| {what} | latency | 100 to 10 | throttled at 10 | used | 10 to 100 | throttled at 100 | used |");
    println!("|---|---|---|---|---|---|---|---|");
}

fn row(name: &str, scenario: &Scenario) {
    let [down, up] = met(scenario, &run(scenario)).map(|met| {
        let followed = met.followed.map_or("never".into(), |seconds| format!("{seconds} s"));
        format!("{followed} | {:.1} % | {:.0} %", 100.0 * met.throttled, 100.0 * met.used)
    });
    println!("| {name} | {} ms | {down} | {up} |", scenario.latency);
}
