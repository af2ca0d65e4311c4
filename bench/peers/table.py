"""Tables, in Markdown, from the lines that `sweep.py` wrote. The last one sets ours against the best peer of
its class, point by point, and marks where we are behind.

    python table.py RESULTS.jsonl [--ref REFERENCE.json]...

Ratios are between figures of one run. A reference was measured in another, on another machine: its figures are
scaled by how much faster the peer that was measured beside it there is here, and remain a hint.
"""
import argparse
import json
import statistics
import sys

# ours: its class, whom it is to beat there, and references of its class from other runs
CLASSES = {
    "tent-tcp": ("tcp", ["mooncake-tcp", "nixl-tcp"], []),
    "tent-tcp-to-mooncake": ("mixed, we ask", ["mooncake-tcp"], []),
    "mooncake-tcp-to-tent": ("mixed, we serve", ["mooncake-tcp"], []),
    "tent-cma": ("same host, any memory", ["nixl-shm"], []),
    "tent-shm": ("same host, engine's memory", ["nixl-shm"], ["tent-upstream-shm"]),
}
# how many times Mooncake's GB/s our pair is to reach over TCP: the first that fits of (least block, least batch, ratio)
WANTED = [(1 << 20, 1, 1.5), (4096, 64, 5), (4096, 8, 3), (4096, 1, 3)]
# what the p99 of a small READ beside large transfers may be of Mooncake's
WANTED_HOL = 0.1
# a repetition beside which others used more of the cores than this says little
CROWDED = 0.3
# medians this close are equal: two runs of the same library differ by more
EQUAL = 0.02


def short(n):
    for unit, size in (("G", 1 << 30), ("M", 1 << 20), ("K", 1 << 10)):
        if n % size == 0:
            return "%d%s" % (n // size, unit)
    return str(n)


def number(x):
    return "%.3g" % x if abs(x) < 1000 else "%d" % x


def time_text(us):
    return number(us) if us < 1000 else "%.3gms" % (us / 1000)


def span(values):
    return "%s (%s-%s)" % (number(statistics.median(values)), number(min(values)), number(max(values)))


def table(head, rows):
    print("| " + " | ".join(head) + " |")
    print("|" + "---|" * len(head))
    for row in rows:
        print("| " + " | ".join(str(cell) for cell in row) + " |")
    print()


class Measured:
    """One point of one peer."""

    def __init__(self, line, faster=None):
        self.gbps, self.p50, self.p99 = line["GBps"], line["p50_us"], line["p99_us"]
        self.reference, self.faster = faster is not None, faster
        if self.reference:
            self.cpu, self.cpu_text, self.crowd, self.wrong = line["cpu_s_per_GB"], number(line["cpu_s_per_GB"]), 0, "-"
        else:
            init, target = statistics.median(line["cpu_init"]), statistics.median(line["cpu_target"])
            self.cpu, self.cpu_text = init + target, "%s (%s + %s)" % tuple(map(number, (init + target, init, target)))
            self.crowd, self.wrong = max(line["foreign_cores"]), line["wrong_bytes"]

    @property
    def median(self):
        return statistics.median(self.gbps)


def point_of(line):
    return line["op"], line["batch"], line["threads"], line["block"]


def read(path, references):
    lines = [json.loads(line) for line in open(path)]
    points = {}
    for line in lines:
        if line["kind"] == "point" and "error" not in line:
            points.setdefault(point_of(line), {})[line["peer"]] = Measured(line)
    for path in references:
        add_reference(points, json.load(open(path)))
    return lines, points


def add_reference(points, reference):
    there = {point_of(line): line for line in reference["points"] if point_of(line) in points}
    faster = {key: points[key][reference["beside"]].median / line["beside_GBps"]
              for key, line in there.items() if "beside_GBps" in line and reference["beside"] in points[key]}
    usual = statistics.median(faster.values()) if faster else 1.0
    for key, line in there.items():
        points[key][reference["peer"]] = Measured(line, faster.get(key, usual))


def head(lines):
    run = next(line for line in lines if line["kind"] == "run")
    print("%(when)s, %(cpus)d x %(cpu)s, Linux %(kernel)s; buffers of %(mib)d MiB, %(reps)d x %(seconds)g s in turn."
          % dict(run, mib=run["size"] >> 20), run["note"])
    print("Load before the run: %.2f.\n" % run["load"][0])


def all_points(points):
    for op, batch, threads in sorted({key[:3] for key in points}, key=lambda k: (k[2], k[1], k[0])):
        title = "%s, batch %d" % (op, batch) + (", %d threads" % threads if threads > 1 else "")
        print("### %s\n" % title)
        rows = []
        for key in sorted(k for k in points if k[:3] == (op, batch, threads)):
            for peer, m in points[key].items():
                rows.append([short(key[3]), peer + (" (other run)" if m.reference else ""), span(m.gbps),
                             time_text(m.p50), time_text(m.p99), m.cpu_text, m.wrong,
                             "%.1f" % m.crowd if m.crowd > CROWDED else ""])
        table(["block", "peer", "GB/s median (min-max)", "p50 us", "p99 us", "CPU s/GB both (initiator + target)",
               "wrong bytes", "cores others used"], rows)


def head_of_line(lines):
    rows = [[line["mode"], line["background"] or "none", line["peer"],
             "%s (%s-%s)" % (time_text(line["p50_us"]), time_text(min(line["p50s_us"])), time_text(max(line["p50s_us"]))),
             time_text(line["p99_us"]), time_text(line["max_us"]), span(line["background_GBps"]), line["n"]]
            for line in lines if line["kind"] == "hol" and "error" not in line]
    if rows:
        print("### 64 KiB READ beside 64 MiB transfers\n")
        table(["mode", "beside", "peer", "p50 us (min-max of repetitions)", "p99 us", "max us", "beside GB/s", "n"], rows)


def starts(lines):
    rows = [[line["peer"], line["engine_ms"], line["register_ms"], line["first_4k_ms"]]
            for line in lines if line["kind"] == "started" and "error" not in line]
    print("### Start\n")
    table(["peer", "engine ms", "register ms", "connect and first 4 KiB ms"], rows)


def each_ratio(ours, theirs):
    """What the repetitions allow the ratio to be."""
    if theirs.reference:
        return [f(ours.gbps) / g(theirs.gbps) / theirs.faster for f, g in ((min, max), (max, min))]
    # repetitions were made in turn: number i of one stands beside number i of the other
    return [a / b for a, b in zip(ours.gbps, theirs.gbps)]


def ratio_of(ours, theirs):
    return ours.median / theirs.median / (theirs.faster or 1)


def ratio_text(ours, theirs):
    each = each_ratio(ours, theirs)
    return "%.2f (%.2f-%.2f)" % (ratio_of(ours, theirs), min(each), max(each))


def behind_mark(ours, theirs):
    if ratio_of(ours, theirs) >= 1 - EQUAL:
        return ""
    return "**BEHIND**" if max(each_ratio(ours, theirs)) < 1 else "**behind**, ranges overlap"


def beside_row(key, name, ours, best, theirs, reference):
    p99, cpu = ours.p99 / theirs.p99, ours.cpu / max(theirs.cpu, 1e-9)
    mark, other, other_mark = behind_mark(ours, theirs), "", ""
    if reference:
        other, other_mark = "%s x %.2f: %s" % (number(reference.median), reference.faster, ratio_text(ours, reference)), behind_mark(ours, reference)
    marks = [mark, "*slow*" if p99 >= 1.1 else "", "*costly*" if cpu >= 1.1 else "",
             "reference: " + other_mark if other_mark else "", "crowded" if max(ours.crowd, theirs.crowd) > CROWDED else ""]
    threads = " x %d threads" % key[2] if key[2] > 1 else ""
    cells = [name, "%s %s x %d%s" % (key[0], short(key[3]), key[1], threads), number(ours.median),
             "%s %s" % (best, number(theirs.median)), ratio_text(ours, theirs), "%.2f" % p99, "%.2f" % cpu, other,
             "; ".join(m for m in marks if m)]
    return cells, bool(mark), bool(other_mark)


def beside_best(points):
    print("### Ours / best peer of the same class\n")
    print("GB/s: ratio of the medians (least and greatest of the repetitions); above 1 we are ahead. p99 and CPU: below 1 "
          "we are ahead; *slow* and *costly* mark 1.1 and more. Reference: upstream TENT's shm in another run, times how much "
          "faster nixl-shm is here than it was there (where that is not known: the median of the points); a hint.\n")
    rows = []
    for mine, (name, rivals, others) in CLASSES.items():
        for key in sorted(points, key=lambda k: (k[2], k[1], k[0], k[3])):
            here = points[key]
            there = {r: here[r] for r in rivals if r in here}
            if mine in here and there:
                best = max(there, key=lambda r: there[r].median)
                reference = next((here[r] for r in others if r in here), None)
                rows.append(beside_row(key, name, here[mine], best, there[best], reference))
    table(["class", "point", "ours GB/s", "best peer GB/s", "ratio", "p99 ratio", "CPU ratio", "reference GB/s x machine: ratio", ""],
          [cells for cells, _, _ in rows])
    print("Behind in GB/s at %d of %d points; behind the reference at %d." % (
        sum(b for _, b, _ in rows), len(rows), sum(o for _, _, o in rows)))


def wanted(points, lines):
    """Our pair over TCP against Mooncake's, and what it is to reach. Between 4 KiB and 1 MiB: ahead."""
    rows = []
    for key in sorted(points, key=lambda k: (k[2], k[1], k[0], k[3])):
        op, batch, threads, block = key
        ours, theirs = points[key].get("tent-tcp"), points[key].get("mooncake-tcp")
        if not ours or not theirs or threads > 1:
            continue
        goal = next((r for least, b, r in WANTED if (block >= least if least > 4096 else block == least) and batch >= b), 1)
        ratio = ratio_of(ours, theirs)
        rows.append(["%s %s x %d" % (op, short(block), batch), ratio_text(ours, theirs), goal, "" if ratio >= goal else "**missed**"])
    hol = {(line["mode"], line["background"], line["peer"]): line["p99_us"] for line in lines
           if line["kind"] == "hol" and "error" not in line and line["background"]}
    for (mode, background, peer), p99 in hol.items():
        theirs = hol.get((mode, background, "mooncake-tcp"))
        if peer == "tent-tcp" and theirs:
            rows.append(["64K READ beside 64M %s (%s), p99" % (background, mode), "%.3f" % (p99 / theirs), "at most %g" % WANTED_HOL,
                         "" if p99 <= WANTED_HOL * theirs else "**missed**"])
    if rows:
        print("### Our pair / Mooncake's over TCP, and what is wanted\n")
        table(["point", "ratio", "wanted", ""], rows)


def faults(lines):
    measured = [line for line in lines if line["kind"] == "point" and "error" not in line]
    wrong = [line for line in measured if line["wrong_bytes"]]
    print("Checked points: %d; with wrong bytes: %s." % (len(measured), len(wrong) or "none"))
    for line in wrong + [line for line in lines if "error" in line]:
        print(" - `%s`" % json.dumps(line))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("results")
    parser.add_argument("--ref", action="append", default=[])
    o = parser.parse_args()
    lines, points = read(o.results, o.ref)
    head(lines)
    all_points(points)
    head_of_line(lines)
    starts(lines)
    faults(lines)
    print()
    wanted(points, lines)
    beside_best(points)


if __name__ == "__main__":
    sys.exit(main())
