//! The screen: state of the data plane, samples per second, the three tables, the keys.

use std::time::{Duration, UNIX_EPOCH};

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style, Stylize};
use ratatui::text::{Line, Span, Text};
use ratatui::widgets::{Block, Borders, Cell, Paragraph, RenderDirection, Sparkline, Table, Wrap};
use relayscope_bridge::segment::SegmentState;

use super::fit::{Fit, cut_front, cut_middle, cut_words, whole, width};
use super::pane::{Row, Tone, rate_text};
use super::reading::Source;
use super::screen::{Pane, Screen};
use crate::moment::{SegmentClock, age_text};

/// Rows from which on the sparkline is four high.
const TALL: u16 = 40;
/// A table's title, its header and one row.
const PANE_MIN: u16 = 3;
const SPARKLINE_LABEL: u16 = 22;
/// ` samples/s` and a rate.
const SPARKLINE_LABEL_MIN: u16 = 20;
/// Cells of the segment's path that are worth more than the time.
const PATH_MIN: usize = 8;

pub(crate) fn draw(frame: &mut Frame<'_>, screen: &mut Screen) {
    let area = frame.area();
    let sparkline = if area.height >= TALL { 4 } else { 2 };
    let [head, samples, body, foot] = Layout::vertical([
        Constraint::Length(2),
        Constraint::Length(sparkline),
        Constraint::Fill(1),
        Constraint::Length(1),
    ])
    .areas(area);
    let status = Status::of(screen);
    frame.render_widget(head_lines(screen, &status, head.width), head);
    draw_samples(frame, screen, samples);
    match &status.instead {
        Some(why) => {
            let text = Paragraph::new(why.as_str()).wrap(Wrap { trim: true });
            frame.render_widget(text, body.inner(ratatui::layout::Margin::new(2, 1)));
        }
        None => draw_panes(frame, screen, body),
    }
    frame.render_widget(foot_line(screen), foot);
}

/// What became of the data plane.
struct Status {
    badge: &'static str,
    tone: Tone,
    detail: String,
    /// What to say where there is nothing to show.
    instead: Option<String>,
}

impl Status {
    fn of(screen: &Screen) -> Self {
        let bad = |badge, detail, instead| Self { badge, tone: Tone::Bad, detail, instead };
        let (info, state) = match &screen.source {
            Source::Absent(why) => {
                let detail = "no data plane yet; this shows the first one that comes".to_owned();
                return Self { badge: "WAITING", tone: Tone::Warning, detail, instead: Some(why.clone()) };
            }
            Source::Damaged(why) => {
                let detail = "waiting for a segment that can be read".to_owned();
                return bad("DAMAGED", detail, Some(why.clone()));
            }
            Source::Unreadable(why) => {
                let detail = "waiting for a segment that can be read".to_owned();
                return bad("UNREADABLE", detail, Some(why.clone()));
            }
            Source::Segment(info, state) => (info, *state),
        };
        let pid = info.pid;
        let clock = SegmentClock::new(info, screen.now);
        let last = screen.model.newest_heartbeat_ns.and_then(|at| clock.age(at));
        let last = last.map_or(String::new(), |age| format!(", last sign of life {} ago", age_text(age)));
        let ended = |how: &str| format!("process {pid} {how}{last}; waiting for the next one");
        match state {
            SegmentState::Closed => {
                Self { badge: "CLOSED", tone: Tone::Warning, detail: ended("has ended"), instead: None }
            }
            // A reading of a damaged one says so in its source.
            SegmentState::Dead | SegmentState::Damaged => bad("DIED", ended("died"), None),
            SegmentState::Running => {
                let shards = &screen.model.shards;
                let silent = shards.iter().filter(|shard| shard.stale).count();
                if silent > 0 && !screen.is_paused {
                    let detail =
                        format!("process {pid} lives, {silent} of {} shards are silent", shards.len());
                    return bad("SILENT", detail, None);
                }
                let up = clock.age(info.start_monotonic_ns);
                let up = age_text(up.map_or(Duration::ZERO, |up| Duration::from_secs(up.as_secs())));
                let detail = format!("process {pid}, generation {}, up {up}", info.generation);
                Self { badge: "RUNNING", tone: Tone::Good, detail, instead: None }
            }
        }
    }
}

fn head_lines(screen: &Screen, status: &Status, columns: u16) -> Text<'static> {
    let columns = usize::from(columns);
    let badge = |text: &str, color| Span::raw(format!(" {text} ")).fg(Color::Black).bg(color).bold();
    let mut first = vec![badge(status.badge, color(status.tone).unwrap_or(Color::Gray)), Span::raw(" ")];
    let taken = |spans: &[Span<'_>]| spans.iter().map(Span::width).sum::<usize>();
    if screen.is_paused {
        let at = time_text(screen.model.now.unix_ns);
        let since = badge(&format!("PAUSED at {}", at.get(11..19).unwrap_or_default()), Color::Cyan);
        let has_room = taken(&first) + since.width() <= columns;
        first.extend([if has_room { since } else { badge("PAUSED", Color::Cyan) }, Span::raw(" ")]);
    }
    let room = columns.saturating_sub(taken(&first));
    let time = time_text(screen.now.unix_ns);
    match room.checked_sub(time.len() + 1).filter(|left| *left >= PATH_MIN) {
        Some(left) => {
            first.push(Span::raw(format!("{:left$} ", cut_front(&screen.segment, left))).bold());
            first.push(Span::raw(time));
        }
        None => first.push(Span::raw(cut_front(&screen.segment, room)).bold()),
    }
    let detail = cut_words(&status.detail, columns.saturating_sub(1));
    Text::from(vec![Line::from(first), Line::raw(format!(" {detail}"))])
}

/// `2026-11-20T15:47:50Z`.
fn time_text(unix_ns: u64) -> String {
    humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_nanos(unix_ns)).to_string()
}

fn draw_samples(frame: &mut Frame<'_>, screen: &Screen, area: Rect) {
    if area.width < SPARKLINE_LABEL_MIN {
        return;
    }
    let [label, line] =
        Layout::horizontal([Constraint::Length(SPARKLINE_LABEL), Constraint::Fill(1)]).areas(area);
    let history = &screen.model.history;
    let shown = || history.iter().rev().take(usize::from(line.width));
    let peak = shown().flatten().copied().reduce(f64::max);
    let rate = |rate: Option<f64>| rate.map_or("-".to_owned(), rate_text);
    let text =
        format!(" samples/s {:>9}\n      peak {:>9}", rate(screen.model.samples_per_second()), rate(peak));
    frame.render_widget(Paragraph::new(text), label);
    // Whole numbers are all it draws.
    let milli = |rate: f64| (rate * 1e3) as u64;
    let bars = shown().map(|rate| rate.map(milli));
    let sparkline = Sparkline::default()
        .data(bars.collect::<Vec<_>>())
        .max(milli(peak.unwrap_or(0.0)).max(1))
        .direction(RenderDirection::RightToLeft)
        .absent_value_symbol("·")
        .absent_value_style(Style::new().fg(Color::DarkGray))
        .style(Style::new().fg(Color::Cyan));
    frame.render_widget(sparkline, line);
}

fn draw_panes(frame: &mut Frame<'_>, screen: &mut Screen, area: Rect) {
    let model = std::mem::take(&mut screen.model);
    let (targets, up) = model.count_peers();
    let rows = [model.shards.len(), model.peers.len(), model.counters.len()];
    let heights = heights(area.height, rows, screen.focus).map(Constraint::Length);
    let [shards, peers, counters] = Layout::vertical(heights).areas(area);
    let peers_up = format!("{up} of {targets} up");
    draw_pane(frame, screen, Pane::Shards, &model.shards, "", shards);
    draw_pane(frame, screen, Pane::Peers, &model.peers, &peers_up, peers);
    draw_pane(frame, screen, Pane::Counters, &model.counters, "", counters);
    screen.model = model;
}

/// Rows of the screen for each table: the one with the focus has up to half before the others have what they
/// want; where there is no room for three, it has all.
fn heights(total: u16, rows: [usize; 3], focus: Pane) -> [u16; 3] {
    let focus = focus as usize;
    if total < 3 * PANE_MIN {
        return std::array::from_fn(|pane| if pane == focus { total } else { 0 });
    }
    let wanted = rows.map(|rows| u16::try_from(rows).unwrap_or(u16::MAX).saturating_add(2).max(PANE_MIN));
    let mut heights = [PANE_MIN; 3];
    let mut grow = |pane: usize, to: u16| {
        let left = total - heights.iter().sum::<u16>();
        heights[pane] += to.saturating_sub(heights[pane]).min(left);
    };
    grow(focus, wanted[focus].min(total / 2));
    (0..3).filter(|pane| *pane != focus).for_each(|pane| grow(pane, wanted[pane]));
    grow(focus, wanted[focus]);
    grow(2, total);
    heights
}

fn draw_pane<R: Row>(
    frame: &mut Frame<'_>,
    screen: &mut Screen,
    pane: Pane,
    rows: &[R],
    summary: &str,
    area: Rect,
) {
    if area.height < PANE_MIN {
        return;
    }
    let is_focused = screen.focus == pane;
    let choice = screen.choice_mut(pane);
    let wanted = choice.arrange(rows);
    let height = usize::from(area.height - 2);
    choice.skipped = choice.skipped.min(wanted.len().saturating_sub(height));
    let first = choice.skipped;
    let last = wanted.len().min(first + height);

    let style = if is_focused { Style::new().fg(Color::Cyan).bold() } else { Style::new() };
    let [title, place] = titles(screen, pane, summary, [first, last, wanted.len(), rows.len()], area.width);
    let block = Block::new().borders(Borders::TOP).border_style(style).title(title);
    let block = block.title_top(Line::from(place).right_aligned());
    if wanted.is_empty() {
        let why = if rows.is_empty() { nothing(pane) } else { "nothing has that in its name; Esc shows all" };
        frame.render_widget(Paragraph::new(format!("  {why}")).fg(Color::DarkGray).block(block), area);
        return;
    }

    // A cell of margin at the left.
    let Fit { spacing, shown } = Fit::of::<R>(area.width.saturating_sub(1));
    let choice = screen.choice(pane);
    let (sorted, descends) = (choice.sorted::<R>(), choice.descends::<R>());
    let arrow = if descends { "▼" } else { "▲" };
    let header = shown.iter().map(|(index, _)| {
        let column = &R::COLUMNS[*index];
        let cell = match (*index == sorted, column.is_number) {
            (false, _) => Line::from(column.title).bold(),
            (true, true) => Line::from(format!("{arrow}{}", column.title)).bold().fg(Color::Cyan),
            (true, false) => Line::from(format!("{}{arrow}", column.title)).bold().fg(Color::Cyan),
        };
        Cell::from(if column.is_number { cell.right_aligned() } else { cell.left_aligned() })
    });
    let body = wanted[first..last].iter().map(|row| {
        let mut cells = row.cells();
        let cells: Vec<_> = (shown.iter())
            .map(|(index, width)| {
                let (text, tone) = std::mem::replace(&mut cells[*index], (String::new(), Tone::Plain));
                let (room, is_number) = (usize::from(*width), R::COLUMNS[*index].is_number);
                let text = if is_number { whole(text, room) } else { cut_middle(&text, room) };
                let line = Line::from(text).style(style_of(tone));
                Cell::from(if is_number { line.right_aligned() } else { line.left_aligned() })
            })
            .collect();
        ratatui::widgets::Row::new(cells)
    });
    let widths = shown.iter().map(|(_, width)| Constraint::Length(*width));
    let inner = block.inner(area);
    let table = Table::new(body, widths).header(ratatui::widgets::Row::new(header)).column_spacing(spacing);
    frame.render_widget(block, area);
    let inner = Rect { x: inner.x + 1, width: inner.width.saturating_sub(1), ..inner };
    frame.render_widget(table, inner);
}

/// What stands above a table, at the left and at the right. Where there is no room for all, the summary goes
/// first, then which rows these are, then the filter; none of them is cut, but for a long filter.
fn titles(
    screen: &Screen,
    pane: Pane,
    summary: &str,
    [first, last, wanted, all]: [usize; 4],
    columns: u16,
) -> [String; 2] {
    // Not by colour alone.
    let mark = if screen.focus == pane { '▸' } else { ' ' };
    let name = format!("{mark}{} {} ", pane as usize + 1, name(pane));
    let mut room = usize::from(columns).saturating_sub(width(&name));
    let mut fitting = |part: String| match room.checked_sub(width(&part)) {
        Some(left) => {
            room = left;
            part
        }
        None => String::new(),
    };
    let filter = match screen.choice(pane).filter.as_str() {
        "" => String::new(),
        filter => {
            let count = format!(": {wanted} of {all} ");
            let left = usize::from(columns).saturating_sub(width(&name) + width(&count) + 2);
            let text = fitting(format!(" /{}{count}", cut_middle(filter, left)));
            // That there is one must be seen, or rows seem to be missing.
            if text.is_empty() { fitting(" /… ".to_owned()) } else { text }
        }
    };
    let is_part = last - first < wanted;
    let place = if is_part { format!(" {}-{last} of {wanted} ", first + 1) } else { String::new() };
    let place = fitting(place);
    let summary = if summary.is_empty() { String::new() } else { fitting(format!(" {summary} ")) };
    [format!("{name}{summary}{filter}"), place]
}

fn name(pane: Pane) -> &'static str {
    match pane {
        Pane::Shards => "SHARDS",
        Pane::Peers => "PEERS",
        Pane::Counters => "COUNTERS",
    }
}

fn nothing(pane: Pane) -> &'static str {
    match pane {
        Pane::Shards => "no shards",
        Pane::Peers => "no targets: the data plane probes none; --probe NAME=ADDR adds one",
        Pane::Counters => "no counters yet",
    }
}

fn color(tone: Tone) -> Option<Color> {
    match tone {
        Tone::Plain => None,
        Tone::Good => Some(Color::Green),
        Tone::Warning => Some(Color::Yellow),
        Tone::Bad => Some(Color::Red),
        Tone::Stale => Some(Color::DarkGray),
    }
}

fn style_of(tone: Tone) -> Style {
    color(tone).map_or(Style::new(), |color| Style::new().fg(color))
}

fn foot_line(screen: &Screen) -> Line<'static> {
    let pane = screen.focus;
    if screen.is_filtering {
        let filter = &screen.choice(pane).filter;
        return Line::from(vec![
            Span::raw(format!(" {} with ", name(pane).to_lowercase())),
            Span::raw(format!("{filter}█")).bold(),
            Span::raw("   "),
            Span::raw("Enter").bold(),
            Span::raw(" keep  "),
            Span::raw("Esc").bold(),
            Span::raw(" clear"),
        ]);
    }
    let keys = [
        ("q", "quit"),
        ("Tab 1 2 3", "table"),
        ("s", "sort"),
        ("r", "reverse"),
        ("/", "filter"),
        ("p", if screen.is_paused { "go on" } else { "pause" }),
        ("↑ ↓", "scroll"),
    ];
    let spans = keys.into_iter().flat_map(|(key, what)| {
        [Span::raw(" "), Span::styled(key, Modifier::BOLD), Span::raw(format!(" {what} "))]
    });
    Line::from_iter(spans)
}

#[cfg(test)]
mod tests;
