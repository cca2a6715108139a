//! Stratum V1 on the wire: lines, requests, answers and notifications, in both directions.
//!
//! The translator and the relay read requests and write answers with it; the miner and the relay read what a server
//! says. It parses by borrowing from the line, never builds a JSON tree, and a `mining.submit` costs it no allocation.
//! It opens no socket, reads no clock and logs nothing.

mod client;
mod hex_text;
mod id;
mod json;
mod lines;
mod notify;
mod request;
mod server;
mod server_message;
mod submit;

pub use client::{
    write_authorize, write_configure, write_extranonce_subscribe, write_submit, write_subscribe,
    write_suggest_difficulty,
};
pub use hex_text::ExtranonceBytes;
pub use id::Id;
pub use json::{Array, Elements, Fault, Members, Object, Text, Value};
pub use lines::{Line, LineBuffer, Lines, MAX_LINE};
pub use notify::{Notification, NotifyTemplate};
pub use request::{
    Configure, Method, ParseError, Request, VersionRolling, parse_request, parse_request_strictly,
};
pub use server::{
    ConfigureReply, ErrorCode, write_configure_result, write_error, write_get_version,
    write_reconnect, write_reconnect_here, write_result, write_result_true, write_set_difficulty,
    write_set_extranonce, write_set_version_mask, write_show_message, write_subscribe_result,
};
pub use server_message::{
    ConfigureResult, Notify, RpcError, ServerMessage, SubscribeResult, parse_server_message,
};
pub use submit::{Share, Submit};
