//! Tells when this machine's network changes: an address, an interface's carrier, a default route.
//!
//! The kernel's notifications (netlink) only say when to look; what has changed is found by comparing the interfaces with what they
//! were. So nothing of a notification is parsed but which kind it is, and what comes often on a machine that runs containers
//! (interfaces without an address of their own, host routes, refreshed lifetimes) is no change at all. A netlink library would bring
//! a connection task, a message tree and its allocations for what is forty lines here, on nix, which is there already.
use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;

use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;

use crate::runtime::Runtime;

/// A change.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NetworkChange {
    /// Addresses that the machine has lost: what is bound to them is dead.
    pub gone: Vec<IpAddr>,
    /// All that it has now.
    pub addresses: Vec<IpAddr>,
}

/// The machine's network as it was last seen, and the kernel's word that it may have changed.
pub struct NetworkChanges<R: Runtime> {
    notices: notices::Notices<R>,
    seen: Picture,
}

impl<R: Runtime> NetworkChanges<R> {
    /// Watches from now on. To be called within a runtime.
    pub fn watch() -> io::Result<NetworkChanges<R>> {
        // In this order: what changes between the two is told twice, not never.
        let notices = notices::Notices::listen()?;
        Ok(NetworkChanges {
            notices,
            seen: Picture::take()?,
        })
    }

    /// The next change. Notifications that are here together are one.
    pub async fn next(&mut self) -> io::Result<NetworkChange> {
        loop {
            let by_route = self.notices.next().await?;
            // Out of descriptors, say: the next notification may fare better, and heartbeats judge links anyway.
            let Ok(now) = Picture::take() else { continue };
            if let Some(change) = self.seen.become_(now, by_route) {
                return Ok(change);
            }
        }
    }
}

/// The addresses of this machine's interfaces.
pub fn addresses() -> Vec<IpAddr> {
    Picture::take().map_or_else(|_| Vec::new(), |picture| picture.addresses())
}

/// What counts of the machine's interfaces: names, whether they carry anything, addresses.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
struct Picture(BTreeSet<(String, bool, IpAddr)>);

impl Picture {
    fn take() -> io::Result<Picture> {
        let mut picture = BTreeSet::new();
        for interface in getifaddrs()? {
            let works = InterfaceFlags::IFF_UP | InterfaceFlags::IFF_RUNNING;
            let works = interface.flags.contains(works);
            if let Some(ip) = interface.address.and_then(ip_of) {
                picture.insert((interface.interface_name, works, ip));
            }
        }
        Ok(Picture(picture))
    }

    fn addresses(&self) -> Vec<IpAddr> {
        self.0.iter().map(|(_, _, ip)| *ip).collect()
    }

    /// Takes on what is now. `by_route`: the routes have changed, which is a change whatever the interfaces say.
    fn become_(&mut self, now: Picture, by_route: bool) -> Option<NetworkChange> {
        let before = std::mem::replace(&mut self.0, now.0);
        let differs = before
            .symmetric_difference(&self.0)
            .any(|(_, _, ip)| leads_out(*ip));
        if !differs && !by_route {
            return None;
        }
        let addresses = self.addresses();
        let gone = before
            .iter()
            .map(|(_, _, ip)| *ip)
            .filter(|ip| !addresses.contains(ip))
            .collect();
        Some(NetworkChange { gone, addresses })
    }
}

/// Whether an address may be a way to a cloud: containers' interfaces, which come and go, have none but link-local ones at the host.
fn leads_out(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => !v4.is_loopback() && !v4.is_link_local(),
        IpAddr::V6(v6) => !v6.is_loopback() && !v6.is_unicast_link_local(),
    }
}

fn ip_of(address: nix::sys::socket::SockaddrStorage) -> Option<IpAddr> {
    match (address.as_sockaddr_in(), address.as_sockaddr_in6()) {
        (Some(v4), _) => Some(IpAddr::V4(v4.ip())),
        (None, Some(v6)) => Some(IpAddr::V6(v6.ip())),
        (None, None) => None,
    }
}

#[cfg(target_os = "linux")]
mod notices {
    use std::future::poll_fn;
    use std::io::{self, ErrorKind};
    use std::os::fd::AsRawFd;
    use std::task::Poll;

    use nix::libc;
    use nix::sys::socket::{
        AddressFamily, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, socket,
    };

    use crate::runtime::{Datagrams, Runtime};

    /// The kernel's notifications. A socket of datagrams is all that the type says here: it is read by recv(2) like any.
    pub(super) struct Notices<R: Runtime>(R::Datagrams);

    const GROUPS: i32 = libc::RTMGRP_LINK
        | libc::RTMGRP_IPV4_IFADDR
        | libc::RTMGRP_IPV6_IFADDR
        | libc::RTMGRP_IPV4_ROUTE
        | libc::RTMGRP_IPV6_ROUTE;

    impl<R: Runtime> Notices<R> {
        pub(super) fn listen() -> io::Result<Notices<R>> {
            let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
            let socket = socket(
                AddressFamily::Netlink,
                SockType::Raw,
                flags,
                SockProtocol::NetlinkRoute,
            )?;
            bind(socket.as_raw_fd(), &NetlinkAddr::new(0, GROUPS as u32))?;
            Ok(Notices(R::datagrams(socket.into())?))
        }

        /// Waits for notifications and takes all that are here. True: a default route is among them.
        pub(super) async fn next(&mut self) -> io::Result<bool> {
            // A notification is one message a datagram; what doesn't fit is not wanted.
            let mut start = [0; NOTICE_BYTES];
            let first = poll_fn(|cx| self.0.poll_next(cx, &mut start)).await;
            let mut by_route = tells_of_route(first, &start)?;
            poll_fn(|cx| {
                while let Poll::Ready(more) = self.0.poll_next(cx, &mut start) {
                    by_route |= tells_of_route(more, &start)?;
                }
                Poll::Ready(Ok(by_route))
            })
            .await
        }
    }

    fn tells_of_route(heard: io::Result<usize>, start: &[u8]) -> io::Result<bool> {
        match heard {
            Ok(length) => Ok(start.get(..length).is_some_and(is_default_route)),
            // Some were lost: any may have been.
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => Ok(true),
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Up to the length of a route's destination: length (4 bytes), type (2), flags, sequence and port (10), family (1), length (1).
    const NOTICE_BYTES: usize = 18;

    /// Whether a notification is about a route to everywhere.
    pub(super) fn is_default_route(notice: &[u8]) -> bool {
        let kind = notice
            .get(4..6)
            .map(|kind| u16::from_ne_bytes([kind[0], kind[1]]));
        matches!(kind, Some(libc::RTM_NEWROUTE | libc::RTM_DELROUTE)) && notice.get(17) == Some(&0)
    }
}

#[cfg(not(target_os = "linux"))]
mod notices {
    use std::io;

    /// Nobody tells here: heartbeats alone find out.
    pub(super) struct Notices<R>(std::marker::PhantomData<R>);

    impl<R> Notices<R> {
        pub(super) fn listen() -> io::Result<Notices<R>> {
            Ok(Notices(std::marker::PhantomData))
        }

        pub(super) async fn next(&mut self) -> io::Result<bool> {
            std::future::pending().await
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(interfaces: &[(&str, bool, &str)]) -> Picture {
        let interfaces = interfaces.iter();
        Picture(
            interfaces
                .map(|(name, works, ip)| ((*name).to_owned(), *works, ip.parse().expect("an IP")))
                .collect(),
        )
    }

    #[test]
    fn a_lost_address_is_told_by_name() {
        let mut seen = picture(&[("eth0", true, "192.0.2.1"), ("lo", true, "127.0.0.1")]);
        let now = picture(&[("eth0", true, "192.0.2.9"), ("lo", true, "127.0.0.1")]);
        let change = seen.become_(now.clone(), false).expect("a change");
        assert_eq!(change.gone, ["192.0.2.1".parse::<IpAddr>().expect("an IP")]);
        assert_eq!(change.addresses.len(), 2);
        assert_eq!(seen.become_(now, false), None, "told once");
    }

    #[test]
    fn a_carrier_that_goes_is_a_change_and_takes_no_address_with_it() {
        let mut seen = picture(&[("eth0", true, "192.0.2.1")]);
        let change = seen.become_(picture(&[("eth0", false, "192.0.2.1")]), false);
        assert_eq!(change.expect("a change").gone, [] as [IpAddr; 0]);
    }

    #[test]
    fn an_address_that_moves_to_another_interface_is_not_gone() {
        let mut seen = picture(&[("eth0", true, "192.0.2.1")]);
        let change = seen.become_(picture(&[("br0", true, "192.0.2.1")]), false);
        assert_eq!(change.expect("a change").gone, [] as [IpAddr; 0]);
    }

    #[test]
    fn a_container_that_comes_or_goes_is_no_change() {
        let alone = picture(&[("eth0", true, "192.0.2.1")]);
        let mut seen = alone.clone();
        let beside = picture(&[("eth0", true, "192.0.2.1"), ("veth7", true, "fe80::7")]);
        assert_eq!(seen.become_(beside, false), None);
        assert_eq!(seen.become_(alone.clone(), false), None);
        assert!(seen.become_(alone, true).is_some(), "a route is one");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn only_routes_to_everywhere_count() {
        use nix::libc;
        let notice = |kind: u16, destination_bits: u8| {
            let mut bytes = [0; 18];
            bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
            bytes[17] = destination_bits;
            bytes
        };
        assert!(notices::is_default_route(&notice(libc::RTM_NEWROUTE, 0)));
        assert!(notices::is_default_route(&notice(libc::RTM_DELROUTE, 0)));
        assert!(!notices::is_default_route(&notice(libc::RTM_NEWROUTE, 32)));
        assert!(!notices::is_default_route(&notice(libc::RTM_NEWADDR, 0)));
        assert!(!notices::is_default_route(&[0; 5]));
    }
}
