use std::collections::BTreeSet;

use proptest::prelude::*;
use regex::Regex;

use super::*;

const ISLE: &str = "spiffe://wharf/cluster/isle";

/// A certificate, as far as Envoy tells it.
#[derive(Default)]
struct Shown<'a> {
    subject: &'a str,
    uris: &'a [&'a str],
    dns: &'a [&'a str],
}

/// The header that Envoy makes of it, with what Istio's gateways ask for: subject, certificate, DNS names and URIs.
fn header(shown: &Shown<'_>) -> String {
    let mut parts = vec![
        "By=spiffe://wharf/cluster/harbor".to_owned(),
        format!("Hash={}", "0123456789abcdef".repeat(4)),
        "Cert=\"-----BEGIN%20CERTIFICATE-----%0AMIIB%2B%3D%0A-----END%20CERTIFICATE-----%0A\"".to_owned(),
        format!("Subject=\"{}\"", escaped(shown.subject)),
    ];
    if shown.uris.is_empty() {
        parts.push("URI=".to_owned());
    }
    parts.extend(shown.uris.iter().map(|uri| format!("URI={uri}")));
    parts.extend(shown.dns.iter().map(|dns| format!("DNS={dns}")));
    parts.join(";")
}

/// What RFC 2253 escapes in a name.
fn escaped(text: &str) -> String {
    let special = |c: char| matches!(c, ',' | '+' | '"' | '\\' | '<' | '>' | ';');
    text.chars().flat_map(|c| special(c).then_some('\\').into_iter().chain([c])).collect()
}

/// The conditions of a route, as Envoy compiles them.
struct Conditions {
    with: Vec<Regex>,
    without: Vec<Regex>,
}

impl Conditions {
    fn of(route: &VirtualServiceHttp) -> Conditions {
        let [one] = route.r#match.as_deref().unwrap() else { panic!("one match") };
        let compile = |(name, text): (&String, &StringMatch)| {
            assert!(name.eq_ignore_ascii_case(HEADER));
            let regex = text.regex.as_deref().unwrap();
            assert!(regex.len() <= 1024, "Istio's validation refuses it");
            Regex::new(&format!("^(?:{regex})$")).unwrap()
        };
        Conditions {
            with: one.headers.iter().flatten().map(compile).collect(),
            without: one.without_headers.iter().flatten().map(compile).collect(),
        }
    }

    /// Whether Envoy takes the route for a caller: all conditions hold, each of the whole value.
    fn hold(&self, header: &str) -> bool {
        self.with.iter().all(|r| r.is_match(header)) && !self.without.iter().any(|r| r.is_match(header))
    }
}

fn refuses(route: &VirtualServiceHttp, header: &str) -> bool {
    Conditions::of(route).hold(header)
}

fn lock(identities: &[&str]) -> VirtualServiceHttp {
    let permitted: Vec<String> = identities.iter().map(|id| quote_regex(id)).collect();
    refusal_route("till.shop.svc.cluster.local", build_patterns(&permitted).unwrap())
}

#[test]
fn a_permitted_certificate_gets_in_whatever_its_subject_and_dns_names() {
    let lock = lock(&[ISLE, "spiffe://wharf/cluster/reef"]);
    let whole = format!("x\";URI={ISLE}");
    for subject in ["", "CN=isle,O=Isle", "CN=a;b\"c\\d", whole.as_str()] {
        for dns in [&[][..], &["isle.example"], &["*.isle.example", "ISLE-1.example", "_x.isle"]] {
            for uri in [ISLE, "spiffe://wharf/cluster/reef"] {
                assert!(!refuses(&lock, &header(&Shown { subject, uris: &[uri], dns })), "{subject} {uri} {dns:?}");
            }
        }
    }
}

#[test]
fn a_certificate_without_a_chain_or_a_uri_of_the_gateway_is_read_alike() {
    let lock = lock(&[ISLE]);
    let hash = "0".repeat(64);
    for front in ["", "By=spiffe://a/b;", "By=spiffe://a/b;By=spiffe://c/d;"] {
        for cert in ["", "Cert=\"%0A\";", "Cert=\"%0A\";Chain=\"%0A\";"] {
            let text = format!("{front}Hash={hash};{cert}Subject=\"\";URI=");
            assert!(!refuses(&lock, &format!("{text}{ISLE}")));
            assert!(refuses(&lock, &format!("{text}spiffe://stranger/a")));
        }
    }
}

#[test]
fn a_name_of_a_peer_counts_only_as_the_one_uri_of_the_certificate() {
    let lock = lock(&[ISLE]);
    let stranger = "spiffe://wharf/cluster/stranger";
    let behind = format!("x;URI={ISLE}");
    let quoted = format!("x\";URI={ISLE}");
    let element =
        format!("x,By=spiffe://wharf/cluster/harbor;Hash={};Cert=\"a\";Subject=\"\";URI={ISLE}", "0".repeat(64));
    let tail = format!("{ISLE};URI={stranger}");
    let longer = format!("{ISLE}x");
    let strange = [behind.as_str(), &quoted, &element, &tail, &longer, ISLE];
    for uris in [&[][..], &[stranger], &[stranger, ISLE], &[ISLE, stranger], &[ISLE, ISLE], &["", ISLE]] {
        assert!(refuses(&lock, &header(&Shown { uris, ..Shown::default() })), "{uris:?}");
        for name in strange {
            for dns in [&[name][..], &["isle.example", name], &[name, "isle.example"]] {
                assert!(refuses(&lock, &header(&Shown { uris, dns, ..Shown::default() })), "{uris:?} {dns:?}");
            }
            let subject = name;
            assert!(refuses(&lock, &header(&Shown { uris, subject, ..Shown::default() })), "{uris:?} {subject}");
        }
    }
    for uri in &strange[..5] {
        assert!(refuses(&lock, &header(&Shown { uris: &[uri], ..Shown::default() })), "{uri}");
    }
    for dns in strange {
        let one = Shown { uris: &[ISLE], dns: &[dns], ..Shown::default() };
        assert!(refuses(&lock, &header(&one)), "agents read no DNS names, gateways take none that is not one: {dns}");
    }
}

#[test]
fn an_element_that_a_caller_brought_is_nobodys_certificate() {
    let lock = lock(&[ISLE]);
    let own = |uri| header(&Shown { uris: &[uri], ..Shown::default() });
    for header in [
        format!("{},{}", own(ISLE), own("spiffe://stranger/a")),
        format!("{},{}", own("spiffe://stranger/a"), own(ISLE)),
        format!("URI={ISLE}"),
        format!("URI={ISLE},{}", own("spiffe://stranger/a")),
    ] {
        assert!(refuses(&lock, &header), "{header}");
    }
}

#[test]
fn a_trust_domain_or_namespace_is_taken_by_its_letters_and_by_whole_segments() {
    let route =
        refusal_of_others("till", &["isle.example/ns/office/*".to_owned(), "isle.example/ns/a/sa/b".to_owned()]);
    let refuses = |uri: &str| refuses(&route, &header(&Shown { uris: &[uri], ..Shown::default() }));
    for permitted in ["spiffe://isle.example/ns/office/sa/web", "spiffe://isle.example/ns/a/sa/b"] {
        assert!(!refuses(permitted), "{permitted}");
    }
    for stranger in [
        "spiffe://isleXexample/ns/office/sa/web",
        "spiffe://isle.example/ns/office2/sa/web",
        "spiffe://isle.example/ns/office",
        "spiffe://isle.example/ns/office/",
        "spiffe://isle.example/ns/a/sa/bc",
        "spiffe://isle.example/ns/a/sa/b/c",
        "spiffe://isle.example/ns/office/sa/web;URI=spiffe://isle.example/ns/office/sa/web",
        "spiffe://isle.example/ns/office/sa/web,URI=x",
    ] {
        assert!(refuses(stranger), "{stranger}");
    }
}

#[test]
fn each_condition_of_a_route_has_a_spelling_of_its_own() {
    let names: BTreeSet<String> = (0..MAX_PATTERNS).map(header_spelling).collect();
    assert_eq!(names.len(), MAX_PATTERNS);
    assert_eq!(header_spelling(0), HEADER);
    assert!(names.iter().all(|n| n.eq_ignore_ascii_case(HEADER)));
}

#[test]
fn without_a_pattern_everybody_is_refused() {
    let route = refusal_route("till", Vec::new());
    assert!(refuses(&route, &header(&Shown { uris: &[ISLE], ..Shown::default() })));
}

#[test]
fn callers_that_no_route_can_tell_are_refused_with_what_to_do() {
    let long = format!("spiffe://wharf/{}", "a".repeat(2000));
    let error = build_patterns(&[quote_regex(ISLE), quote_regex(&long)]).unwrap_err();
    assert!(error.to_string().contains(&long), "{error}");
    assert!(error.to_problem("clusters").line().contains("a shorter identity"));
    let many: Vec<String> = (0..1000).map(|i| format!("spiffe://isle/ns/{i:0>63}/sa/{i:0>63}")).collect();
    let error = build_patterns(&many).unwrap_err();
    assert!(matches!(error, PermitTooLarge::Callers(n) if n > MAX_PATTERNS), "{error}");
    assert!(error.to_problem("clients").line().contains("without service accounts"));
}

#[test]
fn all_clients_that_an_exposition_may_carry_fit_a_common_trust_domain() {
    let clients: Vec<String> = (0..256).map(|i| format!("mesh.isle.example/ns/{:a>63}/sa/{i:b>63}", "")).collect();
    assert_eq!(check_clients(&clients), Ok(()));
    let domain = "d.".repeat(120);
    let clients: Vec<String> = clients.iter().map(|c| c.replace("mesh.isle.", &domain)).collect();
    assert!(check_clients(&clients).is_err());
    let nobody = refusal_of_others("till", &clients);
    assert!(nobody.r#match.unwrap()[0].without_headers.is_none(), "and then nobody gets in");
}

#[test]
fn a_principal_is_taken_by_its_letters() {
    assert_eq!(workload_pattern("isle.example/ns/a/sa/b"), r"spiffe://isle\.example/ns/a/sa/b");
    assert_eq!(workload_pattern("isle/*"), "spiffe://isle/[-A-Za-z0-9._/]+");
    assert_eq!(quote_regex("a+(b)*"), r"a\+\(b\)\*");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    /// However many there are, and however long: each is let in, somebody else is not, and no pattern is larger than
    /// Istio and Envoy take.
    #[test]
    fn any_number_of_callers_of_any_length_fits_or_is_refused(
        paths in prop::collection::btree_set("[a-z0-9][a-z0-9./-]{0,200}[a-z0-9]", 1..200),
        stranger in "[a-z0-9][a-z0-9./-]{0,200}[a-z0-9]",
    ) {
        let all: Vec<String> = paths.iter().map(|p| format!("spiffe://isle.example/{p}")).collect();
        let Ok(patterns) = build_patterns(&all.iter().map(|id| quote_regex(id)).collect::<Vec<_>>()) else {
            prop_assert!(all.iter().map(String::len).sum::<usize>() > 32 * 1024);
            return Ok(());
        };
        let conditions = Conditions::of(&refusal_route("till", patterns));
        let refuses = |id: &str| conditions.hold(&header(&Shown { uris: &[id], ..Shown::default() }));
        for id in [all.first(), all.get(all.len() / 2), all.last()].into_iter().flatten() {
            prop_assert!(!refuses(id));
        }
        prop_assert_eq!(refuses(&format!("spiffe://isle.example/{stranger}")), !paths.contains(&stranger));
    }

    /// Whatever a certificate has in its names: it gets in if its one URI is a permitted one and its DNS names are names.
    #[test]
    fn any_names_of_a_certificate_are_read_as_an_agent_reads_them(
        uris in prop::collection::vec(any_name(), 0..3),
        dns in prop::collection::vec(any_name(), 0..3),
        subject in any_name(),
    ) {
        let lock = lock(&[ISLE]);
        let (uris, dns): (Vec<&str>, Vec<&str>) =
            (uris.iter().map(String::as_str).collect(), dns.iter().map(String::as_str).collect());
        let seen = header(&Shown { subject: &subject, uris: &uris, dns: &dns });
        let name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '*' | '_');
        let permitted = uris == [ISLE] && dns.iter().all(|d| d.chars().all(name));
        prop_assert_eq!(!refuses(&lock, &seen), permitted);
    }
}

fn any_name() -> impl Strategy<Value = String> {
    let hash = "0".repeat(64);
    prop_oneof![
        Just(ISLE.to_owned()),
        Just("spiffe://wharf/cluster/stranger".to_owned()),
        Just("isle.example".to_owned()),
        Just(format!(";URI={ISLE}")),
        Just(format!("\";URI={ISLE}")),
        Just(format!(",By=a;Hash={hash};Subject=\"\";URI={ISLE}")),
        "[a-zA-Z0-9.:/;,=\"\\\\ ]{0,12}",
    ]
}
