//! The address of a server over HTTP, as people write it.

/// Whether it is a host, by name or address, and a port, if there is one.
pub(crate) fn is_host_and_port(text: &str) -> bool {
    let colon = text.rfind(':').filter(|colon| !text[*colon..].contains(']'));
    let (host, port) = text.split_at(colon.unwrap_or(text.len()));
    let is_port = |port: &str| {
        let digits = port.bytes().all(|octet| octet.is_ascii_digit());
        digits && port.parse::<u16>().is_ok_and(|port| port > 0)
    };
    !host.is_empty() && port.strip_prefix(':').is_none_or(is_port)
}

/// Where the authority ends, of what comes after `://`.
pub(crate) fn split_path(rest: &str) -> (&str, &str) {
    rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()))
}

pub(crate) fn without_user(authority: &str) -> &str {
    authority.rsplit('@').next().unwrap_or_default()
}

/// As it may be shown: a password that stands in it is nobody's business, nor what may be the half of one.
pub(crate) fn without_password(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return without_user(url).to_owned() };
    format!("{scheme}://{}", without_user(rest))
}
