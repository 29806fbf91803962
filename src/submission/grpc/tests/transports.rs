//! The same calls over TLS, with and without a client certificate, and over a Unix socket.

use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tonic::Code;
use tonic::codegen::Service;
use tonic::codegen::http::Uri;
use tonic::transport::{Channel, Endpoint};

use super::super::v1::submission_client::SubmissionClient;
use super::{World, check_status, raw};
use crate::access::{How, Tenant};

/// Makes connections by a closure.
struct By<F>(F);

type Connecting<S> = Pin<Box<dyn Future<Output = io::Result<TokioIo<S>>> + Send>>;

impl<S, F: Fn() -> Connecting<S>> Service<Uri> for By<F> {
    type Response = TokioIo<S>;
    type Error = io::Error;
    type Future = Connecting<S>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Connecting<S> {
        (self.0)()
    }
}

/// An authority, and certificates from it.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: rcgen::Certificate,
}

impl Authority {
    fn new() -> Authority {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "an authority");
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        Authority { issuer: Issuer::new(params, key), certificate }
    }

    fn issue(&self, dns: &str, common: &str) -> (rcgen::Certificate, KeyPair) {
        let mut params = CertificateParams::new(vec![dns.to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, common);
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap(), key)
    }
}

fn write(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    path
}

/// A channel over TLS to the door, showing this certificate.
async fn secure(world: &World, authority: &Authority, shown: Option<(rcgen::Certificate, KeyPair)>) -> Channel {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(authority.certificate.der().to_vec())).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let builder = builder.with_root_certificates(roots);
    let mut config = match shown {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
            builder.with_client_auth_cert(vec![certificate.der().clone()], key).unwrap()
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    let (connector, address) = (TlsConnector::from(Arc::new(config)), world.grpc.local_addrs()[0]);
    let connect = move || -> Connecting<_> {
        let connector = connector.clone();
        Box::pin(async move {
            let stream = TcpStream::connect(address).await?;
            let name = ServerName::try_from("mta.us.test").unwrap();
            Ok(TokioIo::new(connector.connect(name, stream).await?))
        })
    };
    Endpoint::from_static("http://mta.us.test").connect_with_connector_lazy(By(connect))
}

#[tokio::test]
async fn certificates_of_clients_name_tenants_and_are_not_demanded() {
    let folder = tempfile::tempdir().unwrap();
    let (authority, stranger) = (Authority::new(), Authority::new());
    let (certificate, key) = authority.issue("mta.us.test", "mta");
    let world = World::start(|config| {
        config.tls_cert_file = Some(write(folder.path(), "cert.pem", &certificate.pem()));
        config.tls_key_file = Some(write(folder.path(), "key.pem", &key.serialize_pem()));
        config.tls_client_ca_file = Some(write(folder.path(), "ca.pem", &authority.certificate.pem()));
    })
    .await;
    let access = world.book.access();
    let shop = Tenant { name: "shop".into(), certificates: vec!["Shop 1".into()], ..Tenant::default() };
    access.create(shop).await.unwrap();

    let submit = async |shown| {
        let channel = secure(&world, &authority, shown).await;
        SubmissionClient::new(channel).submit(raw("a@them.test", 100)).await
    };
    // None: it is a trusted network all the same.
    submit(None).await.unwrap();
    submit(Some(authority.issue("one.shop.test", "Shop 1"))).await.unwrap();
    let stored = world.book.stored();
    assert_eq!(stored[0].principal.how, How::Network);
    assert_eq!(stored[1].principal.tenant.as_ref().unwrap().name, "shop");
    assert!(String::from_utf8_lossy(&stored[1].messages[0].content).contains("with gRPCS"));
    // A name that nobody knows is refused; an authority that we do not know does not get so far.
    let status = submit(Some(authority.issue("two.shop.test", "Shop 2"))).await.unwrap_err();
    check_status(&status, Code::Unauthenticated);
    assert!(submit(Some(stranger.issue("one.shop.test", "Shop 1"))).await.is_err());
    // In the clear there is nobody.
    let plain = Endpoint::from_shared(format!("http://{}", world.grpc.local_addrs()[0])).unwrap().connect_lazy();
    assert!(SubmissionClient::new(plain).submit(raw("a@them.test", 100)).await.is_err());
    assert_eq!(world.book.stored().len(), 2);
    assert!(world.refused("tls") >= 1);
}

#[tokio::test]
async fn users_of_this_machine_are_known_over_a_unix_socket() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("grpc.sock");
    let us = rustix::process::getuid().as_raw();
    let world = World::start(|config| {
        config.listen_unix = vec![path.clone()];
        config.trusted_users = vec![us.to_string()];
    })
    .await;
    let socket = path.clone();
    let connect = move || -> Connecting<_> {
        let socket = socket.clone();
        Box::pin(async move { Ok(TokioIo::new(UnixStream::connect(socket).await?)) })
    };
    let channel = Endpoint::from_static("http://localhost").connect_with_connector_lazy(By(connect));
    let mut client = SubmissionClient::new(channel);
    client.submit(raw("a@them.test", 100)).await.unwrap();
    assert_eq!(world.book.stored()[0].principal.how, How::User(us));
    // Somebody else would not be, whatever networks are trusted.
    let mut config = world.config.clone();
    config.trusted_users.clear();
    world.grpc.reload(&config, None);
    let status = client.submit(raw("a@them.test", 100)).await.unwrap_err();
    check_status(&status, Code::Unauthenticated);
    world.grpc.close(std::time::Duration::from_secs(1)).await;
    assert!(!path.exists());
}
