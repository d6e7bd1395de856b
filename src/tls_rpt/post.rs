//! Posting a report over HTTPS (RFC 8460 §5.4), as a seam.

use std::fmt;

use bytes::Bytes;

use crate::BoxFuture;
use crate::https::{HttpsClient, HttpsError, Url};

/// Posts reports.
pub trait PostReport: Send + Sync + fmt::Debug + 'static {
    /// Posts a body to a URI that begins with `https://`. Takes no longer than a minute or two.
    ///
    /// # Errors
    /// [`PostError`], which says whether trying again can help.
    ///
    /// # Cancel safety
    /// The body may have been taken all the same.
    fn post<'a>(
        &'a self,
        uri: &'a str,
        content_type: &'a str,
        body: Bytes,
    ) -> BoxFuture<'a, Result<(), PostError>>;
}

/// Why a report was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PostError {
    /// The URI cannot be posted to.
    #[error("the URI cannot be used")]
    Uri,
    /// The host answered with a status that is not 2xx.
    #[error("the host answered {0}")]
    Status(u16),
    /// There was no answer.
    #[error("the host did not answer")]
    NoAnswer,
}

impl PostError {
    /// Whether trying again later can help (RFC 9110 §15.5, §15.6).
    #[must_use]
    pub const fn is_transient(self) -> bool {
        match self {
            Self::Uri => false,
            Self::Status(status) => status >= 500 || status == 408 || status == 429,
            Self::NoAnswer => true,
        }
    }
}

/// A host that shows no valid certificate is given no report, although it may be (§3): what is in it
/// says where our mail goes.
impl PostReport for HttpsClient {
    fn post<'a>(
        &'a self,
        uri: &'a str,
        content_type: &'a str,
        body: Bytes,
    ) -> BoxFuture<'a, Result<(), PostError>> {
        Box::pin(async move {
            let url = Url::parse(uri).map_err(|_| PostError::Uri)?;
            match Self::post(self, &url, content_type, body).await {
                Ok(_) => Ok(()),
                Err(HttpsError::Status(status)) => Err(PostError::Status(status)),
                Err(_) => Err(PostError::NoAnswer),
            }
        })
    }
}
