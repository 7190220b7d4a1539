use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use relayscope_bridge::segment::SegmentState;

use super::super::model::tests::{at, reading, segment};
use super::super::reading::{Reading, ShardReading, Source, TargetReading};
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
        " probe_sent_total{target=\"b\",family=\"ipv4\"}                 2.0              204",
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
            " probe_sent_total{target=\"b\",family=\"ipv4\"}                   -              204",
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

/// Two of each, with long names that differ in their last characters, and numbers that are long enough to be
/// others when they are cut.
fn crowded(seconds: f64) -> Reading {
    let mut reading = reading(seconds);
    let mut shard = reading.shards[0].clone();
    shard.recorded *= 123;
    shard.lost = 7_654_321;
    shard.lag_seconds = Some(9.876_5);
    shard.missed = Some(1_234_567);
    reading.shards = vec![shard.clone(), ShardReading { shard: 1, lost: 123_456_789, ..shard }];
    let mut target = reading.targets[0].clone();
    target.rtt_ms = Some(1_074.061);
    target.loss_pct = Some(13.5);
    target.jitter_ms = Some(210.074);
    target.lost = Some(54_321);
    let peer = |end| {
        let name = format!("peer-with-a-long-name-{end}");
        TargetReading { name: name.as_str().into(), title: name.into(), ..target.clone() }
    };
    reading.targets = vec![peer("07"), peer("08")];
    let counter = reading.counters[0].clone();
    let of = |end, total| {
        let mut counter = counter.clone();
        counter.series = format!("probe_sent_total{{target=\"peer-with-a-long-name-{end}\"}}").into();
        counter.count.total = total;
        counter
    };
    // The second is longer than its column.
    reading.counters = vec![of("07", 1_234_567), of("08", u64::MAX)];
    reading
}

/// Takes from the left of `row` a text of `texts`, a cut mark or a dash.
fn take_cell<'a>(row: &'a str, texts: &[&str]) -> Option<&'a str> {
    let is_end = |rest: &&str| rest.is_empty() || rest.starts_with(' ');
    let rest = texts.iter().chain(&["…", "-"]).filter_map(|text| row.strip_prefix(text)).find(is_end)?;
    Some(rest.trim_start())
}

#[test]
fn at_any_width_every_number_is_whole_and_every_row_has_a_name_of_its_own() {
    let bar = "▕████    ▏ 50 %";
    let cells = [
        &["0.1 s", "1230.0", bar, "7654321", "123.46 M", "9876.5 ms", "1234567", "125460", "1024"][..],
        &["UP", "1074.061 ms", "13.5 %", "210.074 ms", "2.0", "0.5 s", "204", "54321", "192.0.2.7:8620"],
        &["0.0", "1234567", "0", "…"],
    ];
    for width in 20..=200 {
        let mut screen = Screen::new("/run/relayscope/a-segment-with-a-long-name".to_owned());
        screen.observe(crowded(100.0));
        screen.observe(crowded(102.0));
        let shown = lines(&mut screen, width, 24);
        let title = |name: &str| shown.iter().position(|line| line.contains(name)).unwrap();
        for (pane, cells) in ["SHARDS", "PEERS", "COUNTERS"].iter().zip(cells) {
            let rows = [2, 3].map(|below| &*shown[title(pane) + below]);
            let names = rows.map(|row| {
                let (name, mut rest) = row.trim_start().split_once(' ').unwrap_or((row.trim_start(), ""));
                rest = rest.trim_start();
                while !rest.is_empty() {
                    rest = take_cell(rest, cells).unwrap_or_else(|| panic!("{width}: {rest}:\n{row}"));
                }
                name
            });
            assert!(!names.contains(&"") && names[0] != names[1], "{width}: {names:?}");
        }
    }
}

#[test]
fn at_any_width_the_head_has_whole_words_only() {
    let words = ["RUNNING", "PAUSED", "at", "22:15:02", "2023-11-14T22:15:02Z", "process", "4242,"];
    let words =
        [&words[..], &["generation", "1,", "up", "1m", "42s", "…", "samples/s", "peak", "2460.0", "-"]]
            .concat();
    for (width, keys) in (20..=200).flat_map(|width| [(width, ""), (width, "p")]) {
        let mut screen = Screen::new("/run/relayscope/a-segment-with-a-long-name".to_owned());
        screen.observe(crowded(100.0));
        screen.observe(crowded(102.0));
        press(&mut screen, keys);
        let shown = lines(&mut screen, width, 24);
        for word in shown[..4].iter().flat_map(|line| line.split_whitespace()) {
            let is_path = word.ends_with("name") || word.starts_with('…') || "/run".starts_with(word);
            let is_line = word.chars().all(|character| "·▁▂▃▄▅▆▇█".contains(character));
            assert!(is_path || is_line || words.contains(&word), "{width}: {word}:\n{}", shown.join("\n"));
        }
    }
}

#[test]
fn a_long_name_is_cut_in_its_middle() {
    let mut screen = Screen::new("s".to_owned());
    screen.observe(crowded(100.0));
    let shown = lines(&mut screen, 80, 24).join("\n");
    for name in ["\n peer-wit…-name-07 UP ", "\n peer-wit…-name-08 UP "] {
        assert!(shown.contains(name), "{name}:\n{shown}");
    }
    let shown = lines(&mut screen, 60, 24).join("\n");
    for name in ["\n probe_sent_tota…long-name-07\"} ", "\n probe_sent_tota…long-name-08\"} "] {
        assert!(shown.contains(name), "{name}:\n{shown}");
    }
}

#[test]
fn what_stands_above_a_table_goes_whole_where_there_is_no_room() {
    let mut screen = Screen::new("s".to_owned());
    screen.observe(crowded(100.0));
    press(&mut screen, "/NAME-07");
    for (width, expected) in [
        (80, "▸2 PEERS  2 of 2 up  /NAME-07: 1 of 2 ─"),
        (36, "▸2 PEERS  /NAME-07: 1 of 2 ─"),
        (26, "▸2 PEERS  /NAM…07: 1 of 2"),
        (16, "▸2 PEERS  /… ─"),
    ] {
        let shown = lines(&mut screen, width, 24);
        let title = shown.iter().find(|line| line.contains("PEERS")).unwrap();
        assert!(title.starts_with(expected), "{title}");
    }
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
