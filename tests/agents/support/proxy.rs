//! The network between two clusters, which can be cut, stalled and healed.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    Up,
    /// Connections break, and new ones are closed at once.
    Cut,
    /// Connections stay, and nothing moves.
    Stalled,
    /// The test is over.
    Gone,
}

/// Forwards TCP from an address of its own to a cluster's agent.
pub struct Proxy {
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    link: Link,
    /// Both ends of every connection that was made.
    streams: Vec<TcpStream>,
    /// How many were made.
    count: usize,
}

impl Proxy {
    pub fn new(address: SocketAddr, to: SocketAddr) -> Proxy {
        let listener = TcpListener::bind(address).expect("an address of its own");
        let state = Mutex::new(State { link: Link::Up, streams: Vec::new(), count: 0 });
        let shared = Arc::new(Shared { state, changed: Condvar::new() });
        let accepting = shared.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                match accepting.link() {
                    Link::Gone => return,
                    Link::Cut => {}
                    Link::Up | Link::Stalled => drop(stream.and_then(|s| forward(s, to, &accepting))),
                }
            }
        });
        Proxy { address, shared }
    }

    /// How many connections were made so far.
    pub fn connections(&self) -> usize {
        self.shared.state.lock().unwrap().count
    }

    pub fn set(&self, link: Link) {
        let mut state = self.shared.state.lock().unwrap();
        state.link = link;
        if matches!(link, Link::Cut | Link::Gone) {
            for stream in state.streams.drain(..) {
                let _ = stream.shutdown(Shutdown::Both); // it may have ended by itself
            }
        }
        drop(state);
        self.shared.changed.notify_all();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.set(Link::Gone);
        let _ = TcpStream::connect(self.address); // wakes the listener
    }
}

impl Shared {
    fn link(&self) -> Link {
        self.state.lock().unwrap().link
    }

    /// Waits while the link is stalled.
    fn pass(&self) -> Link {
        let mut state = self.state.lock().unwrap();
        while state.link == Link::Stalled {
            state = self.changed.wait(state).unwrap();
        }
        state.link
    }
}

fn forward(client: TcpStream, to: SocketAddr, shared: &Arc<Shared>) -> io::Result<()> {
    let server = TcpStream::connect_timeout(&to, Duration::from_secs(1))?;
    shared.state.lock().unwrap().count += 1;
    for stream in [&client, &server] {
        stream.set_nodelay(true)?;
        let clone = stream.try_clone()?;
        shared.state.lock().unwrap().streams.push(clone);
    }
    for (mut from, mut to) in [(client.try_clone()?, server.try_clone()?), (server, client)] {
        let shared = shared.clone();
        thread::spawn(move || {
            let mut buffer = vec![0; 64 * 1024];
            while let Ok(count @ 1..) = from.read(&mut buffer) {
                if shared.pass() != Link::Up || to.write_all(&buffer[..count]).is_err() {
                    break;
                }
            }
            let _ = from.shutdown(Shutdown::Both);
            let _ = to.shutdown(Shutdown::Both);
        });
    }
    Ok(())
}
