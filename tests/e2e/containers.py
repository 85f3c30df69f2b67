"""Containers from the images of deploy/images, as a cluster would start them: runc, the image's own user and command, a read-only root, no
capability, one network for all of them (a pod's). Needs root. Only Python's standard library."""
import json
import os
import pathlib
import shutil
import subprocess


class Unable(Exception):
    """This machine cannot start containers; the text says why."""


def call(*command, **options):
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=120, **options)
    if done.returncode != 0:
        raise Unable(f"{' '.join(map(str, command))}: {(done.stderr or done.stdout).strip()[-500:]}")
    return done.stdout


class Images:
    """What `deploy/images/build` left in its folder `out`."""

    def __init__(self, out, tag):
        self.buildah = ["buildah", "--root", out / "storage", "--runroot", out / "run", "--storage-driver", "vfs"]
        self.tag = tag
        self.roots = {}

    def inspect(self, name):
        return json.loads(call(*self.buildah, "inspect", "--type", "image", f"espalier-{name}:{self.tag}"))

    def config(self, name):
        return self.inspect(name)["OCIv1"]["config"]

    def root(self, name):
        """The image's files, unpacked once."""
        if name not in self.roots:
            container = call(*self.buildah, "from", "--pull-never", f"espalier-{name}:{self.tag}").strip()
            self.roots[name] = pathlib.Path(call(*self.buildah, "mount", container).strip())
        return self.roots[name]


class Pod:
    """A network of its own and the containers in it. Use as a context manager."""

    def __init__(self, images, folder):
        self.images, self.folder = images, pathlib.Path(folder)
        self.name = f"espalier-{os.getpid()}"
        self.hosts = {}
        self.running = {}

    def __enter__(self):
        call("ip", "netns", "add", self.name)
        call("ip", "-n", self.name, "link", "set", "lo", "up")
        # No name server here: what stands in no hosts file (IPv6 addresses) is given up soon.
        (self.folder / "resolv.conf").write_text("nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")
        return self

    def __exit__(self, *_):
        for name in list(self.running):
            subprocess.run([*self.runc(), "delete", "--force", self.id(name)], capture_output=True)
            self.running.pop(name).wait(30)
        subprocess.run(["ip", "netns", "delete", self.name], capture_output=True)

    def runc(self):
        return ["runc", "--root", str(self.folder / "runc")]

    def id(self, name):
        return f"{self.name}-{name}"

    def add_host(self, name):
        """An address beyond loopback under which all containers know `name`."""
        self.hosts[name] = f"10.88.7.{2 + len(self.hosts)}"
        call("ip", "-n", self.name, "address", "add", f"{self.hosts[name]}/32", "dev", "lo")
        (self.folder / "hosts").write_text("127.0.0.1 localhost\n" + "".join(f"{at} {host}\n" for host, at in self.hosts.items()))

    def bundle(self, name, image, arguments, mounts, environment):
        folder = self.folder / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        call("runc", "spec", "--bundle", folder)
        spec = json.loads((folder / "config.json").read_text())
        config = self.images.config(image)
        user, group = map(int, config["User"].split(":"))
        process = spec["process"]
        process |= {"terminal": False, "user": {"uid": user, "gid": group}, "cwd": config["WorkingDir"], "noNewPrivileges": True,
                    "args": [*config["Entrypoint"], *map(str, arguments)], "env": [*config["Env"], *environment], "rlimits": []}
        process["capabilities"] = {kind: [] for kind in process["capabilities"]}
        spec["root"] = {"path": str(self.images.root(image)), "readonly": True}
        spec["hostname"] = name
        spec["linux"]["cgroupsPath"] = f"/{self.id(name)}"
        spec["linux"]["namespaces"] = [{"type": "network", "path": f"/var/run/netns/{self.name}"} if each["type"] == "network" else each
                                       for each in spec["linux"]["namespaces"]]
        binds = {"/etc/hosts": (self.folder / "hosts", "ro"), "/etc/resolv.conf": (self.folder / "resolv.conf", "ro"), **mounts}
        spec["mounts"] += [{"destination": inside, "source": str(outside), "type": "bind", "options": ["rbind", how, "nosuid", "nodev"]}
                           for inside, (outside, how) in binds.items()]
        (folder / "config.json").write_text(json.dumps(spec))
        return folder

    def command(self, name, *arguments, image=None, mounts=None, environment=()):
        folder = self.bundle(name, image or name, arguments, mounts or {}, environment)
        return [*self.runc(), "run", "--bundle", str(folder), self.id(name)]

    def start(self, name, *arguments, **options):
        log = open(self.folder / f"{name}.log", "ab")
        self.running[name] = subprocess.Popen(self.command(name, *arguments, **options), stdout=log, stderr=subprocess.STDOUT)
        log.close()

    def run(self, name, *arguments, timeout=120, **options):
        """To its end; returns the finished process with its output."""
        return subprocess.run(self.command(name, *arguments, **options), capture_output=True, text=True, timeout=timeout)

    def stop(self, name):
        """SIGTERM, as a cluster stops a container; returns the exit code."""
        call(*self.runc(), "kill", self.id(name), "TERM")
        return self.running.pop(name).wait(30)

    def log(self, name):
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def processes(self, name):
        """/proc/PID/status, as a table, of each process of a running container."""
        found = json.loads(call(*self.runc(), "ps", "--format", "json", self.id(name)))
        return [dict(line.split(":\t", 1) for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line)
                for pid in found]
