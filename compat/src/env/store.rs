//! The variables of metadata stores: upstream's for redis and clusters, etcd's own for etcd
//! (`ETCDCTL_*`, as its command line client reads them).

use super::{Reader, parse_addresses};
use ::tent::StoreConfig;
use ::tent::control::store::StoreAddress;
use std::net::IpAddr;
use std::path::PathBuf;

/// What the environment says of stores.
#[derive(Debug, Clone, Default)]
pub(crate) struct StoreVars {
    cluster: String,
    redis: (String, String, u8),
    etcd: (String, String),
    ca: Option<PathBuf>,
    identity: Option<(PathBuf, PathBuf)>,
    /// The address to publish, if not that of the first interface.
    pub(crate) host: Option<IpAddr>,
}

/// Reads them.
pub(super) fn read(env: &mut Reader<'_>) -> StoreVars {
    let text = |env: &Reader<'_>, name| env.text(name).unwrap_or_default();
    let db = env.number("MC_REDIS_DB_INDEX", 0..=255).unwrap_or(0);
    let redis = (text(env, "MC_REDIS_USERNAME"), text(env, "MC_REDIS_PASSWORD"), db);
    let user = text(env, "ETCDCTL_USER");
    let etcd = match user.split_once(':') {
        Some((user, password)) => (user.to_owned(), password.to_owned()),
        None => (user, text(env, "ETCDCTL_PASSWORD")),
    };
    let path = |env: &Reader<'_>, name| env.text(name).filter(|p| !p.is_empty()).map(PathBuf::from);
    let (cert, key) = (path(env, "ETCDCTL_CERT"), path(env, "ETCDCTL_KEY"));
    if cert.is_some() != key.is_some() {
        env.warnings.push("ignoring one of ETCDCTL_CERT and ETCDCTL_KEY: set both or none".into());
    }
    let quiet = &mut Reader { lookup: env.lookup, warnings: Vec::new() };
    // what is wrong with it is said where it chooses the rails
    let host = quiet.parsed("MC_TCP_BIND_ADDRESS", parse_addresses);
    StoreVars {
        cluster: text(env, "MC_METADATA_CLUSTER_ID"),
        redis,
        etcd,
        ca: path(env, "ETCDCTL_CACERT"),
        identity: cert.zip(key),
        host: host.and_then(|list| list.first().copied()),
    }
}

impl StoreVars {
    /// The store at `url`, which reads as `address`, for an engine of that name.
    pub(crate) fn config(&self, address: &StoreAddress, url: &str, name: &str) -> StoreConfig {
        let (url, name, cluster) = (url.to_owned(), name.to_owned(), self.cluster.clone());
        let mut config = StoreConfig { url, name, cluster, ..StoreConfig::default() };
        match address {
            StoreAddress::Redis(_) => {
                (config.user, config.password, config.db) = self.redis.clone();
            }
            StoreAddress::Etcd(_) => {
                (config.user, config.password) = self.etcd.clone();
                (config.ca, config.identity) = (self.ca.clone(), self.identity.clone());
            }
            StoreAddress::Http(_) | StoreAddress::P2pHandshake => {}
        }
        config
    }
}

#[cfg(test)]
mod tests {
    use super::super::settings;
    use super::*;

    fn config(url: &str, vars: &[(&str, &str)]) -> (StoreConfig, Vec<String>) {
        let s = settings(|name| vars.iter().find(|v| v.0 == name).map(|v| v.1.to_owned()));
        let address = StoreAddress::parse(url).unwrap();
        (s.store.config(&address, url, "n"), s.warnings)
    }

    #[test]
    fn each_store_gets_its_own() {
        let vars = [
            ("MC_METADATA_CLUSTER_ID", "cl1"),
            ("MC_REDIS_USERNAME", "ru"),
            ("MC_REDIS_PASSWORD", "rp"),
            ("MC_REDIS_DB_INDEX", "7"),
            ("ETCDCTL_USER", "eu:e:p"),
            ("ETCDCTL_CACERT", "/ca"),
            ("ETCDCTL_CERT", "/c"),
            ("ETCDCTL_KEY", "/k"),
        ];
        let (c, warnings) = config("redis://h", &vars);
        assert_eq!(
            (&*c.user, &*c.password, c.db, &*c.cluster, &*c.name),
            ("ru", "rp", 7, "cl1", "n")
        );
        assert!(c.ca.is_none() && warnings.is_empty());
        let (c, _) = config("etcd://h:1", &vars);
        assert_eq!((&*c.user, &*c.password, c.db), ("eu", "e:p", 0));
        assert_eq!(c.identity, Some(("/c".into(), "/k".into())));
        assert_eq!(config("http://h/m", &vars).0.user, "");
        let separate = [("ETCDCTL_USER", "eu"), ("ETCDCTL_PASSWORD", "ep"), ("ETCDCTL_CERT", "/c")];
        let (c, warnings) = config("h:1", &separate);
        assert_eq!((&*c.user, &*c.password, c.identity), ("eu", "ep", None));
        assert_eq!(warnings.len(), 1);
    }

    #[test]
    fn a_database_that_is_none_costs_a_warning() {
        for bad in ["256", "-1", "x", ""] {
            let (c, warnings) = config("redis://h", &[("MC_REDIS_DB_INDEX", bad)]);
            assert_eq!((c.db, warnings.len()), (0, 1), "{bad:?}");
        }
    }
}
