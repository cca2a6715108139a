//! Tells browsers that there is something new to see.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use tokio::time::{sleep, timeout};

use super::site::Site;

/// Browsers that are told at a time. Further ones are asked to come later; the pages work without.
pub(super) const LISTENERS: usize = 128;

/// At most so often.
const SHORTEST_PAUSE: Duration = Duration::from_secs(2);

/// At least so often, because what is shown ages.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// After which a browser tries again.
const RETRY: Duration = Duration::from_secs(2);

pub(super) async fn events(State(site): State<Site>) -> Response {
    let Ok(place) = Arc::clone(&site.listeners).try_acquire_owned() else {
        let busy = "Too many browsers listen; this page works without.\n";
        return (StatusCode::SERVICE_UNAVAILABLE, busy).into_response();
    };
    let first = (site.view, place, true);
    let events = stream::unfold(first, |(mut view, place, first)| async move {
        if first {
            // At once, so that the browser knows that somebody is there.
            let hello = Event::default().retry(RETRY).comment("hello");
            return Some((Ok::<_, Infallible>(hello), (view, place, false)));
        }
        sleep(SHORTEST_PAUSE).await;
        // That nothing has changed is as good a reason after the time.
        let _ = timeout(LONGEST_PAUSE - SHORTEST_PAUSE, view.changed()).await;
        let at_ms = view.now().unix_ms.to_string();
        let changed = Event::default().event("changed").data(at_ms);
        Some((Ok(changed), (view, place, false)))
    });
    Sse::new(events).into_response()
}
