//! What metadata stores want to know: upstream's variables for redis and clusters, etcd's own for etcd
//! (`ETCDCTL_*`, as its command line client reads them).

use ::tent::StoreConfig;
use ::tent::control::store::StoreAddress;
use std::path::PathBuf;

/// What the environment says of stores; empty = nothing.
#[derive(Debug, Clone, Default)]
pub(crate) struct StoreVars {
    pub(super) cluster_id: String,
    pub(super) redis_username: String,
    pub(super) redis_password: String,
    pub(super) redis_db: u8,
    /// The name, or `name:password`.
    pub(super) etcd_user: String,
    pub(super) etcd_password: String,
    pub(super) ca: String,
    pub(super) certificate: String,
    pub(super) key: String,
}

impl StoreVars {
    /// The store at `url`, which reads as `address`, for an engine of that name.
    pub(crate) fn config(&self, address: &StoreAddress, url: &str, name: &str) -> StoreConfig {
        let (url, name, cluster) = (url.to_owned(), name.to_owned(), self.cluster_id.clone());
        let mut config = StoreConfig { url, name, cluster, ..StoreConfig::default() };
        match address {
            StoreAddress::Redis(_) => {
                config.user.clone_from(&self.redis_username);
                config.password.clone_from(&self.redis_password);
                config.db = self.redis_db;
            }
            StoreAddress::Etcd(_) => {
                let split = self.etcd_user.split_once(':');
                let (user, password) = split.unwrap_or((&self.etcd_user, &self.etcd_password));
                (config.user, config.password) = (user.to_owned(), password.to_owned());
                let path = |text: &String| (!text.is_empty()).then(|| PathBuf::from(text));
                let (certificate, key) = (path(&self.certificate), path(&self.key));
                if certificate.is_some() != key.is_some() {
                    log::warn!("ignoring one of ETCDCTL_CERT and ETCDCTL_KEY: set both or none");
                }
                (config.ca, config.identity) = (path(&self.ca), certificate.zip(key));
            }
            StoreAddress::Http(_) | StoreAddress::P2pHandshake => {}
        }
        config
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::of;
    use super::*;

    fn config(url: &str, vars: &[(&str, &str)]) -> StoreConfig {
        let s = of(vars);
        assert!(s.warnings.is_empty(), "{:?}", s.warnings);
        s.store.config(&StoreAddress::parse(url).unwrap(), url, "n")
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
        let c = config("redis://h", &vars);
        assert_eq!(
            (&*c.user, &*c.password, c.db, &*c.cluster, &*c.name),
            ("ru", "rp", 7, "cl1", "n")
        );
        assert!(c.ca.is_none());
        let c = config("etcd://h:1", &vars);
        assert_eq!((&*c.user, &*c.password, c.db), ("eu", "e:p", 0));
        assert_eq!(c.identity, Some(("/c".into(), "/k".into())));
        assert_eq!(config("http://h/m", &vars).user, "");
        let separate = [("ETCDCTL_USER", "eu"), ("ETCDCTL_PASSWORD", "ep"), ("ETCDCTL_CERT", "/c")];
        let c = config("h:1", &separate);
        assert_eq!((&*c.user, &*c.password, c.identity), ("eu", "ep", None));
    }
}
