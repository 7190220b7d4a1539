//! Server-sent events as octets.
//!
//! Source: the HTML standard, 9.2 "Server-sent events".

use serde::Serialize;

use super::super::to_json;

/// After how many milliseconds a client that lost its connection is to come again.
const RETRY_MS: u32 = 2000;

/// What a client is sent first.
pub(super) fn begin() -> Vec<u8> {
    format!("retry: {RETRY_MS}\n\n").into_bytes()
}

/// Adds an event. JSON has no line breaks, so it is one line of data.
pub(super) fn push(frames: &mut Vec<u8>, event: &str, data: &impl Serialize) {
    frames.extend_from_slice(format!("event: {event}\ndata: ").as_bytes());
    // It ends with a line break; an empty line ends the event.
    frames.extend_from_slice(&to_json(data));
    frames.push(b'\n');
}

/// What says nothing, and that somebody is there.
pub(super) const KEEP_ALIVE: &[u8] = b": here\n\n";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_a_name_a_line_of_data_and_an_empty_line() {
        let mut frames = begin();
        push(&mut frames, "alerts", &serde_json::json!({"enabled": false}));
        push(&mut frames, "happened", &"two\nlines");
        let expected = "retry: 2000\n\nevent: alerts\ndata: {\"enabled\":false}\n\n\
                        event: happened\ndata: \"two\\nlines\"\n\n";
        assert_eq!(String::from_utf8(frames).unwrap(), expected);
    }
}
