//! Folders without indexes, as an older version leaves them; those with one are tested beside the index.

use std::fs;
use std::path::Path;

use super::*;

fn line(id: u64, event: &str) -> String {
    let id = MessageId(id << 22);
    format!("{{\"event\":\"{event}\",\"message_id\":\"{id}\",\"recipient\":\"a@b.example\",\"attempt\":1}}\n")
}

async fn events(archive: &Archive, id: u64) -> Vec<String> {
    archive.find(MessageId(id << 22)).await.unwrap().into_iter().map(|told| told.event).collect()
}

fn files(dir: &Path, texts: &[String]) {
    for (age, text) in texts.iter().enumerate() {
        let name = if age == 0 { "events.jsonl".into() } else { format!("events.jsonl.{age}") };
        fs::write(dir.join(name), text).unwrap();
    }
}

#[tokio::test]
async fn finds_the_lines_of_a_message_in_all_files() {
    let dir = tempfile::tempdir().unwrap();
    let filler = line(8, "deferred").repeat(60_000);
    let present = filler.clone() + &line(7, "delivered") + "{\"event\":\"torn";
    files(dir.path(), &[present, filler.clone(), line(7, "deferred") + &filler + &line(7, "deferred")]);
    let archive = Archive::new(dir.path(), 2);
    assert!(archive.locate(MessageId(7 << 22)).unwrap().unindexed() > 2 * IN_PASSING, "not in passing");
    assert_eq!(events(&archive, 7).await, ["deferred", "deferred", "delivered"]);
    assert_eq!(events(&archive, 9).await, [""; 0]);
    // Accepted long after everything here was written.
    assert_eq!(archive.find(MessageId(u64::MAX)).await.unwrap(), []);
}

#[tokio::test]
async fn the_file_set_aside_is_searched_with_keep_zero() {
    // As the log is: one is always set aside, or who follows it would miss what was just written.
    let dir = tempfile::tempdir().unwrap();
    files(dir.path(), &[String::new(), line(7, "delivered")]);
    assert_eq!(events(&Archive::new(dir.path(), 0), 7).await, ["delivered"]);
}

#[tokio::test]
async fn who_is_older_than_all_files_is_not_looked_for() {
    let dir = tempfile::tempdir().unwrap();
    let id = MessageId(7 << 22);
    for (days, found) in [(1, 1), (30, 1), (32, 0)] {
        let time = id.time().after(Duration::from_secs(days * 86_400));
        let line = format!("{{\"time\":\"{time}\",\"event\":\"delivered\",\"message_id\":\"{id}\"}}\n");
        files(dir.path(), &[line]);
        assert_eq!(Archive::new(dir.path(), 2).find(id).await.unwrap().len(), found);
    }
}

#[tokio::test]
async fn only_so_many_wait_for_a_search() {
    let dir = tempfile::tempdir().unwrap();
    files(dir.path(), &[line(8, "deferred").repeat(60_000)]);
    let archive = Archive::new(dir.path(), 2);
    let all = Arc::clone(&archive.searches).acquire_many_owned(SEARCHES as u32).await.unwrap();
    let find = || {
        let archive = archive.clone();
        tokio::spawn(async move { archive.find(MessageId(7 << 22)).await })
    };
    let waiting: Vec<_> = (0..WAITING).map(|_| find()).collect();
    while archive.line.available_permits() > 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(matches!(find().await.unwrap(), Err(ArchiveError::Busy)));
    drop(all);
    for found in waiting {
        assert_eq!(found.await.unwrap().unwrap(), []);
    }
    assert_eq!(find().await.unwrap().unwrap(), []);
}
