//! The Debian package: made, read by lintian, installed, started with systemd and without, scraped, and purged.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use super::machine::{Init, Machine};
use super::project;
use crate::peers::Peer;
use crate::relay::{run, wait_for};

const METRICS: &str = "http://127.0.0.1:9862/metrics";
const IN_MACHINE: &str = "/root/relayscope.deb";
const UNITS: [&str; 3] =
    ["relayscope.service", "relayscope-dataplane.service", "relayscope-controlplane.service"];
/// Ten times systemd's level of exposure, 0..=100: what a unit that is all open has is 96, and 20 is "ok".
const EXPOSURE_MAX: &str = "20";

/// What the tools a package is installed with keep of before.
const KEPT: [&str; 5] =
    ["/etc/passwd-", "/etc/group-", "/etc/shadow-", "/etc/gshadow-", "/var/lib/dpkg/status-old"];

/// The package, of the binary that is tested.
fn package() -> PathBuf {
    let mut script = Command::new(project("scripts/package"));
    let peers = Peer::CargoDeb.program();
    script.args(["--no-build", "dev"]).env("RELAYSCOPE_PEERS", peers.parent().unwrap().parent().unwrap());
    let (status, said, stderr) = run(&mut script);
    assert!(status.success(), "{stderr}");
    project(said.trim_end())
}

fn install(machine: &Machine) {
    machine.write(IN_MACHINE, &fs::read(package()).unwrap());
    // The index of the manual is man-db's affair.
    machine.run(&["dpkg", "--no-triggers", "--install", IN_MACHINE]);
}

/// Nothing is left but what dpkg and the tools it called keep of whatever they do.
fn purge(machine: &Machine) {
    machine.run(&["dpkg", "--no-triggers", "--purge", "relayscope"]);
    machine.run(&["rm", IN_MACHINE]);
    let pages = ["-path", "/changes/var/cache/man", "-prune", "-o"];
    let left =
        machine.run(&[&["find", "/changes"], &pages[..], &["-iname", "*relayscope*", "-print"]].concat());
    assert_eq!(left, "", "files of that name");
    let (_, left, _) =
        machine.try_run(&["grep", "-rlI", "relayscope", "/changes/etc", "/changes/var", "/run"]);
    let kept = |path: &&str| {
        path.starts_with("/changes/var/log/")
            || KEPT.iter().any(|kept| path.strip_prefix("/changes") == Some(*kept))
    };
    let left: Vec<_> = left.lines().filter(|path| !kept(path)).collect();
    assert_eq!(left, [""; 0], "files that speak of it");
    assert!(!machine.try_run(&["getent", "passwd", "relayscope"]).0, "its user");
    assert!(!machine.try_run(&["getent", "group", "relayscope"]).0, "its group");
    assert!(!machine.try_run(&["dpkg", "--status", "relayscope"]).0, "dpkg knows it still");
}

pub(crate) fn lintian_is_content() {
    let mut lintian = Command::new(Peer::Lintian.program());
    lintian.args(["--fail-on", "error,warning", "--allow-root"]).arg(package());
    let (status, said, stderr) = run(&mut lintian);
    assert!(status.success() && said.is_empty(), "{said}{stderr}");
}

pub(crate) fn installs_and_runs_without_systemd() {
    let machine = Machine::boot(Init::Nothing);
    install(&machine);
    assert_eq!(machine.run(&["dpkg", "--verify", "relayscope"]), "", "every file as packed");
    let said = machine.run(&["relayscope", "check-config", "/etc/relayscope/relayscope.toml"]);
    assert_eq!(said, "/etc/relayscope/relayscope.toml: valid, 1 targets, 1 reflectors\n");
    let completed = machine.run(&[
        "bash",
        "-c",
        "source /usr/share/bash-completion/completions/relayscope; complete -p relayscope",
    ]);
    assert!(completed.contains("-F _relayscope relayscope"), "{completed}");
    assert!(machine.try_run(&["man", "--where", "relayscope-probe"]).0, "the manual is found");

    let start = "exec setpriv --reuid relayscope --regid relayscope --clear-groups --no-new-privs \
        /usr/bin/relayscope run --config /etc/relayscope/relayscope.toml";
    let mut relay = machine.start(&["sh", "-c", start]);
    machine.wait_line(METRICS, "relay_probe_up{target=\"self\"} 1");
    assert!(machine.run(&["relayscope", "mesh-status"]).ends_with("1 of 1 targets up\n"));
    assert_eq!(machine.run(&["ps", "-C", "relayscope", "-o", "user:20="]).trim(), "relayscope");
    machine.run(&["pkill", "-TERM", "-x", "relayscope"]);
    assert_eq!(relay.wait().code(), Some(0), "drained");
    purge(&machine);
}

fn property(machine: &Machine, unit: &str, name: &str) -> String {
    machine.run(&["systemctl", "show", "--value", "--property", name, unit]).trim_end().to_owned()
}

fn wait_property(machine: &Machine, unit: &str, name: &str, wanted: &str) {
    wait_for(format_args!("{unit} to have {name}={wanted}"), || {
        (property(machine, unit, name) == wanted).then_some(())
    });
}

pub(crate) fn starts_with_systemd_and_is_purged() {
    let machine = Machine::boot(Init::Systemd);
    install(&machine);
    for unit in UNITS {
        let (sound, said, complaints) = machine.try_run(&["systemd-analyze", "verify", unit]);
        assert!(sound && said.is_empty() && complaints.is_empty(), "{unit}: {said}{complaints}");
        machine.run(&["systemd-analyze", "security", "--no-pager", "--threshold", EXPOSURE_MAX, unit]);
        let too_little = ["systemd-analyze", "security", "--no-pager", "--threshold", "5", unit];
        assert!(!machine.try_run(&too_little).0, "that the threshold is held to is seen");
    }
    assert_eq!(machine.run(&["systemctl", "is-enabled", UNITS[0]]), "enabled\n");

    // What came up by being installed, under all of its unit's restrictions.
    wait_property(&machine, UNITS[0], "ActiveState", "active");
    let scrape = machine.wait_line(METRICS, "relay_probe_up{target=\"self\"} 1");
    let glommio = "relay_runtime_info{backend=\"glommio\",reason=\"available\"} 1";
    assert!(scrape.lines().any(|line| line == glommio), "io_uring passes the unit's filter: {scrape}");
    let status = machine.run(&["sh", "-c", "cat /proc/$(pgrep -x relayscope)/status"]);
    for expected in
        ["NoNewPrivs:\t1", "Seccomp:\t2", "CapEff:\t0000000000000400", "CapBnd:\t0000000000000400"]
    {
        assert!(status.lines().any(|line| line == expected), "{expected}: {status}");
    }

    machine.wait_line(METRICS, "relay_history_up 1");
    let history =
        machine.run(&["stat", "-c", "%U %a", "/var/lib/relayscope", "/var/lib/relayscope/history.db"]);
    assert_eq!(history, "relayscope 750\nrelayscope 600\n");
    let said = machine.run(&[
        "relayscope",
        "history",
        "export",
        "--events",
        "--path",
        "/var/lib/relayscope/history.db",
    ]);
    assert!(said.contains(",started,"), "{said}");

    machine.run(&["systemctl", "reload", UNITS[0]]);
    wait_for("the reload to be told", || {
        machine.run(&["journalctl", "-q", "-u", UNITS[0]]).contains("reloaded: 1 targets").then_some(())
    });
    assert_eq!(property(&machine, UNITS[0], "ActiveState"), "active");

    // Who neither runs nor dies is ended, and begins anew.
    machine.run(&["mkdir", "-p", "/run/systemd/system/relayscope.service.d"]);
    machine.write("/run/systemd/system/relayscope.service.d/soon.conf", b"[Service]\nWatchdogSec=1s\n");
    machine.run(&["systemctl", "daemon-reload"]);
    machine.run(&["systemctl", "restart", UNITS[0]]);
    assert_eq!(property(&machine, UNITS[0], "NRestarts"), "0");
    machine.run(&["systemctl", "kill", "--signal", "STOP", UNITS[0]]);
    wait_property(&machine, UNITS[0], "NRestarts", "1");
    wait_property(&machine, UNITS[0], "ActiveState", "active");
    machine.run(&["rm", "-r", "/run/systemd/system/relayscope.service.d"]);
    machine.run(&["systemctl", "daemon-reload"]);

    machine.run(&["systemctl", "stop", UNITS[0]]);
    assert_eq!(property(&machine, UNITS[0], "Result"), "success");
    purge(&machine);
    let (_, left, _) =
        machine.try_run(&["systemctl", "list-units", "--all", "--plain", "--no-legend", "relayscope*"]);
    assert_eq!(left, "", "units");
}

/// Both planes as services of their own, at a port that is root's else.
pub(crate) fn runs_as_two_services() {
    let machine = Machine::boot(Init::Systemd);
    install(&machine);
    machine.run(&["sed", "-i", "s/:8620/:862/", "/etc/relayscope/relayscope.toml"]);
    machine.run(&["systemctl", "start", UNITS[2]]);
    for unit in UNITS {
        let expected = if unit == UNITS[0] { "inactive" } else { "active" };
        wait_property(&machine, unit, "ActiveState", expected);
    }
    machine.wait_line(METRICS, "relay_probe_up{target=\"self\"} 1");
    assert!(machine.run(&["relayscope", "mesh-status"]).contains(" 127.0.0.1:862 "), "a port below 1024");
    let segment = machine.run(&["stat", "-c", "%U:%G %a", "/run/relayscope/default", "/run/relayscope"]);
    assert_eq!(segment, "relayscope:relayscope 640\nrelayscope:relayscope 750\n");

    machine.run(&["systemctl", "kill", "--signal", "KILL", UNITS[1]]);
    machine.wait_line(METRICS, "relay_dataplane_generation 2");
    machine.wait_line(METRICS, "relay_probe_up{target=\"self\"} 1");
    assert_eq!(property(&machine, UNITS[2], "NRestarts"), "0", "the control plane stayed");
    assert_eq!(property(&machine, UNITS[1], "NRestarts"), "1");
    let found = machine.run(&["relayscope", "autopsy", "/run/relayscope/default.crashed"]);
    let is_first = |line: &str| line.split_whitespace().eq(["generation", "1"]);
    assert!(found.lines().any(is_first), "{found}");
    purge(&machine);
}
