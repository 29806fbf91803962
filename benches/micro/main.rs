//! What one small step on the path of a message costs, in time and in allocations: a module for each stage, a function for
//! each step. `benches/README.md` tells how to read it.

mod events;
mod keys;
mod lines;
mod log;
#[path = "../message.rs"]
mod message;
mod scheduler;

use divan::AllocProfiler;

#[global_allocator]
static ALLOCATIONS: AllocProfiler = AllocProfiler::system();

fn main() {
    divan::main();
    events::forget();
}

mod header {
    use divan::Bencher;
    use divan::counter::ItemsCount;
    use posthaste::mail::header;

    use crate::message;

    #[divan::bench]
    fn walk_12_fields(bencher: Bencher<'_, '_>) {
        let content = message::content();
        let head = &content[..header::section_len(&content)];
        assert_eq!(header::fields(head).count(), 12);
        let walk = || header::fields(divan::black_box(head)).map(|field| field.value.len()).sum::<usize>();
        bencher.counter(ItemsCount::new(12usize)).bench_local(walk);
    }
}

mod content {
    use divan::Bencher;
    use divan::counter::BytesCount;
    use posthaste::{delivery, submission};

    use crate::message;

    #[divan::bench]
    fn receive_10_kb_of_data(bencher: Bencher<'_, '_>) {
        let wire = [&message::content()[..], b".\r\n"].concat();
        bencher.counter(BytesCount::new(wire.len())).bench_local(|| submission::probe::receive(&wire));
    }

    #[divan::bench]
    fn stuff_10_kb_for_data(bencher: Bencher<'_, '_>) {
        let content = message::content();
        bencher.counter(BytesCount::new(content.len())).bench_local(|| delivery::probe::stuff(b"", &content));
    }
}

mod replies {
    use divan::Bencher;
    use divan::counter::ItemsCount;
    use posthaste::delivery;

    #[divan::bench]
    fn read_4_of_a_transaction(bencher: Bencher<'_, '_>) {
        let replies = b"250 2.1.0 ok\r\n250 2.1.5 ok\r\n354 go ahead\r\n250 2.0.0 ok: queued as 12345678\r\n";
        bencher.counter(ItemsCount::new(4usize)).bench_local(|| delivery::probe::read_replies(replies));
    }
}

mod dkim {
    use divan::Bencher;
    use posthaste::clock::Timestamp;
    use posthaste::config::DkimConfig;
    use posthaste::signing::Signer;
    use posthaste::signing::keygen::{self, KeyAlgorithm};

    use crate::message;

    #[divan::bench(args = [KeyAlgorithm::Rsa, KeyAlgorithm::Ed25519])]
    fn sign_10_kb(bencher: Bencher<'_, '_>, algorithm: KeyAlgorithm) {
        let folder = tempfile::tempdir().expect("a folder");
        let key_file = folder.path().join("key.pem");
        let key = keygen::generate(algorithm).expect("a key");
        keygen::write_private(&key_file, &key.private_pem).expect("written");
        let domain = "us.example".parse().expect("a domain");
        let (signer, problems) = Signer::load(&[DkimConfig { domain, selector: "s1".into(), key_file }]);
        assert!(problems.is_empty(), "{problems:?}");
        let content = message::content();
        bencher.bench_local(|| signer.sign(&content, Timestamp(1_795_348_800_000)).expect("signed").len());
    }
}

mod envelope {
    use divan::Bencher;
    use divan::counter::BytesCount;
    use posthaste::spool;

    use crate::message;

    #[divan::bench]
    fn encode(bencher: Bencher<'_, '_>) {
        let envelope = message::envelope();
        let size = BytesCount::new(spool::probe::encode(&envelope).len());
        bencher.counter(size).bench_local(|| spool::probe::encode(&envelope));
    }

    #[divan::bench]
    fn decode(bencher: Bencher<'_, '_>) {
        let encoded = spool::probe::encode(&message::envelope());
        bencher.counter(BytesCount::new(encoded.len())).bench_local(|| spool::probe::decode(&encoded));
    }
}
