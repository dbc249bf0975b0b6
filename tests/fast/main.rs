mod ca;
mod identity;
mod identity_tls;
mod identity_watch;
mod support;
