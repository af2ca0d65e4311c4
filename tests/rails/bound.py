"""The bound of the rails as another program reaches it: iperf3 on every rail at once, one connection each."""
import json
import shutil
import subprocess
import time

from net import address


def iperf(rails, reverse=False, seconds=3):
    """(bytes of payload per second over all rails, seconds of processor time per gigabyte at both ends).

    `reverse`: towards host a, as a READ moves them."""
    if not shutil.which("iperf3"):
        raise RuntimeError("iperf3 is missing: apt-get install iperf3")
    numbers = range(1, len(rails.rates) + 1)
    servers = [subprocess.Popen(rails.exec(1, "iperf3", "-s", "-1", "-B", address(1, rail)), stdout=subprocess.DEVNULL)
               for rail in numbers]
    try:
        wait_for_listeners(rails, len(servers))
        words = ["-t", str(seconds), "-O", "1", "-J", *(["-R"] if reverse else [])]
        clients = [subprocess.Popen(rails.exec(0, "iperf3", "-c", address(1, rail), "-B", address(0, rail), *words),
                                    stdout=subprocess.PIPE, text=True) for rail in numbers]
        told = [json.loads(client.communicate(timeout=seconds + 20)[0])["end"] for client in clients]
    finally:
        for server in servers:
            server.kill()
            server.wait()
    rate = sum(end["sum_received"]["bits_per_second"] for end in told) / 8
    load = sum(end["cpu_utilization_percent"][f"{end_of}_total"] for end in told for end_of in ("host", "remote")) / 100
    return rate, load / (rate / 1e9)


def wait_for_listeners(rails, count):
    until = time.monotonic() + 10
    words = rails.exec(1, "ss", "-Hltn", "sport = :5201")
    while subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True).stdout.count("\n") < count:
        if time.monotonic() > until:
            raise RuntimeError("iperf3 does not listen")
        time.sleep(0.05)
