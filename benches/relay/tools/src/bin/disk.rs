//! What the disk gives: durable writes per second, in the two shapes a mail queue can have.
//!
//!   disk DIR SIZE SECS
//!
//! log:   one thread appends SIZE-byte records to one file, fdatasync after every 1, 8, 64, 256 of them
//!        (once growing the file, once over space written beforehand);
//! files: T threads each create a file, write SIZE bytes, fsync, rename, unlink (T = 1, 20, 100):
//!        the shape of a queue with one file per message.
//! One JSON object per line.

use std::fs::{self, File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

fn log(dir: &Path, rec: &[u8], batch: usize, secs: Duration, prewritten: bool) {
    let path = dir.join("log");
    let mut f = OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .open(&path)
        .unwrap();
    const ROOM: u64 = 256 << 20;
    if prewritten {
        let z = vec![0u8; 1 << 20];
        for _ in 0..ROOM >> 20 {
            f.write_all(&z).unwrap();
        }
        f.sync_all().unwrap();
        f.seek(SeekFrom::Start(0)).unwrap();
    }
    let block: Vec<u8> = rec.iter().copied().cycle().take(rec.len() * batch).collect();
    let (t, mut syncs, mut lat) = (Instant::now(), 0u64, Vec::new());
    while t.elapsed() < secs {
        if prewritten && f.stream_position().unwrap() + block.len() as u64 > ROOM {
            f.seek(SeekFrom::Start(0)).unwrap();
        }
        let s = Instant::now();
        f.write_all(&block).unwrap();
        f.sync_data().unwrap();
        lat.push(s.elapsed().as_secs_f64() * 1e6);
        syncs += 1;
    }
    let el = t.elapsed().as_secs_f64();
    lat.sort_by(f64::total_cmp);
    println!(
        "{{\"shape\":\"log\",\"prewritten\":{prewritten},\"batch\":{batch},\"syncs_s\":{:.0},\"msgs_s\":{:.0},\"mb_s\":{:.1},\"p50_us\":{:.0},\"p99_us\":{:.0}}}",
        syncs as f64 / el,
        (syncs * batch as u64) as f64 / el,
        syncs as f64 * block.len() as f64 / el / 1e6,
        lat[lat.len() / 2],
        lat[lat.len() * 99 / 100]
    );
    fs::remove_file(&path).unwrap();
}

fn files(dir: &Path, rec: &[u8], threads: usize, secs: Duration) {
    let n = AtomicU64::new(0);
    let t = Instant::now();
    std::thread::scope(|s| {
        for k in 0..threads {
            let n = &n;
            s.spawn(move || {
                let (a, b) = (dir.join(format!("tmp.{k}")), dir.join(format!("msg.{k}")));
                while t.elapsed() < secs {
                    let mut f = File::create(&a).unwrap();
                    f.write_all(rec).unwrap();
                    f.sync_all().unwrap();
                    fs::rename(&a, &b).unwrap();
                    fs::remove_file(&b).unwrap();
                    n.fetch_add(1, Relaxed);
                }
            });
        }
    });
    let el = t.elapsed().as_secs_f64();
    println!(
        "{{\"shape\":\"files\",\"threads\":{threads},\"msgs_s\":{:.0}}}",
        n.load(Relaxed) as f64 / el
    );
}

fn main() {
    let a: Vec<String> = std::env::args().collect();
    let dir = Path::new(&a[1]);
    let rec = vec![b'x'; a[2].parse().unwrap()];
    let secs = Duration::from_secs_f64(a[3].parse().unwrap());
    for prewritten in [false, true] {
        for batch in [1, 8, 64, 256] {
            log(dir, &rec, batch, secs, prewritten);
        }
    }
    for threads in [1, 20, 100] {
        files(dir, &rec, threads, secs);
    }
}
