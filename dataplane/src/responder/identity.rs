//! Who a responder is: its certificate and key.

use rcgen::{CertificateParams, DnType, KeyPair};
use ring::{digest, hmac};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

/// A certificate chain and the key to its first certificate.
#[derive(Debug)]
pub struct Identity {
    pub(super) chain: Vec<CertificateDer<'static>>,
    pub(super) key: PrivateKeyDer<'static>,
}

/// An identity that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// No certificate could be made.
    #[error("cannot make a certificate for {names:?}: {source}")]
    Generate {
        /// For whom.
        names: Vec<String>,
        /// Why.
        #[source]
        source: rcgen::Error,
    },
    /// Chain and key do not fit, or one of them cannot be read.
    #[error(
        "certificate and key cannot be used: {0}; expected a chain that begins with the key's certificate"
    )]
    Unusable(String),
}

/// One identity for the responders of all shards.
impl Clone for Identity {
    fn clone(&self) -> Self {
        Self { chain: self.chain.clone(), key: self.key.clone_key() }
    }
}

impl Identity {
    /// An identity from a chain, its own certificate first, and the key to that (DER).
    pub fn new(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Self {
        Self { chain, key }
    }

    /// A fresh identity whose certificate is signed by itself, for these DNS names and addresses. Peers can
    /// pin [`certificate`](Self::certificate), as long as this process lives.
    ///
    /// # Errors
    /// [`IdentityError::Generate`].
    pub fn self_signed(names: &[String]) -> Result<Self, IdentityError> {
        let make = || {
            let mut params = CertificateParams::new(names)?;
            params.distinguished_name.push(DnType::CommonName, "relayscope");
            let key = KeyPair::generate()?;
            let certificate = params.self_signed(&key)?;
            let key = PrivatePkcs8KeyDer::from(key.serialize_der());
            Ok(Self::new(vec![certificate.der().clone()], key.into()))
        };
        make().map_err(|source| IdentityError::Generate { names: names.to_vec(), source })
    }

    /// The certificate peers see.
    pub fn certificate(&self) -> Option<&CertificateDer<'static>> {
        self.chain.first()
    }

    /// A key of the private key's. With it a responder that restarts still makes the same stateless resets
    /// (RFC 9000 section 10.3.2), so that peers notice at once.
    pub(super) fn derived_key(&self) -> hmac::Key {
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(b"relayscope stateless reset");
        context.update(self.key.secret_der());
        hmac::Key::new(hmac::HMAC_SHA256, context.finish().as_ref())
    }
}
