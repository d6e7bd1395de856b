//! Sockets: everything that touches the network on behalf of the protocol.
pub mod connect;
pub mod tls;
