use std::net::SocketAddr;

use super::*;
use crate::http::WebConfig;
use crate::{ControlPlane, ControlPlaneConfig};
use relayscope_bridge::{Hub, HubConfig, hub};

fn gate(users: &[(&str, &str)]) -> (tempfile::TempDir, Gate) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("web.yml");
    let line = |(name, password): &(&str, &str)| {
        format!("  {name}: {}\n", bcrypt::hash_with_salt(password, 4, [7; 16]).unwrap())
    };
    let users: String = users.iter().map(line).collect();
    std::fs::write(&path, format!("basic_auth_users:\n{users}")).unwrap();
    let Hub { collector, .. } = hub(HubConfig::default()).unwrap();
    let plane = ControlPlane::new(collector, ControlPlaneConfig::default()).unwrap();
    let web = Web::new(Some(WebConfig::read(&path).unwrap()));
    (directory, Gate::new(plane, web))
}

fn basic(text: &str) -> HeaderValue {
    format!("Basic {}", BASE64_STANDARD.encode(text)).parse().unwrap()
}

async fn check(gate: &Gate, text: &str, client: &str) -> Authentication {
    let users = Arc::clone(gate.web.config().unwrap().users().unwrap());
    let client: SocketAddr = client.parse().unwrap();
    gate.check(users, credentials(&basic(text)).unwrap(), Some(client.ip())).await
}

#[test]
fn credentials_are_read_as_rfc_7617_writes_them_and_nothing_else_is() {
    let read = |value: &str| credentials(&HeaderValue::from_str(value).unwrap()).is_some();
    assert!(read("Basic dGVzdDoxMjPCow=="), "its example, test:123£");
    assert!(read("bAsIc YTpi"));
    for bad in ["Basic", "Bearer YTpi", "Basic YTpi YTpi", "Basic ???", "Basic YWI=", "YTpi"] {
        assert!(!read(bad), "{bad}");
    }
}

/// The one thread that checks is held up; what is proven does not wait for it, and what waits is bounded.
#[tokio::test]
async fn guesses_do_not_hold_up_who_is_proven_and_what_waits_is_bounded() {
    let (_directory, gate) = gate(&[("alice", "secret")]);
    assert_eq!(check(&gate, "alice:secret", "192.0.2.1:1").await, Authentication::Verified);
    let (release, held) = std::sync::mpsc::channel::<()>();
    let worker = gate.worker.clone();
    let holding = tokio::spawn(async move { worker.run(move || held.recv().is_err()).await });

    let guesses: Vec<_> = (0..20)
        .map(|n| {
            let gate = gate.clone();
            tokio::spawn(async move { check(&gate, &format!("alice:{n}"), "198.51.100.1:1").await })
        })
        .collect();
    tokio::task::yield_now().await;
    let users = Arc::clone(gate.web.config().unwrap().users().unwrap());
    assert_eq!(users.proven(&credentials(&basic("alice:secret")).unwrap()), Some("alice"));
    drop(release);
    assert!(holding.await.unwrap().unwrap());
    let mut outcomes = Vec::new();
    for guess in guesses {
        outcomes.push(guess.await.unwrap());
    }
    let of = |wanted| outcomes.iter().filter(|outcome| **outcome == wanted).count();
    assert_eq!((of(Authentication::Wrong), of(Authentication::Busy)), (4, 16), "the share of one source");
    assert_eq!(check(&gate, "alice:0", "198.51.100.1:1").await, Authentication::Wrong, "its places are free");
}

#[tokio::test]
async fn two_hundred_who_come_at_once_with_the_right_password_all_get_in() {
    let (_directory, gate) = gate(&[("prometheus", "secret")]);
    let scrapes: Vec<_> = (0..200)
        .map(|_| {
            let gate = gate.clone();
            tokio::spawn(async move { check(&gate, "prometheus:secret", "192.0.2.1:1").await })
        })
        .collect();
    for scrape in scrapes {
        assert_eq!(scrape.await.unwrap(), Authentication::Verified);
    }
}
