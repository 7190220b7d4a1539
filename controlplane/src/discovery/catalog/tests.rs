use super::*;
use crate::clock::instant;
use crate::discovery::Select;

const SECOND: Duration = Duration::from_secs(1);

fn member(name: &str, address: &str) -> Member {
    let address = HostPort::parse(address, Some(8620)).unwrap();
    Member { name: name.to_owned(), address, settings: None, families: None }
}

fn group(fixed: Vec<Member>) -> Group {
    Group { fixed, ..Group::default() }
}

fn catalog(now: Instant, groups: Vec<Group>) -> Catalog {
    Catalog::new(now, groups, Bounds::default())
}

fn host(name: &str) -> Task {
    Task::Host(name.into(), Families::Any)
}

fn found(v4: &[[u8; 4]], valid_for: Duration) -> Answer {
    let v4 = Addresses::Found(v4.iter().copied().map(Ipv4Addr::from).collect());
    Answer::Host { v4, v6: Addresses::None, refused: vec![], valid_for }
}

/// Name, endpoints and whether it was found, of every target.
fn targets(catalog: &Catalog) -> Vec<(String, Vec<String>, Option<bool>)> {
    let (wanted, _) = catalog.wanted().unwrap();
    let texts = |places: Vec<SocketAddr>| places.iter().map(SocketAddr::to_string).collect();
    wanted.into_iter().map(|target| (target.name, texts(target.endpoints), target.resolvable)).collect()
}

fn target(name: &str, places: &[&str], found: Option<bool>) -> (String, Vec<String>, Option<bool>) {
    (name.to_owned(), places.iter().map(|place| (*place).to_owned()).collect(), found)
}

#[test]
fn an_address_is_known_at_once_and_a_name_is_asked_for() {
    let now = instant();
    let mut catalog = catalog(now, vec![group(vec![member("a", "192.0.2.1"), member("b", "relay-b:99")])]);
    let pending = target("b", &[], None);
    assert_eq!(targets(&catalog), [target("a", &["192.0.2.1:8620"], Some(true)), pending]);
    assert_eq!(catalog.poll_task(now), Some(host("relay-b")));
    assert_eq!(catalog.poll_task(now), None, "asked for once, until its answer comes");

    catalog.handle(now, host("relay-b"), found(&[[192, 0, 2, 2]], 30 * SECOND));
    assert_eq!(targets(&catalog)[1], target("b", &["192.0.2.2:99"], Some(true)));
}

#[test]
fn a_name_is_asked_for_again_by_its_time_to_live_within_bounds() {
    let now = instant();
    for (ttl, earliest, latest) in [(0, 4, 5), (100, 90, 100), (86_400, 3240, 3600)] {
        let mut catalog = catalog(now, vec![group(vec![member("b", "relay-b")])]);
        let task = catalog.poll_task(now).unwrap();
        catalog.handle(now, task, found(&[[192, 0, 2, 2]], ttl * SECOND));
        let due = catalog.poll_timeout().unwrap() - now;
        assert!((earliest * SECOND..=latest * SECOND).contains(&due), "{ttl} s: due after {due:?}");
    }
}

#[test]
fn a_name_that_fails_keeps_its_addresses_and_is_said_not_to_resolve() {
    let now = instant();
    let mut catalog = catalog(now, vec![group(vec![member("b", "relay-b")])]);
    catalog.handle(now, host("relay-b"), found(&[[192, 0, 2, 2]], SECOND));
    catalog.take_changed();
    for answer in [
        Answer::Failed("no answer".to_owned()),
        Answer::Host { v4: Addresses::None, v6: Addresses::None, refused: vec![], valid_for: SECOND },
        Answer::Host {
            v4: Addresses::Failed("refused".into()),
            v6: Addresses::None,
            refused: vec![],
            valid_for: SECOND,
        },
    ] {
        catalog.handle(now, host("relay-b"), answer);
        assert_eq!(targets(&catalog), [target("b", &["192.0.2.2:8620"], Some(false))]);
    }
    assert!(catalog.take_changed());
    let failures: Vec<_> = catalog.failures().filter(|(_, failures)| *failures > 0).collect();
    assert_eq!(failures, [(SourceKind::Name, 3)]);

    catalog.handle(now, host("relay-b"), found(&[[192, 0, 2, 3]], SECOND));
    assert_eq!(targets(&catalog), [target("b", &["192.0.2.3:8620"], Some(true))]);
}

#[test]
fn failures_are_tried_again_ever_more_rarely() {
    let now = instant();
    let mut catalog = catalog(now, vec![group(vec![member("b", "relay-b")])]);
    let mut pauses = Vec::new();
    for _ in 0..6 {
        catalog.handle(now, host("relay-b"), Answer::Failed("no".to_owned()));
        pauses.push((catalog.poll_timeout().unwrap() - now).as_secs());
    }
    assert_eq!(pauses, [5, 10, 20, 40, 60, 60]);
}

#[test]
fn one_family_that_fails_keeps_its_address_and_one_that_is_gone_goes() {
    let now = instant();
    let (v4, v6) = (Ipv4Addr::new(192, 0, 2, 2), Ipv6Addr::LOCALHOST);
    let mut catalog = catalog(now, vec![group(vec![member("b", "relay-b")])]);
    let mut answer = |v4, v6| {
        catalog.handle(now, host("relay-b"), Answer::Host { v4, v6, refused: vec![], valid_for: SECOND });
        targets(&catalog).remove(0).1
    };
    let both = ["192.0.2.2:8620", "[::1]:8620"];
    assert_eq!(answer(Addresses::Found(vec![v4]), Addresses::Found(vec![v6])), both);
    assert_eq!(answer(Addresses::Found(vec![v4]), Addresses::Failed("refused".into())), both);
    assert_eq!(answer(Addresses::Found(vec![v4]), Addresses::None), both[..1]);
}

#[test]
fn answers_that_rotate_move_nobody() {
    let now = instant();
    let mut catalog = catalog(now, vec![group(vec![member("b", "relay-b")])]);
    catalog.handle(now, host("relay-b"), found(&[[192, 0, 2, 9], [192, 0, 2, 2]], SECOND));
    catalog.take_changed();
    for answer in [[[192, 0, 2, 1], [192, 0, 2, 2]], [[192, 0, 2, 2], [192, 0, 2, 9]]] {
        catalog.handle(now, host("relay-b"), found(&answer, SECOND));
        assert_eq!(targets(&catalog)[0].1, ["192.0.2.2:8620"]);
    }
    assert!(!catalog.take_changed());
}

#[test]
fn a_list_brings_names_and_takes_them_along() {
    let now = instant();
    let source = Group { sources: vec![Source::Http("http://x/".into())], ..group(vec![]) };
    let mut catalog = catalog(now, vec![source.clone()]);
    let list = catalog.poll_task(now).unwrap();
    assert_eq!(list.kind(), SourceKind::Http);
    let members = vec![member("a", "relay-a"), member("b", "192.0.2.2")];
    catalog.handle(now, list.clone(), Answer::Members { members, failed: vec![] });
    assert_eq!(catalog.poll_task(now), Some(host("relay-a")));
    assert_eq!(catalog.poll_timeout(), Some(now + source.refresh), "and the list again in time");
    catalog.handle(now, host("relay-a"), found(&[[192, 0, 2, 1]], SECOND));
    let before = targets(&catalog);
    assert_eq!(before.len(), 2);

    catalog.handle(now, list.clone(), Answer::Failed("no answer".to_owned()));
    assert_eq!(targets(&catalog), before, "a failure keeps the list");
    catalog.handle(now, list, Answer::Members { members: vec![], failed: vec![] });
    assert_eq!(targets(&catalog), []);
    assert!(!catalog.known.contains_key(&host("relay-a")), "a name nobody is at is forgotten");
}

#[test]
fn a_new_configuration_keeps_what_is_known_of_what_stays() {
    let now = instant();
    let names = |names: &[&str]| vec![group(names.iter().map(|name| member(name, name)).collect())];
    let mut catalog = catalog(now, names(&["relay-a", "relay-b"]));
    catalog.handle(now, host("relay-a"), found(&[[192, 0, 2, 1]], 60 * SECOND));
    catalog.handle(now, host("relay-b"), found(&[[192, 0, 2, 2]], 60 * SECOND));
    catalog.replace(now, names(&["relay-b", "relay-c"]), Bounds::default());
    let kept = target("relay-b", &["192.0.2.2:8620"], Some(true));
    assert_eq!(targets(&catalog), [kept, target("relay-c", &[], None)]);
    assert_eq!(catalog.poll_task(now), Some(host("relay-c")));
    assert_eq!(catalog.poll_task(now), None);
    catalog.handle(now, host("relay-a"), found(&[[192, 0, 2, 1]], SECOND));
    assert!(!catalog.known.contains_key(&host("relay-a")), "a late answer brings nobody back");
}

#[test]
fn of_two_targets_of_one_name_the_first_stays_and_the_other_is_told() {
    let now = instant();
    let groups = vec![
        group(vec![member("a", "192.0.2.1")]),
        Group { name: "g".into(), ..group(vec![member("a", "192.0.2.2"), member("b", "192.0.2.3")]) },
    ];
    let (wanted, twice) = catalog(now, groups).wanted().unwrap();
    assert_eq!(wanted[0].endpoints, ["192.0.2.1:8620".parse().unwrap()]);
    assert_eq!((wanted.len(), twice), (2, vec!["a".to_owned()]));
}

#[test]
fn more_targets_than_there_is_room_for_are_none() {
    let now = instant();
    let groups = vec![group(vec![member("a", "192.0.2.1"), member("b", "192.0.2.2")])];
    let catalog = Catalog::new(now, groups, Bounds { targets_max: 1, ..Bounds::default() });
    let error = catalog.wanted().unwrap_err();
    assert_eq!(
        error.to_string(),
        "2 targets are more than targets_max, 1; raise it and restart, or select fewer"
    );
}

#[test]
fn a_selection_is_asked_with_all_names() {
    let now = instant();
    let select = Select::new(|names| {
        assert_eq!(names, ["a", "b", "c"]);
        vec![2, 0]
    });
    let members = vec![member("a", "192.0.2.1"), member("b", "192.0.2.2"), member("c", "192.0.2.3")];
    let catalog = catalog(now, vec![Group { select: Some(select), ..group(members) }]);
    let names: Vec<_> = targets(&catalog).into_iter().map(|target| target.0).collect();
    assert_eq!(names, ["c", "a"]);
}
