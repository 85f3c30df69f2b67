"""Goal: what is rendered runs. Method: the programs with the rendered arguments, on loopback (play.py): probes succeed, a run is submitted by the hook and by
`helm test`, trained, scored, backed up, and restored as helm/README.md says; in plaintext, over mutual TLS with tokens, and as Jobs."""
import json
import pathlib
import shutil
import sys
import tempfile
import unittest

from chart import ROOT, find, pod_of, render
from play import JOB_SUFFIX, Play

sys.path.insert(0, str(ROOT / "tests/e2e"))
from authority import Authority, new_token  # noqa: E402

PROBES = ("startupProbe", "readinessProbe", "livenessProbe")


class Runs(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="espalier-chart-"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)

    def bring_up(self, play, objects, workers="StatefulSet", worker_name="demo-worker"):
        self.start(play, objects, "StatefulSet", "demo-coordinator", "demo-coordinator-0")
        self.start(play, objects, "Deployment", "demo-reward", "demo-reward-x")
        one = find(objects, workers, worker_name)
        for index in range(2):
            name = f"{worker_name}-{index}"
            # A Job's pods have a suffix of their own; their hostname is JOB-INDEX.
            play.start(one, pod_of(one), name if workers == "StatefulSet" else name + JOB_SUFFIX, index)
        for index in range(2):
            name = f"{worker_name}-{index}" + ("" if workers == "StatefulSet" else JOB_SUFFIX)
            for kind in PROBES:
                play.probe(name, pod_of(one)["spec"]["containers"][0], kind)

    def start(self, play, objects, kind, name, pod_name):
        one = find(objects, kind, name)
        play.start(one, pod_of(one), pod_name)
        for probe in PROBES:
            play.probe(pod_name, pod_of(one)["spec"]["containers"][0], probe)

    def finish(self, play, objects, kind, name, **options):
        one = find(objects, kind, name)
        return play.finish(one, pod_of(one), name, **options)

    def test_the_defaults_in_plaintext(self):
        objects = render("default")
        with Play(objects, self.folder) as play:
            self.bring_up(play, objects)
            watched = self.finish(play, objects, "Pod", "demo-test-run", timeout=180)
            self.assertIn("completed", watched.lower())
            score = json.loads(self.finish(play, objects, "Pod", "demo-test-score"))
            self.assertEqual("VERDICT_CORRECT", score["score"]["verdict"])
            for name in ("demo-worker-0", "demo-reward-x", "demo-coordinator-0"):
                self.assertEqual(0, play.stop(name), name)

    def secrets(self):
        """The Secrets that secrets-values.yaml names, as a person would make them."""
        authority = Authority(self.folder)
        folders = {}
        for secret, name in (("coordinator-cert", "coordinator"), ("reward-cert", "reward"), ("client-cert", "client")):
            certificate, key = authority.issue(name)
            folders[secret] = self.folder / f"secret-{secret}"
            folders[secret].mkdir()
            for source, file in ((certificate, "tls.crt"), (key, "tls.key"), (authority.certificate, "ca.crt")):
                shutil.copy(source, folders[secret] / file)
        for secret in ("espalier-hashes", "espalier-tokens", "otel-ca"):
            folders[secret] = self.folder / f"secret-{secret}"
            folders[secret].mkdir()
        lines = [new_token(folders["espalier-tokens"] / role, f"{role}s", role) for role in ("worker", "submitter", "admin")]
        (folders["espalier-hashes"] / "tokens").write_text("\n".join(lines) + "\n")
        shutil.copy(authority.certificate, folders["otel-ca"] / "ca.crt")
        return folders

    def cli(self, play, objects, *words):
        """The submit job's pod with other words: the same way in, the same rights."""
        job = find(objects, "Job", "demo-submit")
        pod = json.loads(json.dumps(pod_of(job)))
        arguments = pod["spec"]["containers"][0]["args"]
        pod["spec"]["containers"][0]["args"] = [word for word in arguments if word.startswith("--") and "--request-id" not in word] + list(words)
        return json.loads(play.finish(job, pod, "cli", attempts=20))

    def test_tls_tokens_backup_and_restore(self):
        objects, secrets = render("secrets"), self.secrets()
        with Play(objects, self.folder, secrets) as play:
            self.bring_up(play, objects)
            for _ in range(2):  # an upgrade with the same spec submits nothing new
                self.finish(play, objects, "Job", "demo-submit", attempts=20)
            runs = self.cli(play, objects, "--json", "run", "list")["runs"]
            self.assertEqual(["secured"], [run["spec"]["name"] for run in runs])
            for _ in range(600):
                run = self.cli(play, objects, "--json", "run", "get", "secured")
                if run.get("run", run)["state"] == "RUN_STATE_COMPLETED":
                    break
            else:
                self.fail(f"the run did not complete: {run}")
            backup = json.loads(self.finish(play, objects, "CronJob", "demo-backup"))
            name = pathlib.Path(backup["path"]).name
            # As helm/README.md says: no coordinator, no history, then an upgrade that names the backup.
            self.assertEqual(0, play.stop("demo-coordinator-0"))
            shutil.rmtree(self.folder / "claim-history-demo-coordinator-0")
            play.objects = objects = render("secrets", "--set", f"coordinator.restoreFrom={name}")
            self.start(play, objects, "StatefulSet", "demo-coordinator", "demo-coordinator-0")
            run = self.cli(play, objects, "--json", "run", "get", "secured")
            self.assertEqual("RUN_STATE_COMPLETED", run.get("run", run)["state"])
            # The value may stay: a coordinator that has its history does not go back.
            self.assertEqual(0, play.stop("demo-coordinator-0"))
            self.start(play, objects, "StatefulSet", "demo-coordinator", "demo-coordinator-0")
            self.assertIn("restore_skipped", (self.folder / "demo-coordinator-0.log").read_text())

    def test_workers_of_a_job_leave_after_their_run(self):
        objects = render("job")
        with Play(objects, self.folder) as play:
            self.bring_up(play, objects, "Job", "demo-worker-1")
            self.finish(play, objects, "Job", "demo-submit", attempts=20)
            for index in range(2):
                self.assertEqual(0, play.running[f"demo-worker-1-{index}{JOB_SUFFIX}"].wait(120))


if __name__ == "__main__":
    unittest.main(verbosity=2)
