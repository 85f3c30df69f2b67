"""Goal: a policy in another language plans for a real run, people approve what it plans, and neither its death nor the coordinator's costs
anything. Method: the README's example policy on Node's @grpc/grpc-js, real processes, SIGKILL."""
import pathlib
import subprocess
import unittest

from suite import Suite, free_port, write_corpus

ROOT = pathlib.Path(__file__).resolve().parents[2]
TINY = "deploy/runs/tiny.yaml"
# Pretraining alone, long enough for windows to come after whatever the test does.
CHANGES = {"stages[0].pretrain.steps": 20000, "prune.fixed_step": 30, "checkpoints.every_steps": 50}


class ForeignPolicy(unittest.TestCase):
    def start_policy(self, port):
        policy = subprocess.Popen(["node", ROOT / "services/coordinator/policy_example/policy.mjs", f"127.0.0.1:{port}", ROOT / "protos"],
                                  cwd=ROOT / "build/npm", stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.addCleanup(policy.stdout.close)
        self.addCleanup(policy.wait)
        self.addCleanup(policy.kill)
        line = policy.stdout.readline()
        self.assertIn("listening", line)
        return policy

    def decisions(self, suite, run_id):
        return suite.json("plan", "list", run_id).get("decisions", [])

    def waiting(self, suite, run_id):
        return next((d for d in self.decisions(suite, run_id) if d["state"] == "DECISION_STATE_WAITING"), None)

    def test_a_policy_on_node_plans_and_its_death_is_survived(self):
        port = free_port()
        policy = self.start_policy(port)
        with Suite(workers=2) as suite:
            write_corpus(suite.data / "corpus.txt")
            run_id = suite.submit(TINY, **CHANGES, **{"policy.service": f"127.0.0.1:{port}", "policy.retry_seconds": 0})
            first = suite.wait_for(lambda: next((d for d in self.decisions(suite, run_id)
                                                 if "applied_step" in d and int(d["plan"].get("experts_pruned", 0)) > 0), None), 120,
                                   "a prune of the foreign policy is applied")
            self.assertEqual(f"heaviest-first/1 at 127.0.0.1:{port}", first["policy"])
            self.assertIn("heaviest first on steps", first["why"])
            policy.kill()
            policy.wait()
            suite.wait_step(run_id, suite.step(run_id) + 40)
            suite.cli("run", "stop", run_id)
            suite.wait_end(run_id, "RUN_STATE_STOPPED")
            stopped = [e for e in suite.json("events", run_id)["events"] if e.get("fields", {}).get("action") == "stop"]
            self.assertEqual(1, len(stopped), "who stopped it is on record")
            self.assertTrue(stopped[0]["fields"]["by"])

    def test_what_waits_survives_a_killed_coordinator_and_is_approved_or_rejected(self):
        with Suite(workers=2) as suite:
            write_corpus(suite.data / "corpus.txt")
            run_id = suite.submit(TINY, **CHANGES, **{"policy.approval": "manual"})
            waiting = suite.wait_for(lambda: self.waiting(suite, run_id), 120, "a plan waits")
            suite.kill("coordinator")
            suite.start_coordinator()
            suite.wait_ready()
            again = suite.wait_for(lambda: self.waiting(suite, run_id), 30, "it still waits")
            self.assertEqual(waiting["decision_id"], again["decision_id"])
            self.assertTrue(all("applied_step" not in d for d in self.decisions(suite, run_id)))
            text = suite.cli("plan", "explain", run_id, waiting["decision_id"])
            self.assertIn("DECISION_STATE_WAITING", text)
            suite.cli("plan", "apply", run_id, "--decision", waiting["decision_id"])
            suite.wait_for(lambda: any("applied_step" in d and d.get("approved_by") for d in self.decisions(suite, run_id)), 60,
                           "the approved plan is applied")
            refused = suite.cli("plan", "reject", run_id, waiting["decision_id"], "--reason", "late", code=None)
            self.assertIn("does not wait for approval", refused)
            suite.cli("run", "stop", run_id)
            suite.wait_end(run_id, "RUN_STATE_STOPPED")


if __name__ == "__main__":
    unittest.main(verbosity=2)
