"""Goal: a real Prometheus that scrapes a real run holds the run's own figures, and an alert fires and clears for its cause.
Method: Debian's prometheus over the endpoints of all services; the repository's alert rules with shorter waits; a worker that is
killed in the middle of a run and started again.
"""
import json
import pathlib
import re
import shutil
import subprocess
import time
import unittest
import urllib.error
import urllib.parse
import urllib.request

from suite import CommandFailed, Suite, free_port, write_corpus

TINY = "deploy/runs/tiny.yaml"
STEPS = 40
SEQUENCES = 8
LENGTH = 64
JOBS = {"coordinator": "espalier-coordinator", "reward": "espalier-reward", "worker-0": "espalier-worker",
        "worker-1": "espalier-worker"}


class Prometheus:
    """Debian's prometheus with scratch storage. A context manager."""

    def __init__(self, directory, targets):
        """`targets`: (job, address) pairs."""
        if shutil.which("prometheus") is None:
            raise AssertionError("prometheus is not installed: install the Debian packages of deploy/packages.txt")
        self.directory = directory
        self.address = f"127.0.0.1:{free_port()}"
        # The same rules; only what they wait for is shorter, as a test is.
        rules = re.sub(r"^(\s+for:) \d+[smh]$", r"\1 1s", pathlib.Path("deploy/monitoring/alerts.yaml").read_text(),
                       flags=re.MULTILINE)
        (directory / "alerts.yaml").write_text(rules)
        scrapes = [{"job_name": job, "static_configs": [{"targets": [a for j, a in targets if j == job]}]}
                   for job in sorted({job for job, _ in targets})]
        # JSON is YAML.
        (directory / "prometheus.yaml").write_text(json.dumps({
            "global": {"scrape_interval": "500ms", "scrape_timeout": "400ms", "evaluation_interval": "500ms"},
            "rule_files": ["alerts.yaml"], "scrape_configs": scrapes}))

    def __enter__(self):
        with open(self.directory / "prometheus.log", "ab") as log:
            self.process = subprocess.Popen(
                ["prometheus", f"--config.file={self.directory}/prometheus.yaml",
                 f"--storage.tsdb.path={self.directory}/tsdb", f"--web.listen-address={self.address}"],
                stdout=log, stderr=subprocess.STDOUT)
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()

    def get(self, path, **parameters):
        url = f"http://{self.address}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=10) as reply:
            return json.load(reply)["data"]

    def query(self, expression):
        """[(labels, value)]"""
        return [(r["metric"], float(r["value"][1])) for r in self.get("query", query=expression)["result"]]

    def value(self, expression):
        """The one value of `expression`; None while there is none."""
        found = self.query(expression)
        assert len(found) < 2, f"{expression}: {found}"
        return found[0][1] if found else None

    def firing(self):
        return {a["labels"]["alertname"] for a in self.get("alerts")["alerts"] if a["state"] == "firing"}


def until(condition, seconds, what):
    """Waits for a true value and gives it; services that are not up yet answer nothing."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            value = condition()
            if value:
                return value
        except (urllib.error.URLError, ConnectionError, CommandFailed):
            pass
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.2)


class Metrics(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.ports = {name: f"127.0.0.1:{free_port()}" for name in JOBS}
        flags = {name: ["--metrics-listen", address] for name, address in cls.ports.items()}
        for worker in ("worker-0", "worker-1"):
            flags[worker] += ["--energy-price", "0.3", "--grid-gco2", "380"]
        cls.suite = Suite(workers=2, flags=flags)
        cls.addClassCleanup(lambda: cls.suite.__exit__(None, None, None))
        cls.suite.__enter__()
        write_corpus(cls.suite.data / "corpus.txt", lines=1000)
        cls.prometheus = Prometheus(cls.suite.directory, [(JOBS[n], a) for n, a in cls.ports.items()]).__enter__()
        cls.addClassCleanup(cls.prometheus.__exit__)
        until(lambda: cls.prometheus.value("sum(up)") == len(JOBS), 20, "every endpoint is scraped")

    def submit(self, steps):
        """Pretraining alone."""
        spec = self.suite.directory / "pretrain.yaml"
        text = pathlib.Path(TINY).read_text()
        begin, end = text.index("  - finetune:"), text.index("prune:\n")
        spec.write_text(text[:begin] + "\n" + text[end:])
        return self.suite.submit(spec, **{"stages[0].pretrain.steps": steps, "prune.fixed_step": 20})

    def test_prometheus_holds_the_figures_of_a_run(self):
        run = self.submit(STEPS)
        ended = self.suite.wait_end(run)
        ask = self.prometheus.value
        until(lambda: ask(f'espalier_run_step{{run="{run}"}}') == STEPS, 10, "the last step is scraped")
        until(lambda: ask(f'sum(espalier_worker_steps_total{{run="{run}"}})') == 2 * STEPS, 10, "both ranks are scraped")
        one = f'{{run="{run}"}}'
        self.assertEqual(ask(f"espalier_run_steps_total{one}"), STEPS)
        self.assertEqual(ask(f"espalier_run_step_seconds_count{one}"), STEPS)
        self.assertEqual(ask(f"espalier_run_tokens_total{one}"), STEPS * SEQUENCES * LENGTH)
        self.assertEqual(ask(f"sum(espalier_worker_tokens_total{one})"), STEPS * SEQUENCES * LENGTH)
        # Two layers, two experts a token.
        self.assertEqual(ask(f"sum(espalier_worker_expert_tokens_total{one})"), STEPS * SEQUENCES * LENGTH * 2 * 2)
        alive = sum(int(n) for n in ended["summary"]["experts_after"])
        self.assertLess(alive, 16, "the run pruned")
        self.assertEqual(ask(f"espalier_run_experts_alive{one}"), alive)
        self.assertGreaterEqual(ask(f"sum(espalier_worker_held_experts{one})"), alive)
        self.assertAlmostEqual(ask(f"espalier_run_loss{one}"), self.suite.losses(run)[STEPS], places=4)
        self.assertEqual(ask(f"espalier_run_skipped_steps{one}"), 0)
        self.assertEqual(sorted(v for _, v in self.prometheus.query(f"espalier_worker_rank{one}")), [0, 1])
        self.check_decisions(run)
        self.check_times(run)
        self.check_energy(run)

    def check_decisions(self, run):
        decisions = self.suite.json("plan", "list", run)["decisions"]
        applied = sum("applied_step" in d for d in decisions)
        self.assertGreaterEqual(applied, 1)
        self.assertEqual(self.prometheus.value(f'espalier_decisions_total{{run="{run}", state="applied"}}'), applied)

    def check_times(self, run):
        """Phases are parts of steps: together no more, and of the work that a step is the larger part."""
        steps = dict((m["instance"], v) for m, v in
                     self.prometheus.query(f'espalier_worker_step_seconds_sum{{run="{run}", stage="pretrain"}}'))
        self.assertEqual(set(steps), {self.ports["worker-0"], self.ports["worker-1"]})
        for instance, phases in self.prometheus.query(
                f'sum by (instance) (espalier_worker_phase_seconds_sum{{run="{run}"}})'):
            share = phases / steps[instance["instance"]]
            self.assertTrue(0.5 < share <= 1.01, f"phases are {share} of the steps")
        phases = {m["phase"] for m, _ in self.prometheus.query(f'espalier_worker_phase_seconds_count{{run="{run}"}}')}
        self.assertLessEqual({"attention", "router", "experts", "gradient_sync", "optimizer"}, phases)
        self.assertNotIn("rollout", phases, "pretraining samples nothing")

    def check_energy(self, run):
        """Told where this machine counts; elsewhere absent, and the log says why."""
        joules = self.prometheus.query("espalier_worker_energy_joules_total")
        per_token = self.prometheus.query(f'espalier_worker_energy_joules_per_token{{run="{run}"}}')
        cost = self.prometheus.query(f'espalier_worker_energy_cost_per_million_tokens{{run="{run}"}}')
        if not joules:
            self.assertEqual((per_token, cost), ([], []))
            log = self.suite.log("worker-0")
            for kind in ("rapl", "nvml"):
                self.assertEqual(log.count(f"energy_counter_absent kind={kind}"), 1)
            return
        self.assertEqual(len(per_token), 2)
        for (_, energy), (_, money) in zip(per_token, cost):
            self.assertAlmostEqual(money, energy * 1e6 / 3.6e6 * 0.3, delta=0.01 * money)

    def test_verdicts_and_calls_of_the_reward_service(self):
        before = self.prometheus.value('espalier_reward_verdicts_total{verdict="correct"}')
        for answer in ("1/2", "\\frac{2}{4}"):
            self.suite.cli("reward", "score", "--reference", "0.5", "--trace", f"So it is \\boxed{{{answer}}}.")
        ask = self.prometheus.value
        until(lambda: ask('espalier_reward_verdicts_total{verdict="correct"}') == before + 2, 10, "two more are correct")
        self.assertGreaterEqual(ask('espalier_reward_stage_seconds_count{stage="call"}'), 2)
        self.assertGreaterEqual(ask('espalier_grpc_calls_total{method="/espalier.v1.RewardService/ScoreTrace", code="OK"}'), 2)
        self.assertEqual(ask("espalier_reward_queue_jobs"), 0)

    def test_lost_worker_raises_an_alert_until_another_comes(self):
        run = self.submit(100000)
        # Whatever fails here, the workers are free for the next test.
        self.addCleanup(self.suite.cli, "run", "stop", run)
        self.suite.wait_step(run, 5)
        self.assertNotIn("EspalierWorkerLost", self.prometheus.firing())
        self.suite.kill("worker-1")
        until(lambda: "EspalierWorkerLost" in self.prometheus.firing(), 60, "the loss is told")
        until(lambda: "EspalierTargetDown" in self.prometheus.firing(), 60, "the target is told to be down")
        self.suite.start_worker(1)
        until(lambda: "EspalierWorkerLost" not in self.prometheus.firing(), 60, "the alert clears")
        until(lambda: "EspalierTargetDown" not in self.prometheus.firing(), 60, "the target is back")
        # On a busy machine a rank may come too late for the first attempt's links: that is one more.
        until(lambda: self.prometheus.value(f'espalier_run_recoveries_total{{run="{run}"}}') >= 1, 60, "a recovery")


if __name__ == "__main__":
    unittest.main(verbosity=2)
