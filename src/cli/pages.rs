//! Reads long lists of an API server, a page at a time.

use futures::Stream;
use futures::stream::try_unfold;
use kube::api::{Api, ListParams};
use serde::de::DeserializeOwned;

/// Most objects in one response.
const PAGE: u32 = 500;

/// Returns the pages of a list.
pub fn list_pages<K>(api: &Api<K>, params: ListParams) -> impl Stream<Item = kube::Result<Vec<K>>>
where
    K: Clone + DeserializeOwned + std::fmt::Debug,
{
    try_unfold(Some(params.limit(PAGE)), move |next| async move {
        let Some(mut params) = next else { return Ok(None) };
        let page = api.list(&params).await?;
        params.continue_token = page.metadata.continue_.filter(|token| !token.is_empty());
        let next = params.continue_token.is_some().then_some(params);
        Ok(Some((page.items, next)))
    })
}
