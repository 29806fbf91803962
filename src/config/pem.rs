//! What is wrong with a PEM file, in words that hold nothing of it.

use rustls_pki_types::pem::Error;

/// Says it in half a sentence. The reader's own words quote the line they stumbled over, and of a private key that lost its line ends on the
/// way (in a variable, in a form) that line is the key.
pub fn pem_fault(error: &Error) -> String {
    match error {
        Error::MissingSectionEnd { .. } | Error::IllegalSectionStart { .. } => {
            "BEGIN and END do not stand on lines of their own; perhaps its line ends were lost".into()
        }
        Error::Base64Decode(_) => "it is not Base64 throughout".into(),
        Error::Io(error) => error.to_string(),
        Error::NoItemsFound => "nothing of the kind is in it".into(),
        _ => "it is no PEM".into(),
    }
}
