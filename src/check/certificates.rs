//! Checks certificates: the agent's own, the roots, and those that the gateways show.

use rustls_pki_types::CertificateDer;
use time::{Duration, OffsetDateTime};

use super::{CheckArea, Finding, LookResult, format_days};
use crate::identity::{Identity, describe_certificate, format_moment};
use crate::model::{ClusterName, SpiffeId};

/// Remaining lifetime at which people should know, and at which it is urgent, for a certificate that lasts for months.
/// A certificate that is renewed more often usually has less left.
const SOON: Duration = Duration::days(30);
const URGENT: Duration = Duration::days(7);

/// Checks the agent's identity. The error in `loaded` says what is wrong and what to do. `cluster`: the configured
/// name, if it is known.
pub fn judge_identity(
    object: &str,
    cluster: Option<&ClusterName>,
    loaded: &Result<Identity, String>,
    now: OffsetDateTime,
) -> Vec<Finding> {
    let identity = match loaded {
        Ok(identity) => identity,
        Err(why) => {
            // Errors of an identity begin with their place.
            let why = why.strip_prefix(object).map_or(why.as_str(), |rest| rest.trim_start_matches([':', ' ', '/']));
            return vec![Finding::error(CheckArea::Identity, object, why)];
        }
    };
    let mut findings = vec![judge_expiry(CheckArea::Identity, object, "the certificate", identity, now)];
    let named = cluster.map(|c| (c, SpiffeId::of_cluster(c)));
    findings.push(match named {
        Some((cluster, expected)) if identity.spiffe_id.cluster().is_some_and(|other| other != *cluster) => {
            let id = &identity.spiffe_id;
            let message = format!("it is {id}, and this is {cluster}: no agent starts with it");
            Finding::error(CheckArea::Identity, object, message)
                .with_cure(format!("have {expected} issued, or correct `cluster` in the configuration"))
        }
        Some((cluster, expected)) if expected != identity.spiffe_id => {
            let id = &identity.spiffe_id;
            Finding::warning(
                CheckArea::Identity,
                object,
                format!("it is {id}, which does not name this cluster, {cluster}"),
            )
            .with_cure(format!(
                "peers know it only if their entry for {cluster} has `identity: {id}`; else have {expected} issued"
            ))
        }
        _ => Finding::ok(CheckArea::Identity, object, format!("{}, and it leads to a root", identity.spiffe_id)),
    });
    findings.extend(identity.unfit_for_gateways().map(|why| {
        Finding::error(CheckArea::Identity, object, format!("{why}: no call in the mode Cluster arrives")).with_cure(
            "have a certificate issued for an RSA key of at least 2048 bits, or EC P-256 (`wharf ca issue` does)",
        )
    }));
    findings.extend(identity.revocation_caveat(now).map(|caveat| Finding::error(CheckArea::Identity, object, caveat)));
    findings
}

fn judge_expiry(area: CheckArea, object: &str, what: &str, identity: &Identity, now: OffsetDateTime) -> Finding {
    judge_lifetime(area, object, what, identity.not_before, identity.not_after, now)
        .with_cure("have a new one issued in time, and put it in its place: no restart is needed")
}

/// Judges how long something remains valid. A certificate that lasts for an hour is not in danger half an hour before
/// its end.
pub fn judge_lifetime(
    area: CheckArea,
    object: &str,
    what: &str,
    from: OffsetDateTime,
    until: OffsetDateTime,
    now: OffsetDateTime,
) -> Finding {
    let (whole, left) = (until - from, until - now);
    let message = format!("{what} is valid until {} ({})", format_moment(until), left_in_words(left));
    if left <= Duration::ZERO {
        Finding::error(area, object, format!("{what} expired on {}", format_moment(until)))
    } else if left < URGENT.min(whole / 10) {
        Finding::error(area, object, message)
    } else if left < SOON.min(whole / 3) {
        Finding::warning(area, object, message)
    } else {
        Finding::ok(area, object, message)
    }
}

fn left_in_words(left: Duration) -> String {
    match left.whole_days() {
        0 if left.whole_hours() > 0 => format!("{} h left", left.whole_hours()),
        0 => format!("{} min left", left.whole_minutes()),
        n => format!("{} left", format_days(n)),
    }
}

/// Checks the roots that peers' certificates must lead to.
pub fn judge_roots(object: &str, roots: &[CertificateDer<'_>], now: OffsetDateTime) -> Vec<Finding> {
    let described: Vec<_> = roots.iter().map(|root| describe_certificate(root, now)).collect();
    let good = described.iter().flatten().filter(|r| !r.expired && !r.not_yet_valid).count();
    let judge = |root: &Result<crate::identity::CertificateDescription, _>| match root {
        Err(problem) => Finding::error(CheckArea::Identity, object, format!("a root: {problem}")),
        Ok(root) => {
            let what = format!("the root {:?}", root.subject);
            let (until, left) = (&root.not_after, root.days_left);
            if let Some(problem) = &root.problem {
                Finding::error(CheckArea::Identity, object, format!("a root: {problem}"))
            } else if root.expired {
                Finding::warning(CheckArea::Identity, object, format!("{what} expired on {until}, and counts no more"))
                    .with_cure("take it out of the bundle")
            } else if root.not_yet_valid {
                Finding::warning(CheckArea::Identity, object, format!("{what} is not valid before {}", root.not_before))
                    .with_cure("compare the clock with the one of who made it")
            } else if left < SOON.whole_days() && good == 1 {
                let finding = if left < URGENT.whole_days() { Finding::error } else { Finding::warning };
                finding(CheckArea::Identity, object, format!("{what} is the last one, and valid until {until} only"))
                    .with_cure(
                        "make a new root, add it to every cluster's bundle, then have all certificates issued under it",
                    )
            } else {
                Finding::ok(CheckArea::Identity, object, format!("{what} is valid until {until}"))
            }
        }
    };
    described.iter().map(judge).collect()
}

/// The Secret that the gateways show.
pub struct GatewayCredential {
    /// The Secret has Wharf's label, so the agent keeps it up to date.
    pub ours: bool,
    pub identity: Result<Identity, String>,
}

/// Compares the Secret that the gateways of a namespace show with the agent's own identity.
pub fn judge_credential(
    object: &str,
    seen: &LookResult<GatewayCredential>,
    own: Option<&Identity>,
    now: OffsetDateTime,
) -> Vec<Finding> {
    let credential = match seen {
        Err(why) => return vec![Finding::unseen(CheckArea::Credential, object, why)],
        Ok(None) => {
            let finding = Finding::warning(
                CheckArea::Credential,
                object,
                "it is not there: the gateways have no certificate to show",
            );
            return vec![
                finding.with_cure("the agent makes it when it starts; if it runs, its log says why it did not"),
            ];
        }
        Ok(Some(credential)) => credential,
    };
    let keeper = if credential.ours { "Wharf" } else { "somebody else" };
    let renew = if credential.ours {
        "the agent keeps it in step: its log says why it did not"
    } else {
        "its owner has to renew it; or delete it, and the agent makes its own"
    };
    let identity = match &credential.identity {
        Err(why) => {
            let message = format!("{why} (it is kept by {keeper})");
            return vec![Finding::error(CheckArea::Credential, object, message).with_cure(renew)];
        }
        Ok(identity) => identity,
    };
    let mut findings =
        vec![judge_expiry(CheckArea::Credential, object, "the gateways' certificate", identity, now).with_cure(renew)];
    let Some(own) = own else {
        let why = "the agent's own identity is not seen, so the two were not compared";
        findings.push(Finding::unchecked(CheckArea::Credential, object, why));
        return findings;
    };
    findings.push(if identity.spiffe_id != own.spiffe_id {
        let message = format!("the gateways show {}, the agent is {}", identity.spiffe_id, own.spiffe_id);
        Finding::error(CheckArea::Credential, object, message + ": peers refuse one of the two").with_cure(renew)
    } else if identity.chain == own.chain && identity.roots == own.roots {
        Finding::ok(CheckArea::Credential, object, format!("it is in step with the agent's identity; kept by {keeper}"))
    } else if credential.ours {
        Finding::error(CheckArea::Credential, object, "it is not in step with the agent's identity").with_cure(renew)
    } else if identity.roots != own.roots {
        let message = "it is somebody else's, and has other roots than the agent: the two may admit different clusters";
        Finding::warning(CheckArea::Credential, object, message).with_cure(renew)
    } else {
        let message = format!("it is somebody else's: another certificate of {} than the agent's", own.spiffe_id);
        Finding::ok(CheckArea::Credential, object, message)
    });
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{Severity, UnseenReason};
    use crate::identity::IdentityFiles;
    use crate::identity::authority::{self, CertificateAuthority, CertificateRequest};

    const DAY: i64 = 24 * 3600;

    fn now() -> OffsetDateTime {
        OffsetDateTime::now_utc().replace_nanosecond(0).unwrap()
    }

    /// Certificates of one root, for clusters, valid for so many days.
    struct Pki {
        dir: tempfile::TempDir,
    }

    impl Pki {
        fn new() -> Pki {
            let dir = tempfile::TempDir::new().unwrap();
            let root = authority::create_root("root", "10y".parse().unwrap(), now()).unwrap();
            std::fs::write(dir.path().join("ca.crt"), root.certificate).unwrap();
            std::fs::write(dir.path().join("ca.key"), root.key).unwrap();
            Pki { dir }
        }

        fn identity(&self, cluster: &str, ttl: &str) -> Identity {
            let at = |file: &str| self.dir.path().join(file);
            let authority = CertificateAuthority::load(&at("ca.crt"), &at("ca.key"), now()).unwrap();
            let cluster: ClusterName = cluster.parse().unwrap();
            let request = CertificateRequest {
                spiffe_id: SpiffeId::of_cluster(&cluster),
                cluster,
                dns: Vec::new(),
                ip: Vec::new(),
                ttl: ttl.parse().unwrap(),
            };
            let issued = authority.issue_certificate(&request, now()).unwrap();
            std::fs::write(at("c.crt"), issued.certificate).unwrap();
            std::fs::write(at("c.key"), issued.key).unwrap();
            let files = IdentityFiles { certificate: at("c.crt"), key: at("c.key"), root: at("ca.crt"), crl: None };
            Identity::load(&files).unwrap()
        }
    }

    fn severity_after(days: f64, ttl_days: i64) -> Severity {
        let from = OffsetDateTime::UNIX_EPOCH;
        let until = from + Duration::days(ttl_days);
        let at = from + Duration::seconds((days * DAY as f64) as i64);
        judge_lifetime(CheckArea::Identity, "x", "it", from, until, at).severity
    }

    #[test]
    fn expiry_is_told_in_time_and_one_that_is_short_lived_is_not_cried_about() {
        assert_eq!(severity_after(1.0, 365), Severity::Ok);
        assert_eq!(severity_after(340.0, 365), Severity::Warning);
        assert_eq!(severity_after(359.0, 365), Severity::Error);
        assert_eq!(severity_after(366.0, 365), Severity::Error);
        assert_eq!(severity_after(0.5, 1), Severity::Ok);
        assert_eq!(severity_after(0.8, 1), Severity::Warning);
        assert_eq!(severity_after(0.95, 1), Severity::Error);
    }

    #[test]
    fn a_certificate_of_another_cluster_is_told() {
        let severities = |cluster: &str, loaded: &Result<Identity, String>| {
            let findings = judge_identity("Secret a/b", Some(&cluster.parse().unwrap()), loaded, now());
            findings.iter().map(|f| f.severity).collect::<Vec<_>>()
        };
        let loaded = Ok(Pki::new().identity("east", "90d"));
        assert_eq!(severities("east", &loaded), [Severity::Ok, Severity::Ok]);
        assert_eq!(severities("west", &loaded), [Severity::Ok, Severity::Error], "no agent of west starts with it");
        let loaded = loaded.map(|own| Identity { spiffe_id: "spiffe://example/east".parse().unwrap(), ..own });
        assert_eq!(severities("east", &loaded), [Severity::Ok, Severity::Warning], "peers have to pin it");
    }

    #[test]
    fn an_identity_that_cannot_be_used_is_an_error_with_its_reason_and_its_place_once() {
        let findings = judge_identity("a.crt", None, &Err("a.crt: it is DER".into()), now());
        assert_eq!(findings, [Finding::error(CheckArea::Identity, "a.crt", "it is DER")]);
    }

    #[test]
    fn an_old_root_beside_a_new_one_is_a_warning_and_the_last_one_near_its_end_more() {
        let root = |ttl: &str, at: OffsetDateTime| {
            let issued = authority::create_root("root", ttl.parse().unwrap(), at).unwrap();
            let dir = tempfile::TempDir::new().unwrap();
            std::fs::write(dir.path().join("ca.crt"), issued.certificate).unwrap();
            crate::identity::read_certificates(&dir.path().join("ca.crt")).unwrap().remove(0)
        };
        let (old, new) = (root("1d", now() - Duration::days(10)), root("10y", now()));
        let severities = |all: &[CertificateDer<'_>]| {
            judge_roots("ca.crt", all, now()).iter().map(|f| f.severity).collect::<Vec<_>>()
        };
        assert_eq!(severities(&[old, new.clone()]), [Severity::Warning, Severity::Ok]);
        let ending = root("20d", now());
        assert_eq!(severities(std::slice::from_ref(&ending)), [Severity::Warning]);
        assert_eq!(severities(&[ending, new]), [Severity::Ok, Severity::Ok]);
        assert_eq!(severities(&[root("3d", now())]), [Severity::Error]);
    }

    fn worst(seen: LookResult<GatewayCredential>, own: Option<&Identity>) -> Severity {
        judge_credential("Secret istio-system/wharf-identity", &seen, own, now())
            .iter()
            .map(|f| f.severity)
            .max()
            .unwrap()
    }

    #[test]
    fn the_gateways_must_show_what_the_agent_is() {
        let pki = Pki::new();
        let (own, renewed, other) =
            (pki.identity("east", "90d"), pki.identity("east", "91d"), pki.identity("west", "90d"));
        let again = || Identity {
            chain: own.chain.clone(),
            key: own.key.clone_key(),
            roots: own.roots.clone(),
            ..pki.identity("east", "90d")
        };
        let of = |ours, identity| Ok(Some(GatewayCredential { ours, identity: Ok(identity) }));
        assert_eq!(worst(of(true, again()), Some(&own)), Severity::Ok);
        assert_eq!(worst(of(true, renewed), Some(&own)), Severity::Error);
        assert_eq!(worst(of(false, pki.identity("east", "91d")), Some(&own)), Severity::Ok);
        assert_eq!(worst(of(false, other), Some(&own)), Severity::Error);
        let foreign = Identity { roots: Pki::new().identity("east", "90d").roots, ..pki.identity("east", "90d") };
        assert_eq!(worst(of(false, foreign), Some(&own)), Severity::Warning);
        assert_eq!(worst(of(true, again()), None), Severity::Unchecked);
        assert_eq!(worst(Ok(None), Some(&own)), Severity::Warning);
        assert_eq!(worst(Err(UnseenReason::Forbidden("no".into())), Some(&own)), Severity::Unchecked);
    }
}
