//! HTTPS on the API port, and HTTP/2 with and without it.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Instant;

use reqwest::{Client, ClientBuilder, Response, Version};
use serde_json::{Value, json};

use crate::harness::client::VERSION;
use crate::harness::http::{Connection, DEADLINE};
use crate::harness::process::Signal;
use crate::harness::server::{Server, run_to_exit, serve_args};

/// A certificate of `localhost` that its own key has signed, and where it is kept.
struct Certificate {
    cert: PathBuf,
    key: PathBuf,
    pem: String,
}

impl Certificate {
    /// Makes one, in place of any that is there.
    fn make(folder: &Path) -> Certificate {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()])
            .expect("a certificate can be made");
        let certificate = Certificate {
            cert: folder.join("server.pem"),
            key: folder.join("server.key"),
            pem: made.cert.pem(),
        };
        std::fs::write(&certificate.cert, &certificate.pem).expect("the folder is writable");
        std::fs::write(&certificate.key, made.signing_key.serialize_pem())
            .expect("the folder is writable");
        certificate
    }

    fn flags(&self) -> [&str; 4] {
        let path = |path: &'_ PathBuf| path.to_str().expect("paths are UTF-8").to_owned().leak();
        [
            "--server-tls-cert",
            path(&self.cert),
            "--server-tls-key",
            path(&self.key),
        ]
    }

    /// A client that trusts this certificate and no other.
    fn client(&self) -> ClientBuilder {
        let trusted = reqwest::Certificate::from_pem(self.pem.as_bytes()).expect("it is PEM");
        client().tls_certs_only([trusted])
    }
}

fn client() -> ClientBuilder {
    // An error only says that there is one already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client::builder().timeout(DEADLINE)
}

fn url(server: &Server, path: &str) -> String {
    format!("https://localhost:{}{path}", server.addr().port())
}

fn request(kind: &str, data: &Value) -> String {
    json!({"kind": kind, "head": {"corrId": "c", "version": VERSION}, "data": data}).to_string()
}

/// Creates a promise for whoever listens to the group of its id.
async fn create(client: &Client, url: &str, id: &str) -> Version {
    let tags = json!({"resonate:target": format!("poll://any@{id}")});
    let data = json!({"id": id, "timeoutAt": i64::MAX, "tags": tags});
    let request = client.post(url).body(request("promise.create", &data));
    let response = request.send().await.expect("the server answers");
    let version = response.version();
    let answer: Value = serde_json::from_slice(&response.bytes().await.expect("answers are JSON"))
        .expect("answers are JSON");
    assert_eq!(answer["head"]["status"], 200, "{answer}");
    version
}

/// The next message of a stream.
async fn next(stream: &mut Response) -> Value {
    let mut text = String::new();
    loop {
        let chunk = stream
            .chunk()
            .await
            .expect("the stream goes on")
            .expect("the stream is open");
        text.push_str(std::str::from_utf8(&chunk).expect("streams are UTF-8"));
        if let Some(data) = text
            .split("\n\n")
            .find_map(|event| event.strip_prefix("data:"))
        {
            return serde_json::from_str(data).expect("messages are JSON");
        }
    }
}

#[tokio::test]
async fn requests_and_streams_are_encrypted() {
    let folder = tempfile::tempdir().unwrap();
    let certificate = Certificate::make(folder.path());
    let server = Server::single_with(&certificate.flags());
    let home = url(&server, "");
    for (client, version) in [
        (certificate.client().http1_only(), Version::HTTP_11),
        (certificate.client(), Version::HTTP_2),
    ] {
        let client = client.build().unwrap();
        let id = if version == Version::HTTP_2 {
            "second"
        } else {
            "first"
        };
        let poll = url(&server, &format!("/poll/{id}/w"));
        let mut stream = client.get(poll).send().await.unwrap();
        assert_eq!((stream.status().as_u16(), stream.version()), (200, version));
        assert_eq!(create(&client, &home, id).await, version);
        let execute = next(&mut stream).await;
        assert_eq!(execute["data"]["task"]["id"], id, "{execute}");
        assert_eq!(execute["head"]["serverUrl"], home, "{execute}");
    }
}

#[tokio::test]
async fn http_2_is_spoken_without_tls_too() {
    let server = Server::single();
    let home = format!("http://{}", server.addr());
    let client = client().http2_prior_knowledge().build().unwrap();
    let mut stream = client
        .get(format!("{home}/poll/h2c/w"))
        .send()
        .await
        .unwrap();
    assert_eq!(create(&client, &home, "h2c").await, Version::HTTP_2);
    assert_eq!(next(&mut stream).await["data"]["task"]["id"], "h2c");
}

#[tokio::test]
async fn who_does_not_shake_hands_is_not_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let certificate = Certificate::make(folder.path());
    let flags = [
        &certificate.flags()[..],
        &["--server-header-read-timeout", "500"],
    ]
    .concat();
    let server = Server::single_with(&flags);
    let silent = Connection::open(server.addr()).unwrap();
    let mut plain = Connection::open(server.addr()).unwrap();
    plain
        .write(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
        .unwrap();
    let client = certificate.client().build().unwrap();
    let health = client.get(url(&server, "/health")).send().await.unwrap();
    assert_eq!(health.status().as_u16(), 200);
    // The one is told that this is TLS, by an alert, the other nothing.
    for connection in [&plain, &silent] {
        let mut said = Vec::new();
        connection.socket().read_to_end(&mut said).unwrap();
        assert!(!said.starts_with(b"HTTP"), "{said:?}");
    }
}

#[tokio::test]
async fn sighup_replaces_the_certificate_unless_the_new_one_is_no_good() {
    let folder = tempfile::tempdir().unwrap();
    let old = Certificate::make(folder.path());
    let server = Server::single_with(&old.flags());
    let health = url(&server, "/health");
    let old_client = old.client().build().unwrap();
    assert!(old_client.get(&health).send().await.is_ok());

    let new = Certificate::make(folder.path());
    // Whoever is connected stays.
    server.signal(Signal::Hup);
    server.logs("the TLS certificate was read again");
    assert!(old_client.get(&health).send().await.is_ok());
    let stranger = old.client().build().unwrap();
    assert!(stranger.get(&health).send().await.is_err());
    let client = new.client().build().unwrap();
    assert!(client.get(&health).send().await.is_ok());

    std::fs::write(&new.key, "nothing").unwrap();
    server.signal(Signal::Hup);
    server.logs("the new TLS certificate cannot be used; the old one stays");
    server.logs("server.tls.key: holds no private key in PEM that is not encrypted (file");
    let client = new.client().build().unwrap();
    assert!(client.get(&health).send().await.is_ok());
}

#[test]
fn files_that_cannot_be_used_are_named_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let good = Certificate::make(folder.path());
    let other = folder.path().join("other");
    std::fs::create_dir(&other).unwrap();
    let other = Certificate::make(&other);
    let junk = folder.path().join("junk.pem");
    std::fs::write(&junk, "junk").unwrap();
    let broken = folder.path().join("broken.pem");
    let text = "-----BEGIN CERTIFICATE-----\n????\n-----END CERTIFICATE-----\n";
    std::fs::write(&broken, text).unwrap();
    let missing = folder.path().join("missing.pem");
    for (cert, key, named, reason) in [
        (&missing, &good.key, ("cert", &missing), "cannot be read: "),
        (
            &junk,
            &good.key,
            ("cert", &junk),
            "holds no certificate in PEM",
        ),
        (&broken, &good.key, ("cert", &broken), "is not PEM: "),
        (&good.cert, &missing, ("key", &missing), "cannot be read: "),
        (
            &good.cert,
            &good.cert,
            ("key", &good.cert),
            "holds no private key in PEM",
        ),
        (
            &good.cert,
            &other.key,
            ("key", &other.key),
            "does not belong to the certificate",
        ),
    ] {
        let args = [
            serve_args(":memory:"),
            ["--server-tls-cert", cert.to_str().unwrap()]
                .map(str::to_owned)
                .to_vec(),
            ["--server-tls-key", key.to_str().unwrap()]
                .map(str::to_owned)
                .to_vec(),
        ]
        .concat();
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let started_at = Instant::now();
        let exit = run_to_exit(&args, &[], folder.path());
        assert!(started_at.elapsed() < DEADLINE);
        let (setting, file) = named;
        let told = format!("Fatal: Configuration error: server.tls.{setting}: {reason}");
        let names_file = exit.stderr.contains(&format!("(file {file:?})"));
        assert!(exit.stderr.contains(&told) && names_file, "{exit:?}");
        assert_eq!(exit.code, Some(1));
    }
}
