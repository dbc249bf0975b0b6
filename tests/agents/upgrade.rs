//! Objects that an earlier version of Wharf wrote become those of this one, and no call fails in between.

use std::fs;
use std::time::SystemTime;

use super::share::pair;
use super::support::objects::{binding_of, policy, service};
use super::support::{Cluster, Site};

/// So many that the first and the last of them cannot be written at one tick of the file system's clock.
const NAMES: usize = 60;

fn file(cluster: &Cluster, name: &str) -> std::path::PathBuf {
    cluster.store.join("istio").join(name)
}

fn written(cluster: &Cluster, name: &str) -> SystemTime {
    fs::metadata(file(cluster, name)).unwrap().modified().unwrap()
}

/// Makes the objects of a local name what they were when one VirtualService was for the mesh and for the gateway.
fn make_old(cluster: &Cluster, local: &str) {
    let gateway_half = file(cluster, &gateway_half(cluster, local));
    let mesh_half = file(cluster, &format!("virtualservice_default_wharf-{local}-default.yaml"));
    let routes = fs::read_to_string(&gateway_half).unwrap();
    let routes = routes.split("  http:\n").nth(1).unwrap().replace("istio-system/", "");
    let text = fs::read_to_string(&mesh_half).unwrap();
    let old = text.lines().filter(|l| !l.starts_with('#')).collect::<Vec<_>>().join("\n") + "\n";
    let old = old.replace("  - mesh\n", "  - mesh\n  - istio-system/wharf-egress\n") + &routes;
    fs::write(&mesh_half, old).unwrap();
    fs::remove_file(&gateway_half).unwrap();
}

/// The file with the routes of a local name at the egress gateway.
fn gateway_half(cluster: &Cluster, local: &str) -> String {
    let start = format!("virtualservice_istio-system_egressgateway-to-{local}-default-p9080-");
    let files = fs::read_dir(cluster.store.join("istio")).unwrap();
    let mut names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
    names.find(|file| file.starts_with(&start)).unwrap()
}

#[test]
fn the_shared_listener_is_narrowed_after_every_route_that_it_takes_is_there() {
    let site = Site::new();
    let (donor, mut acceptor) = pair(&site);
    donor.write("ratings.yaml", policy("ratings", &["acceptor"]));
    donor.write("services.yaml", service("reviews", 9080) + &service("ratings", 9080));
    let services: Vec<_> = (0..NAMES).map(|n| format!("{{name: reviews, alias: l{n:02}}}")).collect();
    let remote = format!("{{cluster: donor, services: [{}]}}", services.join(", "));
    acceptor.write("binding.yaml", binding_of("books", "", &[&remote]));
    let all = || (0..NAMES).all(|n| acceptor.bound(&format!("l{n:02}")) && !acceptor.bound("reviews")).then_some(());
    site.until("all names are bound", all);
    site.until("in step", || acceptor.in_step("donor").then_some(()));
    let now = acceptor.objects();
    acceptor.stop();
    (0..NAMES).for_each(|n| make_old(&acceptor, &format!("l{n:02}")));
    let listener = file(&acceptor, "gateway_istio-system_wharf-egress.yaml");
    let text = fs::read_to_string(&listener).unwrap().replace("./*", "*");
    fs::write(&listener, text).unwrap();
    acceptor.start();
    site.until("all objects are of this version", || (acceptor.objects() == now).then_some(()));
    let narrowed = written(&acceptor, "gateway_istio-system_wharf-egress.yaml");
    for n in 0..NAMES {
        let route = written(&acceptor, &gateway_half(&acceptor, &format!("l{n:02}")));
        let call = written(&acceptor, &format!("virtualservice_default_wharf-l{n:02}-default.yaml"));
        assert!(route <= call, "l{n:02}: calls are led to a route that is not there yet");
        assert!(call <= narrowed, "l{n:02}: the listener takes its route no more, and the new one is not there yet");
    }
}
