"""Goal: the same RunSpec runs on GPUs, through the same services. Method: real processes, workers with --device cuda, whose losses, prunes, restarts and
exports are compared with those of CPU workers. Several workers share a GPU where there are fewer GPUs than workers."""
import ctypes
import math
import pathlib
import sys
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "tests" / "e2e"))

from suite import Suite, write_corpus  # noqa: E402 (its folder comes first)

TINY = str(ROOT / "deploy" / "runs" / "tiny.yaml")
QUIET = {"stages[0].pretrain.steps": 30, "prune.enabled": "false", "placement.enabled": "false"}


def gpu_count():
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    return count.value if driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 else 0


GPUS = gpu_count()


def suite_on(device, workers):
    flags = {f"worker-{i}": ["--device", f"cuda:{i % GPUS}" if device == "cuda" else "cpu"] for i in range(workers + 1)}
    suite = Suite(workers=workers, flags=flags)
    write_corpus(suite.data / "corpus.txt")
    return suite


@unittest.skipIf(GPUS == 0, "no GPU on this machine")
class RunLifeOnGpu(unittest.TestCase):
    def losses(self, device, workers, **changes):
        with suite_on(device, workers) as suite:
            run_id = suite.submit(TINY, **{**QUIET, "workers.count": workers, **changes})
            suite.wait_step(run_id, 30, 120)
            suite.cli("run", "stop", run_id)
            return {step: loss for step, loss in suite.losses(run_id).items() if step <= 30}

    def test_fp32_losses_are_the_cpus_on_one_two_and_four_ranks(self):
        cpu = self.losses("cpu", 1)
        self.assertEqual(30, len(cpu))
        for workers in (1, 2, 4):
            with self.subTest(workers=workers):
                cuda = self.losses("cuda", workers, **{"workers.precision": "fp32"})
                worst = max(abs(cuda[step] - cpu[step]) for step in cpu)
                print(f"{workers} ranks: largest difference of a loss over 30 steps {worst:.2e}")
                # fp32 sums in another order; steps part slowly.
                self.assertLess(worst, 2e-3)

    def test_bf16_learns_as_fp32_does(self):
        fp32 = self.losses("cuda", 1, **{"workers.precision": "fp32"})
        bf16 = self.losses("cuda", 1)
        self.assertLess(abs(bf16[30] - fp32[30]), 0.05)
        self.assertLess(bf16[30], bf16[1] - 0.5)

    def test_a_whole_run_prunes_moves_reinforces_and_exports(self):
        with suite_on("cuda", 2) as suite:
            self.assertEqual({"cuda"}, {w["backend"] for w in suite.json("workers", "list")["workers"]})
            run = suite.wait_end(suite.submit(TINY), seconds=180)
            decisions = suite.json("plan", "list", run["run_id"]).get("decisions", [])
            self.assertTrue(any(d["state"] in ("DECISION_STATE_APPLIED", "DECISION_STATE_VERIFIED") for d in decisions))
            out = suite.directory / "summary.json"
            suite.cli("run", "report", run["run_id"], "--out", out)
            self.assertTrue(all(math.isfinite(loss) for loss in suite.losses(run["run_id"]).values()))

    def test_a_killed_worker_is_replaced_and_the_curve_goes_on(self):
        with suite_on("cuda", 2) as suite:
            run_id = suite.submit(TINY, **{**QUIET, "stages[0].pretrain.steps": 400})
            suite.wait_step(run_id, 60, 120)
            for name in ("worker-0", "worker-1"):
                # Processes that share a GPU can always map each other's memory; GPUs may lack peer access, and then the log says it.
                self.assertRegex(suite.log(name), "exchange_by_device_memory" if GPUS == 1 else "exchange_by_device_memory|exchange_through_host .*reason=")
            suite.kill("worker-1")
            suite.start_worker(2)
            suite.wait_step(run_id, 200, 120)
            steps = sorted(suite.losses(run_id))
            self.assertEqual(list(range(1, steps[-1] + 1)), steps)
            suite.cli("run", "stop", run_id)

    def test_asking_for_a_gpu_that_is_not_there_ends_with_a_reason(self):
        suite = Suite(workers=0, flags={"worker-0": ["--device", "cuda:99"]})
        with suite:
            suite.start_worker(0)
            self.assertNotEqual(0, suite.processes["worker-0"].wait(20))
            self.assertIn("99", suite.log("worker-0"))


if __name__ == "__main__":
    unittest.main(verbosity=2)
