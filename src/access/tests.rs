//! Tenants from end to end: registered, shown who they are, held to what they may, changed while they are served.

use super::*;
use crate::clock::Timestamp;
use crate::mail::{Class, Envelope, ReversePath, Stream};

const GRACE: Duration = Duration::from_secs(3600);

struct World {
    ledger: Arc<Ledger>,
    metrics: Arc<Metrics>,
    access: Arc<Access>,
}

impl World {
    fn new() -> World {
        let (ledger, metrics) = (Arc::new(Ledger::default()), Arc::new(Metrics::new()));
        let access = Access::open(Arc::clone(&ledger), Arc::clone(&metrics), Clock).expect("an empty ledger");
        World { ledger, metrics, access }
    }

    /// With a tenant `shop` bound to shop.example, and a token of it.
    async fn with_shop() -> (World, Issued) {
        let world = World::new();
        world.access.create(shop()).await.expect("a good tenant");
        let issued = world.issue(&[]).await;
        (world, issued)
    }

    async fn issue(&self, replaces: &[&str]) -> Issued {
        let replaces = replaces.iter().map(|id| (*id).to_owned()).collect();
        let wanted = NewCredential { label: "web".into(), replaces, grace: GRACE, ..NewCredential::default() };
        self.access.issue("shop", wanted).await.expect("a good credential")
    }

    /// A new process on the same ledger.
    fn restarted(&self) -> Arc<Access> {
        Access::open(Arc::clone(&self.ledger), Arc::clone(&self.metrics), Clock).expect("a ledger that can be read")
    }

    fn counted(&self, result: &str, mechanism: &str) -> u64 {
        self.metrics.authentications.with_label_values(&[result, mechanism]).get()
    }
}

fn shop() -> Tenant {
    Tenant {
        name: "shop".into(),
        from_domains: vec!["shop.example".parse().expect("a domain")],
        certificates: vec!["app.shop.example".into()],
        ..Tenant::default()
    }
}

fn envelope(tenant: &str, class: Class, from: &str) -> Envelope {
    let stream = Stream { tenant: tenant.into(), class, campaign: "".into() };
    let reverse_path: ReversePath = from.parse().expect("a path");
    Envelope { reverse_path, ..Envelope::unreadable(stream, Timestamp(0)) }
}

const FROM_SHOP: &[u8] = b"Subject: s\r\nFrom: \"Shop\" <news@mail.shop.example>\r\n\r\nFrom: body\r\n";

fn id_of(principal: &Principal) -> (&str, &How) {
    (principal.tenant.as_ref().map_or("", |tenant| tenant.name.as_str()), &principal.how)
}

const WRONG: Result<(), AccessError> = Err(AccessError::Unauthenticated);

#[tokio::test(start_paused = true)]
async fn one_token_opens_every_door() {
    let (world, Issued { credential, token }) = World::with_shop().await;
    let access = &world.access;
    let how = How::Credential(credential.id.as_str().into());
    let by_token = access.by_token(&token, None).await.expect("the right token");
    assert_eq!(id_of(&by_token), ("shop", &how));
    for user in ["shop", &credential.id] {
        let by_password = access.by_password(user, &token, None).await.expect("the right password");
        assert_eq!(by_password, by_token);
        let scram = access.scram(user);
        let (by_scram, signature) = prove(&scram, &token).await.expect("the right password");
        assert_eq!((by_scram, signature.len()), (by_token.clone(), 32));
    }
    assert_eq!(
        (world.counted("ok", "token"), world.counted("ok", "password"), world.counted("ok", "scram")),
        (1, 2, 2)
    );
    let shown = access.tenant("shop").expect("there");
    assert!(shown.credentials[0].last_used.is_some() && !format!("{shown:?}").contains(&token[16..]));
}

/// A client's side of the exchange.
async fn prove(scram: &Scram, password: &str) -> Result<(Arc<Principal>, Vec<u8>), AccessError> {
    let mut salted = [0; 32];
    let iterations = std::num::NonZeroU32::new(scram.iterations).expect("some");
    let algorithm = aws_lc_rs::pbkdf2::PBKDF2_HMAC_SHA256;
    aws_lc_rs::pbkdf2::derive(algorithm, iterations, &scram.salt, password.as_bytes(), &mut salted);
    let sign = |key: &[u8], data: &[u8]| hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), data);
    let client = sign(&salted, b"Client Key");
    let stored = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, client.as_ref());
    let signature = sign(stored.as_ref(), b"n=,r=a,r=ab,c=biws");
    let proof: Vec<u8> = client.as_ref().iter().zip(signature.as_ref()).map(|(a, b)| a ^ b).collect();
    scram.verify(b"n=,r=a,r=ab,c=biws", &proof, None).await
}

#[tokio::test(start_paused = true)]
async fn nothing_else_opens_one() {
    let (world, Issued { credential, token }) = World::with_shop().await;
    let access = &world.access;
    let forged = token::make(&[1; 44]);
    // The right id with another secret, checked all right.
    let mut of_shop = token.clone().into_bytes();
    of_shop[16..].copy_from_slice(&forged.as_bytes()[16..]);
    let of_shop = String::from_utf8(of_shop).expect("letters");
    for wrong in ["", "x", &token[16..], &forged, &of_shop, &token.to_uppercase()] {
        assert_eq!(access.by_token(wrong, None).await.map(drop), WRONG, "{wrong}");
        assert_eq!(access.by_password("shop", wrong, None).await.map(drop), WRONG, "{wrong}");
        assert_eq!(prove(&access.scram("shop"), wrong).await.map(drop), WRONG, "{wrong}");
    }
    for user in ["", "Shop", "other", &token] {
        assert_eq!(access.by_password(user, &token, None).await.map(drop), WRONG, "{user}");
    }
    for user in ["", "other", &token] {
        assert_eq!(prove(&access.scram(user), &token).await.map(drop), WRONG, "{user}");
    }
    let scram = access.scram("shop");
    for proof in [&b""[..], &[0; 31], &[0; 32], &[0; 33]] {
        assert_eq!(scram.verify(b"", proof, None).await.map(drop), WRONG);
    }
    assert_eq!(world.counted("wrong", "token"), 6);
    access.revoke("shop", &credential.id).await.expect("there");
    assert_eq!(access.by_token(&token, None).await.map(drop), WRONG, "although it was right before");
    assert_eq!(prove(&scram, &token).await.map(drop), WRONG, "although the exchange had begun");
}

#[tokio::test(start_paused = true)]
async fn who_does_not_exist_looks_like_who_does() {
    let (world, _) = World::with_shop().await;
    let (known, unknown) = (world.access.scram("shop"), world.access.scram("nobody"));
    assert_eq!((known.salt.len(), known.iterations), (unknown.salt.len(), unknown.iterations));
    assert_eq!(unknown.salt, world.access.scram("nobody").salt);
    assert_ne!(unknown.salt, world.access.scram("nobodi").salt);
    let restarted = world.restarted();
    assert_eq!((restarted.scram("shop").salt, restarted.scram("nobody").salt), (known.salt, unknown.salt));
}

#[tokio::test(start_paused = true)]
async fn guessing_is_slow_and_locks_nobody_out() {
    let (world, Issued { token, .. }) = World::with_shop().await;
    let client = Some([192, 0, 2, 1].into());
    let start = Clock.instant();
    for _ in 0..8 {
        assert_eq!(world.access.by_token(&token::make(&[1; 44]), client).await.map(drop), WRONG);
    }
    assert_eq!(start.elapsed().as_millis(), 250 + 500 + 1000 + 2000 + 4000 + 3 * 5000);
    let start = Clock.instant();
    assert!(world.access.by_token(&token, client).await.is_ok());
    assert!(start.elapsed() < Duration::from_millis(250), "the right secret does not wait");
}

#[tokio::test(start_paused = true)]
async fn tokens_are_changed_without_a_gap() {
    let (world, old) = World::with_shop().await;
    let access = &world.access;
    let new = world.issue(&[&old.credential.id]).await;
    assert!(access.by_token(&old.token, None).await.is_ok() && access.by_token(&new.token, None).await.is_ok());
    assert!(prove(&access.scram("shop"), &new.token).await.is_ok(), "under the same name");
    let shown = access.tenant("shop").expect("there").credentials;
    assert!(shown[0].expires_at.is_some() && shown[1].expires_at.is_none() && !shown[0].expired);

    // The grace cannot be lengthened, and when it is over, it is.
    let wanted = NewCredential { replaces: vec![old.credential.id.clone()], ..NewCredential::default() };
    let newer = access.issue("shop", wanted).await.expect("good");
    assert_eq!(access.by_token(&old.token, None).await.map(drop), WRONG);
    assert_eq!(world.counted("expired", "token"), 1);
    assert!(access.by_token(&new.token, None).await.is_ok() && access.by_token(&newer.token, None).await.is_ok());
    let wanted = NewCredential { replaces: vec!["nonesuch".into()], ..NewCredential::default() };
    assert_eq!(access.issue("shop", wanted).await, Err(ChangeError::NoCredential("nonesuch".into())));
}

#[tokio::test(start_paused = true)]
async fn tenants_survive_a_restart() {
    let (world, Issued { token, .. }) = World::with_shop().await;
    drop(world.access.charge("shop", 7).expect("no limit"));
    world.access.save_usage().await.expect("the ledger takes it");
    let restarted = world.restarted();
    assert_eq!(restarted.tenant("shop").expect("there").tenant, shop());
    assert_eq!(restarted.tenant("shop").expect("there").used, Used { hour: 7, day: 7, waiting: 0 });
    assert!(restarted.by_token(&token, None).await.is_ok());
    for (_, value) in world.ledger.scan(Table::Tenants, b"").expect("readable") {
        assert!(!String::from_utf8_lossy(&value).contains(&token[16..]), "the secret is nowhere");
    }
    restarted.remove("shop").await.expect("there");
    assert_eq!(world.restarted().tenants(), []);
    assert_eq!(world.ledger.get(Table::Usage, b"shop").expect("readable"), None);
}

#[tokio::test(start_paused = true)]
async fn a_record_that_cannot_be_read_harms_nobody_else() {
    let (world, Issued { token, .. }) = World::with_shop().await;
    let foul = vec![(b"tenant/foul".to_vec(), Some(Bytes::from_static(b"{\"tenant\":")))];
    world.ledger.put(Table::Tenants, foul).await.expect("in memory");
    let restarted = world.restarted();
    assert!(restarted.by_token(&token, None).await.is_ok());
    assert_eq!(restarted.tenants().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn certificates() {
    let (world, _) = World::with_shop().await;
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let access = &world.access;
    let principal = access.by_certificate(&names(&["other.example", "APP.shop.example"])).expect("one of them");
    assert_eq!(id_of(&principal), ("shop", &How::Certificate("APP.shop.example".into())));
    let submit = || access.authorise(&principal, &mut envelope("", Class::Bulk, "a@shop.example"), FROM_SHOP);
    assert_eq!(submit(), Ok(()));
    assert_eq!(access.by_certificate(&names(&["shop.example"])).map(drop), WRONG);
    let twice = Tenant { name: "two".into(), certificates: names(&["x", "app.SHOP.example"]), ..Tenant::default() };
    let refused = access.create(twice).await.map_err(|error| error.to_string());
    assert_eq!(refused, Err("certificates[1]: stands for tenant \"shop\" already".into()));
    access.change("shop", |tenant| tenant.certificates.clear()).await.expect("good");
    assert_eq!(submit(), WRONG, "the certificate does not stand for it any more");
}

#[tokio::test(start_paused = true)]
async fn changes_are_refused_as_a_whole() {
    let (world, _) = World::with_shop().await;
    let access = &world.access;
    assert_eq!(access.create(shop()).await, Err(ChangeError::Exists("shop".into())));
    let none = || ChangeError::NoTenant("none".into());
    assert_eq!(access.change("none", |_| {}).await, Err(none()));
    assert_eq!(access.remove("none").await, Err(none()));
    assert_eq!(access.issue("none", NewCredential::default()).await, Err(none()));
    assert_eq!(access.revoke("none", "x").await, Err(none()));
    assert_eq!(access.revoke("shop", "x").await, Err(ChangeError::NoCredential("x".into())));
    let bad = access.change("shop", |tenant| {
        tenant.name = "other".into();
        tenant.disabled = true;
        tenant.quota.per_second = Some(0);
    });
    let why = "quota.per_second: must be at least 1; to stop a tenant, disable it";
    assert_eq!(bad.await.map_err(|error| error.to_string()), Err(why.into()));
    let wanted = NewCredential { label: "x".repeat(65), ..NewCredential::default() };
    assert!(matches!(access.issue("shop", wanted).await, Err(ChangeError::Bad(_))));
    assert_eq!(access.tenant("shop").expect("there").tenant, shop());
}

async fn refused(
    access: &Access,
    principal: &Principal,
    (tenant, class, from): (&str, Class, &str),
    content: &str,
) -> String {
    match access.authorise(principal, &mut envelope(tenant, class, from), content.as_bytes()) {
        Ok(()) => String::new(),
        Err(error) => error.to_string(),
    }
}

#[tokio::test(start_paused = true)]
async fn a_tenant_sends_in_its_own_name() {
    let (world, Issued { token, .. }) = World::with_shop().await;
    let access = &world.access;
    access.change("shop", |shop| shop.classes = vec![Class::Bulk]).await.expect("good");
    let shop = access.by_token(&token, None).await.expect("right");
    let mut ours = envelope("", Class::Bulk, "bounce@shop.example");
    assert_eq!(access.authorise(&shop, &mut ours, FROM_SHOP), Ok(()));
    assert_eq!(&*ours.stream.tenant, "shop");
    assert_eq!(access.authorise(&shop, &mut ours, FROM_SHOP), Ok(()), "saying so oneself");

    let good = ("", Class::Bulk, "a@shop.example");
    let yours = "is not in the domains of tenant \"shop\": shop.example";
    for (claim, content, why) in [
        (("other", Class::Bulk, "a@shop.example"), "", "tenant: must be \"shop\" or left out: so your credentials say"),
        (("", Class::Transactional, "a@shop.example"), "", "class: tenant \"shop\" may not use class transactional"),
        (("", Class::System, "a@shop.example"), "", "class: tenant \"shop\" may not use class system"),
        (("", Class::Bulk, "a@bank.example"), "", &format!("sender: a@bank.example {yours}")),
        (("", Class::Bulk, "a@[192.0.2.1]"), "", &format!("sender: a@[192.0.2.1] {yours}")),
        (
            ("", Class::Bulk, ""),
            "",
            "sender: may not be null: reports of what cannot be delivered need an address to go to",
        ),
        (good, "Subject: s\r\n\r\n", "from: the message has no From"),
        (good, "\r\nFrom: a@shop.example\r\n", "from: the message has no From"),
        (good, "From: ceo@bank.example\r\n\r\n", &format!("from: field From: ceo@bank.example {yours}")),
        (good, "from : ceo@bank.example\r\n\r\n", &format!("from: field From: ceo@bank.example {yours}")),
        (
            good,
            "From: a@shop.example\r\nFrom: ceo@bank.example\r\n\r\n",
            &format!("from: field From: ceo@bank.example {yours}"),
        ),
        (
            good,
            "From: a@shop.example,\r\n ceo@bank.example\r\n\r\n",
            &format!("from: field From: ceo@bank.example {yours}"),
        ),
        (
            good,
            "From: a@shop.example\r\nSender: ceo@bank.example\r\n\r\n",
            &format!("from: field Sender: ceo@bank.example {yours}"),
        ),
        (
            good,
            "From: a@shop.example <ceo@bank.example>\r\n\r\n",
            "from: field From has '@' where no address can have it; put display names in double quotes",
        ),
        (good, "From: a@shop.example\r\nno field\r\nFrom: b@c.example\r\n\r\n", "from: the header cannot be read"),
        (good, "From: a@shop.example\r\nReply-To: a@bank.example\r\n\r\n", ""),
    ] {
        assert_eq!(refused(access, &shop, claim, content).await, why, "{claim:?} {content}");
    }
}

#[tokio::test(start_paused = true)]
async fn changes_hold_for_clients_already_there() {
    let (world, Issued { token, credential }) = World::with_shop().await;
    let access = &world.access;
    let shop = access.by_token(&token, None).await.expect("right");
    let bank = ("", Class::Bulk, "a@bank.example");
    assert_ne!(refused(access, &shop, bank, "From: a@bank.example\r\n\r\n").await, "");
    access.change("shop", |shop| shop.from_domains.clear()).await.expect("good");
    assert_eq!(refused(access, &shop, bank, "From: whoever <\r\n\r\n").await, "", "bound to nothing any more");
    access.change("shop", |shop| shop.disabled = true).await.expect("good");
    assert_eq!(refused(access, &shop, bank, "").await, "tenant: tenant \"shop\" is disabled");
    assert_eq!(access.by_token(&token, None).await.map(drop), WRONG);
    assert_eq!(world.counted("disabled", "token"), 1);
    access.change("shop", |shop| shop.disabled = false).await.expect("good");
    assert_eq!(refused(access, &shop, bank, "").await, "");
    access.revoke("shop", &credential.id).await.expect("there");
    assert_eq!(refused(access, &shop, bank, "").await, "authentication failed");
}

#[tokio::test(start_paused = true)]
async fn trusted_clients_go_on_as_before() {
    let (world, _) = World::with_shop().await;
    let access = &world.access;
    for trusted in [Principal::network(), Principal::user(33)] {
        for tenant in ["", "unregistered", "shop"] {
            assert_eq!(refused(access, &trusted, (tenant, Class::Bulk, ""), "From: x <y\r\n\r\n").await, "");
        }
    }
    access.change("shop", |shop| shop.disabled = true).await.expect("good");
    let named = refused(access, &Principal::network(), ("shop", Class::Bulk, ""), "").await;
    assert_eq!(named, "tenant: tenant \"shop\" is disabled");
}

#[tokio::test(start_paused = true)]
async fn quotas_hold_whoever_submits() {
    let (world, _) = World::with_shop().await;
    let access = &world.access;
    access.count_waiting_by(Box::new(|tenant| if tenant == "shop" { 90 } else { 1_000_000 }));
    access.change("shop", |shop| shop.quota.waiting_max = Some(100)).await.expect("good");
    let charge = access.charge("shop", 10).expect("room");
    let refused = access.charge("shop", 1).map(drop).map_err(|error| error.to_string());
    assert_eq!(refused, Err("tenant \"shop\" has used up what it may have waiting, 100 recipients".into()));
    charge.refund();
    drop(access.charge("shop", 10).expect("room again"));
    assert_eq!(access.tenant("shop").expect("there").used, Used { hour: 10, day: 10, waiting: 90 });
    for free in ["", "unregistered"] {
        drop(access.charge(free, 1_000_000).expect("nobody counts"));
    }
    // What was used stays used when the quota changes.
    access.change("shop", |shop| shop.quota = Quota { per_hour: Some(15), ..Quota::default() }).await.expect("good");
    assert!(matches!(access.charge("shop", 6), Err(AccessError::Quota { retry_after: Some(_), .. })));
    drop(access.charge("shop", 5).expect("room"));
}
