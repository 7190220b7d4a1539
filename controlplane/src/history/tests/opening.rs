//! How a file becomes a store, and which do not.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::super::schema::MIGRATIONS;
use super::*;

#[test]
fn the_files_are_their_owners_alone() {
    let house = House::new();
    let mut store = house.open();
    append(&mut store, Tier::Minute, T0, &[(&target("a"), lost(1))]);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(house.path.parent().unwrap()), 0o700);
    for suffix in ["", "-wal", "-shm", ".lock"] {
        assert_eq!(mode(&file::beside(&house.path, suffix)), 0o600, "{suffix}");
    }
}

#[test]
fn a_second_writer_is_told_who_has_it() {
    let house = House::new();
    let store = house.open();
    let error = Store::open(&house.path, Retention::default(), at(T0)).unwrap_err();
    assert_eq!(error.reason(), "locked");
    let path = house.path.display();
    assert_eq!(error.to_string(), format!("{path} is written by another process: it holds {path}.lock"));
    drop(store);
    house.open();
}

#[test]
fn a_reader_of_nothing_makes_nothing() {
    let house = House::new();
    assert_eq!(Store::reader(&house.path).unwrap_err().reason(), "missing");
    assert!(!house.path.exists());
}

#[test]
fn a_file_that_is_no_database_is_left_alone() {
    let house = House::new();
    drop(house.open());
    let text = "[history]\npath = \"this.toml\"\n";
    fs::write(&house.path, text).unwrap();
    let error = Store::open(&house.path, Retention::default(), at(T0)).unwrap_err();
    assert_eq!(error.reason(), "no_database");
    let expected = "is no database; expected a history or no file: move it away, or choose another path";
    assert_eq!(error.to_string(), format!("{} {expected}", house.path.display()));
    assert_eq!(fs::read_to_string(&house.path).unwrap(), text);
    fs::write(&house.path, "").unwrap();
    assert_eq!(house.open().set_aside(), None, "one that is empty becomes a history");
}

#[test]
fn what_lies_beside_a_damaged_database_goes_along_and_a_new_one_works() {
    let house = House::new();
    drop(house.open());
    let damaged = format!("SQLite format 3\0{}", "and nothing of a database after that: ".repeat(40));
    fs::write(&house.path, &damaged).unwrap();
    fs::write(file::beside(&house.path, "-wal"), "a log").unwrap();
    let mut store = house.open();
    let aside = PathBuf::from(format!("{}.damaged-{T0}", house.path.display()));
    assert_eq!(store.set_aside(), Some(aside.as_path()));
    assert_eq!(fs::read_to_string(&aside).unwrap(), damaged);
    assert_eq!(fs::read_to_string(file::beside(&aside, "-wal")).unwrap(), "a log");
    append(&mut store, Tier::Minute, T0, &[(&target("a"), lost(1))]);
    drop(store);
    assert_eq!(house.open().set_aside(), None);
    assert_eq!(read(&house.reader(), "a", Tier::Minute), [(T0, lost(1))]);
}

#[test]
fn a_malformed_database_is_set_aside() {
    let house = House::new();
    let mut store = house.open();
    let names: Vec<_> = (0..200).map(|n| target(&format!("t{n}"))).collect();
    for minute in 0..60 {
        let all: Vec<_> = names.iter().map(|name| (name, lost(minute))).collect();
        append(&mut store, Tier::Minute, T0 + minute * 60, &all);
    }
    drop(store);
    let mut bytes = fs::read(&house.path).unwrap();
    let half = bytes.len() / 2;
    bytes[half..].fill(0x5A);
    fs::write(&house.path, &bytes).unwrap();
    let store = house.open();
    let aside = store.set_aside().expect("damage is found").to_owned();
    assert_eq!(fs::read(&aside).unwrap(), bytes);
    drop(store);
    // A second one within the same second does not go over the first.
    let again = "SQLite format 3\0again";
    fs::write(&house.path, again).unwrap();
    let second = house.open().set_aside().unwrap().to_owned();
    assert_eq!((second == aside, fs::read_to_string(second).unwrap()), (false, again.to_owned()));
}

#[test]
fn a_database_of_another_application_is_left_alone() {
    let house = House::new();
    drop(house.open());
    fs::remove_file(&house.path).unwrap();
    rusqlite::Connection::open(&house.path).unwrap().execute_batch("CREATE TABLE theirs (x)").unwrap();
    let before = fs::read(&house.path).unwrap();
    let error = Store::open(&house.path, Retention::default(), at(T0)).unwrap_err();
    assert_eq!(error.reason(), "foreign");
    assert_eq!(fs::read(&house.path).unwrap(), before);
}

#[test]
fn a_file_that_was_moved_away_is_noticed() {
    let house = House::new();
    let mut store = house.open();
    append(&mut store, Tier::Minute, T0, &[(&target("a"), lost(1))]);
    let reader = house.reader();
    assert!(reader.is_in_place());
    fs::rename(&house.path, house.path.with_extension("old")).unwrap();
    assert!(!reader.is_in_place());
    assert_eq!(store.append(Tier::Minute, T0, &[(&target("a"), lost(1))]).unwrap_err().reason(), "moved");
    assert_eq!(store.append_events(&[]).unwrap_err().reason(), "moved");
    assert_eq!(store.tidy(at(T0)).unwrap_err().reason(), "moved");
}

/// What version 1 wrote: a chunk, a row of the head, an event. Never changed: it is what is on disks.
const WRITTEN_BY_1: &str = include_str!("v1.sql");

#[test]
fn what_version_1_wrote_is_found_by_every_later_one() {
    for migrations in [MIGRATIONS.to_vec(), [MIGRATIONS, &[NEXT]].concat()] {
        let house = House::new();
        fs::create_dir(house.path.parent().unwrap()).unwrap();
        rusqlite::Connection::open(&house.path).unwrap().execute_batch(WRITTEN_BY_1).unwrap();
        let mut store = Store::open_with(&house.path, Retention::default(), at(T0), &migrations).unwrap();
        assert_eq!(store.set_aside(), None);
        let connection = rusqlite::Connection::open(&house.path).unwrap();
        let version: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0)).unwrap();
        assert_eq!(version, migrations.len() as i64);
        // A reader of this version, by its connection: one of the next is not written yet.
        let reader = Reader::over(connection, &house.path);
        assert_eq!(reader.targets().unwrap(), [target("a"), target("b")]);
        let chunk = [(T0, answered(700)), (T0 + 60, answered(710)), (T0 + 180, lost(10))];
        let row = (T0 + HOUR, answered(720));
        assert_eq!(read(&reader, "a", Tier::Minute), [chunk.as_slice(), &[row]].concat());
        assert_eq!(read(&reader, "b", Tier::Minute), [(T0 + HOUR, lost(7))]);
        assert_eq!(
            reader.events(0..u64::MAX, None, 9).unwrap().events,
            [event(T0 * 1000, Some("a"), "a does not answer")]
        );
        // And it is written on.
        append(&mut store, Tier::Minute, T0 + 120, &[(&target("a"), lost(1))]);
        assert_eq!(tidy(&mut store, T0 + 3 * HOUR).damaged, 0);
        assert_eq!(read(&reader, "a", Tier::Minute).len(), 5);
    }
}

/// What a later version might do.
const NEXT: &str =
    "ALTER TABLE target ADD COLUMN colour TEXT NOT NULL DEFAULT 'none'; UPDATE target SET colour = name;";

#[test]
fn an_older_database_is_brought_up_to_date_with_all_it_has() {
    let house = House::new();
    let mut store = house.open();
    append(&mut store, Tier::Minute, T0, &[(&target("a"), answered(700))]);
    drop(store);
    let next = [MIGRATIONS, &[NEXT]].concat();
    let store = Store::open_with(&house.path, Retention::default(), at(T0), &next).unwrap();
    assert_eq!(house.count("SELECT count(*) FROM target WHERE colour = 'a'"), 1);
    assert_eq!(house.count("PRAGMA user_version"), MIGRATIONS.len() as i64 + 1);
    drop(store);
    // And this version refuses what the next one wrote.
    let error = Store::open(&house.path, Retention::default(), at(T0)).unwrap_err();
    let path = house.path.display();
    let expected = format!(
        "{path} has schema version 2; this relayscope knows versions up to 1: use a later one, or another path"
    );
    assert_eq!(error.to_string(), expected);
    assert_eq!(Store::reader(&house.path).unwrap_err().to_string(), expected);
}

#[test]
fn a_migration_that_fails_leaves_the_version_it_began_with() {
    let house = House::new();
    drop(house.open());
    let broken = [MIGRATIONS, &["CREATE TABLE extra (x); INSERT INTO nowhere VALUES (1)"]].concat();
    assert_eq!(
        Store::open_with(&house.path, Retention::default(), at(T0), &broken).unwrap_err().reason(),
        "other"
    );
    assert_eq!(house.count("PRAGMA user_version"), 1);
    assert_eq!(house.count("SELECT count(*) FROM sqlite_schema WHERE name = 'extra'"), 0);
    house.open();
}
