//! The server of an application without tokio.

use std::fs;
use std::net::TcpStream;

use relayscope_controlplane::Limits;

use crate::client::get;
use crate::http::plane_with_b_up;
use crate::server::Server;

#[test]
fn a_server_serves_on_the_port_it_was_given_until_it_is_dropped() {
    let server = Server::start(&plane_with_b_up(), Limits::default());
    let address = server.address;
    assert_ne!(address.port(), 0);
    let reply = get(address, "/metrics");
    assert_eq!(reply.status, 200);
    assert!(reply.body.contains("\nrelay_probe_up{target=\"b\"} 1\n"));
    drop(server);
    assert!(TcpStream::connect(address).is_err(), "nothing listens any more");
}

#[test]
fn what_serves_and_renders_keeps_to_the_cores_of_the_thread_that_started_it() {
    let core = core_affinity::get_core_ids().unwrap()[0];
    let starter = std::thread::spawn(move || {
        assert!(core_affinity::set_for_current(core));
        Server::start(&plane_with_b_up(), Limits::default())
    });
    let server = starter.join().unwrap();
    assert_eq!(get(server.address, "/metrics").status, 200);
    assert_eq!(get(server.address, "/mesh").status, 200);
    for name in ["relayscope-http", "relayscope-page", "relayscope-view"] {
        let kept = cores_of_threads(name).filter(|cores| *cores == core.id.to_string()).count();
        assert_eq!(kept, 1, "the thread that serves, and the one that rendered: {name}");
    }
    assert_eq!(server.stop(), 0);
}

/// The lists of cores that this process's threads of that name may run on.
fn cores_of_threads(name: &str) -> impl Iterator<Item = String> {
    let of = move |task: fs::DirEntry| {
        // A thread of another test may have ended since it was listed.
        let status = fs::read_to_string(task.path().join("status")).ok()?;
        let field = |key: &str| status.lines().find_map(|line| line.strip_prefix(key)).map(str::trim);
        (field("Name:") == Some(name)).then(|| field("Cpus_allowed_list:").map(str::to_owned))?
    };
    fs::read_dir("/proc/self/task").unwrap().filter_map(Result::ok).filter_map(of)
}
