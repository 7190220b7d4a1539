//! What a terminal has room for: whole columns, whole numbers, and names that can still be told apart.

use ratatui::text::Span;

use super::pane::Row;

/// The columns of a table that are shown.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Fit {
    /// Cells from column to column.
    pub(crate) spacing: u16,
    /// Index and width, from left to right; the name's is the first.
    pub(crate) shown: Vec<(usize, u16)>,
}

impl Fit {
    /// In `room` cells: the name, and of the others, the most important first, as many as leave it what it
    /// needs. Their widths and what lies between never add up to more than `room`.
    pub(crate) fn of<R: Row>(room: u16) -> Self {
        let mut ranked: Vec<usize> = (1..R::COLUMNS.len()).collect();
        ranked.sort_by_key(|index| R::COLUMNS[*index].rank);
        let taken = |others: &[usize], spacing: u16| -> u16 {
            others.iter().map(|index| R::COLUMNS[*index].width.unwrap_or(0) + spacing).sum()
        };
        let fits = |count: usize, spacing: u16| {
            let others = &ranked[..count];
            let least =
                if others.iter().any(|index| R::COLUMNS[*index].wide) { R::NAME_WIDE } else { R::NAME_MIN };
            taken(others, spacing) + least <= room
        };
        let count = (1..=ranked.len()).rev().find(|count| fits(*count, 1)).unwrap_or(0);
        let spacing = if count == ranked.len() && fits(count, 2) { 2 } else { 1 };
        let mut others = ranked[..count].to_vec();
        let left = room - taken(&others, spacing);
        others.sort_unstable();
        let name = (0, R::COLUMNS[0].width.map_or(left, |width| width.min(left)));
        let others = others.into_iter().map(|index| (index, R::COLUMNS[index].width.unwrap_or(0)));
        Self { spacing, shown: std::iter::once(name).chain(others).collect() }
    }
}

/// Cells that `text` takes.
pub(crate) fn width(text: &str) -> usize {
    Span::raw(text).width()
}

/// Both ends of `text`: names that begin alike often differ in the last character.
pub(crate) fn cut_middle(text: &str, room: usize) -> String {
    if width(text) <= room {
        return text.to_owned();
    }
    let Some(kept) = room.checked_sub(1) else { return String::new() };
    let head = first_cells(text.chars(), kept.div_ceil(2));
    let tail = first_cells(text.chars().rev(), kept / 2);
    format!("{head}…{}", tail.chars().rev().collect::<String>())
}

/// The end of `text`, where a path tells most.
pub(crate) fn cut_front(text: &str, room: usize) -> String {
    if width(text) <= room {
        return text.to_owned();
    }
    let Some(kept) = room.checked_sub(1) else { return String::new() };
    let tail = first_cells(text.chars().rev(), kept);
    format!("…{}", tail.chars().rev().collect::<String>())
}

/// The whole words of `text` that there is room for: part of a number is another number.
pub(crate) fn cut_words(text: &str, room: usize) -> String {
    if width(text) <= room {
        return text.to_owned();
    }
    let mut kept = String::new();
    for word in text.split(' ') {
        // A space and the mark come after it.
        if width(&kept) + width(word) + 2 > room {
            break;
        }
        kept += word;
        kept.push(' ');
    }
    kept + "…"
}

/// `number`, or where there is no room for all of it, a mark that says so: part of it is another number.
pub(crate) fn whole(number: String, room: usize) -> String {
    if width(&number) <= room { number } else { "…".to_owned() }
}

fn first_cells(characters: impl Iterator<Item = char>, room: usize) -> String {
    let mut left = Some(room);
    characters
        .take_while(|character| {
            left = left.and_then(|left| left.checked_sub(width(character.encode_utf8(&mut [0; 4]))));
            left.is_some()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::model::{CounterRow, PeerRow, ShardRow};
    use super::*;

    #[test]
    fn names_that_differ_at_their_end_do_so_when_cut() {
        assert_eq!(cut_middle("peer-with-a-long-name-07", 17), "peer-wit…-name-07");
        assert_eq!(cut_middle("peer-with-a-long-name-08", 17), "peer-wit…-name-08");
        assert_eq!(cut_middle("short", 5), "short");
        let narrow = [4, 3, 2, 1, 0].map(|room| cut_middle("short", room));
        assert_eq!(narrow, ["sh…t", "s…t", "s…", "…", ""]);
    }

    #[test]
    fn a_character_two_cells_wide_counts_as_two() {
        assert_eq!(cut_middle("東京東京", 8), "東京東京");
        assert_eq!(cut_middle("東京東京", 7), "東…京");
        assert_eq!(cut_front("東京東京", 4), "…京");
    }

    #[test]
    fn no_part_of_a_number_is_shown() {
        assert_eq!(whole("1074.061 ms".to_owned(), 11), "1074.061 ms");
        assert_eq!(whole("1074.061 ms".to_owned(), 10), "…");
        assert_eq!(
            cut_words("process 4242, generation 17, up 3h 12m", 38),
            "process 4242, generation 17, up 3h 12m"
        );
        assert_eq!(
            cut_words("process 4242, generation 17, up 3h 12m", 37),
            "process 4242, generation 17, up 3h …"
        );
        assert_eq!(cut_words("process 4242, generation 17, up 3h 12m", 26), "process 4242, generation …");
        assert_eq!(cut_words("process 4242", 11), "process …");
        assert_eq!(cut_words("process 4242", 3), "…");
    }

    #[test]
    fn every_column_has_a_rank_of_its_own_and_a_width_and_the_name_comes_first() {
        fn check<R: Row>() {
            let mut ranks: Vec<_> = R::COLUMNS.iter().map(|column| column.rank).collect();
            assert_eq!(ranks[0], 0);
            ranks.sort_unstable();
            ranks.dedup();
            assert_eq!(ranks.len(), R::COLUMNS.len());
            assert!(R::COLUMNS[1..].iter().all(|column| column.width.is_some()));
        }
        check::<ShardRow>();
        check::<PeerRow>();
        check::<CounterRow>();
    }

    #[test]
    fn the_least_important_columns_go_first_and_come_last() {
        let titles = |room| {
            let Fit { shown, .. } = Fit::of::<PeerRow>(room);
            shown.iter().map(|(index, _)| PeerRow::COLUMNS[*index].title).collect::<Vec<_>>().join(" ")
        };
        for (room, expected) in [
            (19, "TARGET"),
            (39, "TARGET STATE RTT"),
            (49, "TARGET STATE RTT LOSS"),
            (59, "TARGET STATE RTT LOSS LAST REPLY"),
            (79, "TARGET STATE RTT LOSS JITTER SENT/S LAST REPLY"),
            (120, "TARGET STATE RTT LOSS JITTER SENT/S LAST REPLY SENT LOST"),
            (159, "TARGET STATE RTT LOSS JITTER SENT/S LAST REPLY SENT LOST ADDRESS"),
        ] {
            assert_eq!(titles(room), expected, "in {room} cells");
        }
    }

    #[test]
    fn columns_fill_no_more_than_there_is_and_leave_the_name_its_room() {
        fn check<R: Row>() {
            for room in 0..=300 {
                let Fit { spacing, shown } = Fit::of::<R>(room);
                let gaps = spacing * u16::try_from(shown.len() - 1).unwrap();
                let widths: u16 = shown.iter().map(|(_, width)| width).sum();
                assert!(widths + gaps <= room, "{shown:?} in {room} cells");
                assert!(shown[0].1 >= R::NAME_MIN.min(room), "{shown:?} in {room} cells");
            }
        }
        check::<ShardRow>();
        check::<PeerRow>();
        check::<CounterRow>();
    }
}
