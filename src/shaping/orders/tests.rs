use proptest::prelude::*;

use super::*;
use crate::mail::Class;

fn order(id: u64, deed: Deed, scope: Scope) -> Order {
    Order {
        id: OrderId(id),
        deed,
        scope,
        reason: String::new(),
        by: "operator".into(),
        since: Timestamp(0),
        until: None,
    }
}

/// `tenant=shop campaign=spring class=bulk`.
fn scope(text: &str) -> Scope {
    let mut scope = Scope::default();
    for (name, value) in text.split_whitespace().filter_map(|pair| pair.split_once('=')) {
        let place = match name {
            "provider" => &mut scope.provider,
            "site" => &mut scope.site,
            "domain" => &mut scope.domain,
            "source" => &mut scope.source,
            "pool" => &mut scope.pool,
            "tenant" => &mut scope.tenant,
            "campaign" => &mut scope.campaign,
            _ => {
                scope.class = Class::parse(value);
                continue;
            }
        };
        *place = Some(value.into());
    }
    scope
}

/// What holds it, path or mail.
fn gate(orders: &Orders, now: u64, subject: &Subject<'_>) -> Gate {
    orders.gate_path(now, subject).and(orders.gate_mail(now, subject))
}

const MAIL: &str =
    "provider=google site=mx.a domain=a.example source=one pool=main tenant=shop campaign=spring class=bulk";

#[test]
fn a_pause_holds_what_it_names_and_nothing_else() {
    for (paused, held) in [
        ("tenant=shop", true),
        ("tenant=shop campaign=spring", true),
        ("campaign=Spring", true),
        ("tenant=club campaign=spring", false),
        ("class=bulk", true),
        ("class=transactional", false),
        ("provider=google", true),
        ("provider=google tenant=club", false),
        ("site=mx.a", true),
        ("site=mx.b", false),
        ("domain=a.example class=bulk", true),
        ("source=one", true),
        ("pool=other", false),
        ("", true),
    ] {
        let mut orders = Orders::default();
        orders.put(order(1, Deed::Pause, scope(paused)), 5000);
        let mail = scope(MAIL);
        let expected = if held { Gate::Later(5000) } else { Gate::Go };
        assert_eq!(gate(&orders, 10, &mail.subject()), expected, "{paused}");
        assert_eq!(orders.pause(10, &mail.subject()).is_some(), held, "{paused}");
        assert_eq!(gate(&orders, 5000, &mail.subject()), Gate::Go, "{paused} is over");
        // A path is not held by what is said of a tenant.
        let of_path = held && !["tenant", "campaign", "class", "domain"].iter().any(|word| paused.contains(word));
        assert_eq!(orders.gate_path(10, &mail.subject()) != Gate::Go, of_path, "{paused} and the path");
        assert_eq!(orders.gate_mail(10, &mail.subject()) != Gate::Go, held && !of_path, "{paused} and the mail");
        assert!(orders.take_back(OrderId(1)).is_some());
        assert_eq!(gate(&orders, 10, &mail.subject()), Gate::Go);
    }
}

#[test]
fn the_strictest_counts() {
    let mut orders = Orders::default();
    orders.put(order(1, Deed::Pause, scope("tenant=shop")), 9000);
    orders.put(order(2, Deed::Pause, scope("campaign=spring")), NEVER);
    orders.put(order(3, Deed::Pace { per_second: 10.0 }, scope("provider=google")), NEVER);
    let mail = scope(MAIL);
    assert_eq!(gate(&orders, 0, &mail.subject()), Gate::Later(NEVER));
    orders.take_back(OrderId(2));
    assert_eq!(gate(&orders, 0, &mail.subject()), Gate::Later(9000));
    assert_eq!(orders.next_end(), Some(9000));
    assert_eq!(orders.ended(8999), []);
    assert_eq!(orders.ended(9000).len(), 1);
    assert_eq!((gate(&orders, 9000, &mail.subject()), orders.next_end()), (Gate::Go, None));
    assert_eq!(orders.about(&mail.subject()).len(), 1);
}

#[test]
fn a_pace_is_a_row_and_takes_the_place_of_the_one_before() {
    let mut orders = Orders::default();
    let mail = scope(MAIL);
    for (id, per_second) in [(1, 10.0), (2, 0.1)] {
        let pace = order(id, Deed::Pace { per_second }, scope("campaign=spring"));
        assert_eq!(orders.put(pace, NEVER), (id == 2).then_some(OrderId(1)));
    }
    assert_eq!(gate(&orders, 0, &mail.subject()), Gate::Go);
    let rows: Vec<Row> = orders.rows().collect();
    assert_eq!(rows.len(), 1);
    let Allowed::PerTime(rate) = rows[0].allowed else { panic!("it is a rate") };
    assert_eq!((rows[0].name.as_str(), rate.per_second(), rate.burst()), ("order 2", 0.1, 1.0));
    assert_eq!(rows[0].scope, scope("campaign=spring"));
    orders.take_back(OrderId(2));
    assert_eq!(orders.rows().count(), 0);
}

#[test]
fn a_pace_a_pause_and_an_exemption_stand_side_by_side() {
    let mut orders = Orders::default();
    let mail = scope(MAIL);
    assert!(!orders.exempts(0, &mail.subject()));
    for (id, deed) in [(1, Deed::Exempt), (2, Deed::Pause), (3, Deed::Pace { per_second: 1.0 })] {
        assert_eq!(orders.put(order(id, deed, scope("tenant=shop")), 100), None);
    }
    assert!(orders.exempts(99, &mail.subject()) && !orders.exempts(100, &mail.subject()));
    assert_eq!(orders.put(order(4, Deed::Pause, scope("tenant=shop")), NEVER), Some(OrderId(2)));
    assert_eq!(orders.iter().map(|order| order.id.0).collect::<Vec<_>>(), [1, 3, 4]);
    assert_eq!(orders.next_id(), OrderId(5));
}

#[test]
fn is_stored_as_it_is() {
    for deed in [Deed::Pause, Deed::Exempt, Deed::Pace { per_second: 0.5 }] {
        let mut order = order(7, deed, scope("tenant=shop class=bulk"));
        (order.reason, order.until) = ("too \"many\"".into(), Some(Timestamp(9)));
        let text = serde_json::to_string(&order).unwrap();
        assert_eq!(serde_json::from_str::<Order>(&text).unwrap(), order, "{text}");
    }
    let text = r#"{"id":1,"deed":"pause","scope":{"colour":"red"},"since":0}"#;
    assert!(serde_json::from_str::<Order>(text).is_err(), "an order about something else must not hold everything");
}

proptest! {
    /// However orders are filed, those that apply are found.
    #[test]
    fn none_is_overlooked(
        scopes in proptest::collection::vec(proptest::collection::vec((0usize..8, 0u8..3), 0..4), 0..20),
        about in proptest::collection::vec((0usize..8, 0u8..3), 0..8),
        gone in proptest::collection::vec(0u64..20, 0..5),
    ) {
        const NAMES: [&str; 8] =
            ["provider", "site", "domain", "source", "pool", "tenant", "campaign", "class"];
        let text = |named: &[(usize, u8)]| {
            let pairs = named.iter().map(|(kind, n)| match NAMES[*kind] {
                "class" => format!("class={}", Class::ALL[*n as usize].as_str()),
                name => format!("{name}={n}"),
            });
            scope(&pairs.collect::<Vec<_>>().join(" "))
        };
        let mut orders = Orders::default();
        for (id, named) in (0..).zip(&scopes) {
            orders.put(order(id, Deed::Pause, text(named)), 1000 + id);
        }
        gone.iter().for_each(|id| _ = orders.take_back(OrderId(*id)));
        let about = text(&about);
        let about = about.subject();
        let applies: Vec<u64> = orders.iter().filter(|o| o.scope.matches(&about)).map(|o| o.id.0).collect();
        let found: Vec<u64> = orders.about(&about).iter().map(|order| order.id.0).collect();
        prop_assert_eq!(&found, &applies);
        let expected = applies.iter().max().map_or(Gate::Go, |last| Gate::Later(1000 + last));
        prop_assert_eq!(gate(&orders, 0, &about), expected);
        let everything: Vec<OrderId> = orders.iter().map(|order| order.id).collect();
        everything.into_iter().for_each(|id| _ = orders.take_back(id));
        prop_assert!(orders.index.is_empty() && orders.ends.is_empty());
    }
}
