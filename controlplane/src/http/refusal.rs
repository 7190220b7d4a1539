//! Why connections end by other than their clients' will, and what becomes of names and passwords. Each is
//! counted under its label.

/// Why a connection was closed by other than its client's will.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ConnectionRefused {
    /// All connections the limit allows were being served.
    OverLimit,
    /// All connections the limit allows were open, and this one did nothing.
    MadeRoom,
    /// The kernel would not hand it over, as when descriptors run out.
    AcceptFailed,
    /// The request's header did not come in time.
    HeaderTimeout,
    /// The request's header was too large.
    HeaderTooLarge,
    /// The client did not take its answer in time.
    SendTimeout,
    /// What came was no HTTP.
    Malformed,
    /// It broke off: reset by the client, or by the kernel because the client stopped reading.
    Broken,
    /// TLS was not agreed on in time.
    TlsTimeout,
    /// What came where TLS is served was none.
    NotTls,
    /// A certificate is asked for, and the client showed none.
    NoClientCertificate,
    /// The client's certificate is of nobody trusted, expired, or none.
    BadClientCertificate,
    /// The client's certificate is sound, and none of its names is on the list.
    ClientCertificateNotAllowed,
    /// No version, cipher or curve in common.
    TlsIncompatible,
    /// The client ended it with an alert, as when it does not trust our certificate.
    TlsAlert,
    /// It broke off before TLS was agreed on.
    TlsBroken,
}

impl ConnectionRefused {
    /// Each of them.
    pub(crate) const ALL: [Self; 16] = [
        Self::OverLimit,
        Self::MadeRoom,
        Self::AcceptFailed,
        Self::HeaderTimeout,
        Self::HeaderTooLarge,
        Self::SendTimeout,
        Self::Malformed,
        Self::Broken,
        Self::TlsTimeout,
        Self::NotTls,
        Self::NoClientCertificate,
        Self::BadClientCertificate,
        Self::ClientCertificateNotAllowed,
        Self::TlsIncompatible,
        Self::TlsAlert,
        Self::TlsBroken,
    ];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::OverLimit => "over_limit",
            Self::MadeRoom => "made_room",
            Self::AcceptFailed => "accept_failed",
            Self::HeaderTimeout => "header_timeout",
            Self::HeaderTooLarge => "header_too_large",
            Self::SendTimeout => "send_timeout",
            Self::Malformed => "malformed",
            Self::Broken => "broken",
            Self::TlsTimeout => "tls_timeout",
            Self::NotTls => "no_tls",
            Self::NoClientCertificate => "client_certificate_missing",
            Self::BadClientCertificate => "client_certificate_invalid",
            Self::ClientCertificateNotAllowed => "client_certificate_not_allowed",
            Self::TlsIncompatible => "tls_incompatible",
            Self::TlsAlert => "tls_alert",
            Self::TlsBroken => "tls_broken",
        }
    }
}

const _: () = assert!(ConnectionRefused::ALL.len() == ConnectionRefused::TlsBroken as usize + 1);

/// What became of a request's name and password.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Authentication {
    /// They were right before.
    Proven,
    /// They were found right.
    Verified,
    /// There were none.
    Missing,
    /// There was something else in their place.
    Malformed,
    /// They were found wrong.
    Wrong,
    /// Too many others were being looked at.
    Busy,
}

impl Authentication {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Proven => "proven",
            Self::Verified => "verified",
            Self::Missing => "missing",
            Self::Malformed => "malformed",
            Self::Wrong => "wrong",
            Self::Busy => "busy",
        }
    }
}
