//! The addresses of this network name space, as `getifaddrs` lists them.

use std::ffi::CStr;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ptr::NonNull;

/// One address of one interface; an interface with several has several entries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InterfaceAddr {
    /// Interface name, such as `eth0`.
    pub name: String,
    /// The address.
    pub addr: IpAddr,
    /// Length of the network prefix.
    pub prefix: u8,
    /// Switched on.
    pub up: bool,
    /// Has a carrier.
    pub running: bool,
    /// Leads back to this host.
    pub loopback: bool,
    /// Interface index where the address is link-local, else 0.
    pub scope_id: u32,
}

/// Every IPv4 and IPv6 address, in the kernel's order.
///
/// # Errors
/// The kernel's, when it gives no socket or memory.
pub fn interface_addrs() -> io::Result<Vec<InterfaceAddr>> {
    let mut head = std::ptr::null_mut();
    // SAFETY: `head` is a place for one pointer
    if unsafe { libc::getifaddrs(&raw mut head) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let list = List(head);
    let mut found = Vec::new();
    let mut next = NonNull::new(list.0);
    while let Some(entry) = next {
        // SAFETY: a non-null link of the list, which lives and is not written to until `list` drops
        let entry = unsafe { entry.as_ref() };
        found.extend(read(entry));
        next = NonNull::new(entry.ifa_next);
    }
    Ok(found)
}

/// Owns what `getifaddrs` gave.
struct List(*mut libc::ifaddrs);

impl Drop for List {
    fn drop(&mut self) {
        // SAFETY: given by getifaddrs, and nothing refers to it any more
        unsafe { libc::freeifaddrs(self.0) };
    }
}

fn read(entry: &libc::ifaddrs) -> Option<InterfaceAddr> {
    let (addr, scope_id) = address(entry.ifa_addr)?;
    let prefix = match address(entry.ifa_netmask)?.0 {
        IpAddr::V4(mask) => mask.to_bits().leading_ones(),
        IpAddr::V6(mask) => mask.to_bits().leading_ones(),
    };
    // SAFETY: the list's names are C strings that live as long as it
    let name = unsafe { CStr::from_ptr(entry.ifa_name) };
    let flag = |mask: i32| entry.ifa_flags & mask.cast_unsigned() != 0;
    Some(InterfaceAddr {
        name: name.to_string_lossy().into_owned(),
        addr,
        prefix: u8::try_from(prefix).unwrap_or(0),
        up: flag(libc::IFF_UP),
        running: flag(libc::IFF_RUNNING),
        loopback: flag(libc::IFF_LOOPBACK),
        scope_id,
    })
}

/// The address and scope that `raw` points to; `None` where it is null or of another family.
fn address(raw: *const libc::sockaddr) -> Option<(IpAddr, u32)> {
    if raw.is_null() {
        return None;
    }
    // SAFETY: not null, so the list keeps a socket address there, which begins with its family
    let family = unsafe { raw.cast::<libc::sa_family_t>().read_unaligned() };
    match i32::from(family) {
        libc::AF_INET => {
            // SAFETY: the family says that it is one of these
            let v4 = unsafe { raw.cast::<libc::sockaddr_in>().read_unaligned() };
            Some((IpAddr::V4(Ipv4Addr::from(v4.sin_addr.s_addr.to_ne_bytes())), 0))
        }
        libc::AF_INET6 => {
            // SAFETY: the family says that it is one of these
            let v6 = unsafe { raw.cast::<libc::sockaddr_in6>().read_unaligned() };
            Some((IpAddr::V6(Ipv6Addr::from(v6.sin6_addr.s6_addr)), v6.sin6_scope_id))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_host_has_a_loopback_address() {
        let all = interface_addrs().unwrap();
        let lo = all.iter().find(|i| i.addr == IpAddr::V4(Ipv4Addr::LOCALHOST)).unwrap();
        assert_eq!((lo.name.as_str(), lo.prefix, lo.loopback, lo.up), ("lo", 8, true, true));
        assert!(all.iter().all(|i| i.prefix <= if i.addr.is_ipv4() { 32 } else { 128 }));
    }
}
