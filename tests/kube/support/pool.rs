//! API servers, shared by the tests one after the other.

use std::sync::{Mutex, PoisonError};

use tokio::sync::{Semaphore, SemaphorePermit};

use super::server::Server;

/// At one time. Each takes some 350 MB, and seconds of a processor to start.
const SERVERS: u32 = 4;

static PLACES: Semaphore = Semaphore::const_new(SERVERS as usize);
static IDLE: Mutex<Vec<Server>> = Mutex::new(Vec::new());

/// A server for as long as this lives.
pub struct Lease {
    server: Option<Server>,
    _place: SemaphorePermit<'static>,
}

/// So many servers, clean. All places are taken at once, so that two tests do not wait for each other for ever.
pub async fn acquire(count: u32) -> Vec<Lease> {
    let mut places = PLACES.acquire_many(count).await.expect("it is never closed");
    let starts = (0..count).map(|_| tokio::task::spawn_blocking(|| idle().map_or_else(Server::start, clean)));
    let starts: Vec<_> = starts.collect(); // side by side
    let mut leases = Vec::new();
    for start in starts {
        let server = start.await.unwrap_or_else(|e| std::panic::resume_unwind(e.into_panic()));
        leases.push(Lease { server: Some(server), _place: places.split(1).expect("one for each") });
    }
    leases
}

fn idle() -> Option<Server> {
    IDLE.lock().unwrap_or_else(PoisonError::into_inner).pop()
}

fn clean(mut server: Server) -> Server {
    server.clean();
    server
}

impl std::ops::Deref for Lease {
    type Target = Server;
    fn deref(&self) -> &Server {
        self.server.as_ref().expect("until it is dropped")
    }
}

impl std::ops::DerefMut for Lease {
    fn deref_mut(&mut self) -> &mut Server {
        self.server.as_mut().expect("until it is dropped")
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        IDLE.lock().unwrap_or_else(PoisonError::into_inner).extend(self.server.take());
    }
}
