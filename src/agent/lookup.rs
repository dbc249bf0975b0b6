//! Looks up names in DNS, as the system does. A lookup blocks a thread and cannot be cancelled, so each has a thread of
//! its own. A peer whose name servers do not answer delays only its own names.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::net::{IpAddr, ToSocketAddrs};

use tokio::sync::mpsc;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::model::{ClusterName, Host, NameAnswer};

/// Most lookups at the same time; each peer has one.
const MAX_LOOKUPS: usize = 8;
/// Most waiting names of one peer.
const MAX_WAITING: usize = 128;
/// Most addresses of one name. All of them are judged, so a name with more is not accepted.
const MAX_ADDRESSES: usize = 64;

/// A name to look up for a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LookupQuestion {
    pub cluster: ClusterName,
    pub name: Host,
}

/// The result of a lookup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LookupAnswer {
    pub cluster: ClusterName,
    pub name: Host,
    pub answer: NameAnswer,
}

/// Asks the system's resolver, with its search list and its hosts file.
pub fn ask_system(name: &Host) -> io::Result<Vec<IpAddr>> {
    Ok((name.as_str(), 0).to_socket_addrs()?.map(|address| address.ip()).collect())
}

/// Answers questions until `stop`.
pub async fn serve_lookups<L>(
    mut questions: mpsc::Receiver<LookupQuestion>,
    answers: mpsc::Sender<LookupAnswer>,
    look_up: L,
    stop: CancellationToken,
) where
    L: Fn(&Host) -> io::Result<Vec<IpAddr>> + Clone + Send + 'static,
{
    let mut waiting: BTreeMap<ClusterName, VecDeque<Host>> = BTreeMap::new();
    let mut busy: BTreeSet<ClusterName> = BTreeSet::new();
    let mut running: JoinSet<LookupAnswer> = JoinSet::new();
    loop {
        while running.len() < MAX_LOOKUPS
            && let Some(question) = take_next(&mut waiting, &busy)
        {
            busy.insert(question.cluster.clone());
            running.spawn(look_up_one(question, look_up.clone()));
        }
        tokio::select! {
            () = stop.cancelled() => return,
            Some(question) = questions.recv() => {
                let names = waiting.entry(question.cluster).or_default();
                if names.len() < MAX_WAITING && !names.contains(&question.name) {
                    names.push_back(question.name);
                }
            }
            Some(Ok(answer)) = running.join_next() => {
                busy.remove(&answer.cluster);
                if answers.send(answer).await.is_err() {
                    stop.cancelled().await; // nobody listens any more
                    return;
                }
            }
        }
    }
}

/// Takes a name of a peer that has no lookup in progress.
fn take_next(
    waiting: &mut BTreeMap<ClusterName, VecDeque<Host>>,
    busy: &BTreeSet<ClusterName>,
) -> Option<LookupQuestion> {
    let cluster = waiting.keys().find(|cluster| !busy.contains(*cluster)).cloned()?;
    let name = waiting.get_mut(&cluster).and_then(VecDeque::pop_front);
    if waiting.get(&cluster).is_some_and(VecDeque::is_empty) {
        waiting.remove(&cluster);
    }
    name.map(|name| LookupQuestion { cluster, name })
}

async fn look_up_one<L>(question: LookupQuestion, look_up: L) -> LookupAnswer
where
    L: Fn(&Host) -> io::Result<Vec<IpAddr>> + Send + 'static,
{
    let LookupQuestion { cluster, name } = question;
    let (reply, found) = oneshot::channel();
    let wanted = name.clone();
    let thread = std::thread::Builder::new().name("wharf-lookup".to_owned());
    let started = thread.spawn(move || drop(reply.send(look_up(&wanted))));
    let found = match started {
        Ok(_detached) => found.await.unwrap_or_else(|_| Err(io::Error::other("the lookup was not finished"))),
        Err(error) => Err(error),
    };
    let answer = match found {
        Ok(addresses) => {
            let addresses: BTreeSet<IpAddr> = addresses.into_iter().collect();
            if addresses.len() > MAX_ADDRESSES {
                Err(format!("it has more than {MAX_ADDRESSES} addresses"))
            } else {
                Ok(addresses.into_iter().collect())
            }
        }
        Err(error) => Err(error.to_string()),
    };
    LookupAnswer { cluster, name, answer }
}

#[cfg(test)]
mod tests;
