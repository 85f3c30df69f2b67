"""Goal: the images are small, hold nothing writable and nobody but one plain user, come out the same twice, and run: a coordinator, a reward
service, two workers and the command line finish a run over mutual TLS, as containers whose root cannot be written.
Method: deploy/images/build with the programs under test; runc. Where containers cannot be started, that part says why and is skipped.
"""
import json
import os
import pathlib
import re
import shutil
import stat
import subprocess
import tarfile
import tempfile
import threading
import time
import unittest

from authority import BIN, Authority, new_token
from containers import Images, Pod, Unable, call
from suite import write_corpus

USER = 65532
IMAGES = ("coordinator", "reward", "worker-cpu", "cli")
BYTES_MAX = {"coordinator": 60e6, "reward": 45e6, "worker-cpu": 90e6, "cli": 45e6}
GPU_CODE = ".nv_fatbin"  # section of a worker that was built where nvcc is; any size
EPOCH, REVISION = "1700000000", "0123456789abcdef0123456789abcdef01234567"
TAG = "under-test"


def why_no_containers():
    if os.geteuid() != 0:
        return "starting containers needs root"
    if shutil.which("runc") is None or shutil.which("ip") is None:
        return "no runc or no ip here: deploy/install_packages deploy/images/packages.txt installs them"
    return None


def snapshot(root):
    """What would show a write: mode, owner, size and time of everything under `root`; of folders, whose time a mount point changes, the mode."""
    return {str(path.relative_to(root)): at.st_mode if stat.S_ISDIR(at.st_mode) else (at.st_mode, at.st_uid, at.st_gid, at.st_size, at.st_mtime_ns)
            for path in root.rglob("*") for at in [path.lstat()]}


def sections(program):
    """{name: bytes} of the sections of an ELF file."""
    rows = re.findall(r"^ +\[ *\d+\] (\S+) +\S+ +[0-9a-f]+ [0-9a-f]+ ([0-9a-f]+) ", call("readelf", "--section-headers", "--wide", program), re.M)
    return {name: int(size, 16) for name, size in rows}


def manifest(archive):
    """The digest that names an image, and with it every byte of its layers and settings."""
    with tarfile.open(archive) as tar:
        return [each["digest"] for each in json.load(tar.extractfile("index.json"))["manifests"]]


def build(out, *images, check=True, programs=BIN, **environment):
    return subprocess.run(["deploy/images/build", *images], capture_output=True, text=True, check=check, timeout=300,
                          env={**os.environ, "ESPALIER_BIN": str(programs), "ESPALIER_IMAGE_OUT": str(out), "ESPALIER_IMAGE_TAG": TAG,
                               "SOURCE_DATE_EPOCH": EPOCH, "ESPALIER_REVISION": REVISION, **environment})


class ImagesTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        if os.geteuid() == 0 and os.environ.get("ESPALIER_SKIP_INSTALL") != "1":
            subprocess.run(["deploy/install_packages", "deploy/images/packages.txt"], check=True, timeout=300)
        if shutil.which("buildah") is None:
            raise unittest.SkipTest("no buildah here: deploy/install_packages deploy/images/packages.txt installs it, as root")
        folder = tempfile.TemporaryDirectory(prefix="espalier-images-")
        cls.addClassCleanup(folder.cleanup)
        cls.folder = pathlib.Path(folder.name)
        cls.out = cls.folder / "oci"
        try:
            trial = ["buildah", "--root", cls.folder / "trial", "--runroot", cls.folder / "trial-run", "--storage-driver", "vfs"]
            call(*trial, "mount", call(*trial, "from", "scratch").strip())
        except Unable as error:
            raise unittest.SkipTest(f"buildah cannot keep images here: {error}")
        print(build(cls.out).stdout)
        cls.images = Images(cls.out, TAG)

    def test_an_image_says_what_it_is_and_runs_as_a_plain_user(self):
        for name in IMAGES:
            with self.subTest(name):
                config = self.images.config(name)
                self.assertEqual(config["User"], f"{USER}:{USER}", "a number, so that a cluster can tell it from root")
                program = "espalier" if name == "cli" else f"espalier-{name.removesuffix('-cpu')}"
                self.assertEqual(config["Entrypoint"], [f"/usr/local/bin/{program}"])
                labels = {key.removeprefix("org.opencontainers.image."): value for key, value in config["Labels"].items()}
                self.assertEqual(labels["title"], f"espalier-{name}")
                self.assertEqual(labels["created"], "2023-11-14T22:13:20Z")
                self.assertEqual(labels["licenses"], "Apache-2.0")
                self.assertRegex(labels["version"], r"^\d+\.\d+\.\d+$")
                self.assertEqual(labels["revision"], REVISION)
                self.assertGreater(len(labels["description"]), 20)

    def test_an_image_is_small_and_holds_nothing_to_misuse(self):
        for name in IMAGES:
            root = self.images.root(name)
            mine, size = [], 0
            for path in root.rglob("*"):
                at, inside = path.lstat(), str(path.relative_to(root))
                size += at.st_size if stat.S_ISREG(at.st_mode) else 0
                self.assertEqual(at.st_mode & (stat.S_ISUID | stat.S_ISGID), 0, f"{name}: {inside} runs as somebody else")
                if at.st_uid != 0 or at.st_gid != 0 or (at.st_mode & stat.S_IWOTH and not path.is_symlink()):
                    mine.append(inside)
            with self.subTest(name):
                self.assertEqual(sorted(mine), ["tmp", "var/lib/espalier"], "all that the user could write")
                programs = sorted(path.name for path in (root / "usr/local/bin").iterdir())
                self.assertEqual(len(programs), 1, programs)
                self.assertFalse([each for each in ("bin", "sbin", "usr/bin", "usr/sbin") if (root / each).exists()], "no shell, no tools")
                found = sections(root / "usr/local/bin" / programs[0])
                self.assertIn(".text", found)
                self.assertNotIn(".symtab", found, "stripped")
                self.assertLess(size - found.get(GPU_CODE, 0), BYTES_MAX[name])

    def test_every_library_comes_with_its_licence_and_its_package(self):
        for name in IMAGES:
            root = self.images.root(name)
            entries = {path.name: path.read_text() for path in (root / "var/lib/dpkg/status.d").iterdir()}
            self.assertIn("libgrpc++1.51", entries)
            for package, text in entries.items():
                self.assertRegex(text, rf"(?m)^Package: {re.escape(package)}$")
                self.assertRegex(text, r"(?m)^Version: \S+$")
                self.assertGreater((root / "usr/share/doc" / package / "copyright").stat().st_size, 100)
            self.assertIn("Apache License", (root / "usr/share/doc/espalier/copyright").read_text())

    def test_the_same_programs_give_the_same_images(self):
        again = self.folder / "again"
        build(again, "reward", "cli")
        for name in ("reward", "cli"):
            self.assertEqual(manifest(again / f"espalier-{name}.tar"), manifest(self.out / f"espalier-{name}.tar"))

    def test_what_cannot_be_built_is_refused_with_the_reason(self):
        self.assertIn("there are: coordinator reward", build(self.folder / "none", "dashboard", check=False).stderr)
        bad = subprocess.run(["deploy/images/build", "cli"], capture_output=True, text=True, env={**os.environ, "ESPALIER_BIN": "/nowhere"})
        self.assertEqual(bad.returncode, 1)
        self.assertIn("no program /nowhere/espalier", bad.stderr)

    def cuda_programs(self):
        """The programs, with a worker that looks as if it held code for GPUs, and an image of nothing but a C++ library to stand in for NVIDIA's."""
        programs, plain = self.folder / "cuda", self.folder / "plain"
        programs.mkdir()
        for program in ("espalier", "espalier-coordinator", "espalier-reward", "espalier-worker"):
            shutil.copy2(BIN / program, programs / program)
        (programs / "section").write_text("no code")
        if GPU_CODE not in sections(BIN / "espalier-worker"):
            call("objcopy", "--add-section", f"{GPU_CODE}={programs / 'section'}", programs / "espalier-worker")
        call("g++", "-x", "c++", "-", "-Wl,--no-as-needed", "-o", plain, input="int main() {}")
        call("deploy/images/make_root", "base", self.folder / "plain-root", plain)
        system = pathlib.Path(next(line.split()[2] for line in call("ldd", plain).splitlines() if "libc.so.6 =>" in line)).parent
        for part in ("libpthread.so.0", "libdl.so.2", "librt.so.1", "libresolv.so.2"):  # every C library of glibc has them
            shutil.copy(system / part, self.folder / "plain-root" / system.relative_to("/"))
        container = call(*self.images.buildah, "from", "scratch").strip()
        call(*self.images.buildah, "copy", container, self.folder / "plain-root", "/")
        call(*self.images.buildah, "commit", "--quiet", container, f"stand-in:{TAG}")
        return programs

    def test_the_cuda_image_brings_what_its_base_lacks(self):
        """Not on NVIDIA's base, which need not be within reach, but on one that has as little as can be."""
        if GPU_CODE not in sections(BIN / "espalier-worker"):
            none = build(self.out, "worker-cuda", check=False)
            self.assertEqual(none.returncode, 1)
            self.assertIn("holds no code for GPUs", none.stderr)
        programs = self.cuda_programs()
        lost = build(self.out, "worker-cuda", check=False, programs=programs, ESPALIER_CUDA_BASE="no name")
        self.assertEqual(lost.returncode, 1)
        self.assertIn("ESPALIER_CUDA_BASE", lost.stderr)
        build(self.out, "worker-cuda", programs=programs, ESPALIER_CUDA_BASE=f"localhost/stand-in:{TAG}")
        config = self.images.config("worker-cuda")
        self.assertEqual((config["User"], config["Entrypoint"]), (f"{USER}:{USER}", ["/usr/local/bin/espalier-worker"]))
        self.assertIn("NVIDIA_DRIVER_CAPABILITIES=compute,utility", config["Env"])
        done = self.pod().run("worker-cuda", "--version")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertRegex(done.stdout, r"^espalier-worker \d")

    # From here on containers are started.

    def pod(self):
        """A pod in which the services know each other by name; skips the test where containers cannot be started."""
        if why_no_containers():
            self.skipTest(why_no_containers())
        folder = self.folder / self.id().rsplit(".", 1)[-1]
        folder.mkdir()
        try:
            pod = Pod(self.images, folder).__enter__()
            self.addCleanup(pod.__exit__)
            for name in ("coordinator", "reward", "worker-0", "worker-1"):
                pod.add_host(name)
            trial = pod.run("cli", "--version")
        except Unable as error:
            self.skipTest(f"containers cannot be started here: {error}")
        if trial.returncode != 0 and "runc" in trial.stderr:
            self.skipTest(f"containers cannot be started here: {trial.stderr.strip()[-500:]}")
        self.assertEqual(trial.returncode, 0, trial.stderr)
        self.assertRegex(trial.stdout, r"^espalier \d")
        return pod

    def credentials(self, folder):
        """Secrets as a cluster mounts them: {path inside: (path outside, "ro")}, and the flags that name them."""
        authority = Authority(folder)
        for name in ("coordinator", "reward", "client"):
            authority.issue(name, hosts=f"DNS:{name}")
        lines = [new_token(folder / f"{role}.token", role, role) for role in ("submitter", "worker", "admin")]
        (folder / "tokens").write_text("\n".join(lines) + "\n")
        (folder / "ca.key").unlink()
        for path in folder.iterdir():
            os.chown(path, USER, USER)
        return {"/etc/espalier": (folder, "ro")}

    @staticmethod
    def server(name):
        at = f"/etc/espalier/{name}"
        return ["--tls-cert", f"{at}.pem", "--tls-key", f"{at}.key", "--tls-client-ca", "/etc/espalier/ca.pem", "--tokens", "/etc/espalier/tokens"]

    @staticmethod
    def client(role):
        at = "/etc/espalier"
        return ["--tls-ca", f"{at}/ca.pem", "--tls-client-cert", f"{at}/client.pem", "--tls-client-key", f"{at}/client.key",
                "--token-file", f"{at}/{role}.token"]

    def volume(self, pod, name):
        """A volume of the containers' user."""
        folder = pod.folder / f"volume-{name}"
        folder.mkdir()
        os.chown(folder, USER, USER)
        return folder

    def assert_runs_as_nobody_in_particular(self, pod, name):
        processes = pod.processes(name)
        self.assertTrue(processes, f"{name} runs")
        for process in processes:
            self.assertEqual(process["Uid"].split(), [str(USER)] * 4, f"{name}: {process['Name']}")
            self.assertEqual(process["Gid"].split(), [str(USER)] * 4)
            self.assertEqual(process["Groups"].split(), [])
            for kind in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
                self.assertEqual(int(process[kind], 16), 0, f"{name}: {kind}")
            self.assertEqual(process["NoNewPrivs"], "1")

    def test_a_run_goes_through_containers_whose_roots_stay_as_they_were(self):
        pod = self.pod()
        before = {name: snapshot(self.images.root(name)) for name in IMAGES}
        (pod.folder / "secrets").mkdir()
        secrets = self.credentials(pod.folder / "secrets")
        ledger, shared = self.volume(pod, "ledger"), self.volume(pod, "shared")
        write_corpus(shared / "corpus.txt")
        os.chown(shared / "corpus.txt", USER, USER)
        spec = pod.folder / "run.yaml"
        shutil.copyfile("deploy/runs/tiny.yaml", spec)

        # Only the coordinator and the workers have a volume; the reward service and the command line write nothing at all.
        pod.start("coordinator", "--listen", "coordinator:7001", "--data", "/var/lib/espalier/coordinator", *self.server("coordinator"),
                  mounts={**secrets, "/var/lib/espalier": (ledger, "rw")})
        pod.start("reward", "--listen", "reward:7002", *self.server("reward"), mounts=secrets)
        for worker in ("worker-0", "worker-1"):
            pod.start(worker, "--coordinator", "coordinator:7001", "--reward", "reward:7002", "--listen-links", f"{pod.hosts[worker]}:7100",
                      *self.client("worker"), image="worker-cpu", mounts={**secrets, "/var/lib/espalier": (shared, "rw")})
        services = list(pod.running)
        watched = {}

        def submit():
            watched["done"] = pod.run("cli", "--coordinator", "coordinator:7001", *self.client("submitter"), "run", "submit", "/run.yaml",
                                      "--watch", mounts={**secrets, "/run.yaml": (spec, "ro")}, timeout=200)

        calls = [*self.client("submitter"), "--coordinator", "coordinator:7001", "--reward", "reward:7002", "--json"]
        self.wait_for(pod, lambda: pod.run("probe", *calls, "workers", "list", image="cli", mounts=secrets).stdout.count('"worker_id"') == 2)
        scored = pod.run("probe", *calls, "reward", "score", "--reference", "14", "--trace", "The answer is 14.", image="cli", mounts=secrets)
        self.assertEqual(scored.returncode, 0, scored.stderr)
        thread = threading.Thread(target=submit)
        thread.start()
        try:
            self.wait_for(pod, lambda: "assigned" in pod.log("worker-0"))
            for name in services:
                self.assert_runs_as_nobody_in_particular(pod, name)
        finally:
            thread.join(200)
        done = watched["done"]
        self.assertEqual(done.returncode, 0, f"{done.stdout[-2000:]}{done.stderr[-2000:]}{pod.log('worker-0')[-2000:]}")
        self.assertRegex(done.stdout, r"(?m)^r-\w+ completed .*accuracy", "the last line tells how it ended")
        self.assertTrue(list(shared.glob("runs/*/export/*.safetensors")), "the export lies in the volume")
        # A backup lies beside the data, in the volume too.
        kept = pod.run("probe", "--coordinator", "coordinator:7001", *self.client("admin"), "history", "backup", image="cli", mounts=secrets)
        self.assertEqual(kept.returncode, 0, kept.stderr)
        self.assertTrue(list(ledger.glob("coordinator.backups/*/CURRENT")), kept.stdout)
        for name in services:
            self.assertEqual(pod.stop(name), 0, f"{name} ends in order:\n{pod.log(name)[-1000:]}")
            self.assertNotIn("Read-only file system", pod.log(name), "nothing tried to write elsewhere")
        for name in IMAGES:
            after = snapshot(self.images.root(name))
            # runc makes the mount points themselves.
            mounts = {path for path in after.keys() - before[name].keys() if path in ("etc/hosts", "etc/resolv.conf", "etc/espalier", "run.yaml")}
            self.assertEqual({path: each for path, each in after.items() if path not in mounts}, before[name], f"{name}: its root was written")
        for volume in (ledger, shared):
            self.assertEqual({path.lstat().st_uid for path in volume.rglob("*")}, {USER})

    def test_the_root_of_a_container_cannot_be_written(self):
        pod = self.pod()
        for where in ("/usr/share/data", "/var/lib/espalier/data"):
            done = pod.run("coordinator", "--data", where)
            self.assertEqual(done.returncode, 1)
            self.assertIn("Read-only file system", done.stderr)

    def wait_for(self, pod, condition, seconds=60):
        deadline = time.monotonic() + seconds
        while not condition():
            logs = "".join(f"--- {name}\n{pod.log(name)[-1500:]}" for name in pod.running)
            self.assertLess(time.monotonic(), deadline, logs)
            time.sleep(0.2)


if __name__ == "__main__":
    unittest.main(verbosity=2)
