//! `posthaste trace`: everything that happened to a message, from the event files, and what still waits of it.

mod story;

use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use serde::Serialize;
use serde_json::Value;

use super::{ConfigArgument, FAILED, block_on, client};
use crate::clock::Timestamp;
use crate::events::Archive;
use crate::mail::MessageId;
use crate::queue::MessageView;

#[derive(Debug, Args)]
pub(super) struct TraceArguments {
    /// The message, by the id of its receipt.
    id: MessageId,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    config: ConfigArgument,
}

/// All that is known of a message.
#[derive(Debug, Serialize)]
struct Trace {
    message_id: MessageId,
    /// When it was accepted; RFC 3339.
    accepted_at: String,
    /// The lines of the event log that name it, in order of time.
    events: Vec<Value>,
    /// What waits of it; null: nothing, or the daemon did not answer.
    queue: Option<MessageView>,
    /// The daemon answered.
    daemon_answered: bool,
}

pub(super) fn run(arguments: &TraceArguments) -> anyhow::Result<ExitCode> {
    let config = match arguments.config.load() {
        Ok(config) => config,
        Err(code) => return Ok(code),
    };
    let id = arguments.id;
    let folder = config.data_dir.join("events");
    let archive = Archive::new(&folder, config.events.keep);
    let (waiting, lines) = block_on(async {
        // The queue first: what ends in between is told by the events.
        let waiting = client::find::<MessageView>(&config, &arguments.config, &format!("/v1/queue/{id}")).await;
        (waiting, archive.lines(id).await)
    })?;
    let lines = lines.with_context(|| format!("event files in {}", folder.display()))?;
    let trace = Trace::new(id, &lines, waiting.inspect_err(|error| eprintln!("posthaste: {error:#}")).ok());
    if trace.events.is_empty() && trace.queue.is_none() {
        let daemon = if trace.daemon_answered { "it does not wait, and " } else { "" };
        eprintln!(
            "posthaste: nothing is known of message {id}: {daemon}no event file in {} names it",
            folder.display()
        );
        return Ok(ExitCode::from(FAILED));
    }
    match arguments.json {
        true => println!("{}", serde_json::to_string_pretty(&trace)?),
        false => print!("{}", story::in_words(&trace)),
    }
    Ok(ExitCode::SUCCESS)
}

impl Trace {
    /// `waiting`: what the daemon said, if it did.
    fn new(id: MessageId, lines: &[String], waiting: Option<Option<MessageView>>) -> Trace {
        let mut events: Vec<Value> = lines.iter().filter_map(|line| serde_json::from_str(line).ok()).collect();
        // They stand in the order of their records, which is nearly that of time.
        events.sort_by_cached_key(|event| text(event, "time").and_then(Timestamp::parse_rfc3339));
        for event in &mut events {
            // Where the line stands: of use to the log only.
            event.as_object_mut().and_then(|fields| fields.remove("position"));
        }
        let daemon_answered = waiting.is_some();
        let queue = waiting.flatten();
        let told = events.iter().find_map(|event| text(event, "accepted_at")).map(str::to_owned);
        let told = told.or_else(|| queue.as_ref().map(|view| view.listed.accepted_at.clone()));
        Trace {
            message_id: id,
            accepted_at: told.unwrap_or_else(|| id.time().to_string()),
            events,
            queue,
            daemon_answered,
        }
    }
}

/// A field of an event that is text.
fn text<'a>(event: &'a Value, field: &str) -> Option<&'a str> {
    event.get(field)?.as_str()
}
