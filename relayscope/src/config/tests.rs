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
    assert_eq!(config.reflect, ["127.0.0.1:8620".parse().unwrap()]);
    assert_eq!(config.targets[0].name, "self");
    assert_eq!(config.listen.to_string(), "127.0.0.1:9862");
}

#[test]
fn asking_for_either_role_does_not_bring_the_other() {
    let reflect = RunArgs { reflect: vec!["127.0.0.1:1".parse().unwrap()], ..RunArgs::default() };
    assert_eq!(resolve("", &reflect).unwrap().targets, []);
    let probe = RunArgs { probe: vec!["b=127.0.0.1:1".parse().unwrap()], ..RunArgs::default() };
    assert_eq!(resolve("", &probe).unwrap().reflect, []);
}

#[test]
fn what_is_printed_reads_back_as_itself() {
    let text = r#"
        listen = "[::1]:80"
        metric_prefix = "wzp"
        cores = "0"
        runtime = "poll"
        ring_capacity = 1024
        drain_interval = "20ms"
        segment = "relay-a"
        targets_max = 7
        [probe]
        interval = "250ms"
        timeout = "2s"
        slot = "1ms"
        spin_before_park = "10us"
        [reflector]
        listen = ["0.0.0.0:862", "[::]:862"]
        mode = "stateless"
        sessions_max = 5
        session_idle = "1m"
        [[target]]
        name = "b \"quoted\" \\ name"
        address = "relay.example.net:99"
        interval = "5s"
        timeout = "3s"
    "#;
    let config = resolve(text, &RunArgs::default()).unwrap();
    assert_eq!(resolve(&config.to_toml(), &RunArgs::default()).unwrap(), config);
    assert_eq!((config.targets[0].interval, config.reflector_sessions_max), (5_000 * MS, 5));
}

#[test]
fn an_empty_file_asks_for_nothing() {
    let config = resolve("", &RunArgs::default()).unwrap();
    assert_eq!((config.reflect, config.targets), (vec![], vec![]));
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
