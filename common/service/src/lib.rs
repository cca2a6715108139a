//! The frame that every role stands in: configuration, logs, signals, the listening socket and HTTP for operators.
//!
//! The `hashpool` binary calls [`config`], [`logs`] and [`shutdown`]; roles that listen call [`listener`], [`tls`],
//! [`reload`] and [`http`], and keep to a [`pace`]. Nothing here knows a protocol, a share or another role, and nothing but the pace runs on
//! a share's path.

pub mod config;
pub mod http;
pub mod listener;
pub mod logs;
pub mod pace;
pub mod reload;
pub mod shutdown;
pub mod tls;
