//! A watch stream as a client sees it.

use std::collections::VecDeque;
use std::time::Duration;

use proto::etcdserverpb::watch_request::RequestUnion;
use proto::etcdserverpb::{
    WatchCancelRequest, WatchCreateRequest, WatchProgressRequest, WatchRequest, WatchResponse,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Status, Streaming};

use crate::client::Client;

/// No answer of a test takes this long unless the server hangs.
const ANSWER_SECONDS_MAX: u64 = 30;

/// An open stream.
#[derive(Debug)]
pub struct Watching {
    requests: Option<mpsc::UnboundedSender<WatchRequest>>,
    answers: Streaming<WatchResponse>,
    /// Answers that came while others were waited for.
    early: VecDeque<WatchResponse>,
}

impl Watching {
    /// Opens a stream with a first watcher: etcd says nothing before it has something to say.
    ///
    /// # Panics
    /// If the server refuses.
    pub async fn open(client: &Client, first: WatchCreateRequest) -> Watching {
        Watching::open_with(client, "", first).await
    }

    /// As [`Watching::open`], with a token unless it is empty.
    ///
    /// # Panics
    /// If the server refuses.
    pub async fn open_with(client: &Client, token: &str, first: WatchCreateRequest) -> Watching {
        Watching::begin(client, token, first)
            .await
            .expect("a stream")
    }

    /// As [`Watching::open`], of a server that may be gone.
    ///
    /// # Errors
    /// That of the call.
    pub async fn try_open(client: &Client, first: WatchCreateRequest) -> Result<Watching, Status> {
        Watching::begin(client, "", first).await
    }

    async fn begin(
        client: &Client,
        token: &str,
        first: WatchCreateRequest,
    ) -> Result<Watching, Status> {
        let (requests, receiver) = mpsc::unbounded_channel();
        let first = RequestUnion::CreateRequest(first);
        let first = WatchRequest {
            request_union: Some(first),
        };
        requests.send(first).expect("the receiver is here");
        let stream = UnboundedReceiverStream::new(receiver);
        let mut call = tonic::Request::new(stream);
        if !token.is_empty() {
            let token = token.parse().expect("a token is ASCII");
            call.metadata_mut().insert("token", token);
        }
        let answers = client.watch.clone().watch(call).await?;
        Ok(Watching {
            requests: Some(requests),
            answers: answers.into_inner(),
            early: VecDeque::new(),
        })
    }

    /// The next answer of a server that may be gone, however long it takes; `None` at the end.
    ///
    /// # Errors
    /// What the stream ended with.
    pub async fn next_or_end(&mut self) -> Result<Option<WatchResponse>, Status> {
        self.answers.message().await
    }

    /// Sends a request.
    ///
    /// # Panics
    /// After [`Watching::half_close`].
    pub fn send(&self, request: Option<RequestUnion>) {
        let requests = self.requests.as_ref().expect("not closed");
        let request = WatchRequest {
            request_union: request,
        };
        requests.send(request).expect("the stream is open");
    }

    /// Asks for another watcher.
    pub fn create(&self, request: WatchCreateRequest) {
        self.send(Some(RequestUnion::CreateRequest(request)));
    }

    /// Calls a watcher off.
    pub fn cancel(&self, watch_id: i64) {
        self.send(Some(RequestUnion::CancelRequest(WatchCancelRequest {
            watch_id,
        })));
    }

    /// Asks how far all watchers are.
    pub fn ask_progress(&self) {
        self.send(Some(RequestUnion::ProgressRequest(WatchProgressRequest {})));
    }

    /// Says that no more requests come.
    pub fn half_close(&mut self) {
        self.requests = None;
    }

    /// The next answer.
    ///
    /// # Errors
    /// What the stream ended with.
    ///
    /// # Panics
    /// If none comes, or the stream has ended well.
    pub async fn try_next(&mut self) -> Result<WatchResponse, Status> {
        if let Some(early) = self.early.pop_front() {
            return Ok(early);
        }
        let wait = Duration::from_secs(ANSWER_SECONDS_MAX);
        let answer = tokio::time::timeout(wait, self.answers.message());
        let answer = answer.await.expect("an answer in time")?;
        Ok(answer.expect("the stream goes on"))
    }

    /// The next answer.
    ///
    /// # Panics
    /// If none comes, or the stream has ended.
    pub async fn next(&mut self) -> WatchResponse {
        self.try_next().await.expect("no error")
    }

    /// The answer that says that a watcher was created or could not be.
    ///
    /// # Panics
    /// If none comes.
    pub async fn created(&mut self) -> WatchResponse {
        let mut early = VecDeque::new();
        loop {
            let answer = self.next().await;
            if answer.created {
                early.append(&mut self.early);
                self.early = early;
                return answer;
            }
            early.push_back(answer);
        }
    }

    /// The next answer, if one comes within a time.
    ///
    /// # Panics
    /// If the stream has ended.
    pub async fn next_within(&mut self, time: Duration) -> Option<WatchResponse> {
        if let Some(early) = self.early.pop_front() {
            return Some(early);
        }
        let answer = tokio::time::timeout(time, self.answers.message())
            .await
            .ok()?;
        Some(answer.expect("no error").expect("the stream goes on"))
    }

    /// Whether nothing comes for a while.
    pub async fn is_silent(&mut self, time: Duration) -> bool {
        if !self.early.is_empty() {
            return false;
        }
        match tokio::time::timeout(time, self.answers.message()).await {
            Err(_) => true,
            Ok(answer) => {
                let answer = answer.expect("no error").expect("the stream goes on");
                self.early.push_back(answer);
                false
            }
        }
    }
}

/// A watcher of one key, or of a range in the wire's form.
pub fn watch(key: &str, range_end: &str, start_revision: i64) -> WatchCreateRequest {
    WatchCreateRequest {
        key: key.to_owned().into(),
        range_end: range_end.to_owned().into(),
        start_revision,
        ..Default::default()
    }
}
