"""Goal: every set of values lints and renders as it did, and wrong values are refused in words that help. Method: helm itself; golden
renderings, which `python3 tests/helm/chart_test.py --update` writes anew."""
import hashlib
import json
import subprocess
import sys
import unittest

import yaml

from chart import CHART, HERE, ROOT, SETS, helm, render, render_text, values_file

# Texts longer than this (the corpus, the dashboard) stand in the golden files by their hash.
TEXT_MAX = 2000

REFUSED = [
    (["--set", "workers.replicas=2"], ["workers"]),
    (["--set", "worker.replica=2"], ["/worker", "replica"]),
    (["--set", "worker.replicas=-1"], ["/worker/replicas"]),
    (["--set", "worker.replicas=many"], ["/worker/replicas"]),
    (["--set", "worker.kind=Deployment"], ["/worker/kind", "StatefulSet"]),
    (["--set", "worker.device=gpu"], ["/worker/device", "cuda"]),
    (["--set", "worker.sharedMemory=lots"], ["/worker/sharedMemory"]),
    (["--set", "worker.nccl.PATH=x"], ["PATH", "NCCL_"]),
    (["--set", "worker.nccl.NCCL_DEBUG=INFO"], ["worker.nccl", "worker.device"]),
    (["--set", "worker.queueName=research"], ["worker.queueName", "StatefulSet"]),
    (["--set", "worker.data.accessMode=ReadOnlyMany"], ["/worker/data/accessMode"]),
    (["--set", "coordinator.port=70000"], ["/coordinator/port"]),
    (["--set", "coordinator.leaseSeconds=0"], ["/coordinator/leaseSeconds"]),
    (["--set", "coordinator.restoreFrom=../x", "--set", "backup.enabled=true"], ["/coordinator/restoreFrom"]),
    (["--set", "coordinator.restoreFrom=monday"], ["coordinator.restoreFrom", "backup.enabled"]),
    (["--set", "coordinator.resources.limits=null"], ["/coordinator/resources"]),
    (["--set", "image.tag=latest"], ["/image/tag"]),
    (["--set", "tls.enabled=true"], ["tls.secrets.coordinator", "tls.certManager.enabled"]),
    (["--set", "tls.certManager.enabled=true"], ["tls.certManager.enabled", "tls.enabled"]),
    (["--set", "auth.hashesSecret=x"], ["auth", "go together"]),
    (["--set", "auth.hashesSecret=x", "--set", "auth.tokensSecret=y"], ["auth.hashesSecret", "plaintext"]),
    (["--set", "reward.autoscaling.enabled=true", "--set", "reward.autoscaling.minReplicas=20"], ["reward.autoscaling.minReplicas: 20"]),
    (["--set", "run.spec.seed=1"], ["run.spec.name"]),
    (["--set", "run.spec.name=big", "--set", "run.spec.workers.count=9"], ["run.spec.workers.count: 9", "worker.replicas"]),
    (["--set", "tracing.otlpEndpoint=collector"], ["/tracing/otlpEndpoint"]),
    (["--set-json", "networkPolicy.clientLabels={\"espalier-client\":null}"], ["/networkPolicy/clientLabels"]),
    (["--set", "backup.keep=-3"], ["/backup/keep"]),
    (["--kube-version", "1.20.0"], ["kubeVersion"]),
]


def shortened(value):
    if isinstance(value, dict):
        return {key: shortened(below) for key, below in value.items()}
    if isinstance(value, list):
        return [shortened(below) for below in value]
    if isinstance(value, str) and len(value) > TEXT_MAX:
        return f"{len(value)} characters, sha256 {hashlib.sha256(value.encode()).hexdigest()[:16]}"
    return value


def golden_text(name):
    objects = sorted(render(name), key=lambda one: (one["kind"], one["metadata"]["name"]))
    made = []
    for one in objects:
        if one["kind"] == "PrometheusRule":  # deploy/monitoring has its own tests
            one = {**one, "spec": shortened(json.dumps(one["spec"]))}
        made.append(shortened(one))
    return yaml.safe_dump_all(made, sort_keys=True, width=160, allow_unicode=True)


class Chart(unittest.TestCase):
    def test_lints_and_renders_as_before(self):
        for name in SETS:
            with self.subTest(name):
                done = helm("lint", "--strict", CHART, "--values", values_file(name))
                self.assertEqual(0, done.returncode, done.stdout + done.stderr)
                path = HERE / "golden" / f"{name}.yaml"
                self.maxDiff = 20000
                self.assertMultiLineEqual(path.read_text(), golden_text(name), "if it is meant: python3 tests/helm/chart_test.py --update")

    def test_wrong_values_are_refused_by_name(self):
        for settings, words in REFUSED:
            with self.subTest(settings):
                done = helm("template", "demo", CHART, *settings)
                self.assertNotEqual(0, done.returncode, "it was taken")
                for word in words:
                    self.assertIn(word, done.stderr)

    def test_every_value_is_explained_and_every_explained_value_is_there(self):
        schema = json.loads((CHART / "values.schema.json").read_text())
        values = yaml.safe_load((CHART / "values.yaml").read_text())

        def compare(field, value, path):
            self.assertIn("description", field, path)
            if "properties" not in field:
                return
            self.assertIs(False, field.get("additionalProperties"), path)
            self.assertEqual(set(field["properties"]) - {"global"}, set(value), path)
            for name, below in field["properties"].items():
                if name in value:
                    compare(below, value[name], f"{path}.{name}")

        schema["description"] = "all"
        compare(schema, values, "values")

    def test_copies_and_readme_are_in_step(self):
        for command in (["helm/sync", "--check"], [sys.executable, "helm/make_readme", "--check"]):
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
            self.assertEqual(0, done.returncode, done.stderr)

    def test_version_is_that_of_the_build(self):
        version = (ROOT / "CMakeLists.txt").read_text().split("project(espalier VERSION ")[1].split()[0]
        self.assertIn(f'appVersion: "{version}"', (CHART / "Chart.yaml").read_text())

    def test_notes_lead_on(self):
        for name in SETS:
            done = helm("install", "demo", CHART, "--dry-run=client", "--values", values_file(name))
            notes = done.stdout.split("NOTES:")[-1]
            for words in ("helm test demo", "port-forward", "run submit"):
                self.assertIn(words, notes, f"{name}: {done.stderr}")

    def test_the_request_of_a_run_changes_with_its_spec_alone(self):
        def key(*settings):
            text = render_text("job", *settings)
            return next(line for line in text.splitlines() if "--request-id=" in line)
        self.assertEqual(key(), key("--set", "worker.replicas=4"))
        self.assertNotEqual(key(), key("--set", "run.spec.seed=2"))


if __name__ == "__main__":
    if "--update" in sys.argv:
        for one in SETS:
            (HERE / "golden" / f"{one}.yaml").write_text(golden_text(one))
        sys.exit(0)
    unittest.main(verbosity=2)
