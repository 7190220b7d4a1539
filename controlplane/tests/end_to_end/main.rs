//! The control plane from outside: real rings, real threads, a real server on an ephemeral loopback
//! port, a client of plain sockets and a parser that forgives nothing.

#[cfg(test)]
mod access;
#[cfg(test)]
mod account;
#[cfg(test)]
mod client;
#[cfg(test)]
mod crowd;
#[cfg(test)]
mod families;
#[cfg(test)]
mod formats;
#[cfg(test)]
mod http;
#[cfg(test)]
mod http_api;
#[cfg(test)]
mod live;
#[cfg(test)]
mod page;
#[cfg(test)]
mod parser;
#[cfg(test)]
mod perf;
#[cfg(test)]
mod promtool;
#[cfg(test)]
mod server;
#[cfg(test)]
mod site;
#[cfg(test)]
mod thread;
#[cfg(test)]
mod tls;
