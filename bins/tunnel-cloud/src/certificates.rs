//! `tunnel-cloud certificates`: an authority, and the replicas' certificate by it, as Secrets: for clusters without cert-manager.
//!
//! It runs when everything is installed, and every week from then on. What is there and isn't its own it leaves alone.
use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use runtime_tokio::kubernetes::{Client, Objects};
use tunnel_common::tls::SERVER_NAME;

/// The authority's Secret, and the ConfigMap in which edges find its certificate.
const AUTHORITY: &str = "tunnel-ca";
/// From when on, in seconds since 1970, a certificate of ours is to be replaced, and the names that are in it.
const RENEW_AFTER: &str = "tunnel.cloud.io/renew-after";
const NAMES: &str = "tunnel.cloud.io/names";
const AUTHORITY_DAYS: i64 = 3650;
const CERTIFICATE_DAYS: i64 = 180;
const RENEW_DAYS: i64 = 90;

/// What to make, and where.
pub(crate) struct Wanted {
    pub(crate) namespace: String,
    /// The replicas' Secret.
    pub(crate) secret: String,
    /// Names beside the one that edges ask for.
    pub(crate) names: Vec<String>,
}

type Failed = Box<dyn std::error::Error + Send + Sync>;

/// Makes what is missing or old, and says what it did.
pub(crate) async fn make(client: &Client, wanted: &Wanted) -> Result<String, Failed> {
    let secrets: Objects<Secret> = client.namespaced(&wanted.namespace);
    let there = found(secrets.get(&wanted.secret).await)?;
    let authority = found(secrets.get(AUTHORITY).await)?;
    if there.is_some() && authority.is_none() {
        return Ok(format!(
            "Secret {} is there and not by this command: nothing is changed",
            wanted.secret
        ));
    }
    let authority = match authority {
        Some(secret) => secret,
        None => match secrets.create(&new_authority(&wanted.namespace)?).await {
            Ok(secret) => secret,
            Err(error) if error.is_conflict() => secrets.get(AUTHORITY).await?,
            Err(error) => return Err(error.into()),
        },
    };
    let (ca, key) = (text(&authority, "tls.crt")?, text(&authority, "tls.key")?);
    publish(client, &wanted.namespace, &ca).await?;

    let mut names = vec![
        SERVER_NAME.to_owned(),
        format!("tunnel-cloud.{}.svc", wanted.namespace),
    ];
    names.extend(wanted.names.iter().cloned());
    if there.as_ref().is_some_and(|secret| is_good(secret, &names)) {
        return Ok(format!("Secret {} is good", wanted.secret));
    }
    let issuer = Issuer::new(authority_params(), KeyPair::from_pem(&key)?);
    let secret = new_certificate(wanted, &names, &ca, &issuer)?;
    match there {
        Some(_) => secrets.replace(&secret).await?,
        None => secrets.create(&secret).await?,
    };
    Ok(format!("Secret {} is made", wanted.secret))
}

/// Edges read only the authority's certificate.
async fn publish(client: &Client, namespace: &str, ca: &str) -> Result<(), Failed> {
    let maps: Objects<ConfigMap> = client.namespaced(namespace);
    let map = ConfigMap {
        metadata: metadata(AUTHORITY, namespace),
        data: Some(BTreeMap::from([("ca.crt".to_owned(), ca.to_owned())])),
        ..ConfigMap::default()
    };
    match found(maps.get(AUTHORITY).await)? {
        Some(there) if there.data == map.data => {}
        Some(_) => drop(maps.replace(&map).await?),
        None => drop(maps.create(&map).await?),
    }
    Ok(())
}

fn found<K>(asked: Result<K, runtime_tokio::kubernetes::Error>) -> Result<Option<K>, Failed> {
    match asked {
        Ok(object) => Ok(Some(object)),
        Err(error) if error.is_missing() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn text(secret: &Secret, key: &str) -> Result<String, Failed> {
    let bytes = secret.data.as_ref().and_then(|data| data.get(key));
    let bytes = bytes.ok_or_else(|| format!("Secret {AUTHORITY} has no {key}"))?;
    Ok(String::from_utf8(bytes.0.clone())?)
}

fn is_good(secret: &Secret, names: &[String]) -> bool {
    let Some(notes) = &secret.metadata.annotations else {
        return false;
    };
    let renew_after: Option<i64> = notes.get(RENEW_AFTER).and_then(|text| text.parse().ok());
    renew_after.is_some_and(|at| days_from_now(0) < at / SECONDS_A_DAY)
        && notes.get(NAMES).map(String::as_str) == Some(names.join(",").as_str())
}

/// The same each time, but for its lifetime: what is signed names its issuer by these.
fn authority_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params
        .distinguished_name
        .push(DnType::CommonName, "tunnel CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    lasts(&mut params, AUTHORITY_DAYS);
    params
}

fn new_authority(namespace: &str) -> Result<Secret, Failed> {
    let key = KeyPair::generate()?;
    let certificate = authority_params().self_signed(&key)?;
    Ok(Secret {
        metadata: metadata(AUTHORITY, namespace),
        type_: Some("kubernetes.io/tls".to_owned()),
        data: Some(data([
            ("tls.crt", certificate.pem()),
            ("tls.key", key.serialize_pem()),
        ])),
        ..Secret::default()
    })
}

fn new_certificate(
    wanted: &Wanted,
    names: &[String],
    ca: &str,
    issuer: &Issuer<'_, KeyPair>,
) -> Result<Secret, Failed> {
    let mut params = CertificateParams::new(names.to_vec())?;
    let replica = "spiffe://tunnel/replica".try_into()?;
    params.subject_alt_names.push(SanType::URI(replica));
    params
        .distinguished_name
        .push(DnType::CommonName, "tunnel-cloud");
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    lasts(&mut params, CERTIFICATE_DAYS);
    params.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, issuer)?;
    let mut metadata = metadata(&wanted.secret, &wanted.namespace);
    let renew_after = days_from_now(RENEW_DAYS) * SECONDS_A_DAY;
    metadata.annotations = Some(BTreeMap::from([
        (RENEW_AFTER.to_owned(), renew_after.to_string()),
        (NAMES.to_owned(), names.join(",")),
    ]));
    Ok(Secret {
        metadata,
        type_: Some("kubernetes.io/tls".to_owned()),
        data: Some(data([
            ("tls.crt", certificate.pem()),
            ("tls.key", key.serialize_pem()),
            ("ca.crt", ca.to_owned()),
        ])),
        ..Secret::default()
    })
}

fn metadata(name: &str, namespace: &str) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.to_owned()),
        namespace: Some(namespace.to_owned()),
        ..ObjectMeta::default()
    }
}

fn data<const N: usize>(files: [(&str, String); N]) -> BTreeMap<String, ByteString> {
    files
        .into_iter()
        .map(|(name, text)| (name.to_owned(), ByteString(text.into_bytes())))
        .collect()
}

const SECONDS_A_DAY: i64 = 86_400;

/// From yesterday on, as not all clocks are right.
fn lasts(params: &mut CertificateParams, days: i64) {
    lasts_between(params, days_from_now(-1), days_from_now(days));
}

/// From the beginning of a day to that of another, in days since 1970.
fn lasts_between(params: &mut CertificateParams, first: i64, last: i64) {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let begin_of = |day: i64| {
        let away = Duration::from_secs(day.unsigned_abs() * SECONDS_A_DAY.unsigned_abs());
        if day < 0 { epoch - away } else { epoch + away }
    };
    params.not_before = begin_of(first);
    params.not_after = begin_of(last);
}

/// Days since 1970.
fn days_from_now(days: i64) -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let seconds = now.map_or(0, |now| i64::try_from(now.as_secs()).unwrap_or(0));
    seconds / SECONDS_A_DAY + days
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_dates() {
        for (days, (year, month, day)) in [
            (0, (1970, 1, 1)),
            (-1, (1969, 12, 31)),
            (59, (1970, 3, 1)),
            (11_016, (2000, 2, 29)),
            (20_782, (2026, 11, 25)),
            (47_541, (2100, 3, 1)),
        ] {
            let date = rcgen::date_time_ymd(year, month, day);
            let mut params = CertificateParams::default();
            lasts_between(&mut params, days, days);
            assert_eq!([params.not_before, params.not_after], [date; 2], "{days}");
        }
    }

    #[test]
    fn a_certificate_is_good_until_it_is_half_way_through_and_for_its_names() {
        let wanted = Wanted {
            namespace: "edge-system".to_owned(),
            secret: "tunnel-cloud-tls".to_owned(),
            names: Vec::new(),
        };
        let authority = new_authority("edge-system").expect("an authority");
        let ca = text(&authority, "tls.crt").expect("PEM");
        let key = KeyPair::from_pem(&text(&authority, "tls.key").expect("PEM")).expect("a key");
        let issuer = Issuer::new(authority_params(), key);
        let names = [SERVER_NAME.to_owned()];
        let mut secret = new_certificate(&wanted, &names, &ca, &issuer).expect("a certificate");
        assert!(is_good(&secret, &names));
        assert!(!is_good(&secret, &["other".to_owned()]));
        let yesterday = (days_from_now(-1) * SECONDS_A_DAY).to_string();
        let notes = secret.metadata.annotations.as_mut().expect("annotations");
        notes.insert(RENEW_AFTER.to_owned(), yesterday);
        assert!(!is_good(&secret, &names));
        secret.metadata.annotations = None;
        assert!(!is_good(&secret, &names));
    }
}
