//! Draws how the adaptive controller follows a receiver: the figures of docs/traffic.md, section "Adaptive control".
//!
//!     cargo run --example traffic-plots        # writes docs/traffic/*.svg, prints the tables
//!     cargo run --release --example traffic-plots throws        # many runs of each shape, moved a little
//!
//! What is drawn is measured in simulated runs (`posthaste::shaping::controller::sim`), the same ones the tests hold to
//! the numbers; the runs are deterministic, so the files change only when the controller does.

mod plot;
mod table;

use std::path::Path;

use plot::{Plot, Series};
use posthaste::shaping::controller::sim::{Rule, Scenario, Trace, run};

/// A run that is drawn.
struct Figure {
    file: &'static str,
    title: &'static str,
    scenario: Scenario,
    /// Sessions rather than messages a second.
    sessions: bool,
}

fn figures() -> Vec<Figure> {
    let steps = Scenario::steps;
    let sessions = vec![(0, 20.0), (240, 4.0), (480, 20.0)];
    let overload = vec![(0, 200.0), (240, 10.0), (480, 200.0)];
    let blocked = vec![(0, 50.0), (240, 0.0), (480, 50.0)];
    let figure = |file, title, scenario, sessions| Figure { file, title, scenario, sessions };
    vec![
        figure("bucket", "Token bucket of one second, 100 ms away", steps(Rule::Bucket(1.0), 100), false),
        figure("burst", "Token bucket of ten seconds, 300 ms away", steps(Rule::Bucket(10.0), 300), false),
        figure(
            "window",
            "600 in each minute of the clock, all at once if wanted, 100 ms away",
            Scenario { capacity: vec![(0, 10.0)], seconds: 900, ..steps(Rule::Window(60.0), 100) },
            false,
        ),
        figure(
            "blocked",
            "Takes nothing for four minutes",
            Scenario { capacity: blocked, seconds: 720, ..steps(Rule::Bucket(1.0), 100) },
            false,
        ),
        figure(
            "sessions",
            "20, 4 and again 20 sessions; 421 beyond",
            Scenario { capacity: sessions, sessions: 100, seconds: 720, ..steps(Rule::Sessions, 100) },
            true,
        ),
        figure(
            "overload",
            "No limit, but replies take longer the more sessions there are",
            Scenario { capacity: overload, sessions: 50, seconds: 720, ..steps(Rule::Overload, 100) },
            true,
        ),
    ]
}

fn main() -> std::io::Result<()> {
    if std::env::args().nth(1).as_deref() == Some("throws") {
        table::print_throws();
        return Ok(());
    }
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/traffic");
    std::fs::create_dir_all(&folder)?;
    for figure in figures() {
        let trace = run(&figure.scenario);
        std::fs::write(folder.join(format!("{}.svg", figure.file)), draw(&figure, &trace))?;
    }
    table::print();
    Ok(())
}

fn draw(figure: &Figure, trace: &Trace) -> String {
    let seconds = &trace.seconds;
    // Means over five seconds: what a receiver's burst lets through at once would hide all else.
    let mean = |of: &dyn Fn(usize) -> f64| -> Vec<f64> {
        let window = |at: usize| at.saturating_sub(4)..=at;
        (0..seconds.len()).map(|at| window(at).map(of).sum::<f64>() / window(at).count() as f64).collect()
    };
    let capacity: Vec<f64> = seconds.iter().map(|second| second.capacity).collect();
    let passed = mean(&|at| f64::from(seconds[at].passed));
    let refused = mean(&|at| f64::from(seconds[at].throttled + seconds[at].refused));
    let mut plot = Plot::new(figure.title);
    match figure.sessions {
        false => {
            plot.add(Series::steps("what the receiver takes, messages/s", "#b0b0b0", capacity));
            plot.add(Series::line("accepted, messages/s", "#1f6fb2", passed));
        }
        true if figure.scenario.rule == Rule::Sessions => {
            plot.add(Series::steps("sessions it takes", "#b0b0b0", capacity));
            let open = seconds.iter().map(|second| f64::from(second.sessions)).collect();
            plot.add(Series::line("sessions", "#1f6fb2", open));
        }
        true => {
            let open = seconds.iter().map(|second| f64::from(second.sessions)).collect();
            plot.add(Series::line("sessions", "#1f6fb2", open));
            let took = mean(&|at| seconds[at].latency / 100.0);
            plot.add(Series::line("time of a message, tenths of a second", "#d98200", took));
        }
    }
    plot.add(Series::line("told to slow down, a second", "#c0392b", refused));
    plot.draw()
}
