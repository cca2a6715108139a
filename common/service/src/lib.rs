//! The frame that every role stands in: configuration, logs, signals, the listening socket and HTTP for operators.
//!
//! The `hashpool` binary calls [`config`], [`logs`] and [`shutdown`]; roles that listen call [`listener`], [`reload`] and
//! [`http`]. Nothing here knows a protocol, a share or another role, and nothing here runs on a share's path.

pub mod config;
pub mod http;
pub mod listener;
pub mod logs;
pub mod reload;
pub mod shutdown;
