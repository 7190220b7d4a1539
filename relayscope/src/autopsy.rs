//! `relayscope autopsy`: what a data plane left in its segment, the dead one's last words included.
//!
//! It reads once and changes nothing, so it may look into a living data plane's segment, too, and says then
//! that it lives. A damaged or foreign file is one line on stderr and code 1.

mod findings;
mod report;

use std::process::ExitCode;

use relayscope_bridge::attach;
use relayscope_bridge::segment::SegmentState;

use self::findings::Findings;
use crate::cli::AutopsyArgs;
use crate::failure::Failure;
use crate::moment::Now;
use crate::output::say;

pub(crate) fn run(args: &AutopsyArgs) -> Result<ExitCode, Failure> {
    let collector = attach(&args.file).map_err(Failure::host)?;
    let findings = Findings::read(&args.file, &collector, args.samples, args.all, Now::sample());
    // What was read from it was its maker's only if it still is whole.
    if findings.state == SegmentState::Damaged {
        return Err(Failure::Host(format!(
            "segment {} is damaged: it shrank or lost its header while it was read",
            args.file.display()
        )));
    }
    let text = match args.json {
        true => {
            let object = findings.object(&args.metric_prefix);
            serde_json::to_string_pretty(&object).map_err(Failure::host)? + "\n"
        }
        false => findings.text(&args.metric_prefix),
    };
    say(&text)?;
    Ok(ExitCode::SUCCESS)
}
