use super::table::BUCKETS_MIN;
use super::*;
use crate::config::LimitConfig;

const SECOND: u64 = 1_000;

const MAIL: Subject<'static> = Subject {
    provider: "google",
    site: "mx.example.com",
    domain: "example.com",
    source: "one",
    pool: "default",
    tenant: "shop",
    class: Class::Bulk,
    campaign: "spring",
};

const ONE: Load = Load { recipients: 1, octets: 1_000 };

/// Rows as they are written in the file.
fn rows(text: &str) -> Rows {
    #[derive(serde::Deserialize)]
    struct File {
        limit: Vec<LimitConfig>,
    }
    Rows::new(&toml::from_str::<File>(text).expect("rows").limit)
}

fn limits(text: &str) -> Limits {
    Limits::new(rows(text))
}

/// Takes one if it may; when, if not yet.
fn take(limits: &mut Limits, now: u64, path: &PathLimits, subject: &Subject<'_>) -> Result<Taken, Held> {
    let (mail, _) = limits.mail(now, subject);
    let all: Buckets = path.send().iter().chain(&mail).copied().collect();
    match limits.held(now, &all, ONE, false) {
        Some(held) => Err(held),
        None => Ok(limits.take(now, path, &mail, ONE).expect("there are rows")),
    }
}

#[test]
fn nothing_configured_costs_nothing() {
    let mut limits = Limits::default();
    let path = limits.path(0, &MAIL, 0);
    assert!(path.0.is_none() && limits.mail(0, &MAIL).0.is_empty() && limits.is_empty());
    assert_eq!(limits.may_connect(0, &path, false), None);
    assert_eq!(limits.take(0, &path, &[], ONE), None);
}

#[test]
fn each_value_has_a_bucket_of_its_own_and_the_rest_share_one() {
    let mut limits = limits(r#"limit = [{ match = { class = "bulk" }, each = ["tenant"], messages = "1/s" }]"#);
    let path = limits.path(0, &MAIL, 0);
    let other = Subject { tenant: "club", campaign: "x", ..MAIL };
    let unlimited = Subject { class: Class::System, ..MAIL };
    assert!(limits.mail(0, &unlimited).0.is_empty());
    assert!(take(&mut limits, 0, &path, &MAIL).is_ok());
    assert!(take(&mut limits, 0, &path, &other).is_ok());
    for subject in [MAIL, other, Subject { site: "elsewhere", campaign: "autumn", ..MAIL }] {
        assert!(matches!(take(&mut limits, 0, &path, &subject), Err(Held::Behind(_))), "{subject:?}");
    }
    assert_eq!(limits.len(), 2);
}

#[test]
fn all_that_apply_hold_and_the_last_decides() {
    let mut limits = limits(
        r#"
        [[limit]]
        each = ["site"]
        messages = "10/s burst 2"
        [[limit]]
        match = { provider = "google" }
        each = ["site", "source"]
        bytes = "1KB/s burst 10KB"
        [[limit]]
        match = { provider = "yahoo" }
        messages = "1/d"
        "#,
    );
    let path = limits.path(0, &MAIL, 0);
    assert_eq!(path.send().len(), 2);
    assert!(take(&mut limits, 0, &path, &MAIL).is_ok());
    let taken = take(&mut limits, 0, &path, &MAIL).expect("a burst of two");
    assert_eq!(take(&mut limits, 0, &path, &MAIL), Err(Held::Until(99)));
    limits.give_back(&taken);
    assert!(take(&mut limits, 0, &path, &MAIL).is_ok());
    // Now a large one: ten times what comes in a second.
    let large = Load { recipients: 1, octets: 10_000 };
    let Some(Held::Until(until)) = limits.held(SECOND, path.send(), large, false) else {
        panic!("there are no tokens")
    };
    assert!(until.abs_diff(2 * SECOND) < 5, "{until}");
}

#[test]
fn places_of_connections_are_handed_on() {
    let mut limits = limits(r#"limit = [{ match = { provider = "google" }, connections = 2 }]"#);
    let one = limits.path(0, &MAIL, 0);
    let other = limits.path(0, &Subject { site: "other", ..MAIL }, 0);
    for path in [&one, &other] {
        assert_eq!(limits.may_connect(0, path, false), None);
        limits.connecting(0, path);
    }
    let Some(Held::Behind(id)) = limits.may_connect(0, &one, false) else { panic!("both are taken") };
    assert!(!limits.is_wanted(&other));
    let waiter = Waiter { name: [7, 0, 0, 0], urgent: true };
    assert_eq!(limits.join(0, id, (waiter, Class::Bulk), ONE, false), None);
    assert!(limits.is_wanted(&other));
    assert!(limits.must_yield(&other) && !limits.must_yield(&other));
    assert_eq!(limits.next_place(id, |_| true), None);
    assert_eq!(limits.disconnected(&other)[..], [id]);
    assert_eq!(limits.next_place(id, |_| true), Some(waiter));
    assert_eq!(limits.may_connect(0, &one, true), None);
    limits.connecting(0, &one);
    assert_eq!(limits.disconnected(&other)[..], []);
}

#[test]
fn who_comes_later_stands_behind() {
    let mut limits = limits(r#"limit = [{ match = { tenant = "shop" }, messages = "10/s burst 5" }]"#);
    let path = limits.path(0, &MAIL, 0);
    (0..5).for_each(|_| assert!(take(&mut limits, 0, &path, &MAIL).is_ok()));
    let Err(Held::Behind(id)) = take(&mut limits, 0, &path, &MAIL) else { panic!("empty") };
    let waiter = |n| (Waiter { name: [n, 0, 0, 0], urgent: false }, Class::Bulk);
    assert_eq!(limits.join(0, id, waiter(1), ONE, false), Some(99));
    assert_eq!(limits.join(0, id, waiter(2), ONE, false), None);
    let mut freed = Vec::new();
    assert_eq!(limits.advance(99, id, |_| true, &mut freed), Some(199));
    assert_eq!(freed, [waiter(1).0]);
    // There is a token, but it is not for whoever comes now.
    let (mail, _) = limits.mail(99, &MAIL);
    assert_eq!(limits.held(99, &mail, ONE, false), Some(Held::Behind(id)));
    assert_eq!(limits.held(99, &mail, ONE, true), None);
    limits.take(99, &path, &mail, ONE);
    assert_eq!(limits.advance(199, id, |_| true, &mut freed), None);
    assert_eq!(limits.held(199, &mail, ONE, false), None);
}

#[test]
fn a_reload_keeps_what_was_taken() {
    let text = |rate: &str| format!(r#"limit = [{{ each = ["site"], connections = 3, messages = "{rate}" }}]"#);
    let mut limits = limits(&text("10/s burst 10"));
    let path = limits.path(0, &MAIL, 0);
    (0..10).for_each(|_| assert!(take(&mut limits, 0, &path, &MAIL).is_ok()));
    limits.connecting(0, &path);
    limits.set_rows(0, rows(&text("1/s burst 10")));
    let path = limits.path(0, &MAIL, 1);
    let Err(Held::Until(until)) = take(&mut limits, 0, &path, &MAIL) else { panic!("empty") };
    assert!(until.abs_diff(SECOND) < 5, "{until}");
    let left: Vec<f64> = limits.in_force(0, &MAIL).iter().map(|limit| limit.left.round()).collect();
    assert_eq!(left, [2.0, 0.0]);
    limits.set_rows(0, Rows::default());
    assert!(limits.is_empty() && limits.path(0, &MAIL, 1).0.is_none());
}

#[test]
fn buckets_nobody_needs_are_forgotten() {
    let mut limits =
        limits(r#"limit = [{ each = ["tenant"], messages = "100/s" }, { each = ["campaign"], messages = "1/d" }]"#);
    let path = limits.path(0, &MAIL, 0);
    for n in 0..100_000u64 {
        let tenant = format!("tenant {n}");
        let subject = Subject { tenant: &tenant, ..MAIL };
        let (mail, _) = limits.mail(n, &subject);
        limits.take(n, &path, &mail, ONE);
    }
    assert!(limits.len() <= 2 * BUCKETS_MIN, "{}", limits.len());
    // The one of the campaign is not full for long.
    assert!(limits.in_force(100_000, &MAIL)[1].left < 0.0);
}

#[test]
fn what_is_about_one_domain_tells_it_apart() {
    let limits = limits(r#"limit = [{ match = { domain = "Example.com" }, messages = "1/s" }]"#);
    assert!(limits.tells_domain("example.com") && !limits.tells_domain("example.org"));
    assert!(!limits.is_blind_to_mail());
}

#[test]
fn a_restart_is_no_way_around_a_long_limit() {
    let text = |per_day| format!(r#"limit = [{{ each = ["tenant"], messages = "{per_day}/d burst {per_day}" }}]"#);
    let mut before = limits(&text(1_000));
    let path = before.path(0, &MAIL, 0);
    for _ in 0..600 {
        take(&mut before, SECOND, &path, &MAIL).expect("there are some");
    }
    take(&mut before, SECOND, &path, &Subject { tenant: "club", ..MAIL }).expect("there are some");
    // An hour later, on another clock. Of the other tenant nothing is missing by then.
    let (hour, zero) = (3_600 * SECOND, 77 * SECOND);
    let fills = before.fills(hour);
    assert_eq!(fills.len(), 1);
    let on_new_clock: Vec<_> =
        fills.into_iter().map(|(name, fill)| (name, Fill { full_at: fill.full_at - hour + zero, ..fill })).collect();
    for per_day in [1_000, 500, 2_000] {
        let mut after = limits(&text(per_day));
        after.keep_fills(on_new_clock.clone());
        assert_eq!(after.fills(zero).len(), 1, "it is kept on though nobody has asked for it");
        for _ in 0..2 {
            let seen = after.in_force(zero, &MAIL)[0].left;
            assert!((seen - 441.0).abs() <= 2.0, "{per_day}: {seen}");
            after.mail(zero, &MAIL);
        }
        assert_eq!((after.fills(zero).len(), after.kept.len()), (1, 0));
    }
}
