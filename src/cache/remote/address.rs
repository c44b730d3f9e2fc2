//! The address of a remote cache: which store it names, and what the environment says of it.

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::{Context as _, bail};
use object_store::{
    BackoffConfig, ObjectStore, RetryConfig, aws::AmazonS3Builder, azure::MicrosoftAzureBuilder,
    gcp::GoogleCloudStorageBuilder, local::LocalFileSystem,
};

use super::{http::Connector, objects::Objects};
use crate::error::hinted;

/// A store that does not answer must not hold the run for long.
fn patience() -> RetryConfig {
    RetryConfig {
        backoff: BackoffConfig {
            init_backoff: Duration::from_millis(100),
            max_backoff: Duration::from_secs(2),
            base: 2.0,
        },
        max_retries: 3,
        retry_timeout: Duration::from_secs(60),
    }
}

/// Opens the store that an address names.
pub(super) fn open(address: &str, writes: bool) -> anyhow::Result<Objects> {
    let Some((scheme, rest)) = address.split_once("://") else {
        return folder(Path::new(address), writes);
    };
    if rest.contains('?') || rest.split('/').next().unwrap_or_default().contains(':') {
        return Err(hinted(
            "the address of the remote cache must not hold credentials or options",
            "set them in the environment, e.g. AWS_ACCESS_KEY_ID or AZURE_STORAGE_ACCOUNT_KEY",
        ));
    }
    let (host, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    if host.is_empty() && scheme != "file" {
        bail!("the address `{address}` of the remote cache names no bucket");
    }
    let cannot = || format!("cannot use the remote cache `{address}`");
    let (retry, web) = (patience(), Connector);
    let store: Arc<dyn ObjectStore> = match scheme {
        "file" => return folder(Path::new(rest), writes),
        "s3" | "s3a" => {
            let builder = AmazonS3Builder::from_env().with_url(address).with_retry(retry);
            Arc::new(builder.with_http_connector(web).build().with_context(cannot)?)
        }
        "gs" => {
            let builder = GoogleCloudStorageBuilder::from_env().with_url(address).with_retry(retry);
            Arc::new(builder.with_http_connector(web).build().with_context(cannot)?)
        }
        "az" | "azure" | "abfs" | "abfss" => {
            let builder = MicrosoftAzureBuilder::from_env().with_url(address).with_retry(retry);
            Arc::new(builder.with_http_connector(web).build().with_context(cannot)?)
        }
        _ => {
            return Err(hinted(
                format!("the address `{address}` of the remote cache names no kind of store"),
                "use s3://bucket/folder, gs://bucket/folder, az://container/folder, or a path",
            ));
        }
    };
    Objects::new(store, prefix)
}

fn folder(path: &Path, writes: bool) -> anyhow::Result<Objects> {
    let cannot = || format!("cannot use the remote cache `{}`", path.display());
    let path = std::path::absolute(path).with_context(cannot)?;
    if writes {
        std::fs::create_dir_all(&path).with_context(cannot)?;
    }
    let store = LocalFileSystem::new_with_prefix(&path).with_context(cannot)?;
    Objects::new(Arc::new(store), "")
}
