//! Chooses the ports of an exposition that a binding's service takes, and their local ports.
//!
//! A local port leads to the port that the binding's author meant, or nowhere: never to another one because ports come
//! and go at the donor.

use std::collections::BTreeSet;

use crate::api::PortRef;
use crate::model::{ExposedPort, Exposition};

use super::memory::PortMemory;
use super::problem::{Problem, ProblemReason, join_list};
use super::sources::{WantedPort, WantedPorts, WantedService};

/// The ports that are taken, and those that are asked for and cannot be.
#[derive(Debug)]
pub(super) struct ChosenPorts<'a> {
    /// Local number, exposed port.
    pub ports: Vec<(u16, &'a ExposedPort)>,
    pub lacking: Vec<Problem>,
}

/// Chooses the ports. Fails if none of the wanted ports can be taken.
pub(super) fn choose_ports<'a>(
    wanted: &WantedService,
    memory: &PortMemory,
    e: &'a Exposition,
) -> Result<ChosenPorts<'a>, Problem> {
    match &wanted.ports {
        WantedPorts::AsExposed => {
            Ok(ChosenPorts { ports: e.ports.iter().map(|p| (p.number, p)).collect(), lacking: Vec::new() })
        }
        WantedPorts::Single(local) => {
            let port = single_port(*local, memory, e)?;
            Ok(ChosenPorts { ports: vec![(*local, port)], lacking: Vec::new() })
        }
        WantedPorts::Listed(list) => listed_ports(list, e),
    }
}

/// Chooses for `port`: the only port of an exposition, or the one of several that it names. Then it stays with that
/// one.
fn single_port<'a>(local: u16, memory: &PortMemory, e: &'a Exposition) -> Result<&'a ExposedPort, Problem> {
    let numbered = |number: u16| e.ports.iter().find(|p| p.number == number);
    if let Some(number) = memory.exposed_port(local) {
        return numbered(number).ok_or_else(|| {
            let message = match number == local {
                true => format!("{} does not expose port {number} any more", e.key),
                false => format!("port {local} here is port {number} of {}, which is not exposed any more", e.key),
            };
            not_exposed(message, e).below("port")
        });
    }
    match (numbered(local), &e.ports[..]) {
        (Some(port), _) | (None, [port]) => Ok(port),
        (None, _) => Err(not_exposed(format!("{} does not expose port {local}", e.key), e).below("port")),
    }
}

fn listed_ports<'a>(list: &[WantedPort], e: &'a Exposition) -> Result<ChosenPorts<'a>, Problem> {
    let mut taken: BTreeSet<u16> = list.iter().filter_map(|port| port.local).collect();
    let mut chosen = ChosenPorts { ports: Vec::with_capacity(list.len()), lacking: Vec::new() };
    for (i, wanted) in list.iter().enumerate() {
        let path = format!("ports[{i}]");
        let port = match find_port(&wanted.port, e) {
            Ok(port) => port,
            Err(problem) => {
                chosen.lacking.push(problem.below(&format!("{path}.port")));
                continue;
            }
        };
        // A local port that the binding names goes before one that follows from the donor's number.
        if wanted.local.is_none() && !taken.insert(port.number) {
            let message = format!("another entry has the local port {}", port.number);
            let problem = Problem::new(ProblemReason::PortAmbiguous, path, message);
            chosen.lacking.push(problem.cure("give it a localPort of its own"));
            continue;
        }
        chosen.ports.push((wanted.local.unwrap_or(port.number), port));
    }
    match chosen.ports.is_empty() {
        true => Err(join_problems(chosen.lacking).unwrap_or_else(|| not_exposed("no port is asked for".to_owned(), e))),
        false => Ok(chosen),
    }
}

fn find_port<'a>(wanted: &PortRef, e: &'a Exposition) -> Result<&'a ExposedPort, Problem> {
    let (mut found, what) = match wanted {
        PortRef::Number(n) => (e.ports.iter().filter(|p| p.number == *n).collect::<Vec<_>>(), n.to_string()),
        PortRef::Name(n) => (e.ports.iter().filter(|p| p.name == *n).collect(), format!("{n:?}")),
    };
    match (found.pop(), found.is_empty()) {
        (Some(only), true) => Ok(only),
        (None, _) => Err(not_exposed(format!("{} does not expose port {what}", e.key), e)),
        (Some(_), false) => {
            let message = format!("several ports of {} are called {what}", e.key);
            Err(Problem::new(ProblemReason::PortAmbiguous, "", message).cure("name the port by its number"))
        }
    }
}

fn not_exposed(message: String, e: &Exposition) -> Problem {
    let there: Vec<String> = e.ports.iter().map(describe_port).collect();
    let there = join_list(there.iter().map(String::as_str));
    let cure = format!("it exposes: {there}; ports: [{{port: …, localPort: …}}] says which of them leads where");
    Problem::new(ProblemReason::PortNotExposed, "", message).cure(cure)
}

fn describe_port(port: &ExposedPort) -> String {
    if port.name.is_empty() { port.number.to_string() } else { format!("{} ({})", port.number, port.name) }
}

/// Joins several problems of one service into one: the reason of the first, and the messages of all.
pub(super) fn join_problems(problems: Vec<Problem>) -> Option<Problem> {
    let mut rest = problems.into_iter();
    let mut first = rest.next()?;
    for other in rest {
        first.message = format!("{}; {}", first.message, other.message);
        if first.cure.is_empty() {
            first.cure = other.cure;
        }
    }
    Some(first)
}
