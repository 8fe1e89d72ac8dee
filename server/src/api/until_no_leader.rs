//! Streams whose clients want them to end when this member has lost its leader, so that they go to
//! another member that has one.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Response};
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::sync::watch;
use tonic::Status;
use tonic::body::Body;

use crate::requests::NoAnswer;

/// Election timeouts without a leader before streams end; etcd's value.
const ELECTIONS_MAX: u32 = 3;

/// The answer of a stream, or the end of it.
pub(super) struct UntilNoLeader {
    body: Body,
    lost: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl UntilNoLeader {
    /// Ends `response` with etcd's status when there has been no leader for a while. `leaders` tells the
    /// leader's id, 0 for none.
    pub(super) fn wrap(
        response: Response<Body>,
        leaders: watch::Receiver<u64>,
        election_timeout: Duration,
    ) -> Response<Body> {
        response.map(|body| {
            let lost = lost(leaders, election_timeout * ELECTIONS_MAX);
            Body::new(UntilNoLeader {
                body,
                lost: Some(Box::pin(lost)),
            })
        })
    }
}

/// Returns when there has been no leader for so long.
async fn lost(mut leaders: watch::Receiver<u64>, patience: Duration) {
    loop {
        // The sender goes only when the member stops, which ends its streams anyway.
        if leaders.wait_for(|leader| *leader == 0).await.is_err() {
            return;
        }
        let elected = leaders.wait_for(|leader| *leader != 0);
        if tokio::time::timeout(patience, elected).await.is_err() {
            return;
        }
    }
}

impl HttpBody for UntilNoLeader {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let Some(lost) = &mut self.lost else {
            return Poll::Ready(None);
        };
        if lost.as_mut().poll(context).is_ready() {
            self.lost = None;
            let status = Status::from(NoAnswer::NoLeader);
            let mut trailers = HeaderMap::new();
            let told = status.add_header(&mut trailers);
            return Poll::Ready(Some(told.map(|()| Frame::trailers(trailers))));
        }
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.lost.is_none() || self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http_body_util::BodyExt;

    use super::*;

    fn stream(leaders: &watch::Sender<u64>) -> UntilNoLeader {
        let lost = lost(leaders.subscribe(), Duration::from_secs(3));
        UntilNoLeader {
            body: Body::new(http_body_util::StreamBody::new(tokio_stream::pending::<
                Result<Frame<Bytes>, Infallible>,
            >())),
            lost: Some(Box::pin(lost)),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_survives_an_election_and_ends_without_a_leader() {
        let leaders = watch::Sender::new(1);
        let mut stream = stream(&leaders);
        for _ in 0..3 {
            leaders.send_replace(0);
            let early = tokio::time::timeout(Duration::from_secs(2), stream.frame()).await;
            assert!(early.is_err(), "an election is no reason");
            leaders.send_replace(2);
            let calm = tokio::time::timeout(Duration::from_secs(60), stream.frame()).await;
            assert!(calm.is_err(), "there is a leader");
        }
        leaders.send_replace(0);
        let frame = stream.frame().await.expect("the end").expect("in order");
        let trailers = frame.into_trailers().expect("trailers");
        assert_eq!(trailers["grpc-message"], "etcdserver:%20no%20leader");
        assert!(stream.frame().await.is_none());
    }
}
