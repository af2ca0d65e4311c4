//! A store behind HTTP: PUT, GET and DELETE of `URL?key=KEY`, as upstream's servers have it. No proxy is
//! asked, whatever the environment says: it would stand between a node and its own cluster. Entries have
//! no lease here.

use std::time::Duration;

use ureq::http::Response;
use ureq::tls::{Certificate, RootCerts, TlsConfig};
use ureq::{Agent, Body};

use super::address::percent_encode;
use super::{MAX_VALUE, Store, failed};
use crate::config::StoreConfig;
use crate::error::{Error, ErrorKind, Result};

/// See the module.
#[derive(Debug)]
pub(super) struct Http {
    url: String,
    agent: Agent,
}

type Answer = std::result::Result<Response<Body>, ureq::Error>;

impl Http {
    pub(super) fn new(url: String, config: &StoreConfig) -> Result<Self> {
        let mut tls = TlsConfig::builder();
        if let Some(path) = &config.ca {
            let refused = |why: &dyn std::fmt::Display| {
                let text = format!("no certificate in {}: {why}", path.display());
                Error::new(ErrorKind::InvalidArgument, text)
            };
            let pem = std::fs::read(path).map_err(|e| refused(&e))?;
            let one = Certificate::from_pem(&pem).map_err(|e| refused(&e))?;
            tls = tls.root_certs(RootCerts::new_with_certs(&[one]));
        }
        let settings = Agent::config_builder()
            .proxy(None)
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_global(Some(TIMEOUT))
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .tls_config(tls.build())
            .build();
        Ok(Self { url, agent: settings.new_agent() })
    }

    fn url_of(&self, key: &str) -> String {
        let mark = if self.url.contains('?') { '&' } else { '?' };
        format!("{}{mark}key={}", self.url, percent_encode(key))
    }

    /// Asks, and once more if a kept connection turned out to be closed: all three may be done twice.
    fn ask(&self, what: &str, key: &str, call: impl Fn(&str) -> Answer) -> Result<(u16, Vec<u8>)> {
        let url = self.url_of(key);
        let run = || {
            let mut answer = call(&url)?;
            let limit = u64::try_from(MAX_VALUE).unwrap_or(u64::MAX);
            let body = answer.body_mut().with_config().limit(limit).read_to_vec()?;
            Ok((answer.status().as_u16(), body))
        };
        let first = run();
        let broken = matches!(&first, Err(ureq::Error::Io(e)) if e.kind() != std::io::ErrorKind::ConnectionRefused);
        let result: std::result::Result<_, ureq::Error> = if broken { run() } else { first };
        result.map_err(|e| failed(&self.url, what, key, e))
    }

    fn put_once(&self, key: &str, value: &[u8]) -> Result<u16> {
        let put =
            |url: &str| self.agent.put(url).header("Content-Type", "application/json").send(value);
        Ok(self.ask("writing", key, put)?.0)
    }

    fn said(&self, what: &str, key: &str, status: u16) -> Error {
        let cure = match status {
            404 | 405 => " (is this the store's path? upstream's is /metadata)",
            401 | 403 => " (this client has no credentials to show)",
            413 => " (the server takes no description of that size)",
            _ => "",
        };
        failed(&self.url, what, key, format_args!("the server answered {status}{cure}"))
    }
}

impl Store for Http {
    fn get(&self, key: &str) -> Result<Option<Vec<u8>>> {
        match self.ask("reading", key, |url| self.agent.get(url).call())? {
            (200, body) => Ok(Some(body)),
            (404, _) => Ok(None),
            (status, _) => Err(self.said("reading", key, status)),
        }
    }

    fn put(&self, key: &str, value: &[u8]) -> Result<()> {
        let mut status = self.put_once(key, value)?;
        // upstream's Python server refuses to replace the address of an engine that crashed, for ever
        // (http_metadata_server.py)
        if status == 400 && key.contains("rpc_meta") {
            self.remove(key)?;
            status = self.put_once(key, value)?;
        }
        if status == 200 { Ok(()) } else { Err(self.said("writing", key, status)) }
    }

    fn remove(&self, key: &str) -> Result<()> {
        match self.ask("removing", key, |url| self.agent.delete(url).call())?.0 {
            // upstream's Python server says 404 to what is gone already, its Go server 200
            200 | 404 => Ok(()),
            status => Err(self.said("removing", key, status)),
        }
    }
}

/// Upstream's: for everything that one operation does, and for its connection.
const TIMEOUT: Duration = Duration::from_secs(3);
const CONNECT_TIMEOUT: Duration = Duration::from_millis(1500);
