//! What an agent cannot see is exposed only if its operator vouches for it in the configuration.

use super::share::pair;
use super::support::Site;
use super::support::objects::{binding, policy_of};

const SETTINGS: &str = "passthrough: {trustSidecars: true}\nservices: {allowWithoutSelector: true}\n";

#[test]
fn passthrough_and_services_without_a_selector_wait_for_the_operators_word() {
    let site = Site::new();
    let (mut donor, acceptor) = pair(&site);
    donor.write(
        "loose.yaml",
        "apiVersion: v1\nkind: Service\nmetadata: {name: loose, namespace: default}\nspec: {ports: [{name: http, port: 80}]}\n"
            .to_owned()
            + "---\n"
            + &policy_of("loose", &["{name: loose, clusters: [acceptor]}", "{name: reviews, alias: end-to-end, tls: Passthrough, clusters: [acceptor]}"]),
    );
    acceptor.write("more.yaml", binding("more", "donor", &["loose"]));
    let reasons = |wanted: [&'static str; 2]| {
        let status = donor.status_file("serviceexpositionpolicy", "default.loose")?;
        (status["status"]["exposed"].as_array()?.iter().map(|e| e["reason"].as_str().unwrap_or_default()).eq(wanted))
            .then_some(())
    };
    site.until("both are refused", || reasons(["ServiceWithoutSelector", "SidecarsMissing"]));
    assert!(donor.find("Gateway", "loose").is_empty() && donor.find("Gateway", "end-to-end").is_empty());
    assert!(acceptor.bound("reviews") && !acceptor.bound("loose"), "the others work");
    donor.stop();
    donor.configure(SETTINGS, &[acceptor.as_consumer()]);
    donor.start();
    site.until("it is exposed and bound", || acceptor.bound("loose").then_some(()));
    assert!(!donor.find("AuthorizationPolicy", "end-to-end").is_empty());
}
