"""A trainer of another make, through the one-file Python client: its loads are recorded, the plan that it gets evens
them out, and mistakes are named. The wire is grpcio's where it is installed, and @grpc/grpc-js's in any case.
"""
import importlib.util
import json
import pathlib
import struct
import subprocess
import sys
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/e2e"))
from suite import Suite  # noqa: E402

spec = importlib.util.spec_from_file_location("espalier_telemetry", ROOT / "services/coordinator/python/espalier_telemetry.py")
telemetry_module = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = telemetry_module
spec.loader.exec_module(telemetry_module)
Telemetry, TelemetryError = telemetry_module.Telemetry, telemetry_module.TelemetryError

LAYERS, EXPERTS, RANKS = 3, 16, 4


class Bridge:
    """The client's bytes over grpc-js, in a process of its own."""

    def __init__(self, address):
        self.process = subprocess.Popen(["node", str(ROOT / "tests/e2e/js/unary_bridge.mjs"), address],
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def __call__(self, path, request):
        name = path.encode()
        self.process.stdin.write(struct.pack(">I", len(name)) + name + struct.pack(">I", len(request)) + request)
        self.process.stdin.flush()
        ok, size = struct.unpack(">BI", self.process.stdout.read(5))
        data = self.process.stdout.read(size)
        if ok:
            return data
        code, _, text = data.decode().partition("\n")
        raise TelemetryError(code, text)

    def close(self):
        self.process.stdin.close()
        self.process.wait(10)
        self.process.stdout.close()


def transports(address):
    bridge = Bridge(address)
    yield "grpc-js", bridge
    bridge.close()
    try:
        import grpc  # noqa: F401
    except ImportError:
        return
    yield "grpcio", None


def skewed(layer, step):
    """Tokens of each expert: a few are busy, others nearly idle, with a little drift."""
    return [int(40000 / (2 + (3 * e + layer) % EXPERTS) * (1 + 0.01 * ((step + e) % 3))) for e in range(EXPERTS)]


def imbalance(placement, counts):
    worst = []
    for layer, where in placement.items():
        loads = [0] * RANKS
        for expert, rank in enumerate(where):
            if rank is not None:
                loads[rank] += counts[layer][expert]
        worst.append(max(loads) * RANKS / sum(loads))
    return sum(worst) / len(worst)


class ExternalTrainer(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.suite = Suite(workers=0)
        cls.suite.__enter__()

    @classmethod
    def tearDownClass(cls):
        cls.suite.__exit__(None, None, None)

    def submit(self, transport, name, **more):
        return Telemetry.submit(self.suite.coordinator, name=name, layers=LAYERS, experts=EXPERTS, top_k=2, ranks=RANKS,
                                expert_bytes=1e6, placement={"window_steps": 20}, transport=transport, **more)

    def test_streams_loads_and_follows_the_advice(self):
        for name, transport in transports(self.suite.coordinator):
            with self.subTest(wire=name):
                telemetry = self.submit(transport, f"outside-{name}")
                counts = {layer: skewed(layer, 1) for layer in range(LAYERS)}
                before = imbalance(telemetry.placement, counts)
                advised = 0
                for step in range(1, 61):
                    counts = {layer: skewed(layer, step) for layer in range(LAYERS)}
                    for advice in telemetry.report(step, counts, step_seconds=0.1, experts_seconds=0.05, tokens=4096,
                                                   loss=5 / step):
                        advised += 1
                        self.assertEqual(advice.dropped, {})
                        telemetry.acknowledge(advice, step, pause_seconds=0.01, bytes_moved=10**6)
                self.assertEqual(advised, 1)
                after = imbalance(telemetry.placement, counts)
                self.assertGreater(before, 1.15)
                self.assertLess(after, 1.1)
                decisions = json.loads(self.suite.cli("plan", "list", telemetry.run_id, "--json"))["decisions"]
                self.assertEqual(decisions[0]["state"], "DECISION_STATE_VERIFIED")
                self.assertAlmostEqual(decisions[0]["imbalance_realised"], after, delta=0.05)
                plan = telemetry.propose(prune={"enabled": 1, "beta": 0.05}, placement={"window_steps": 20})
                self.assertGreater(plan["experts_pruned"], 0)
                telemetry.finish()
                self.assertTrue(telemetry.ended)
                run = json.loads(self.suite.cli("run", "get", telemetry.run_id, "--json"))["run"]
                self.assertEqual(run["state"], "RUN_STATE_COMPLETED")

    def test_names_what_is_wrong(self):
        bridge = Bridge(self.suite.coordinator)
        try:
            telemetry = self.submit(bridge, "mistakes", request_id="mistakes-1")
            again = self.submit(bridge, "mistakes", request_id="mistakes-1")
            self.assertEqual(telemetry.run_id, again.run_id)
            with self.assertRaisesRegex(TelemetryError, r"counts\[1\]: 3 experts; the run has 16"):
                telemetry.report(1, {1: [1, 2, 3]}, step_seconds=0.1)
            with self.assertRaisesRegex(TelemetryError, r"counts\[9\]"):
                telemetry.report(1, {9: [1] * EXPERTS}, step_seconds=0.1)
            with self.assertRaisesRegex(TelemetryError, "seconds"):
                telemetry.report(1, {0: [1] * EXPERTS}, step_seconds=float("nan"))
            with self.assertRaisesRegex(TelemetryError, "NOT_FOUND"):
                Telemetry(self.suite.coordinator, "r-nobody", transport=bridge)
            with self.assertRaisesRegex(TelemetryError, "placement.window: no such field"):
                Telemetry.submit(
                    self.suite.coordinator, name="typo", layers=1, experts=4, top_k=1, ranks=2, expert_bytes=1,
                    placement={"window": 3}, transport=bridge)
            with self.assertRaisesRegex(TelemetryError, "workers.count"):
                Telemetry.submit(self.suite.coordinator, name="wide", layers=1, experts=4, top_k=1, ranks=5,
                                 expert_bytes=1, transport=bridge)
        finally:
            bridge.close()


if __name__ == "__main__":
    unittest.main(verbosity=2)
