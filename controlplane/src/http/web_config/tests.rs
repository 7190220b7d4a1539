use std::fs::write;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tempfile::TempDir;

use super::*;

/// What `htpasswd -nbBC 10 u secret` prints.
const HASH: &str = "$2y$10$abcdefghijklmnopqrstuuYBqM7bpB0fxKqMGt2QHDf4QEqvLqJQe";

/// A directory with `cert.pem`, its `key.pem`, another key and `ca.pem`, an authority's.
fn files() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["relay".to_owned()]).unwrap();
    params.not_after = rcgen::date_time_ymd(2038, 1, 19);
    let certificate = params.signed_by(&key, &ca).unwrap();
    for (name, text) in [
        ("cert.pem", certificate.pem()),
        ("key.pem", key.serialize_pem()),
        ("other.pem", KeyPair::generate().unwrap().serialize_pem()),
        ("ca.pem", ca.pem()),
    ] {
        write(directory.path().join(name), text).unwrap();
    }
    directory
}

fn read(directory: &TempDir, text: &str) -> Result<WebConfig, String> {
    let path = directory.path().join("web.yml");
    write(&path, text).unwrap();
    let shown =
        |error: WebConfigError| error.to_string().replace(&format!("{}/", directory.path().display()), "");
    WebConfig::read(&path).map_err(shown)
}

fn tls(more: &str) -> String {
    format!("tls_server_config:\n  cert_file: cert.pem\n  key_file: key.pem\n{more}")
}

#[test]
fn an_empty_file_serves_everybody_in_the_open() {
    let directory = files();
    for text in ["", "# nothing\n", "{}", "tls_server_config:\nbasic_auth_users: {}\n"] {
        let config = read(&directory, text).unwrap();
        assert!(!config.serves_tls() && !config.has_users(), "{text:?}");
        assert_eq!(config.secrets().count(), 0);
    }
}

#[test]
fn all_that_the_format_has_and_rustls_knows_is_taken() {
    let directory = files();
    let text = format!(
        "{}http_server_config:\n  http2: true\n  headers:\n    X-Frame-Options: sameorigin\n    \
         Strict-Transport-Security: ''\nbasic_auth_users:\n  alice: {HASH}\n",
        tls("  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: ca.pem\n  \
             client_allowed_sans: [a, b]\n  min_version: TLS12\n  max_version: TLS13\n  \
             cipher_suites: [TLS_AES_128_GCM_SHA256, TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305]\n  \
             prefer_server_cipher_suites: false\n  curve_preferences: [CurveP384, X25519]\n")
    );
    let config = read(&directory, &text).unwrap();
    assert!(config.serves_tls() && config.has_users());
    let tls = config.tls().unwrap();
    assert_eq!(tls.not_after, 2_147_472_000, "2038-01-19 as unix time");
    assert!(!tls.config.ignore_client_order);
    assert_eq!(tls.config.alpn_protocols, [b"http/1.1"]);
    let suites: Vec<_> = tls
        .config
        .crypto_provider()
        .cipher_suites
        .iter()
        .filter_map(|suite| suite.suite().as_str())
        .collect();
    assert_eq!(
        suites[suites.len() - 2..],
        ["TLS13_CHACHA20_POLY1305_SHA256", "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256"]
    );
    let path = |name: &str| directory.path().join(name);
    assert_eq!(config.secrets().collect::<Vec<_>>(), [path("key.pem"), path("web.yml")]);
    let files: Vec<_> = config.files().iter().map(|(path, stamp)| (path.clone(), stamp.is_some())).collect();
    assert_eq!(files, ["web.yml", "cert.pem", "key.pem", "ca.pem"].map(|name| (path(name), true)));
    assert_eq!(
        config.notes().collect::<Vec<_>>(),
        ["http_server_config.http2: HTTP/2 is not served; clients get HTTP/1.1"]
    );
}

#[test]
fn certificates_and_keys_may_stand_in_the_file_itself() {
    let directory = files();
    let indented = |name: &str| {
        let text = std::fs::read_to_string(directory.path().join(name)).unwrap();
        text.lines().map(|line| format!("    {line}\n")).collect::<String>()
    };
    let (cert, key, ca) = (indented("cert.pem"), indented("key.pem"), indented("ca.pem"));
    let text = format!(
        "tls_server_config:\n  cert: |\n{cert}  key: |\n{key}  client_ca: |\n{ca}  \
         client_auth_type: VerifyClientCertIfGiven\n"
    );
    let config = read(&directory, &text).unwrap();
    assert!(config.serves_tls());
    assert_eq!(config.secrets().collect::<Vec<_>>(), [directory.path().join("web.yml")]);
    let both = read(&directory, &tls(&format!("  cert: |\n{cert}"))).unwrap_err();
    assert_eq!(both, "web.yml: tls_server_config: cert_file and cert are both there; expected one");
}

#[test]
fn each_of_the_five_types_of_client_authentication_is_known() {
    let directory = files();
    for auth in [
        "NoClientCert",
        "RequestClientCert",
        "RequireAnyClientCert",
        "RequireClientCert",
        "VerifyClientCertIfGiven",
        "RequireAndVerifyClientCert",
    ] {
        let ca = if auth.contains("Verify") { "  client_ca_file: ca.pem\n" } else { "" };
        read(&directory, &tls(&format!("  client_auth_type: {auth}\n{ca}"))).unwrap();
    }
}

#[test]
fn what_is_wrong_is_named_with_its_key_and_what_would_be_right() {
    let directory = files();
    let user = |hash: &str| format!("basic_auth_users:\n  alice: {hash}\n");
    let header = |line: &str| format!("http_server_config:\n  headers:\n    {line}\n");
    let suites = "TLS_AES_256_GCM_SHA384, TLS_AES_128_GCM_SHA256, TLS_CHACHA20_POLY1305_SHA256, \
                  TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, \
                  TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305, TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384, \
                  TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305";
    let cases: Vec<(String, String)> = [
        ("tls_server_confg: {}", "unknown field `tls_server_confg`, expected one of `tls_server_config`"),
        (&tls("  cert_fil: x\n"), "tls_server_config: unknown field `cert_fil`, expected one of `cert`"),
        ("http_server_config:\n  http3: true", "http_server_config: unknown field `http3`, expected `http2` or"),
        ("rate_limit: {interval: 1s}", "rate_limit: is not known to this server; expected none"),
        ("tls_server_config: {}", "tls_server_config: has no certificate; expected cert_file or cert"),
        (
            "tls_server_config: {cert_file: cert.pem}",
            "tls_server_config: has no private key; expected key_file or key",
        ),
        (
            "tls_server_config: {cert_file: gone.pem, key_file: key.pem}",
            "tls_server_config.cert_file: gone.pem cannot be read: No such file or directory",
        ),
        (
            "tls_server_config: {cert_file: key.pem, key_file: key.pem}",
            "tls_server_config.cert_file: there is no CERTIFICATE in it; expected PEM",
        ),
        (
            "tls_server_config: {cert_file: cert.pem, key_file: cert.pem}",
            "tls_server_config.key_file: there is no PRIVATE KEY in it; expected PEM, not encrypted",
        ),
        (
            "tls_server_config: {cert_file: cert.pem, key_file: other.pem}",
            "tls_server_config.key_file: is not of the certificate: ",
        ),
        (
            &tls("  min_version: TLS10\n"),
            "tls_server_config.min_version: TLS10 is broken and not spoken; expected TLS12 or TLS13",
        ),
        (
            &tls("  max_version: SSL3\n"),
            "tls_server_config.max_version: SSL3 is invalid; expected TLS12 or TLS13",
        ),
        (
            &tls("  min_version: TLS13\n  max_version: TLS12\n"),
            "tls_server_config.min_version: TLS13 is above max_version; expected TLS12",
        ),
        (
            &tls("  cipher_suites: [TLS_RSA_WITH_AES_128_CBC_SHA]\n"),
            &format!(
                "tls_server_config.cipher_suites: \"TLS_RSA_WITH_AES_128_CBC_SHA\" is not spoken here; \
                 expected some of {suites}"
            ),
        ),
        (
            &tls("  max_version: TLS12\n  cipher_suites: [TLS_AES_128_GCM_SHA256]\n"),
            "tls_server_config.cipher_suites: none of them is of TLS 1.2",
        ),
        (
            &tls("  curve_preferences: [CurveP521]\n"),
            "tls_server_config.curve_preferences: \"CurveP521\" is not spoken here; \
             expected some of X25519, CurveP256, CurveP384",
        ),
        (
            &tls("  client_auth_type: Maybe\n"),
            "tls_server_config.client_auth_type: \"Maybe\" is invalid; expected NoClientCert, RequestClientCert,",
        ),
        (
            &tls("  client_auth_type: RequireAndVerifyClientCert\n"),
            "tls_server_config.client_auth_type: has nobody to trust; expected client_ca_file or client_ca",
        ),
        (
            &tls("  client_ca_file: ca.pem\n"),
            "tls_server_config.client_auth_type: is NoClientCert beside client_ca_file; expected a type",
        ),
        (
            &tls("  client_auth_type: RequireAnyClientCert\n  client_allowed_sans: [a]\n"),
            "tls_server_config.client_allowed_sans: anybody can write any name into a certificate",
        ),
        (
            &header("Server: relay"),
            "http_server_config.headers: \"Server\" can not be set; expected one of Content-Security-Policy,",
        ),
        (
            &header("X-Frame-Options: allow"),
            "http_server_config.headers.X-Frame-Options: \"allow\" is invalid; expected deny or sameorigin",
        ),
        (
            &header("X-Content-Type-Options: ''"),
            "http_server_config.headers.X-Content-Type-Options: \"\" is invalid; expected nosniff",
        ),
        (
            &header("Content-Security-Policy: \"a\\nb\""),
            "http_server_config.headers.Content-Security-Policy: \"a\\nb\" is invalid; expected visible ASCII",
        ),
        (
            &user("secret"),
            "basic_auth_users.alice: is no hash of bcrypt; expected one such as $2y$10$..., as `htpasswd -nBC",
        ),
        (&user(&HASH.replace("$10$", "$16$")), "basic_auth_users.alice: bcrypt cost 16 is invalid; expected 4..=15"),
        (&user(&HASH.replace("$10$", "$03$")), "basic_auth_users.alice: bcrypt cost 3 is invalid; expected 4..=15"),
        (&user("7"), "basic_auth_users.alice: is no text; expected one, in quotes if need be"),
        (
            &format!("basic_auth_users:\n  'a:b': {HASH}\n"),
            "basic_auth_users: \"a:b\" is invalid; a name has no colon",
        ),
        (&format!("{}  alice: {HASH}\n", user(HASH)), "basic_auth_users: duplicate entry with key \"alice\""),
    ]
    .map(|(text, expected): (&str, &str)| (text.to_owned(), format!("web.yml: {expected}")))
    .into();
    for (text, expected) in cases {
        let said = read(&directory, &text).unwrap_err();
        assert!(said.starts_with(&expected), "{text}\nsaid     {said}\nexpected {expected}");
    }
}

#[test]
fn a_file_that_is_not_there_or_too_large_is_named() {
    let directory = files();
    let gone = WebConfig::read(&directory.path().join("gone.yml")).unwrap_err().to_string();
    assert!(gone.ends_with("gone.yml: cannot be read: No such file or directory (os error 2)"), "{gone}");
    let large = read(&directory, &"#".repeat(5 << 20)).unwrap_err();
    assert_eq!(large, "web.yml: is larger than 4194304 bytes");
}

#[test]
fn what_is_shown_of_it_has_no_secret() {
    let directory = files();
    let config = read(&directory, &tls(&format!("basic_auth_users:\n  alice: {HASH}\n"))).unwrap();
    let shown = format!("{config:?}");
    assert!(
        shown.starts_with("WebConfig { path: ") && !shown.contains("alice") && !shown.contains(HASH),
        "{shown}"
    );
}

#[test]
fn the_example_in_the_docs_is_taken_as_it_is_and_knows_its_user() {
    let directory = files();
    for (from, to) in [("cert.pem", "relay.crt"), ("key.pem", "relay.key"), ("ca.pem", "clients-ca.crt")] {
        std::fs::copy(directory.path().join(from), directory.path().join(to)).unwrap();
    }
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/web.yml");
    let config = read(&directory, &std::fs::read_to_string(example).unwrap()).unwrap();
    assert!(config.serves_tls());
    let credentials = |text: &str| Credentials::new(text.into()).unwrap();
    let users = config.users().unwrap();
    assert!(users.check(&credentials("prometheus:change me")));
    assert_eq!(users.proven(&credentials("prometheus:change me")), Some("prometheus"));
}
