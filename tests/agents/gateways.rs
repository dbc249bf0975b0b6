//! Gateways that refuse what istiod sends them, as istiod's metrics tell it.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};
use std::thread;

use super::support::objects::{binding, policy, service};
use super::support::{Site, cluster};

/// Istiod's monitoring port: answers every question with the text that it has then.
struct FakeIstiod {
    address: SocketAddr,
    text: Arc<Mutex<String>>,
}

impl FakeIstiod {
    fn new() -> FakeIstiod {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, text) = (listener.local_addr().unwrap(), Arc::new(Mutex::new(String::new())));
        let said = text.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                let body = said.lock().unwrap().clone();
                let _ = stream.read(&mut [0; 4096]);
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
                let _ = stream.write_all((head + &body).as_bytes());
            }
        });
        let istiod = FakeIstiod { address, text };
        istiod.counts(0, 0, "");
        istiod
    }

    /// So many refused routes, so many changes of configuration that were pushed, and who ever refused routes.
    fn counts(&self, rejects: u32, changes: u32, refused: &str) {
        let mut text = format!(
            "pilot_info{{version=\"test\"}} 1\nprocess_start_time_seconds 1.7e+09\npilot_total_xds_rejects{{type=\"rds\"}} {rejects}\n\
             pilot_push_triggers{{type=\"config\"}} {changes}\npilot_xds_pushes{{type=\"rds\"}} {changes}\n"
        );
        if !refused.is_empty() {
            text += &format!("pilot_xds_rds_reject{{node=\"{refused}\",err=\"Internal\"}} 1\n");
        }
        *self.text.lock().unwrap() = text;
    }

    fn setting(&self) -> String {
        format!("istiod: {{metrics: \"http://{}/metrics\", interval: 1s}}\n", self.address)
    }
}

#[test]
fn a_gateway_that_refuses_its_routes_is_told_and_so_is_that_it_takes_them_again() {
    let site = Site::new();
    let istiod = FakeIstiod::new();
    let mut agent = site.cluster("donor");
    agent.configure(&istiod.setting(), &["{name: acceptor, consume: true}".to_owned()]);
    agent.write("services.yaml", service("reviews", 9080) + &policy("reviews", &["acceptor"]));
    agent.write("binding.yaml", binding("books", "acceptor", &["ratings"]));
    agent.start();
    let told = || cluster::condition(&agent.policy("reviews")?.status.conditions, "GatewayAccepts");
    let answers = |n: f64| move |v: f64| (v - n).abs() < f64::EPSILON;
    site.until("istiod is asked", || agent.metric("wharf_istiod_answers").filter(|v| answers(1.0)(*v)));
    site.until("the policy is programmed", || {
        cluster::condition(&agent.policy("reviews")?.status.conditions, "Programmed").filter(|(r, _)| r == "Programmed")
    });
    assert_eq!(told(), None);

    istiod.counts(1, 1, "istio-ingressgateway-5c-x.istio-system");
    let (reason, message) = site.until("the refusal", told);
    assert_eq!(reason, "GatewayRejects");
    assert!(message.contains("refuses the routes") && message.contains("istio-ingressgateway-5c-x"), "{message}");
    assert!(!agent.problems("ingress gateway").is_empty());
    let rejects = || agent.metric("wharf_gateway_rejects{gateway=\"ingress\"}");
    assert!(rejects().is_some_and(answers(1.0)), "{:?}", rejects());
    let of_binding = || cluster::condition(&agent.binding("books")?.status.conditions, "GatewayAccepts");
    assert_eq!(of_binding(), None, "the egress gateway takes its own");

    istiod.counts(1, 2, "istio-ingressgateway-5c-x.istio-system");
    site.until("it takes them again", || told().is_none().then_some(()));
    site.until("and it is no problem", || agent.problems("ingress gateway").is_empty().then_some(()));
    assert!(rejects().is_some_and(answers(0.0)), "{:?}", rejects());

    istiod.counts(2, 3, "istio-egressgateway-1.istio-system");
    site.until("the binding says so of the egress gateway", || of_binding().filter(|(r, _)| r == "GatewayRejects"));
    assert_eq!(told(), None);
}

#[test]
fn an_istiod_that_does_not_answer_is_no_problem_and_is_told_by_a_check() {
    let site = Site::new();
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut agent = site.cluster("donor");
    agent.configure(&format!("istiod: {{metrics: \"http://{closed}/metrics\", interval: 1s}}\n"), &[]);
    agent.start();
    let unanswered = site.until("why", || agent.status()?.istiod?.unanswered);
    assert!(unanswered.contains("cannot connect"), "{unanswered}");
    assert_eq!(agent.problems("istiod"), Vec::<String>::new());
    assert_eq!(agent.metric("wharf_istiod_answers"), Some(0.0));
    let log = agent.log();
    assert!(!log.contains("WARN") && !log.contains("ERROR"), "{log}");
}

/// The ingress gateway's Service with these ports, at an address.
fn gateway_service(ports: &[u16]) -> String {
    let ports: Vec<_> = ports.iter().map(|port| format!("{{name: p{port}, port: {port}}}")).collect();
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: istio-ingressgateway, namespace: istio-system}}\n\
         spec: {{type: LoadBalancer, ports: [{}]}}\nstatus: {{loadBalancer: {{ingress: [{{ip: 192.0.2.1}}]}}}}\n",
        ports.join(", ")
    )
}

#[test]
fn the_stock_gateway_without_the_port_is_told_with_the_command_that_adds_it() {
    let site = Site::new();
    let mut agent = site.cluster("donor");
    agent.configure("ingress: {service: istio-ingressgateway}\n", &["{name: acceptor, consume: true}".to_owned()]);
    agent.write("services.yaml", service("reviews", 9080) + &policy("reviews", &["acceptor"]));
    agent.write("gateway.yaml", gateway_service(&[15021, 80, 443]));
    agent.start();
    let ready = || cluster::condition(&agent.policy("reviews")?.status.conditions, "Ready");
    let with = |reason: &str| ready().filter(|(r, _)| r == reason);
    let (_, message) = site.until("the port is missed", || with("GatewayPortMissing"));
    let line = "kubectl -n istio-system patch service istio-ingressgateway --type=json -p";
    assert!(
        message.contains(line) && message.contains("it has 15021, 80, 443") && !message.contains("no address"),
        "{message}"
    );
    assert!(agent.log().contains("GatewayPortMissing"), "the log tells it, too");
    agent.write("gateway.yaml", gateway_service(&[15021, 80, 443, 15443]));
    site.until("it works", || with("Ready"));
    agent.write("gateway.yaml", gateway_service(&[15021, 80, 443]));
    site.until("it is missed again", || with("GatewayPortMissing"));
    let exposed = agent.policy("reviews").unwrap().status.exposed;
    assert_eq!(exposed[0].offered_to, ["acceptor"], "what may come back is not taken away");
}
