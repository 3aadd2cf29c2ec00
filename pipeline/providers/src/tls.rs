//! Who is trusted at the other end of a connection to a provider.
//!
//! Guarantee: a certificate is always checked, against the authorities of this machine and those of `ca_file`.

use std::{path::PathBuf, sync::Arc};

use chasqui_settings::SettingsError;
use rustls::{ClientConfig, RootCertStore, pki_types::CertificateDer, pki_types::pem::PemObject};

use crate::Account;

/// The configuration of an account's TLS connections; `ca_file` adds certificate authorities.
///
/// # Errors
/// Where the certificate authorities cannot be read or used.
pub(crate) fn client(account: &Account<'_>, ca_file: Option<&PathBuf>) -> Result<ClientConfig, SettingsError> {
    let mut roots = RootCertStore::empty();
    // A machine without a certificate store can still talk to a lab; a real provider then fails with a clear error.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if let Some(path) = ca_file {
        let wrong = |problem: String| account.invalid("ca_file", problem);
        let certificates = CertificateDer::pem_file_iter(path).map_err(|error| wrong(error.to_string()))?;
        for certificate in certificates {
            let certificate = certificate.map_err(|error| wrong(error.to_string()))?;
            roots.add(certificate).map_err(|error| wrong(error.to_string()))?;
        }
    }
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| account.contradiction(error.to_string()))?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}
