//! Tests of the certificates that the authority issues, and of the requests that it refuses.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use proptest::prelude::*;
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, IsCa, KeyPair, SanType};
use types::DeviceId;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::pair::{DAY, Site};
use crate::ca::CLOCK_SKEW;
use crate::{Ca, CertificateError, DeviceKey, Identity, Validity};

fn id() -> DeviceId {
    "camera-1".parse().unwrap()
}

#[test]
fn a_device_certificate_names_the_device_and_allows_nothing_else() {
    let ca = Ca::create("Sanderling test").unwrap();
    let key = DeviceKey::generate().unwrap();
    let issued = ca.issue_device(&key.csr_der().unwrap(), &id(), Validity::from_now(DAY)).unwrap();
    let (_, leaf) = X509Certificate::from_der(&issued.chain_der[0]).unwrap();
    let names = &leaf.subject_alternative_name().unwrap().unwrap().value.general_names;
    assert_eq!(names.as_slice(), [GeneralName::URI("sanderling://device/camera-1")]);
    let uses = leaf.extended_key_usage().unwrap().unwrap().value;
    assert!(uses.client_auth && !uses.server_auth && !uses.any);
    assert!(!leaf.is_ca());
    assert_eq!(issued.chain_der[1], ca.cert_der());
    assert_eq!(issued.key, key.digest());
    let identity = key.identity(&issued.chain_der).unwrap();
    assert_eq!(identity.device(), Ok(id()));
    assert_eq!(identity.key_digest(), key.digest());
    let lifetime = identity.not_after_unix_s() - identity.not_before_unix_s();
    assert_eq!(lifetime, i64::try_from((DAY + CLOCK_SKEW).as_secs()).unwrap(), "it begins a little in the past");
}

#[test]
fn what_a_request_claims_is_ignored() {
    let ca = Ca::create("Sanderling test").unwrap();
    let pair = KeyPair::generate().unwrap();
    let mut greedy = CertificateParams::default();
    greedy.subject_alt_names = vec![SanType::URI("sanderling://device/somebody-else".try_into().unwrap())];
    greedy.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    greedy.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let csr = greedy.serialize_request(&pair).unwrap();
    let issued = ca.issue_device(csr.der(), &id(), Validity::from_now(DAY)).unwrap();
    let (_, leaf) = X509Certificate::from_der(&issued.chain_der[0]).unwrap();
    assert!(!leaf.is_ca());
    assert_eq!(crate::certificate::CertificateFields::read(&issued.chain_der[0]).unwrap().device, Ok(id()));
    assert!(!leaf.extended_key_usage().unwrap().unwrap().value.server_auth);
}

#[test]
fn a_request_that_is_not_signed_by_its_key_is_refused() {
    let ca = Ca::create("Sanderling test").unwrap();
    let mine = DeviceKey::generate().unwrap().csr_der().unwrap();
    let theirs = DeviceKey::generate().unwrap().csr_der().unwrap();
    // Another key with this signature: P-256 keys have a fixed position in a request that claims nothing else.
    let key_at = |csr: &[u8]| csr.windows(2).position(|pair| pair == [0x00, 0x04]).unwrap();
    let mut forged = mine.to_vec();
    let (to, from) = (key_at(&mine), key_at(&theirs));
    forged[to..to + 66].copy_from_slice(&theirs[from..from + 66]);
    let refused = ca.issue_device(&forged, &id(), Validity::from_now(DAY));
    assert_eq!(refused, Err(CertificateError::ForgedRequest));
}

#[test]
fn a_request_that_is_too_large_or_has_a_tail_is_refused() {
    let ca = Ca::create("Sanderling test").unwrap();
    let mut csr = DeviceKey::generate().unwrap().csr_der().unwrap().to_vec();
    csr.push(0);
    assert!(ca.issue_device(&csr, &id(), Validity::from_now(DAY)).is_err());
    assert!(ca.issue_device(&vec![0x30; 1 << 20], &id(), Validity::from_now(DAY)).is_err());
}

#[test]
fn an_authority_reads_back_and_issues_the_same() {
    let ca = Ca::create("Sanderling test").unwrap();
    let again = Ca::load(&ca.cert_pem(), &ca.key_pem()).unwrap();
    assert_eq!(again.fingerprint(), ca.fingerprint());
    let csr = DeviceKey::generate().unwrap().csr_der().unwrap();
    assert!(again.issue_device(&csr, &id(), Validity::from_now(DAY)).is_ok());
    let other = Ca::create("Sanderling test").unwrap();
    assert!(matches!(Ca::load(&ca.cert_pem(), &other.key_pem()), Err(CertificateError::KeyMismatch)));
    assert!(Ca::load("", &ca.key_pem()).is_err());
    assert!(Ca::load(&ca.cert_pem(), "").is_err());
}

#[test]
fn an_identity_reads_back_and_keeps_key_and_certificate_together() {
    let ca = Ca::create("Sanderling test").unwrap();
    let key = DeviceKey::generate().unwrap();
    let issued = ca.issue_device(&key.csr_der().unwrap(), &id(), Validity::from_now(DAY)).unwrap();
    let identity = DeviceKey::from_pem(&key.to_pem()).unwrap().identity(&issued.chain_der).unwrap();
    let again = Identity::from_pem(&identity.chain_pem(), &key.to_pem()).unwrap();
    assert_eq!(again.chain_der(), issued.chain_der);
    let other = DeviceKey::generate().unwrap();
    assert!(matches!(other.identity(&issued.chain_der), Err(CertificateError::KeyMismatch)));
    assert!(matches!(Identity::from_pem(&identity.chain_pem(), &other.to_pem()), Err(CertificateError::KeyMismatch)));
    assert!(Identity::from_pem("nonsense", &key.to_pem()).is_err());
    assert!(key.identity(&[]).is_err());
    assert!(key.identity(&[Bytes::from_static(&[0x30, 0x00])]).is_err());
}

#[test]
fn a_key_is_never_printed_by_debug() {
    let key = DeviceKey::generate().unwrap();
    let pem = key.to_pem();
    let secret = pem.lines().nth(1).unwrap();
    let site = Site::new();
    let identity = site.device("camera-1");
    let shown = format!("{key:?} {:?} {identity:?}", site.ca);
    assert!(!shown.contains(secret) && !shown.contains("PRIVATE"), "{shown}");
}

#[test]
fn two_certificates_never_share_a_serial_number() {
    let ca = Ca::create("Sanderling test").unwrap();
    let csr = DeviceKey::generate().unwrap().csr_der().unwrap();
    let serial = || {
        let issued = ca.issue_device(&csr, &id(), Validity::from_now(DAY)).unwrap();
        X509Certificate::from_der(&issued.chain_der[0]).unwrap().1.raw_serial().to_vec()
    };
    let (one, two) = (serial(), serial());
    assert_ne!(one, two);
    assert_eq!((one.len(), two.len()), (16, 16));
}

#[test]
fn a_hub_certificate_takes_names_and_addresses_and_nothing_else() {
    let ca = Ca::create("Sanderling test").unwrap();
    let names = ["hub.sanderling", "localhost", "127.0.0.1", "::1"].map(str::to_owned);
    let identity = ca.issue_server(&names, Validity::from_now(DAY)).unwrap();
    assert!(matches!(identity.device(), Err(CertificateError::NoDevice(_))));
    let bad = ca.issue_server(&["not a name".to_owned()], Validity::from_now(DAY));
    assert!(matches!(bad, Err(CertificateError::BadName(_))));
}

#[test]
fn a_lifetime_that_no_certificate_can_hold_is_cut_or_refused_not_a_panic() {
    let ca = Ca::create("Sanderling test").unwrap();
    let csr = DeviceKey::generate().unwrap().csr_der().unwrap();
    let endless = Validity { now: SystemTime::now(), lifetime: Duration::MAX };
    assert!(ca.issue_device(&csr, &id(), endless).is_ok());
    let ancient = Validity { now: SystemTime::UNIX_EPOCH, lifetime: DAY };
    assert!(ca.issue_device(&csr, &id(), ancient).is_ok());
}

#[test]
fn a_hub_certificate_begins_long_before_it_is_issued_and_never_before_the_ca() {
    let ca = Ca::create("Sanderling test").unwrap();
    let issued = |now: SystemTime| {
        let identity = ca.issue_server(&["localhost".to_owned()], Validity { now, lifetime: DAY }).unwrap();
        SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(identity.not_before_unix_s()).unwrap())
    };
    let now = SystemTime::now();
    assert_eq!(issued(now), ca.begins(), "of a new hub: from the start of its CA");
    assert!(now.duration_since(ca.begins()).unwrap() >= DAY);
    let years = DAY * 730;
    let begins = issued(now + years);
    assert!(begins > ca.begins() && begins < now + years - DAY * 300, "of an old hub: a year back");
    let before = ca.begins() - DAY;
    assert!(issued(before) <= before, "of a hub whose clock went back: from its own time");
}

#[test]
fn a_ca_is_renewed_with_its_key_and_old_certificates_and_devices_stay_good() {
    let ca = Ca::create("Sanderling test").unwrap();
    let now = SystemTime::now();
    assert!(!ca.is_renewal_due(now));
    let later = now + Duration::from_secs(16 * 365 * 86_400);
    assert!(ca.is_renewal_due(later));
    let renewed = ca.renewed(later).unwrap();
    assert!(!renewed.is_renewal_due(later));
    assert_ne!(renewed.fingerprint(), ca.fingerprint());
    assert_eq!(renewed.key_pem(), ca.key_pem());
    let subject = |der: &[u8]| X509Certificate::from_der(der).unwrap().1.subject().as_raw().to_vec();
    assert_eq!(subject(&renewed.cert_der()), subject(&ca.cert_der()));
    assert!(Ca::load(&renewed.cert_pem(), &ca.key_pem()).is_ok());
    assert!(Ca::load(&ca.cert_pem(), &renewed.key_pem()).is_ok());
    // Twice in a row, as over forty years.
    assert!(renewed.renewed(later + Duration::from_secs(16 * 365 * 86_400)).is_ok());
}

proptest! {
    #[test]
    fn no_bytes_break_the_reader_of_requests(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        cut in any::<prop::sample::Index>(),
    ) {
        let ca = Ca::create("Sanderling test").unwrap();
        let key = DeviceKey::generate().unwrap();
        let mut csr = key.csr_der().unwrap().to_vec();
        let whole = csr.len();
        for (at, byte) in changes {
            let at = at.index(csr.len());
            csr[at] = byte;
        }
        csr.truncate(cut.index(whole + 1));
        if let Ok(issued) = ca.issue_device(&csr, &id(), Validity::from_now(DAY)) {
            prop_assert_eq!(issued.key, key.digest(), "a changed request was certified for another key");
        }
    }
}
