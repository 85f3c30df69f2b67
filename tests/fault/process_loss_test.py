"""Goal: nothing that was acknowledged is lost when processes die, and training goes on as if they had not.
Method: real processes are killed with SIGKILL in the middle of a run; its recorded losses must equal those of an undisturbed run."""
import pathlib
import signal
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "e2e"))
from suite import Suite, write_corpus  # noqa: E402

TINY = "deploy/runs/tiny.yaml"
CHANGES = {"stages[0].pretrain.steps": 60, "prune.fixed_step": 20, "checkpoints.every_steps": 10}


class ProcessLoss(unittest.TestCase):
    def setUp(self):
        self.suite = Suite(workers=2).__enter__()
        self.addCleanup(lambda: self.suite.__exit__(None, None, None))
        write_corpus(self.suite.data / "corpus.txt")

    def undisturbed(self):
        return self.suite.wait_end(self.suite.submit(TINY, **CHANGES))["run_id"]

    def pretrain_losses_equal(self, undisturbed, disturbed):
        """No step is missing, and the losses are the same bits: over all of pretraining when the prune fell on the same step (it is
        commanded while training goes on, so that is a matter of timing), else up to the earlier one."""
        expected, actual = self.suite.losses(undisturbed), self.suite.losses(disturbed)
        self.assertEqual(sorted(expected), sorted(actual))
        first, second = (self.suite.first_decision_step(run) for run in (undisturbed, disturbed))
        self.assertIsNotNone(first)
        self.assertIsNotNone(second)
        last = 60 if first == second else min(first, second)
        self.assertGreaterEqual(last, 20)
        steps = [step for step in sorted(expected) if step <= last]
        self.assertEqual([expected[s] for s in steps], [actual[s] for s in steps])

    def test_killed_worker_is_replaced_and_the_loss_curve_is_the_same(self):
        suite = self.suite
        undisturbed = self.undisturbed()
        run_id = suite.submit(TINY, **CHANGES)
        suite.wait_step(run_id, 35)
        suite.kill("worker-1")
        suite.start_worker(1)
        suite.wait_end(run_id, seconds=180)
        self.assertGreater(int(suite.run(run_id)["epoch"]), 1)
        self.pretrain_losses_equal(undisturbed, run_id)

    def test_coordinator_restart_loses_no_report_and_stops_no_step(self):
        suite = self.suite
        undisturbed = self.undisturbed()
        run_id = suite.submit(TINY, **CHANGES)
        suite.wait_step(run_id, 30)
        suite.kill("coordinator")
        suite.start_coordinator()
        run = suite.wait_end(run_id, seconds=180)
        self.assertEqual(1, int(run["epoch"]), "the workers should have reattached to the same epoch")
        self.pretrain_losses_equal(undisturbed, run_id)

    def test_reward_service_may_go_and_come_back(self):
        suite = self.suite
        suite.kill("reward", signal.SIGTERM)
        run_id = suite.submit(TINY, **CHANGES)
        suite.wait_step(run_id, 60)
        suite.start_reward()
        suite.wait_end(run_id, seconds=180)

    def test_worker_leaves_cleanly_on_sigterm(self):
        self.assertEqual(0, self.suite.kill("worker-0", signal.SIGTERM))


if __name__ == "__main__":
    unittest.main(verbosity=2)
