use relayscope_controlplane::discovery::Families;
use relayscope_dataplane::key::HmacKey;

use super::*;

fn resolve(text: &str, args: &RunArgs) -> Result<Config, String> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("relayscope.toml");
    std::fs::write(&path, text).unwrap();
    let source = load(Some(&path)).map_err(|failure| failure.to_string());
    let resolved = source.and_then(|source| source.resolve(args).map_err(|failure| failure.to_string()));
    resolved.map_err(|error| error.replace(&path.display().to_string(), "FILE"))
}

#[test]
fn without_anything_it_reflects_and_probes_itself() {
    let config = Source::default().resolve(&RunArgs::default()).unwrap();
    assert_eq!(config.reflector.listen, ["127.0.0.1:8620".parse().unwrap()]);
    assert_eq!(config.targets[0].name, "self");
    assert_eq!(config.listen.to_string(), "127.0.0.1:9862");
}

#[test]
fn asking_for_either_role_does_not_bring_the_other() {
    let reflect = RunArgs { reflect: vec!["127.0.0.1:1".parse().unwrap()], ..RunArgs::default() };
    assert_eq!(resolve("", &reflect).unwrap().targets, []);
    let probe = RunArgs { probe: vec!["b=127.0.0.1:1".parse().unwrap()], ..RunArgs::default() };
    assert_eq!(resolve("", &probe).unwrap().reflector.listen, []);
}

/// A directory with keys and certificates, and a file that uses every key there is.
fn everything() -> (tempfile::TempDir, String) {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(directory.path().join(name), text).unwrap();
    write("key", "sixteen octets..\n");
    write("hex", "000102030405060708090A0b0c0d0e0f1011\n");
    write("ca.pem", "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n");
    write("password", "wonder\n");
    write("key.pem", "-----BEGIN PRIVATE KEY-----\nAA==\n-----END PRIVATE KEY-----\n");
    let text = r#"
        listen = "[::1]:80"
        name = "relay a"
        metric_prefix = "wzp"
        cores = "0"
        runtime = "poll"
        ring_capacity = 1024
        drain_interval = "20ms"
        segment = "relay-a"
        targets_max = 9
        watch_interval = "5s"
        [web]
        reload = true
        config_file = "web.yml"
        access_log = true
        connections_max = 7
        handshake_timeout = "1s"
        header_timeout = "2s"
        idle_timeout = "3s"
        header_bytes_max = 2048
        headers_max = 9
        body_bytes_max = 0
        body_timeout = "4s"
        request_timeout = "5s"
        send_timeout = "6s"
        write_stall_max = "7s"
        shutdown_timeout = "0s"
        [dns]
        resolver = "127.0.0.1"
        ttl_min = "1s"
        ttl_max = "1m"
        [probe]
        protocol = "stamp"
        interval = "250ms"
        timeout = "2s"
        window = 100
        dscp = 46
        buckets = [0.001, 1, 2.5]
        family = "ipv6"
        source = "::1"
        key_file = "key"
        reflector = "stateless"
        slot = "1ms"
        spin_before_park = "10us"
        [reflector]
        listen = ["0.0.0.0:862", "[::]:862"]
        mode = "stateless"
        sessions_max = 5
        session_idle = "1m"
        key_file = "key"
        keys = [{ ssid = 7, file = "hex" }]
        authenticated_only = true
        rate_limit = 0
        quic_listen = ["127.0.0.1"]
        quic_cert = "ca.pem"
        quic_key = "key.pem"
        [exposition]
        detail = "native"
        series_max = 7
        [history]
        enabled = false
        path = "history.db"
        retention_10s = "2days"
        retention_1m = "60days"
        retention_10m = "2years"
        retention_events = "1h"
        size_max = "512MiB"
        [alerting]
        enabled = false
        instance = "relay-a"
        alertmanagers = ["http://127.0.0.1:9093", "https://am.example.net/prefix"]
        resend_interval = "30s"
        window = 20
        ttl = "5s"
        raise_after = 20
        resolve_after = 1
        hysteresis = 0
        hold = "0s"
        loss_warning = 0.01
        loss_critical = 1
        rtt_warning = "20ms"
        rtt_critical = "20ms"
        jitter_warning = "1ms"
        jitter_critical = "1500us"
        ring_occupancy = 0.5
        [[group]]
        name = "fra"
        protocol = "quic"
        source = ""
        family = "any"
        server_name = "relay.example.net"
        alpn = ["h3"]
        ca_file = "ca.pem"
        insecure = true
        buckets = []
        targets = ["r1=192.0.2.1", "quic://[::1]:8443"]
        file_sd = ["relays/*.json", "/srv/x.yaml"]
        http_sd = "http://127.0.0.1:8080/targets"
        refresh = "10s"
        dns_srv = ["_quic._udp.example.net"]
        dns = ["all.example.net"]
        self = "r1"
        full_mesh_max = 3
        peers_per_relay = 2
        [[group]]
        name = "turn"
        protocol = "stun"
        [[target]]
        name = "b \"quoted\" \\ name"
        address = "relay.example.net:99"
        interval = "5s"
        timeout = "3s"
        key_file = ""
        [[target]]
        name = "t"
        address = "turn.example.net"
        group = "turn"
        dscp = 0
        [[target]]
        name = "w"
        address = "tcp://192.0.2.9:80"
        source = ""
        family = "ipv4"
        [[relay]]
        name = "c"
        url = "http://[::1]:9862/"
        [[relay]]
        name = "b"
        url = "https://relay-b.example.net:9862/prefix"
        user = "alice"
        password_file = "password"
        ca_file = "ca.pem"
    "#;
    (directory, text.to_owned())
}

#[test]
fn what_is_printed_reads_back_as_itself() {
    let (directory, text) = everything();
    let path = directory.path().join("relayscope.toml");
    std::fs::write(&path, &text).unwrap();
    let read = |path: &Path| load(Some(path)).unwrap().resolve(&RunArgs::default()).unwrap();
    let config = read(&path);
    let elsewhere = tempfile::tempdir().unwrap();
    let copy = elsewhere.path().join("copy.toml");
    std::fs::write(&copy, config.to_toml()).unwrap();
    assert_eq!(read(&copy), config);
    let asked = config.relays.asked().unwrap();
    let shown: Vec<_> = asked.iter().map(|relay| (relay.name.as_str(), relay.user.is_some())).collect();
    assert_eq!(shown, [("b", true), ("c", false)]);
    assert_eq!(asked[0].user.as_ref().unwrap().password, "wonder");

    assert_eq!(config.web.config_file, Some(directory.path().join("web.yml")), "relative to the file");
    assert_eq!((config.web.limits.connections_max, config.web.limits.send_timeout), (7, 6_000 * MS));
    let [probe, fra, turn] = &config.groups[..] else { panic!("three groups: {:?}", config.groups) };
    let targets: Vec<_> = config.targets.iter().map(|target| (target.name.as_str(), target.group)).collect();
    assert_eq!(
        targets,
        [("b \"quoted\" \\ name", 0), ("t", 2), ("w", 0), ("r1", 1), ("quic://[::1]:8443", 1)]
    );
    let addresses: Vec<_> = config.targets.iter().map(|target| target.address.to_string()).collect();
    assert_eq!(
        addresses,
        ["relay.example.net:99", "turn.example.net:3478", "192.0.2.9:80", "192.0.2.1:443", "[::1]:8443"]
    );
    assert_eq!(*probe.settings.key.as_ref().unwrap().key, HmacKey::new(b"sixteen octets..").unwrap());
    let octets: Vec<u8> = (0..18).collect();
    assert_eq!(*config.reflector.keys[1].key.key, HmacKey::new(&octets).unwrap());
    assert_eq!((config.reflector.keys[0].ssid, config.reflector.keys[1].ssid), (None, Some(7)));
    assert_eq!(config.targets[0].settings.key, None, "taken back");
    assert_eq!(config.targets[0].settings.interval, 5_000 * MS);
    assert_eq!((fra.settings.interval, fra.settings.dscp), (250 * MS, 46), "inherited");
    assert_eq!((fra.settings.key.as_ref(), fra.buckets.len(), probe.buckets.len()), (None, 0, 3));
    assert_eq!(turn.settings.families, Families::Ipv6, "inherited");
    assert!(!config.to_toml().contains("sixteen"), "no key is printed");
    let debug = format!("{config:?}");
    assert!(!debug.contains("sixteen") && !debug.contains("115, 105") && !debug.contains("BEGIN"), "{debug}");
}

#[test]
fn the_files_named_are_watched_and_secrets_for_all_to_read_are_warned_of() {
    use std::os::unix::fs::PermissionsExt;

    let (directory, text) = everything();
    let path = directory.path().join("relayscope.toml");
    std::fs::write(&path, &text).unwrap();
    let config = load(Some(&path)).unwrap().resolve(&RunArgs::default()).unwrap();
    let names = |paths: &[PathBuf]| -> Vec<String> {
        paths.iter().map(|path| path.file_name().unwrap().to_string_lossy().into_owned()).collect()
    };
    assert_eq!(names(&config.files()), ["ca.pem", "hex", "key", "key.pem", "password"]);
    let allow = |name: &str, mode| {
        let path = directory.path().join(name);
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    allow("key", 0o600);
    allow("hex", 0o400);
    allow("ca.pem", 0o644);
    allow("key.pem", 0o640);
    allow("password", 0o644);
    assert_eq!(config.warnings().len(), 1, "of the password");
    allow("password", 0o600);
    assert_eq!(config.warnings(), [""; 0], "a service reads its keys as a member of their group");
    for (mode, what) in
        [(0o644, "read by others"), (0o602, "read by others"), (0o660, "written by its group")]
    {
        allow("key.pem", mode);
        let file = directory.path().join("key.pem");
        let warned = format!("{} may be {what} (mode {mode:03o}); chmod 600 or 640 it", file.display());
        assert_eq!(config.warnings(), [warned]);
    }
}

#[test]
fn a_key_file_holds_16_to_64_octets_or_hex_digits() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("key");
    let read = |octets: &[u8]| {
        std::fs::write(&path, octets).unwrap();
        super::files::KeyFile::read(path.clone()).map(|key| HmacKey::clone(&key.key))
    };
    let key = |octets: &[u8]| HmacKey::new(octets).unwrap();
    assert_eq!(read(b"sixteen octets..\n").unwrap(), key(b"sixteen octets.."));
    assert_eq!(read(b"sixteen octets.\n\n").unwrap(), key(b"sixteen octets.\n"), "one newline alone");
    assert_eq!(read(b" 30313233343536373839414243444546 \n").unwrap(), key(b"0123456789ABCDEF"));
    for octets in [&b"fifteen octets."[..], &[7; 65], b""] {
        let error = read(octets).unwrap_err();
        let right = format!(
            "key of {} octets is invalid; expected 16 to 64, or twice as many hex digits",
            octets.len()
        );
        assert!(error.ends_with(&right), "{error}");
    }
}

#[test]
fn an_empty_file_asks_for_nothing() {
    let config = resolve("", &RunArgs::default()).unwrap();
    assert_eq!((config.reflector.listen, config.targets), (vec![], vec![]));
}

#[test]
fn the_defaults_printed_are_the_defaults() {
    let config = Source::default().resolve(&RunArgs::default()).unwrap();
    assert_eq!(resolve(&config.to_toml(), &RunArgs::default()).unwrap(), config);
}

#[test]
fn the_command_line_outweighs_the_file() {
    let args = RunArgs {
        listen: Some("127.0.0.1:1".parse().unwrap()),
        probe: vec!["b=127.0.0.2".parse().unwrap()],
        ..RunArgs::default()
    };
    let text = "listen = \"127.0.0.1:2\"\n[[target]]\nname = \"b\"\naddress = \"127.0.0.1\"\n";
    let config = resolve(text, &args).unwrap();
    assert_eq!(config.listen.port(), 1);
    let targets: Vec<_> = config.targets.iter().map(|target| target.address.to_string()).collect();
    assert_eq!(targets, ["127.0.0.2:8620"]);
}

#[test]
fn errors_name_file_key_value_and_what_is_right() {
    for (text, message) in [
        ("listen = 5", "FILE:1: listen: invalid type: integer `5`, expected a string"),
        (
            "\n\nlisten = \"x\"",
            "FILE: listen: 'x' is no address; expected IP:PORT such as 127.0.0.1:9862, or an IP alone",
        ),
        ("ring_capacity = 1", "FILE: ring_capacity: 1 is invalid; expected 2..=16777216"),
        (
            "[reflector]\nlisten = [\"127.0.0.1\", \"127.0.0.1:8620\"]",
            "FILE: reflector.listen: 127.0.0.1:8620 is invalid; expected each address once",
        ),
        ("runtime = \"epoll\"", "FILE: runtime: epoll is invalid; expected auto, glommio or poll"),
        (
            "cores = \"zero\"",
            "FILE: cores: core list 'zero' is invalid; expected numbers below 1024 and ranges such as 0,2-3",
        ),
        ("ring_capacity = -1", "FILE: ring_capacity: -1 is invalid; expected 2..=16777216"),
        (
            "metric_prefix = \"9x\"",
            "FILE: metric_prefix: 9x is invalid; expected up to 64 letters, digits and underscores, no digit first",
        ),
        (
            "[probe]\ninterval = \"0s\"",
            "FILE: probe.interval: \"0s\" is invalid; expected a time from 1ms to 1h, such as \"1s\"",
        ),
        (
            "[probe]\ntimeout = \"fast\"",
            "FILE: probe.timeout: \"fast\" is invalid; expected a time from 1ms to 1m, such as \"1s\"",
        ),
        (
            "[probe]\ninterval = \"1ms\"\ntimeout = \"30s\"",
            "FILE: probe.timeout: 30s is invalid; expected less than 2048 intervals of 1ms",
        ),
        (
            "[exposition]\ndetail = \"full\"",
            "FILE: exposition.detail: full is invalid; expected compact, classic or native",
        ),
        (
            "[history]\nsize_max = \"2GB\"",
            "FILE: history.size_max: \"2GB\" is invalid; expected a size from 16MiB to 16TiB, such as \"2GiB\"",
        ),
        (
            "[history]\nsize_max = 1024",
            "FILE: history.size_max: 1024 is invalid; expected a size from 16MiB to 16TiB, such as \"2GiB\"",
        ),
        (
            "[history]\nretention_1m = \"1m\"",
            "FILE: history.retention_1m: \"1m\" is invalid; expected a time from 1h to 10years, such as \"14days\"",
        ),
        ("[exposition]\nseries_max = 0", "FILE: exposition.series_max: 0 is invalid; expected 1..=268435456"),
        ("[alerting]\nraise_after = 11", "FILE: alerting.raise_after: 11 is invalid; expected 1..=10"),
        (
            "[alerting]\nloss_warning = 0.1\nloss_critical = 0.05",
            "FILE: alerting.loss_critical: 0.05 is invalid; expected at least loss_warning, 0.1",
        ),
        (
            "[alerting]\nrtt_critical = \"50ms\"",
            "FILE: alerting.rtt_critical: 50ms is invalid; expected at least rtt_warning, 100ms",
        ),
        ("[alerting]\nhysteresis = 1.0", "FILE: alerting.hysteresis: 1 is invalid; expected 0..=0.9"),
        (
            "[alerting]\nalertmanagers = [\"127.0.0.1:9093\"]",
            "FILE: alerting.alertmanagers: '127.0.0.1:9093' is invalid; expected http[s]://HOST[:PORT][/PREFIX]",
        ),
        ("[reflector]\nmode = \"x\"", "FILE: reflector.mode: x is invalid; expected stateful or stateless"),
        (
            "[[target]]\nname = \"b\"\naddress = \"b:x\"",
            "FILE: target 'b': address: 'b:x' is no address; expected HOST, HOST:PORT or [IPV6]:PORT",
        ),
        (
            "[[target]]\nname = \"b\"\naddress = \"b\"\n[[target]]\nname = \"b\"\naddress = \"c\"",
            "FILE: target.name: b is invalid; expected a name of its own for each target",
        ),
        (
            "watch_interval = \"1ms\"",
            "FILE: watch_interval: \"1ms\" is invalid; expected a time from 100ms to 1h, such as \"2s\"",
        ),
        (
            "[dns]\nttl_min = \"2h\"",
            "FILE: dns.ttl_min: \"2h\" is invalid; expected a time from 100ms to 1h, such as \"5s\"",
        ),
        (
            "[dns]\nttl_min = \"2s\"\nttl_max = \"1s\"",
            "FILE: dns.ttl_max: 1s is invalid; expected at least ttl_min, 2s",
        ),
        (
            "[probe]\nprotocol = \"icmp\"",
            "FILE: probe.protocol: protocol 'icmp' is not known; expected stamp, stun, quic or tcp",
        ),
        ("[probe]\nwindow = 1", "FILE: probe.window: 1 is invalid; expected 2..=1024"),
        ("[probe]\ndscp = 64", "FILE: probe.dscp: 64 is invalid; expected 0..=63"),
        (
            "[probe]\nsource = \"eth0\"",
            "FILE: probe.source: eth0 is invalid; expected an address of this host such as 192.0.2.1, or \"\"",
        ),
        (
            "[probe]\nfamily = \"ipv6\"\nsource = \"127.0.0.1\"",
            "FILE: probe.source: 127.0.0.1 is invalid; expected an address of the family probed",
        ),
        ("[probe]\nfamily = \"inet\"", "FILE: probe.family: inet is invalid; expected any, ipv4 or ipv6"),
        (
            "[probe]\nbuckets = [2, 1]",
            "FILE: probe.buckets: [2.0, 1.0] is invalid; expected at most 64 ascending numbers of seconds above 0, such as [0.001, 0.01, 0.1]",
        ),
        ("[probe]\ninsecure = true", "FILE: probe.insecure: is of no use to protocol stamp; expected quic"),
        (
            "[probe]\nprotocol = \"tcp\"\nreflector = \"auto\"",
            "FILE: probe.reflector: is of no use to protocol tcp; expected stamp",
        ),
        (
            "[probe]\nkey_file = \"/nonexistent\"",
            "FILE: probe.key_file: cannot read /nonexistent: No such file or directory (os error 2)",
        ),
        (
            "[reflector]\nkeys = [{ ssid = 0, file = \"k\" }]",
            "FILE: reflector.keys: ssid: 0 is invalid; expected 1..=65535, or none",
        ),
        (
            "[reflector]\nauthenticated_only = true",
            "FILE: reflector.authenticated_only: true is invalid; expected false, or keys to go by",
        ),
        ("[reflector]\nrate_limit = -1", "FILE: reflector.rate_limit: -1 is invalid; expected 0..=10000000"),
        (
            "[[group]]\nname = \"default\"",
            "FILE: group.name: default is invalid; expected a name of its own for each group; default is the group of [probe]",
        ),
        (
            "[[group]]\nname = \"g\"\nfile_sd = [\"x.toml\"]",
            "FILE: group 'g': file_sd: file pattern 'x.toml' is invalid; expected a path to .json, .yaml or .yml with * in its last part only",
        ),
        (
            "[[group]]\nname = \"g\"\nhttp_sd = \"https://x\"",
            "FILE: group 'g': http_sd: 'https://x' is invalid; expected http://HOST:PORT/PATH",
        ),
        (
            "[[group]]\nname = \"g\"\ndns_srv = [\"a b\"]",
            "FILE: group 'g': dns_srv: a b is invalid; expected a name such as _stamp._udp.example.net",
        ),
        (
            "[[group]]\nname = \"g\"\nprotocol = \"tcp\"\ndns = [\"a\"]",
            "FILE: group 'g': dns: 'a' is no address with a port; expected HOST:PORT or [IPV6]:PORT",
        ),
        (
            "[[group]]\nname = \"g\"\npeers_per_relay = 2",
            "FILE: group 'g': self: is missing; expected this relay's own name, for full_mesh_max and peers_per_relay",
        ),
        (
            "[[group]]\nname = \"g\"\ntargets = [\"stun://a\"]",
            "FILE: group 'g': targets: stun://a is invalid; expected stamp:// or none, as the group's protocol",
        ),
        (
            "[[group]]\nname = \"g\"\ntargets = [\"a\", \"a\"]",
            "FILE: group 'g': targets: a is invalid; expected a name of its own for each target",
        ),
        (
            "[[target]]\nname = \"b\"\naddress = \"b\"\ngroup = \"x\"",
            "FILE: target 'b': group: x is invalid; expected the name of a [[group]], or none",
        ),
        (
            "[[target]]\nname = \"b\"\naddress = \"stun://b\"\nprotocol = \"tcp\"",
            "FILE: target 'b': address: stun://b is invalid; expected tcp:// or none, as protocol says",
        ),
        (
            "[[relay]]\nname = \"b\"\nurl = \"relay-b\"",
            "FILE: relay 'b': url: 'relay-b' is invalid; expected http[s]://HOST[:PORT][/PREFIX]",
        ),
        (
            "[[relay]]\nname = \"b\"\nurl = \"http://b\"\nuser = \"alice\"",
            "FILE: relay 'b': user: expected it together with password_file",
        ),
        (
            "name = \"b\"\n[[relay]]\nname = \"b\"\nurl = \"http://b\"",
            "FILE: relay.name: b is invalid; expected a name of its own for each relay, this one among them",
        ),
        (
            "targets_max = 1\n[[target]]\nname = \"b\"\naddress = \"b\"\n[[target]]\nname = \"c\"\naddress = \"c\"",
            "FILE: targets_max: 1 is invalid; expected at least the 2 targets configured",
        ),
    ] {
        assert_eq!(resolve(text, &RunArgs::default()).unwrap_err(), message);
    }
}

#[test]
fn an_unknown_key_is_named_with_its_line() {
    let error = resolve("\nlistne = \"x\"", &RunArgs::default()).unwrap_err();
    assert!(error.starts_with("FILE:2: unknown field `listne`, expected one of `listen`"), "{error}");
    let error = resolve("[probe]\nintervall = \"1s\"", &RunArgs::default()).unwrap_err();
    assert!(error.starts_with("FILE:2: unknown field `intervall`"), "{error}");
}
