"""The suite as separate processes on loopback, for tests: start, stop, kill and restart its services, and talk to them through the CLI.

Only Python's standard library. Binaries come from $ESPALIER_BIN. Everything a suite writes is in a folder of its own.
"""
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import tempfile
import time

BIN = pathlib.Path(os.environ.get("ESPALIER_BIN", "build/release/bin")).resolve()
ENDED = {"RUN_STATE_COMPLETED", "RUN_STATE_STOPPED", "RUN_STATE_FAILED"}


def free_port():
    """A port of the loopback interface that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class CommandFailed(Exception):
    """A CLI call ended with another exit code than expected; the text is what it printed."""


class Suite:
    """A coordinator, a reward service and workers. Use as a context manager: leaving it kills what still runs."""

    def __init__(self, workers=2, directory=None, flags=None):
        """`flags`: more flags of a service, by its name: {"coordinator": […], "reward": […], "worker-0": […]}; of every call: {"cli": […]}."""
        self.directory = pathlib.Path(directory or tempfile.mkdtemp(prefix="espalier-"))
        self.data = self.directory / "data"
        self.data.mkdir(parents=True, exist_ok=True)
        self.coordinator = f"127.0.0.1:{free_port()}"
        self.reward = f"127.0.0.1:{free_port()}"
        self.worker_count = workers
        self.flags = flags or {}
        self.processes = {}

    def __enter__(self):
        self.start_coordinator()
        self.start_reward()
        for index in range(self.worker_count):
            self.start_worker(index)
        self.wait_ready()
        return self

    def __exit__(self, kind, value, trace):
        for process in self.processes.values():
            if process.poll() is None:
                process.kill()
            process.wait()
        if kind is not None:
            for log in sorted(self.directory.glob("*.log")):
                print(f"--- {log.name}\n{log.read_text(errors='replace')[-3000:]}")
        shutil.rmtree(self.directory, ignore_errors=True)

    def _start(self, name, program, *arguments):
        log = open(self.directory / f"{name}.log", "ab")
        self.processes[name] = subprocess.Popen([BIN / program, *map(str, arguments), *map(str, self.flags.get(name, []))],
                                                stdout=log, stderr=subprocess.STDOUT)
        log.close()

    def start_coordinator(self):
        self._start("coordinator", "espalier-coordinator", "--listen", self.coordinator, "--data",
                    self.directory / "coordinator", "--lease-seconds", 5)

    def start_reward(self):
        self._start("reward", "espalier-reward", "--listen", self.reward)

    def start_worker(self, index):
        self._start(f"worker-{index}", "espalier-worker", "--coordinator", self.coordinator, "--reward", self.reward,
                    "--data-root", self.data)

    def kill(self, name, how=signal.SIGKILL):
        """Sends a signal and waits for the end; returns the exit code."""
        self.processes[name].send_signal(how)
        return self.processes[name].wait(30)

    def log(self, name):
        return (self.directory / f"{name}.log").read_text(errors="replace")

    def cli(self, *arguments, code=0, timeout=120):
        """Runs `espalier --json …`; returns its standard output. CommandFailed unless it exits with `code`."""
        done = subprocess.run([BIN / "espalier", "--coordinator", self.coordinator, "--reward", self.reward, "--json",
                               *map(str, self.flags.get("cli", [])), *map(str, arguments)],
                              capture_output=True, text=True, timeout=timeout)
        if code is not None and done.returncode != code:
            raise CommandFailed(f"espalier {' '.join(map(str, arguments))}: exit {done.returncode}, expected {code}\n"
                                f"{done.stdout[-2000:]}{done.stderr[-2000:]}")
        return done.stdout if code == 0 else done.stdout + done.stderr

    def json(self, *arguments, **options):
        return json.loads(self.cli(*arguments, **options))

    def wait_ready(self, seconds=20):
        """Until the coordinator answers and every worker is attached."""
        self.wait_for(lambda: len(self.json("workers", "list").get("workers", [])) >= self.worker_count, seconds,
                      "all workers are attached")

    def wait_for(self, condition, seconds, what):
        deadline = time.monotonic() + seconds
        while True:
            try:
                value = condition()
                if value:
                    return value
            except (CommandFailed, json.JSONDecodeError, KeyError):
                pass
            if time.monotonic() > deadline:
                raise AssertionError(f"not within {seconds} s: {what}")
            time.sleep(0.1)

    def submit(self, spec, **changes):
        """Submits a spec file with path=value changes; returns the run id."""
        arguments = [f"--set={path}={value}" for path, value in changes.items()]
        return self.run_of(self.json("run", "submit", spec, *arguments))["run_id"]

    @staticmethod
    def run_of(message):
        return message.get("run", message)

    def run(self, run_id):
        return self.run_of(self.json("run", "get", run_id))

    def step(self, run_id):
        return int(self.run(run_id).get("progress", {}).get("step", 0))

    def wait_step(self, run_id, step, seconds=60):
        self.wait_for(lambda: self.step(run_id) >= step, seconds, f"{run_id} reaches step {step}")

    def wait_end(self, run_id, state="RUN_STATE_COMPLETED", seconds=120):
        """Until the run is over; returns it. AssertionError when it ended otherwise."""
        run = self.wait_for(lambda: (lambda r: r if r["state"] in ENDED else None)(self.run(run_id)), seconds,
                            f"{run_id} ends")
        assert run["state"] == state, f"{run_id} is {run['state']}, expected {state}: {run.get('detail')}"
        return run

    def losses(self, run_id):
        """Loss by step, as recorded: {step: loss}."""
        points = self.json("run", "series", run_id).get("points", [])
        return {int(point["step"]): point.get("loss", 0.0) for point in points}

    def first_decision_step(self, run_id):
        """Step after which the run's first decision took effect; None without one."""
        decisions = self.json("plan", "list", run_id).get("decisions", [])
        return min((int(d["applied_step"]) for d in decisions if "applied_step" in d), default=None)


def write_corpus(path, lines=3000, seed=7):
    """Plain English-like text that any machine makes alike: a small grammar with a skewed choice of words."""
    state = seed

    def draw(n):
        nonlocal state
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        return ((state >> 33) * (state >> 35)) % (n * n) // n  # small numbers more often

    nouns = "king house river son daughter people city field word hand day night fire stone water gate servant".split()
    verbs = "went came said took gave made saw heard called built found kept sent brought".split()
    with open(path, "w", encoding="utf-8") as out:
        for _ in range(lines):
            out.write(f"And the {nouns[draw(len(nouns))]} {verbs[draw(len(verbs))]} the {nouns[draw(len(nouns))]}, "
                      f"and the {nouns[draw(len(nouns))]} of the {nouns[draw(len(nouns))]} "
                      f"{verbs[draw(len(verbs))]} {1 + draw(40)} times.\n")
