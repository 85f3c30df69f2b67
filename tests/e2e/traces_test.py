"""Goal: the traces of a real run are whole: every rank in them, no orphan, parents around their children, over all processes.
Method: OpenTelemetry's own .proto files behind @grpc/grpc-js receive the spans of a coordinator, two workers and a reward service;
`espalier trace` reads the same steps from the coordinator.
"""
import collections
import hashlib
import json
import os
import queue
import subprocess
import threading
import time
import unittest

from suite import BIN, Suite, write_corpus

TINY = "deploy/runs/tiny.yaml"
EVERY = 2
PASS_PHASES = {"attention", "router", "dispatch", "experts", "combine"}


class Receiver:
    """The third-party receiver as a process. A context manager."""

    def __enter__(self):
        self.process = subprocess.Popen(["node", "tests/e2e/js/otlp_receiver.mjs"], stdout=subprocess.PIPE, text=True)
        first = json.loads(self.process.stdout.readline() or "{}")
        if "port" not in first:
            raise AssertionError("the receiver did not start; install its packages with tests/tools/install_npm")
        self.address = f"http://127.0.0.1:{first['port']}"
        self.lines = queue.SimpleQueue()
        threading.Thread(target=lambda: [self.lines.put(line) for line in self.process.stdout], daemon=True).start()
        self.spans = []
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()

    def read(self):
        while not self.lines.empty():
            span = json.loads(self.lines.get())
            span["start"], span["end"] = int(span["start"]), int(span["end"])
            self.spans.append(span)
        return self.spans

    def wait_for(self, condition, seconds, what):
        deadline = time.monotonic() + seconds
        while not condition(self.read()):
            if time.monotonic() > deadline:
                raise AssertionError(f"not within {seconds} s: {what}")
            time.sleep(0.1)


def trace_of(kind, *parts):
    return hashlib.sha256(" ".join(["espalier", kind, *map(str, parts)]).encode()).hexdigest()[:32]


class Traces(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.receiver = Receiver().__enter__()
        flags = ["--otlp-endpoint", cls.receiver.address]
        cls.suite = Suite(workers=2, flags={"coordinator": [*flags, "--trace-every", EVERY], "reward": flags,
                                            "worker-0": flags, "worker-1": flags})
        cls.suite.__enter__()
        write_corpus(cls.suite.data / "corpus.txt")
        cls.run_id = cls.suite.submit(TINY)
        cls.suite.wait_end(cls.run_id, seconds=100)
        cls.steps = cls.suite.step(cls.run_id)
        # Batches leave within a second or so of the last step.
        last = trace_of("step", cls.run_id, cls.steps // EVERY * EVERY)
        cls.receiver.wait_for(lambda spans: any(s["name"] == "step" and s["trace"] == last for s in spans) and
                              any(s["name"] == "decision" for s in spans), 20, "the last step's root and the decision came")
        time.sleep(2)
        cls.traces = collections.defaultdict(list)
        for span in cls.receiver.read():
            cls.traces[span["trace"]].append(span)

    @classmethod
    def tearDownClass(cls):
        cls.suite.__exit__(None, None, None)
        cls.receiver.__exit__()

    def step_trace(self, step):
        spans = self.traces[trace_of("step", self.run_id, step)]
        self.assertTrue(spans, f"step {step} has no spans")
        return spans

    def assertWhole(self, spans):
        """One root; every other span hangs beneath another, within its time."""
        by_id = {span["span"]: span for span in spans}
        self.assertEqual(len(by_id), len(spans), "span ids meet")
        roots = [span for span in spans if not span["parent"]]
        self.assertEqual(len(roots), 1, [root["name"] for root in roots])
        for span in spans:
            self.assertLessEqual(span["start"], span["end"], span)
            if not span["parent"]:
                continue
            parent = by_id.get(span["parent"])
            self.assertIsNotNone(parent, f"orphan: {span}")
            self.assertLessEqual(parent["start"], span["start"], (parent["name"], span))
            self.assertGreaterEqual(parent["end"], span["end"], (parent["name"], span))
        return roots[0]

    def children(self, spans, parent, name=None):
        return [s for s in spans if s["parent"] == parent["span"] and name in (None, s["name"])]

    def test_every_sampled_step_is_whole_and_has_every_rank(self):
        for step in range(EVERY, self.steps + 1, EVERY):
            spans = self.step_trace(step)
            root = self.assertWhole(spans)
            self.assertEqual(root["service"], "espalier-coordinator")
            self.assertEqual(root["attributes"]["step"], step)
            ranks = self.children(spans, root, "rank")
            self.assertEqual(sorted(r["attributes"]["rank"] for r in ranks), [0, 1], f"step {step}")
            for rank in ranks:
                self.assertEqual(rank["service"], "espalier-worker")

    def test_a_step_of_pretraining_has_its_phases_by_layer(self):
        spans = self.step_trace(4)
        for rank in [s for s in spans if s["name"] == "rank"]:
            names = [s["name"] for s in self.children(spans, rank)]
            self.assertEqual([n for n in names if n in {"data", "pass", "gradient_sync", "optimizer", "report"}],
                             ["data", "pass", "gradient_sync", "optimizer", "report"])
            one_pass = self.children(spans, rank, "pass")[0]
            directions = self.children(spans, one_pass)
            self.assertEqual([d["name"] for d in directions], ["forward", "backward"])
            for direction in directions:
                layers = self.children(spans, direction, "layer")
                self.assertEqual(sorted(layer["attributes"]["layer"] for layer in layers), [0, 1])
                for layer in layers:
                    self.assertLessEqual(PASS_PHASES, {s["name"] for s in self.children(spans, layer)})
        # Every token goes to top_k experts, wherever they are.
        routed = [s for s in spans if s["name"] == "experts" and "tokens" in s["attributes"]]
        self.assertEqual(sum(s["attributes"]["tokens"] for s in routed), 8 * 64 * 2 * 2 * 2,
                         "sequences * length * top_k * layers * directions")

    def test_reinforcement_has_rollout_reward_calls_and_update(self):
        steps = [step for step in range(EVERY, self.steps + 1, EVERY)
                 if any(s["name"] == "rollout" and s["service"] == "espalier-worker" for s in self.step_trace(step))]
        self.assertTrue(steps, "no reinforcement step was sampled")
        spans = self.step_trace(steps[0])
        for rank in [s for s in spans if s["name"] == "rank"]:
            self.assertEqual(rank["attributes"]["stage"], "reinforce")
            rollout = self.children(spans, rank, "rollout")[0]
            reward = self.children(spans, rollout, "reward")[0]
            calls = self.children(spans, reward)
            self.assertEqual({c["name"] for c in calls}, {"espalier.v1.RewardService/ScoreBatch"})
            self.assertEqual({c["kind"] for c in calls}, {"SPAN_KIND_CLIENT"})
            for call in calls:
                served = self.children(spans, call)
                self.assertEqual([s["service"] for s in served], ["espalier-reward"])
                self.assertEqual(served[0]["kind"], "SPAN_KIND_SERVER")

    def test_a_decision_links_propose_command_and_apply_on_each_rank(self):
        decisions = self.suite.json("plan", "list", self.run_id)["decisions"]
        self.assertTrue(decisions)
        decision = decisions[-1]
        spans = self.traces[trace_of("decision", self.run_id, decision["decision_id"])]
        root = self.assertWhole(spans)
        self.assertEqual(root["attributes"]["step_seconds_predicted"], decision["plan"]["step_seconds_predicted"])
        self.assertEqual(root["attributes"]["step_seconds_realised"], decision["step_seconds_realised"])
        self.assertEqual(len(self.children(spans, root, "propose")), 1)
        command = self.children(spans, root, "command")[0]
        applies = self.children(spans, command, "apply")
        self.assertEqual(sorted(a["attributes"]["rank"] for a in applies), [0, 1])
        step = int(decision["applied_step"])
        self.assertEqual(command["attributes"]["step"], step)
        # Every step with a command is sampled, and the two traces lead to each other.
        step_spans = self.step_trace(step)
        ranks = {s["span"]: s for s in step_spans if s["name"] == "rank"}
        for apply in applies:
            self.assertEqual(apply["links"][0]["trace"], trace_of("step", self.run_id, step))
            self.assertEqual(ranks[apply["links"][0]["span"]]["attributes"]["rank"], apply["attributes"]["rank"])
        ordered = [s for s in step_spans if s["name"] == "command"]
        self.assertEqual(len(ordered), 2)
        for span in ordered:
            self.assertEqual(span["links"], [{"trace": root["trace"], "span": command["span"]}])

    def test_a_clients_trace_goes_on_through_the_services(self):
        trace, parent = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
        for flags, sampled in (("00", 0), ("01", 1)):
            environment = dict(os.environ, TRACEPARENT=f"00-{trace}-{parent}-{flags}")
            subprocess.run([BIN / "espalier", "--coordinator", self.suite.coordinator, "run", "get", self.run_id],
                           env=environment, check=True, capture_output=True)
        self.receiver.wait_for(lambda spans: any(s["trace"] == trace for s in spans), 10, "the coordinator's span")
        spans = [s for s in self.receiver.spans if s["trace"] == trace]
        self.assertEqual([(s["service"], s["name"], s["parent"]) for s in spans],
                         [("espalier-coordinator", "espalier.v1.RunService/GetRun", parent)])

    def test_the_cli_exports_what_was_sent(self):
        text = self.suite.cli("trace", "export", "--run", self.run_id, "--step", 4, "--format", "perfetto")
        events = json.loads(text)["traceEvents"]
        complete = [e for e in events if e["ph"] == "X"]
        names = collections.Counter(e["name"] for e in complete)
        sent = self.step_trace(4)
        self.assertEqual(names["step"], 1)
        self.assertEqual(names["rank"], 2)
        self.assertEqual(names["layer 0"] + names["layer 1"], sum(s["name"] == "layer" for s in sent))
        self.assertEqual(names["experts"], sum(s["name"] == "experts" for s in sent))
        for event in complete:
            self.assertGreaterEqual(event["dur"], 0)
            self.assertGreaterEqual(event["ts"], 0)
        self.assertEqual({e["args"]["name"] for e in events if e["ph"] == "M" and e["name"] == "process_name"},
                         {"coordinator", "rank 0", "rank 1"})

    def test_the_cli_explains_who_was_late_and_why(self):
        told = self.suite.json("trace", "explain", "--run", self.run_id, "--step", 4)
        self.assertEqual([r["rank"] for r in told["ranks"]], [0, 1])
        for rank in told["ranks"]:
            parts = [rank["load_seconds"], rank["device_seconds"], rank["network_seconds"]]
            self.assertTrue(all(part >= 0 for part in parts), rank)
            self.assertAlmostEqual(sum(parts), rank["late_seconds"], places=6)
        path = told["critical_path"]
        self.assertTrue(path)
        length = sum(part["seconds"] for part in path)
        self.assertAlmostEqual(length, told["step_seconds"], delta=0.05 * told["step_seconds"] + 0.002)
        for earlier, later in zip(path, path[1:]):
            self.assertLessEqual(earlier["end_seconds"], later["start_seconds"] + 1e-3)
        self.suite.cli("trace", "explain", "--run", self.run_id, "--step", 3, code=4)

    def test_kept_steps_are_bounded(self):
        steps = [int(s) for s in self.suite.json("trace", "list", "--run", self.run_id)["steps"]]
        self.assertLessEqual(len(steps), 64)
        self.assertIn(4, steps)


if __name__ == "__main__":
    unittest.main(verbosity=2)
