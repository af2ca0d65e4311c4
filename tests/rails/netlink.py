"""Weather by netlink: what `ip` and `tc` do, without starting a process.

A fault has to come at a known moment, and two cores that are busy with the transfer should not start programs
meanwhile. A `Host` keeps one socket in the network name space of one host; each call is one message and its answer.
"""
import ctypes
import ipaddress
import os
import socket
import struct
import threading

RTM_NEWLINK, RTM_NEWNEIGH, RTM_DELNEIGH, RTM_NEWQDISC = 16, 28, 29, 36
SOCK_DIAG_BY_FAMILY, SOCK_DESTROY = 20, 21
REQUEST, ACK, REPLACE, CREATE, DUMP = 0x1, 0x4, 0x100, 0x400, 0x300
NLMSG_ERROR, NLMSG_DONE = 2, 3
NETLINK_ROUTE, NETLINK_SOCK_DIAG = 0, 4
IFF_UP, NUD_PERMANENT, TC_ROOT, LINKLAYER_ETHERNET = 1, 0x80, 0xFFFFFFFF, 1
NOBODY = bytes.fromhex("020000000099")  # a hardware address that nobody has: what is sent to it is lost
CLONE_NEWNET = 0x40000000


def inside(namespace, function):
    """What `function` gives in a thread that lives in that network name space."""
    result = []

    def run():
        try:
            libc = ctypes.CDLL(None, use_errno=True)
            with open(f"/run/netns/{namespace}", "rb") as there:
                if libc.setns(there.fileno(), CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), f"setns {namespace}")
            result.append(function())
        except BaseException as why:  # handed on below: an exception does not leave a thread by itself
            result.append(why)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if isinstance(result[0], BaseException):
        raise result[0]
    return result[0]


class Netlink:
    """One netlink socket; requests are answered before the call returns."""

    def __init__(self, family):
        self.socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, family)
        self.socket.bind((0, 0))
        self.socket.settimeout(5)
        self.count = 0

    def ask(self, kind, flags, body):
        """The bodies of the answers; raises what the kernel refuses."""
        self.count += 1
        head = struct.pack("=IHHII", 16 + len(body), kind, flags | REQUEST, self.count, 0)
        self.socket.send(head + body)
        answers = []
        while True:
            data = self.socket.recv(1 << 20)
            while len(data) >= 16:
                size, what, _, number, _ = struct.unpack_from("=IHHII", data)
                answer, data = data[16:size], data[(size + 3) & ~3:]
                if number != self.count:
                    continue
                if what == NLMSG_ERROR:
                    error = struct.unpack_from("=i", answer)[0]
                    if error:
                        raise OSError(-error, os.strerror(-error))
                    return answers
                if what == NLMSG_DONE:
                    return answers
                answers.append(answer)

    def close(self):
        self.socket.close()


def attribute(kind, body):
    return struct.pack("=HH", 4 + len(body), kind) + body + b"\0" * (-len(body) % 4)


class Host:
    """One network name space, seen from outside of it."""

    def __init__(self, namespace):
        self.namespace = namespace
        self.route = inside(namespace, lambda: Netlink(NETLINK_ROUTE))
        self.diag = inside(namespace, lambda: Netlink(NETLINK_SOCK_DIAG))
        self.indices = {name: index for index, name in inside(namespace, socket.if_nameindex)}

    def close(self):
        self.route.close()
        self.diag.close()

    def link(self, device, up):
        """Switches an interface; its peer loses or finds its carrier."""
        body = struct.pack("=BBHiII", 0, 0, 0, self.indices[device], IFF_UP if up else 0, IFF_UP)
        self.route.ask(RTM_NEWLINK, ACK, body)

    def hole(self, device, address, on):
        """Sends what is meant for `address` to nobody, without a word to anyone; or no longer."""
        body = struct.pack("=BBHiHBB", socket.AF_INET, 0, 0, self.indices[device], NUD_PERMANENT, 0, 0)
        body += attribute(1, ipaddress.ip_address(address).packed)
        if on:
            self.route.ask(RTM_NEWNEIGH, ACK | REPLACE | CREATE, body + attribute(2, NOBODY))
            return
        try:
            self.route.ask(RTM_DELNEIGH, ACK, body)
        except FileNotFoundError:
            pass  # the link went down meanwhile, and took its neighbours along

    def rate(self, device, bits, burst, limit):
        """Changes the token bucket of an interface; it starts anew with `burst` bytes of tokens."""
        spec = struct.pack("=BBHhHI", 0, LINKLAYER_ETHERNET, 0, -1, 0, int(bits / 8))
        parms = spec + bytes(12) + struct.pack("=III", int(limit), 0, 0)
        options = attribute(1, parms) + attribute(6, struct.pack("=I", int(burst)))
        body = struct.pack("=BBHiIII", 0, 0, 0, self.indices[device], 0, TC_ROOT, 0)
        self.route.ask(RTM_NEWQDISC, ACK, body + attribute(1, b"tbf\0") + attribute(2, options))

    def reset(self, address):
        """Ends every TCP connection from `address` here, and tells the other end so (RST). How many."""
        ended = 0
        for sockid in self.connections(address):
            # the states are a filter for dumps only
            body = struct.pack("=BBBBI", socket.AF_INET, socket.IPPROTO_TCP, 0, 0, 0xFFFFFFFF) + sockid
            try:
                self.diag.ask(SOCK_DESTROY, ACK, body)
                ended += 1
            except FileNotFoundError:
                pass  # it ended by itself meanwhile
        return ended

    def connections(self, address):
        """The established TCP connections whose end here is `address`."""
        body = struct.pack("=BBBBI", socket.AF_INET, socket.IPPROTO_TCP, 0, 0, 1 << 1) + bytes(48)
        found = self.diag.ask(SOCK_DIAG_BY_FAMILY, DUMP, body)
        wanted = ipaddress.ip_address(address).packed
        return [answer[4:52] for answer in found if answer[8:12] == wanted]
