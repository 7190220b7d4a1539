//! A guide's blocks, and whether what was printed is what it shows.

/// In what is shown, a number that differs from run to run.
const VARIES: char = '…';

/// What a guide has its reader do.
pub(super) enum Block {
    /// Write this to a file.
    File { line: usize, path: String, text: String },
    /// Run this, and see that.
    Shell { line: usize, text: String, shown: String },
}

impl Block {
    /// Where it begins.
    pub(super) fn line(&self) -> usize {
        match self {
            Self::File { line, .. } | Self::Shell { line, .. } => *line,
        }
    }

    pub(super) fn text(&self) -> &str {
        match self {
            Self::File { text, .. } | Self::Shell { text, .. } => text,
        }
    }

    /// Whether it is shell that begins a line with this command.
    pub(super) fn runs(&self, command: &str) -> bool {
        let is_all = |rest: &str| rest.is_empty() || rest.starts_with(' ') && !rest.starts_with(" --");
        let runs = |line: &str| line.strip_prefix(command).is_some_and(is_all);
        matches!(self, Self::Shell { text, .. } if text.lines().any(runs))
    }
}

/// All blocks of a guide. Panics at one that is neither a program, nor shell, nor what shell printed.
pub(super) fn blocks(guide: &str) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let mut lines = guide.lines().zip(1..);
    // The last line that said something.
    let mut before = "";
    while let Some((text, line)) = lines.next() {
        let Some(language) = text.trim_start().strip_prefix("```") else {
            before = if text.is_empty() { before } else { text };
            continue;
        };
        assert!(text.starts_with('`'), "line {line}: an indented block is not executed");
        let body: String = lines
            .by_ref()
            .map(|(text, _)| text)
            .take_while(|text| *text != "```")
            .flat_map(|text| [text, "\n"])
            .collect();
        match (language, blocks.last_mut()) {
            ("rust", _) => {
                let path = before.strip_suffix("`:").and_then(|before| before.rsplit_once('`'));
                let (_, path) =
                    path.unwrap_or_else(|| panic!("line {line}: which file? before it is {before:?}"));
                blocks.push(Block::File { line, path: path.to_owned(), text: body });
            }
            ("sh", _) => blocks.push(Block::Shell { line, text: body, shown: String::new() }),
            ("text", Some(Block::Shell { shown, .. })) if shown.is_empty() => *shown = body,
            _ => panic!("line {line}: a block of {language:?} is not executed here"),
        }
        before = "";
    }
    blocks
}

/// Whether each line of what was printed is the one that is shown, where `…` may be any number.
pub(super) fn is_as_shown(shown: &str, printed: &str) -> bool {
    let fits = |(shown, printed)| fits(shown, printed);
    shown.lines().count() == printed.lines().count() && shown.lines().zip(printed.lines()).all(fits)
}

fn fits(shown: &str, printed: &str) -> bool {
    let Some((exact, rest)) = shown.split_once(VARIES) else { return shown == printed };
    let Some(printed) = printed.strip_prefix(exact) else { return false };
    let digits = |c: char| c.is_ascii_digit();
    let number = printed.find(|c: char| !(digits(c) || ".e-".contains(c))).unwrap_or(printed.len());
    printed[..number].contains(digits) && fits(rest, &printed[number..])
}

/// That this comparison can fail.
pub(super) fn check() {
    assert!(is_as_shown("a 1\nb …\n", "a 1\nb 2.5e-7\n"));
    assert!(is_as_shown("…: {…} c\n", "2026: {0.25} c\n"));
    for printed in ["", "a 1\n", "a 1\nb \n", "a 1\nb x\n", "a 2\nb 3\n", "a 1\nb 2\nb 3\n", "a 1\nb 2 \n"] {
        assert!(!is_as_shown("a 1\nb …\n", printed), "{printed:?}");
    }
    for guide in
        ["```\nx\n```\n", "```text\nx\n```\n", "```rust\nx\n```\n", "  ```sh\nx\n```\n", "```toml\n```\n"]
    {
        assert!(std::panic::catch_unwind(|| blocks(guide)).is_err(), "{guide:?}");
    }
}
