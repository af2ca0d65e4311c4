"""Random weather by seed: faults come and go, but one rail at least is always sound."""
import random
import time

from mover import Late

KINDS = ("hole", "down", "reset", "rate")


class Storm:
    """`pause_s`: the mean time between changes of the weather; a fault lasts two of them on average."""

    def __init__(self, rails, seed, kinds=KINDS, pause_s=0.15):
        self.rails, self.kinds, self.pause_s = rails, kinds, pause_s
        self.random = random.Random(seed)
        self.heals = {}  # rail: when its fault ends
        self.next = time.monotonic() + pause_s
        self.faults = 0

    def wait_s(self):
        """How long until the weather changes."""
        return max(0.0, min([self.next, *self.heals.values()]) - time.monotonic())

    def step(self):
        """Changes the weather as far as it is time."""
        now = time.monotonic()
        for rail in [rail for rail, end in self.heals.items() if end <= now]:
            del self.heals[rail]
            self.rails.heal(rail)
        if self.next > now:
            return
        self.next = now + self.random.expovariate(1 / self.pause_s)
        sound = [rail for rail in range(1, len(self.rails.rates) + 1) if rail not in self.heals]
        rail, kind = self.random.choice(sound), self.random.choice(self.kinds)
        if kind == "reset":
            self.rails.reset(rail, self.random.randrange(2))
        elif kind == "rate":
            self.rails.rate(rail, self.random.uniform(0.1, 1.0))
        elif len(sound) == 1:
            return
        elif kind == "hole":
            self.rails.hole(rail)
        else:
            self.rails.link(rail, False, self.random.randrange(2))
        if kind != "reset":
            # a slow rail counts as ill, so that the last sound one is never slow either
            self.heals[rail] = now + self.random.expovariate(1 / (2 * self.pause_s))
            if len(self.heals) == len(self.rails.rates):
                self.rails.heal(rail)
                del self.heals[rail]
        self.faults += 1

    def beside(self, mover, seconds):
        """The result of the command that `mover` is at, with this weather until it comes; then all heals."""
        until = min(time.monotonic() + seconds, mover.until)
        try:
            while True:
                try:
                    line = mover.line(min(self.wait_s(), max(0.0, until - time.monotonic())))
                    if "done" in line:
                        return line
                except Late:
                    if time.monotonic() >= until:
                        raise Late(f"no end, after {self.faults} faults") from None
                    self.step()
        finally:
            self.heals.clear()
            self.rails.heal()
