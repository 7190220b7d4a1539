//! What the keys changed: which table has the focus, how each is sorted and filtered, and whether time stands
//! still.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::model::{CounterRow, Model, PeerRow, ShardRow};
use super::pane::{Choice, Row};
use super::reading::{Reading, Source};
use crate::moment::Now;

/// Characters a filter may have: more than fit in a terminal's line.
const FILTER_MAX: usize = 64;
const PAGE: usize = 10;

/// One of the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pane {
    Shards,
    Peers,
    Counters,
}

impl Pane {
    pub(crate) const ALL: [Self; 3] = [Self::Shards, Self::Peers, Self::Counters];

    fn columns(self) -> usize {
        match self {
            Self::Shards => ShardRow::COLUMNS.len(),
            Self::Peers => PeerRow::COLUMNS.len(),
            Self::Counters => CounterRow::COLUMNS.len(),
        }
    }

    fn own_sort(self) -> usize {
        match self {
            Self::Shards => ShardRow::SORTED,
            Self::Peers => PeerRow::SORTED,
            Self::Counters => CounterRow::SORTED,
        }
    }
}

/// Everything there is to draw.
pub(crate) struct Screen {
    /// The segment's path.
    pub(crate) segment: String,
    pub(crate) model: Model,
    /// As of the last look, paused or not.
    pub(crate) source: Source,
    pub(crate) now: Now,
    pub(crate) focus: Pane,
    choices: [Choice; Pane::ALL.len()],
    /// Whether keys go to the filter of the table with the focus.
    pub(crate) is_filtering: bool,
    pub(crate) is_paused: bool,
    pub(crate) is_over: bool,
}

impl Screen {
    pub(crate) fn new(segment: String) -> Self {
        Self {
            segment,
            model: Model::default(),
            source: Source::Absent("not looked at yet".to_owned()),
            now: Now::default(),
            focus: Pane::Peers,
            choices: Default::default(),
            is_filtering: false,
            is_paused: false,
            is_over: false,
        }
    }

    pub(crate) fn choice(&self, pane: Pane) -> &Choice {
        &self.choices[pane as usize]
    }

    pub(crate) fn choice_mut(&mut self, pane: Pane) -> &mut Choice {
        &mut self.choices[pane as usize]
    }

    /// Shows a reading; while paused, only what became of the data plane.
    pub(crate) fn observe(&mut self, reading: Reading) {
        (self.now, self.source) = (reading.now, reading.source.clone());
        if !self.is_paused {
            self.model.observe(reading);
        }
    }

    pub(crate) fn handle(&mut self, key: KeyEvent) {
        if key.kind == KeyEventKind::Release {
            return;
        }
        let is_control = key.modifiers.contains(KeyModifiers::CONTROL);
        if is_control && key.code == KeyCode::Char('c') {
            self.is_over = true;
        } else if self.is_filtering {
            self.edit_filter(key.code);
        } else if !is_control {
            self.command(key.code);
        }
    }

    fn edit_filter(&mut self, key: KeyCode) {
        let choice = &mut self.choices[self.focus as usize];
        choice.skipped = 0;
        match key {
            KeyCode::Enter => self.is_filtering = false,
            KeyCode::Esc => {
                choice.filter.clear();
                self.is_filtering = false;
            }
            KeyCode::Backspace => {
                choice.filter.pop();
            }
            KeyCode::Char(character) if choice.filter.chars().count() < FILTER_MAX => {
                choice.filter.push(character);
            }
            _ => {}
        }
    }

    fn command(&mut self, key: KeyCode) {
        let pane = self.focus;
        let choice = &mut self.choices[pane as usize];
        match key {
            KeyCode::Char('q') => self.is_over = true,
            KeyCode::Char('p' | ' ') => self.is_paused = !self.is_paused,
            KeyCode::Char('s') => {
                let sorted = choice.sorted.unwrap_or(pane.own_sort());
                choice.sorted = Some((sorted + 1) % pane.columns());
                choice.reversed = false;
            }
            KeyCode::Char('r') => choice.reversed = !choice.reversed,
            KeyCode::Char('/') => self.is_filtering = true,
            KeyCode::Esc => choice.filter.clear(),
            KeyCode::Char('1') => self.focus = Pane::Shards,
            KeyCode::Char('2') => self.focus = Pane::Peers,
            KeyCode::Char('3') => self.focus = Pane::Counters,
            KeyCode::Tab => self.focus = Pane::ALL[(pane as usize + 1) % Pane::ALL.len()],
            KeyCode::BackTab => {
                self.focus = Pane::ALL[(pane as usize + Pane::ALL.len() - 1) % Pane::ALL.len()];
            }
            // What lies past the last row is taken back when it is drawn.
            KeyCode::Down | KeyCode::Char('j') => choice.skipped += 1,
            KeyCode::Up | KeyCode::Char('k') => choice.skipped = choice.skipped.saturating_sub(1),
            KeyCode::PageDown => choice.skipped += PAGE,
            KeyCode::PageUp => choice.skipped = choice.skipped.saturating_sub(PAGE),
            KeyCode::Home => choice.skipped = 0,
            KeyCode::End => choice.skipped = usize::MAX / 2,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::model::tests::reading;
    use super::*;

    fn after(keys: &str) -> Screen {
        let mut screen = Screen::new("s".to_owned());
        screen.observe(reading(100.0));
        for key in keys.chars() {
            let code = match key {
                '\t' => KeyCode::Tab,
                '\n' => KeyCode::Enter,
                '\x1b' => KeyCode::Esc,
                '\x08' => KeyCode::Backspace,
                other => KeyCode::Char(other),
            };
            screen.handle(KeyEvent::new(code, KeyModifiers::NONE));
        }
        screen
    }

    #[test]
    fn tab_and_numbers_choose_the_table_that_the_other_keys_are_for() {
        assert_eq!(after("").focus, Pane::Peers);
        assert_eq!(after("\t").focus, Pane::Counters);
        assert_eq!(after("\t\t").focus, Pane::Shards);
        let screen = after("1s3r");
        assert_eq!(screen.choice(Pane::Shards).sorted, Some(1));
        assert!(screen.choice(Pane::Counters).reversed);
        assert!(!screen.choice(Pane::Peers).reversed);
    }

    #[test]
    fn sorting_goes_through_all_columns_and_around() {
        let choices = ["s", "ss", "sss", "ssss"].map(|keys| after(&format!("3{keys}")));
        let sorted = choices.map(|screen| screen.choice(Pane::Counters).sorted);
        assert_eq!(sorted, [Some(2), Some(3), Some(0), Some(1)], "by the rate at first");
    }

    #[test]
    fn a_filter_takes_every_key_until_enter_or_escape() {
        let filter = |keys| after(keys).choice(Pane::Peers).filter.clone();
        assert_eq!(filter("/qps\n"), "qps");
        assert_eq!(filter("/qpx\x08s"), "qps");
        assert_eq!(filter("/qps\x1b"), "");
        assert_eq!(filter("/qps\n\x1b"), "");
        assert!(!after("/q").is_over);
        assert!(after("/x\nq").is_over);
        let interrupt = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        let mut screen = after("/x");
        screen.handle(interrupt);
        assert!(screen.is_over);
    }

    #[test]
    fn while_paused_values_stand_still_and_the_state_of_the_data_plane_does_not() {
        let mut screen = after("p");
        let gone = Source::Absent("gone".to_owned());
        screen.observe(Reading::of_nothing(super::super::model::tests::at(101.0), gone.clone()));
        assert_eq!((screen.model.peers.len(), &screen.source), (1, &gone));
        screen.handle(KeyEvent::new(KeyCode::Char('p'), KeyModifiers::NONE));
        screen.observe(Reading::of_nothing(super::super::model::tests::at(102.0), gone));
        assert_eq!(screen.model.peers.len(), 0);
    }
}
