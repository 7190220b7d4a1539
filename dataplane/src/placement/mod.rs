//! Which cores shards run on, which shard probes which target, and which relay which others.

pub mod rendezvous;

use relayscope_bridge::ShardId;

/// The highest number a core may have, and most cores of a list: what a hub takes in shards.
const CORES_MAX: usize = 1024;

/// A list of cores that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CoresError {
    /// A core outside the affinity mask.
    #[error("core {core} is not available; this process may use {}", format_cores(.available))]
    NotAvailable {
        /// The core asked for.
        core: usize,
        /// The cores there are.
        available: Vec<usize>,
    },
    /// Not a list.
    #[error("core list '{list}' is invalid; expected numbers below {CORES_MAX} and ranges such as 0,2-3")]
    Syntax {
        /// What was given.
        list: String,
    },
    /// The same core twice.
    #[error("core {core} is listed twice; each shard needs a core of its own")]
    Twice {
        /// The core.
        core: usize,
    },
}

/// The cores this process may use: its affinity mask, not all that are online.
pub fn available_cores() -> Vec<usize> {
    core_affinity::get_core_ids().unwrap_or_default().into_iter().map(|core| core.id).collect()
}

/// Reads a list such as `0,2-3`.
///
/// ```
/// use relayscope_dataplane::placement::{check_available, parse_cores};
///
/// let cores = parse_cores("1,3-4")?;
/// assert_eq!(cores, [1, 3, 4]);
/// assert_eq!(check_available(&cores, &[0, 1, 2, 3, 4]), Ok(()));
/// let error = check_available(&cores, &[0, 1]).unwrap_err();
/// assert_eq!(error.to_string(), "core 3 is not available; this process may use 0-1");
/// # Ok::<(), relayscope_dataplane::placement::CoresError>(())
/// ```
///
/// # Errors
/// [`CoresError`] when it is no list, or names a core twice.
pub fn parse_cores(list: &str) -> Result<Vec<usize>, CoresError> {
    let syntax = || CoresError::Syntax { list: list.to_owned() };
    let mut cores = Vec::new();
    for part in list.split(',') {
        let (first, last) = part.trim().split_once('-').unwrap_or((part.trim(), part.trim()));
        let first: usize = first.parse().map_err(|_| syntax())?;
        let last: usize = last.parse().map_err(|_| syntax())?;
        if first > last || last >= CORES_MAX {
            return Err(syntax());
        }
        for core in first..=last {
            if cores.contains(&core) {
                return Err(CoresError::Twice { core });
            }
            cores.push(core);
        }
    }
    Ok(cores)
}

/// Holds a list of cores against those there are.
///
/// # Errors
/// [`CoresError::NotAvailable`] for the first that this process may not use.
pub fn check_available(cores: &[usize], available: &[usize]) -> Result<(), CoresError> {
    match cores.iter().find(|core| !available.contains(core)) {
        Some(&core) => Err(CoresError::NotAvailable { core, available: available.to_vec() }),
        None => Ok(()),
    }
}

/// The cores shards get when none are named: the last one. Probing a thousand targets takes about one
/// percent of a core, so the others stay with the relay.
pub fn default_cores(available: &[usize]) -> Vec<usize> {
    available.last().copied().into_iter().collect()
}

/// A core for the control plane: the first that no shard has; `None` where there is none to spare.
pub fn control_core(available: &[usize], shards: &[usize]) -> Option<usize> {
    available.iter().copied().find(|core| !shards.contains(core))
}

/// A target's hash: the same for the same name, in every process, build and run. FNV-1a, then the 64-bit
/// finalizer of MurmurHash3, because FNV alone leaves the high bits of short names alike.
pub fn target_hash(name: &str) -> u64 {
    let fnv = name.bytes().fold(0xcbf2_9ce4_8422_2325u64, |hash, octet| {
        (hash ^ u64::from(octet)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    finalize(fnv)
}

/// The 64-bit finalizer of MurmurHash3: every bit of the input moves every bit of the output.
fn finalize(hash: u64) -> u64 {
    let mixed = (hash ^ hash >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let mixed = (mixed ^ mixed >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    mixed ^ mixed >> 33
}

/// The shard that probes a target: stable while the number of shards is.
pub fn shard_of(name: &str, shards: usize) -> ShardId {
    // The high bits: the low ones choose the phase within the interval.
    let shard = (target_hash(name) >> 32) % shards.max(1) as u64;
    ShardId(u16::try_from(shard).unwrap_or(0))
}

/// Cores as a list with ranges, as [`parse_cores`] reads it.
pub fn format_cores(cores: &[usize]) -> String {
    let mut ranges: Vec<(usize, usize)> = Vec::new();
    for &core in cores {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == core => *last = core,
            _ => ranges.push((core, core)),
        }
    }
    let text = |(first, last): (usize, usize)| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    };
    ranges.into_iter().map(text).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_lists_say_what_is_right() {
        let syntax = |list| {
            format!("core list '{list}' is invalid; expected numbers below 1024 and ranges such as 0,2-3")
        };
        for list in ["", "3-1", "x", "0,", "0-99999999999"] {
            assert_eq!(parse_cores(list).unwrap_err().to_string(), syntax(list));
        }
        let twice = parse_cores("0-2,1").unwrap_err().to_string();
        assert_eq!(twice, "core 1 is listed twice; each shard needs a core of its own");
        let absent = check_available(&[0, 2], &[0, 1, 4]).unwrap_err().to_string();
        assert_eq!(absent, "core 2 is not available; this process may use 0-1,4");
    }

    #[test]
    fn a_core_is_left_to_the_control_plane_where_there_is_one() {
        assert_eq!(default_cores(&[0, 1]), [1]);
        assert_eq!(control_core(&[0, 1], &[1]), Some(0));
        assert_eq!(default_cores(&[3]), [3]);
        assert_eq!(control_core(&[3], &[3]), None);
    }

    #[test]
    fn targets_are_shared_out_evenly() {
        let mut counts = [0usize; 4];
        for i in 0..4000 {
            counts[usize::from(shard_of(&format!("relay-{i}"), 4).0)] += 1;
        }
        assert!(counts.iter().all(|count| (800..1200).contains(count)), "{counts:?}");
    }
}
