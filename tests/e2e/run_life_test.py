"""Goal: a run does end to end what its spec says, and its owner can steer it. Method: real processes, a tiny spec, the CLI."""
import json
import math
import pathlib
import subprocess
import unittest

from suite import BIN, Suite, write_corpus

TINY = "deploy/runs/tiny.yaml"
SUMMARY_KEYS = [
    "params_before", "params_after", "experts_before", "experts_after", "heldout_loss_before_prune",
    "heldout_loss_end_pretrain", "tokens_per_second_before_prune", "tokens_per_second_after", "imbalance_before",
    "imbalance_after", "experts_moved", "reasoning_accuracy_before_rl", "reasoning_accuracy_after_rl",
    "mean_trace_tokens_before_rl", "mean_trace_tokens_after_rl", "wall_seconds", "export_path"]


class RunLife(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.suite = Suite(workers=2).__enter__()
        write_corpus(cls.suite.data / "corpus.txt")

    @classmethod
    def tearDownClass(cls):
        cls.suite.__exit__(None, None, None)

    def test_whole_run_prunes_reinforces_and_exports(self):
        suite = self.suite
        run = suite.wait_end(suite.submit(TINY))
        out = suite.directory / "summary.json"
        suite.cli("run", "report", run["run_id"], "--out", out)
        summary = json.loads(out.read_text())
        self.assertEqual([], [key for key in SUMMARY_KEYS if key not in summary])
        self.assertLess(summary["params_after"], summary["params_before"])
        self.assertLess(sum(summary["experts_after"]), sum(summary["experts_before"]))
        self.assertGreater(summary["tokens_per_second_before_prune"], 0)
        self.assertGreater(summary["wall_seconds"], 0)
        export = pathlib.Path(summary["export_path"])
        config = json.loads((export / "config.json").read_text())
        self.assertEqual(["Glm4MoeForCausalLM"], config["architectures"])
        self.assertEqual(max(summary["experts_after"]), config["n_routed_experts"])
        self.assertTrue((export / "tokenizer.json").exists())
        # What the export holds computes finite, better-than-chance log-probabilities in an independent reading of it.
        tokens = suite.directory / "tokens.json"
        tokens.write_text(json.dumps({"sequences": [list(range(3, 40)), [5, 6, 7]]}))
        # Debian's python3 by its path: it is the one that has Debian's numpy.
        reference = subprocess.run(["/usr/bin/python3", "tests/e2e/glm4_moe_reference.py", str(export), str(tokens)],
                                   capture_output=True, text=True)
        self.assertEqual(0, reference.returncode, reference.stderr[-2000:])
        logps = [logp for sequence in json.loads(reference.stdout)["logps"] for logp in sequence]
        self.assertTrue(all(math.isfinite(logp) and logp <= 0 for logp in logps), logps)

        decisions = suite.json("plan", "list", run["run_id"]).get("decisions", [])
        self.assertTrue(any(d["state"] in ("DECISION_STATE_APPLIED", "DECISION_STATE_VERIFIED") for d in decisions))

    def test_same_seed_gives_the_same_losses_bit_for_bit(self):
        suite = self.suite
        # Without decisions: which step a command falls on depends on when it reaches the ranks.
        changes = {"stages[0].pretrain.steps": 12, "prune.enabled": "false", "placement.enabled": "false"}
        first = suite.wait_end(suite.submit(TINY, **changes))
        second = suite.wait_end(suite.submit(TINY, **changes))
        losses = suite.losses(first["run_id"])
        self.assertGreaterEqual(len(losses), 12)
        self.assertEqual(losses, suite.losses(second["run_id"]))

    def test_pause_resume_and_stop(self):
        suite = self.suite
        run_id = suite.submit(TINY, **{"stages[0].pretrain.steps": 5000})
        suite.wait_step(run_id, 3)
        suite.cli("run", "pause", run_id)
        suite.wait_for(lambda: suite.run(run_id)["state"] == "RUN_STATE_PAUSED", 20, "paused")
        step = suite.step(run_id)
        self.assertEqual(step, suite.step(run_id))
        suite.cli("run", "resume", run_id)
        suite.wait_step(run_id, step + 2)
        suite.cli("run", "stop", run_id)
        stopped = suite.wait_end(run_id, "RUN_STATE_STOPPED")
        self.assertTrue(stopped.get("checkpoint"))

    def test_wrong_spec_names_field_value_and_what_is_allowed(self):
        bad = self.suite.directory / "bad.yaml"
        bad.write_text(pathlib.Path(TINY).read_text().replace("top_k:", "top_q:"))
        said = self.suite.cli("run", "submit", bad, code=2)
        self.assertIn("top_q", said)
        self.assertIn("top_k", said)
        before = self.suite.json("run", "list")
        said = self.suite.cli("run", "submit", TINY, "--set=model.top_k=500", code=2)
        self.assertIn("model.top_k", said)
        self.assertIn("500", said)
        self.assertEqual(before, self.suite.json("run", "list"))

    def test_missing_corpus_fails_the_run_in_plain_words(self):
        suite = self.suite
        run = suite.wait_end(suite.submit(TINY, **{"data.corpus": "no/such/file.txt"}), "RUN_STATE_FAILED")
        self.assertIn("no/such/file.txt", run["detail"])

    def test_port_in_use_is_said_plainly(self):
        done = subprocess.run([BIN / "espalier-coordinator", "--listen", self.suite.coordinator, "--data",
                               self.suite.directory / "other"], capture_output=True, text=True, timeout=20)
        self.assertNotEqual(0, done.returncode)
        self.assertIn("in use", done.stdout + done.stderr)


if __name__ == "__main__":
    unittest.main(verbosity=2)
