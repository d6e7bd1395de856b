//! One connection and the one request on it.

use std::pin::pin;

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, CONTENT_TYPE, HOST, USER_AGENT};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::time::timeout;

use super::{Fetched, HttpsClient, HttpsError, Url};
use crate::hop::Host;
use crate::net::connect::ConnectError;
use crate::net::tls::TlsClass;

pub(super) async fn get(client: &HttpsClient, url: &Url) -> Result<Fetched, HttpsError> {
    let request = request(Method::GET, url, None, Bytes::new())?;
    exchange(client, url, request, async |response| {
        let status = response.status();
        if status != StatusCode::OK {
            return Err(HttpsError::Status(status.as_u16()));
        }
        let content_type = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let content_type = content_type.map(Into::into);
        let body = read(response.into_body(), client.limits.body).await?;
        Ok(Fetched { content_type, body })
    })
    .await
}

pub(super) async fn post(
    client: &HttpsClient,
    url: &Url,
    content_type: &str,
    body: Bytes,
) -> Result<u16, HttpsError> {
    let request = request(Method::POST, url, Some(content_type), body)?;
    exchange(client, url, request, async |response| {
        let status = response.status();
        if status.is_success() { Ok(status.as_u16()) } else { Err(HttpsError::Status(status.as_u16())) }
    })
    .await
}

fn request(
    method: Method,
    url: &Url,
    content_type: Option<&str>,
    body: Bytes,
) -> Result<Request<Full<Bytes>>, HttpsError> {
    let mut request = Request::builder()
        .method(method)
        .uri(url.target())
        .header(HOST, url.authority())
        .header(USER_AGENT, AGENT)
        .header(CONNECTION, "close");
    if let Some(content_type) = content_type {
        request = request.header(CONTENT_TYPE, content_type);
    }
    request.body(Full::new(body)).map_err(|error| HttpsError::Http(error.into()))
}

async fn exchange<T>(
    client: &HttpsClient,
    url: &Url,
    request: Request<Full<Bytes>>,
    finish: impl AsyncFnOnce(Response<Incoming>) -> Result<T, HttpsError>,
) -> Result<T, HttpsError> {
    let limits = client.limits;
    let whole = async {
        let addresses = client.find.find(url.host()).await;
        // A connector looks up what has no address, in its own way.
        if addresses.is_empty() {
            return Err(ConnectError::NoAddress.into());
        }
        let host = Host::new(url.host().clone(), url.port()).with_addresses(addresses);
        let opened = client.connect.connect(&host).await?;
        let (stream, _) = client.tls.handshake(opened.io, &host, TlsClass::Verifying).await?;
        let (mut sender, connection) = http1::Builder::new()
            .max_headers(MAX_FIELDS)
            .max_buf_size(limits.head.max(SMALLEST_HEAD))
            .handshake(TokioIo::new(stream))
            .await
            .map_err(http)?;
        let answer = async { finish(sender.send_request(request).await.map_err(http)?).await };
        let (mut answer, mut connection) = (pin!(answer), pin!(connection));
        // The connection does the work for both; it may end first, with the answer's rest at hand.
        tokio::select! {
            biased;
            answer = &mut answer => return answer,
            _ = &mut connection => {}
        }
        answer.await
    };
    timeout(limits.time, whole).await.unwrap_or(Err(HttpsError::TimedOut(limits.time)))
}

async fn read(mut body: Incoming, limit: usize) -> Result<Bytes, HttpsError> {
    let mut octets = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(http)?.into_data() else { continue };
        if octets.len().saturating_add(data.len()) > limit {
            return Err(HttpsError::TooLarge);
        }
        octets.extend_from_slice(&data);
    }
    Ok(octets.freeze())
}

fn http(error: hyper::Error) -> HttpsError {
    HttpsError::Http(error.into())
}

const AGENT: &str = concat!("postroad/", env!("CARGO_PKG_VERSION"));
/// Web servers send some 20.
const MAX_FIELDS: usize = 64;
/// What hyper needs at least.
const SMALLEST_HEAD: usize = 8192;
