use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use relayscope_bridge::segment::SegmentState;

use super::super::model::tests::{at, reading, segment};
use super::super::reading::{Reading, Source};
use super::*;

fn press(screen: &mut Screen, keys: &str) {
    for key in keys.chars() {
        screen.handle(KeyEvent::new(KeyCode::Char(key), KeyModifiers::NONE));
    }
}

fn lines(screen: &mut Screen, width: u16, height: u16) -> Vec<String> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw(frame, screen)).unwrap();
    let buffer = terminal.backend().buffer();
    let row = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>().trim_end().to_owned();
    (0..height).map(row).collect()
}

/// Two looks two seconds apart, the last with `source`.
fn shown(source: Source) -> Screen {
    let mut screen = Screen::new("/run/relayscope/default".to_owned());
    screen.observe(reading(100.0));
    screen.observe(Reading { source, ..reading(102.0) });
    screen
}

#[test]
fn a_running_data_plane_fills_a_terminal_of_80_by_24() {
    let mut screen = shown(Source::Segment(segment(1), SegmentState::Running));
    let expected = [
        " RUNNING  /run/relayscope/default                           2023-11-14T22:15:02Z",
        " process 4242, generation 1, up 1m 42s",
        " samples/s      10.0                                                          ·█",
        "      peak      10.0                                                          ·█",
        " 1 SHARDS ──────────────────────────────────────────────────────────────────────",
        " SHARD▲    HEARTBEAT   SAMPLES/S            RING     LOST        LAG   MISSED",
        " 0             0.1 s        10.0 ▕████    ▏ 50 %        3     0.5 ms        1",
        "▸2 PEERS  1 of 1 up ────────────────────────────────────────────────────────────",
        " TARGET▲           STATE           RTT     LOSS      JITTER   SENT/S  LAST REPLY",
        " b                 UP         0.182 ms    1.5 %    0.021 ms      2.0       0.5 s",
        " 3 COUNTERS ────────────────────────────────────────────────────────────────────",
        " COUNTER                                                ▼RATE/S            TOTAL",
        " probe_sent_total{target=\"b\"}                               2.0              204",
        "",
        "",
        "",
        "",
        "",
        "",
        "",
        "",
        "",
        "",
        " q quit  Tab 1 2 3 table  s sort  r reverse  / filter  p pause  ↑ ↓ scroll",
    ];
    assert_eq!(lines(&mut screen, 80, 24), expected);
}

#[test]
fn a_wide_terminal_shows_more_columns() {
    let mut screen = shown(Source::Segment(segment(1), SegmentState::Running));
    let shown = lines(&mut screen, 160, 50).join("\n");
    for column in ["RECORDED    CAPACITY", "1020        1024", "ADDRESS", "192.0.2.7:8620", "TOTAL   SHARD"] {
        assert!(shown.contains(column), "{column}:\n{shown}");
    }
}

#[test]
fn values_of_a_dead_data_plane_are_a_dash_and_grey() {
    let mut screen = shown(Source::Segment(segment(1), SegmentState::Dead));
    let shown = lines(&mut screen, 80, 24);
    assert!(shown[0].starts_with(" DIED  /run/relayscope/default "), "{}", shown[0]);
    assert_eq!(shown[1], " process 4242 died, last sign of life 0.1 s ago; waiting for the next one");
    assert_eq!(shown[2].trim_end_matches('·').trim_end(), " samples/s         -");
    assert_eq!(
        [&*shown[6], &*shown[9], &*shown[12]],
        [
            " 0             0.1 s           -               -        3          -        1",
            " b                 STALE             -        -           -        -           -",
            " probe_sent_total{target=\"b\"}                                 -              204",
        ]
    );
    let mut terminal = Terminal::new(TestBackend::new(80, 24)).unwrap();
    terminal.draw(|frame| draw(frame, &mut screen)).unwrap();
    let total = &terminal.backend().buffer()[(79, 12)];
    assert_eq!((total.symbol(), total.fg), ("4", Color::DarkGray));
}

#[test]
fn the_state_of_the_data_plane_is_said_whatever_there_is_to_show() {
    let silent = {
        let mut screen = shown(Source::Segment(segment(1), SegmentState::Running));
        let mut late = reading(110.0);
        late.shards[0].heartbeat_ns = Some(at(102.0).monotonic_ns);
        screen.observe(late);
        screen
    };
    let why = || "cannot open segment s: No such file or directory (os error 2)".to_owned();
    for (mut screen, badge, detail) in [
        (silent, "SILENT", "process 4242 lives, 1 of 1 shards are silent"),
        (
            shown(Source::Segment(segment(1), SegmentState::Closed)),
            "CLOSED",
            "process 4242 has ended, last sign of life 0.1 s ago; waiting for the next one",
        ),
        (shown(Source::Absent(why())), "WAITING", "no data plane yet; this shows the first one that comes"),
        (shown(Source::Damaged(why())), "DAMAGED", "waiting for a segment that can be read"),
        (shown(Source::Unreadable(why())), "UNREADABLE", "waiting for a segment that can be read"),
    ] {
        let shown = lines(&mut screen, 80, 24);
        assert!(shown[0].starts_with(&format!(" {badge}  ")), "{}", shown[0]);
        assert_eq!(shown[1], format!(" {detail}"));
        let is_said = shown.iter().any(|line| line.trim() == why());
        assert_eq!(is_said, ["WAITING", "DAMAGED", "UNREADABLE"].contains(&badge), "{shown:#?}");
    }
}

#[test]
fn a_pause_says_since_when_and_the_death_meanwhile() {
    let mut screen = shown(Source::Segment(segment(1), SegmentState::Running));
    press(&mut screen, "p");
    screen.observe(Reading { source: Source::Segment(segment(1), SegmentState::Dead), ..reading(105.0) });
    let shown = lines(&mut screen, 80, 24);
    assert!(shown[0].starts_with(" DIED   PAUSED at 22:15:02  /run/relayscope/default "), "{}", shown[0]);
    assert_eq!(shown[1], " process 4242 died, last sign of life 3.1 s ago; waiting for the next one");
    assert!(shown[23].contains("p go on"), "{}", shown[23]);
}

#[test]
fn a_filter_is_shown_with_what_it_leaves() {
    let mut screen = shown(Source::Segment(segment(1), SegmentState::Running));
    press(&mut screen, "3/lost");
    let shown = lines(&mut screen, 80, 24);
    assert!(shown[10].starts_with("▸3 COUNTERS  /lost: 0 of 1 ──"), "{}", shown[10]);
    assert_eq!(shown[11], "  nothing has that in its name; Esc shows all");
    assert_eq!(shown[23], " counters with lost█   Enter keep  Esc clear");
}

#[test]
fn what_is_scrolled_past_the_last_row_is_taken_back() {
    let mut many = reading(100.0);
    let row = many.counters[0].clone();
    many.counters = (0..40)
        .map(|number| {
            let mut row = row.clone();
            row.series = format!("c{number:02}").into();
            row
        })
        .collect();
    let mut screen = Screen::new("s".to_owned());
    screen.observe(many);
    press(&mut screen, "3");
    screen.handle(KeyEvent::new(KeyCode::End, KeyModifiers::NONE));
    let shown = lines(&mut screen, 80, 24);
    assert!(shown[10].ends_with(" 30-40 of 40"), "{}", shown[10]);
    assert!(shown[12].starts_with(" c29 ") && shown[22].starts_with(" c39 "), "{shown:#?}");
    press(&mut screen, "k");
    assert!(lines(&mut screen, 80, 24)[10].ends_with(" 29-39 of 40"));
}

#[test]
fn any_size_of_terminal_is_drawn() {
    let mut screen = shown(Source::Segment(segment(1), SegmentState::Running));
    for (width, height) in [(1, 1), (5, 3), (20, 8), (40, 12), (300, 100)] {
        assert_eq!(lines(&mut screen, width, height).len(), usize::from(height));
    }
}

#[test]
fn the_table_with_the_focus_has_half_the_room_and_what_the_others_leave() {
    assert_eq!(heights(19, [1, 5, 75], Pane::Peers), [3, 7, 9]);
    assert_eq!(heights(19, [1, 100, 75], Pane::Peers), [3, 9, 7]);
    assert_eq!(heights(19, [1, 100, 2], Pane::Peers), [3, 12, 4]);
    assert_eq!(heights(19, [1, 100, 75], Pane::Counters), [3, 7, 9]);
    assert_eq!(heights(8, [1, 1, 1], Pane::Counters), [0, 0, 8]);
}
