//! Questions to other members, each over a connection of its own.

use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Limited};

use super::connect::{Dialer, authority};
use super::{BoxBody, whole};
use crate::config::ListenTls;

/// The largest answer is a list of members.
const ANSWER_BYTES_MAX: usize = 4 << 20;

/// Asks other members.
pub struct PeerClient {
    dialer: Dialer,
}

/// Something to be posted.
#[derive(Debug, Clone)]
pub struct Question {
    /// Where.
    pub path: String,
    /// What the body is; nothing if empty.
    pub content_type: &'static str,
    /// Shows for whom it is asked.
    pub authorization: Option<String>,
    /// The question itself.
    pub body: Bytes,
}

impl PeerClient {
    /// Speaks TLS, where a URL says so, as `tls` has it; a connection must come about within
    /// `dial_timeout`.
    pub fn new(tls: Option<ListenTls>, dial_timeout: Duration) -> PeerClient {
        PeerClient {
            dialer: Dialer::new(tls, dial_timeout),
        }
    }

    /// Posts a question; the answer's status and body.
    ///
    /// # Errors
    /// Why there is no answer.
    pub async fn ask(&self, url: &str, question: &Question) -> Result<(StatusCode, Bytes), String> {
        let mut request = Request::post(&question.path).header(HOST, authority(url));
        if !question.content_type.is_empty() {
            request = request.header(CONTENT_TYPE, question.content_type);
        }
        if let Some(authorization) = &question.authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        let request = request.body(whole(question.body.clone()));
        let response = self.send(url, request.map_err(|error| error.to_string())?);
        let (head, body) = response.await?.into_parts();
        Ok((head.status, body))
    }

    /// Gets a page within `patience`.
    ///
    /// # Errors
    /// Why there is no answer.
    pub async fn get(
        &self,
        url: &str,
        path: &str,
        patience: Duration,
    ) -> Result<Response<Bytes>, String> {
        self.get_with(url, path, Bytes::new(), patience).await
    }

    /// Gets a page that depends on a body of JSON, within `patience`.
    ///
    /// # Errors
    /// Why there is no answer.
    pub async fn get_with(
        &self,
        url: &str,
        path: &str,
        json: Bytes,
        patience: Duration,
    ) -> Result<Response<Bytes>, String> {
        let mut request = Request::builder()
            .method(Method::GET)
            .uri(path)
            .header(HOST, authority(url));
        if !json.is_empty() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        let request = request
            .body(whole(json))
            .map_err(|error| error.to_string())?;
        tokio::time::timeout(patience, self.send(url, request))
            .await
            .map_err(|_| format!("no answer within {} s", patience.as_secs()))?
    }

    async fn send(&self, url: &str, request: Request<BoxBody>) -> Result<Response<Bytes>, String> {
        let connection = self.dialer.connect(url).await;
        let mut connection = connection.map_err(|error| error.to_string())?;
        let response = connection.send_request(request).await;
        let (head, body) = response.map_err(|error| error.to_string())?.into_parts();
        let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|error| error.to_string())?.to_bytes();
        Ok(Response::from_parts(head, body))
    }
}
