"""One container's keeper: starts its process, keeps its log, remembers how it ended.

This file is run by path (`python -I -S shim.py run FOLDER`), one process a container, so that a
container outlives a crash of the runtime. It imports a few modules of the standard library only: it
must be up within some 50 ms, and nothing of the project is on its path.

* `run FOLDER` reads `FOLDER/spec.json`, builds the container's root, starts the process as PID 1 of
  a new PID namespace, and writes `FOLDER/exit.json` when it ended. (`bare`: without namespaces.)
* `exec KEEPER` runs one command, described as JSON on its standard input, in a running container.
* `probe FOLDER` says whether this machine permits what `run` needs.

Signals to the keeper: TERM passes the container's stop signal on, USR1 reopens the log, USR2 kills.
If the keeper dies, the kernel kills PID 1, and with it every process of the container.

Sources: `mount(2)`, `pivot_root(2)`, `pid_namespaces(7)`, `user_namespaces(7)`, the kernel's
`filesystems/overlayfs`; log format: Kubernetes' `kubelet/cri/streaming` and KEP "CRI logging".
"""

# Importing pathlib costs a third of the start-up:
# ruff: noqa: PTH101, PTH102, PTH103, PTH105, PTH106, PTH110, PTH112, PTH114, PTH115, PTH119, PTH120
# ruff: noqa: PTH123, PTH211
# These are the container's own folders, with the modes that programs expect there:
# ruff: noqa: S103, S108

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import sys
import time
from typing import Any, NoReturn

_NEWNS, _NEWUTS, _NEWUSER, _NEWPID = 0x20000, 0x4000000, 0x10000000, 0x20000000
_RDONLY, _REMOUNT, _BIND, _REC, _PRIVATE = 1, 32, 4096, 16384, 1 << 18
_NOSUID, _NODEV, _NOEXEC = 2, 4, 8
_DETACH, _PDEATHSIG, _SUBREAPER = 2, 1, 36
_LOCKED_FLAGS = _NOSUID | _NODEV | _NOEXEC | 1024 | 2048 | (1 << 21)  # … no(dir)atime relatime
_SYS_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
_HOST = "/.host"
_NOT_STARTED = 126  # the shell's code for a command that cannot be run

LONGEST_LINE_BYTES = 16384
"""A longer line is cut into records with the tag P (containerd's default)."""

_libc = ctypes.CDLL(None, use_errno=True)


class StartError(Exception):
    """The container's process could not be started; the text says why."""


# -- the log ------------------------------------------------------------------------------------


class LogFile:
    """Writes the CRI log format: `RFC3339Nano stream F|P text`, one record a line.

    Args:
        path: the file, appended to; "" drops everything.
    """

    def __init__(self, path: str) -> None:
        """Open `path`; a folder that does not exist drops everything."""
        self._path = path
        self._file = -1
        self._rest: dict[str, bytes] = {"stdout": b"", "stderr": b""}
        self.reopen()

    def reopen(self) -> None:
        """Open the path again: after a rotation the kubelet expects a new file there."""
        if not self._path:
            return
        try:
            fresh = os.open(
                self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640
            )
        except OSError:
            return  # the folder is gone with its pod; the container must not notice
        if self._file >= 0:
            os.close(self._file)
        self._file = fresh

    def write(self, stream: str, data: bytes) -> None:
        """Add what the container wrote; whole lines are recorded at once, the rest waits."""
        *lines, rest = (self._rest[stream] + data).split(b"\n")
        records: list[bytes] = []
        for line in lines:
            pieces, end = _cut(stream, line)
            records += [*pieces, _record(stream, b"F", end)]
        pieces, self._rest[stream] = _cut(stream, rest)
        self._put(b"".join(records + pieces))

    def end(self, stream: str) -> None:
        """Record what is left without a newline, as a partial line (as containerd does)."""
        rest, self._rest[stream] = self._rest[stream], b""
        if rest:
            self._put(_record(stream, b"P", rest))

    def _put(self, data: bytes) -> None:
        if self._file < 0 or not data:
            return
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(self._file, view) :]
        except OSError:
            return  # a full disk loses log lines, never the container


def _cut(stream: str, line: bytes) -> tuple[list[bytes], bytes]:
    """Return records of the full pieces of a line that is too long, and its end."""
    records = []
    while len(line) > LONGEST_LINE_BYTES:
        records.append(_record(stream, b"P", line[:LONGEST_LINE_BYTES]))
        line = line[LONGEST_LINE_BYTES:]
    return records, line


def _record(stream: str, tag: bytes, text: bytes) -> bytes:
    now_ns = time.time_ns()
    seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now_ns // 10**9))
    return f"{seconds}.{now_ns % 10**9:09d}Z {stream} ".encode() + tag + b" " + text + b"\n"


# -- system calls -------------------------------------------------------------------------------


def _check(result: int, what: str) -> None:
    if result != 0:
        raise StartError(f"{what}: {os.strerror(ctypes.get_errno())}")


def _mount(source: str, target: str, kind: str | None, flags: int, data: str = "") -> None:
    names = source.encode(), target.encode(), kind.encode() if kind else None
    result = _libc.mount(*names, ctypes.c_ulong(flags), data.encode())
    _check(result, f"mount {kind or 'bind'} {source} at {target}")


def _bind(source: str, target: str, *, readonly: bool) -> None:
    _mount(source, target, None, _BIND | _REC)
    if readonly:
        # A user namespace may not drop flags that its parent set, so keep those the mount has.
        kept = os.statvfs(target).f_flag
        flags = kept & (_NOSUID | _NODEV | _NOEXEC)
        flags |= (1024 if kept & os.ST_NOATIME else 0) | (1 << 21 if kept & os.ST_RELATIME else 0)
        flags |= 2048 if kept & os.ST_NODIRATIME else 0
        _mount("none", target, None, _REMOUNT | _BIND | _RDONLY | (flags & _LOCKED_FLAGS))


def _unshare(flags: int, what: str) -> None:
    _check(_libc.unshare(flags), f"unshare the {what} namespace")


def _isolate(flags: int, what: str) -> None:
    """Unshare namespaces; without root first a user namespace, in which every id stays the same."""
    user, group = os.getuid(), os.getgid()
    if user != 0:
        _unshare(_NEWUSER, "user")
        ids = {"setgroups": "deny", "uid_map": f"{user} {user} 1", "gid_map": f"{group} {group} 1"}
        for name, text in ids.items():
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)
    _unshare(flags, what)


def _die_with_parent(alive: int) -> None:
    """Ask the kernel to kill this process when its parent ends.

    Args:
        alive: read end of a pipe whose write end only the parent holds: end of file means that the
            parent was gone before the kernel knew.
    """
    _libc.prctl(_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    poll = select.poll()
    poll.register(alive, select.POLLIN | select.POLLHUP)
    if poll.poll(0):
        os._exit(1)


# -- the container's root -----------------------------------------------------------------------


def _build_root(spec: dict[str, Any]) -> None:
    """Make the image, the host's system folders and the mounts this process's whole file system."""
    _unshare(_NEWNS | _NEWUTS, "mount")
    _mount("none", "/", None, _REC | _PRIVATE)
    scratch = spec["scratch"]
    _mount("tmpfs", scratch, "tmpfs", 0, "mode=0755")
    root = f"{scratch}/root"
    os.mkdir(root)
    _overlay([spec["tree"]], f"{scratch}/image", root)
    for folder in spec["system"]:
        _system_folder(spec["tree"], folder, scratch, root)
    os.mkdir(root + _HOST)
    os.chdir(root)
    number = _SYS_PIVOT_ROOT[os.uname().machine]
    _check(_libc.syscall(number, root.encode(), (root + _HOST).encode()), f"pivot_root to {root}")
    os.chdir("/")
    if spec["prefix"]:
        _bind_at(spec["prefix"], spec["prefix"], readonly=True)
    for folder in spec["hidden"]:
        if os.path.isdir(folder):
            _mount("tmpfs", folder, "tmpfs", _RDONLY, "mode=0755,size=4k")
    _special_folders()
    # Parents before children, whatever order the mounts came in (as containerd orders them).
    for host, inside, readonly in sorted(spec["mounts"], key=lambda mount: mount[1].count("/")):
        _bind_at(host, inside, readonly=readonly)
    _check(_libc.umount2(_HOST.encode(), _DETACH), "detach the host's root")
    os.rmdir(_HOST)
    if spec["hostname"]:
        name = spec["hostname"].encode()
        _check(_libc.sethostname(name, len(name)), "set the hostname")


def _overlay(lower: list[str], upper: str, target: str) -> None:
    """Mount folders on each other (first one on top) with a writable layer of this container."""
    os.makedirs(f"{upper}/up")
    os.makedirs(f"{upper}/work")
    layers = ":".join(path.replace("\\", "\\\\").replace(":", "\\:") for path in lower)
    options = f"lowerdir={layers},upperdir={upper}/up,workdir={upper}/work"
    if os.getuid() != 0:
        options += ",userxattr"
    os.chmod(f"{upper}/up", 0o755)
    _mount("overlay", target, "overlay", 0, options)


def _system_folder(tree: str, folder: str, scratch: str, root: str) -> None:
    """Give the container one of the host's system folders; the image's own files lie on top."""
    inside, own = root + folder, tree + folder
    if os.path.islink(own) or (os.path.exists(own) and not os.path.isdir(own)):
        return
    if os.path.islink(folder):
        if not os.path.exists(own):
            os.symlink(os.readlink(folder), inside)
            return
        folder = os.path.realpath(folder)
    os.makedirs(inside, exist_ok=True)
    lower = [own, folder] if os.path.isdir(own) else [folder]
    _overlay(lower, f"{scratch}/system/{os.path.basename(inside)}", inside)


def _bind_at(host: str, inside: str, *, readonly: bool) -> None:
    """Bind a path of the host into the container, making the place where it belongs."""
    source = _HOST + host
    if os.path.isdir(source):
        os.makedirs(inside, exist_ok=True)
    elif not os.path.exists(source):
        raise StartError(f"mount {inside}: {host} does not exist")
    elif not os.path.exists(inside):
        os.makedirs(os.path.dirname(inside), exist_ok=True)
        os.close(os.open(inside, os.O_CREAT | os.O_WRONLY, 0o644))
    _bind(source, inside, readonly=readonly)


def _special_folders() -> None:
    for folder in ("/proc", "/sys", "/dev", "/tmp", "/run", "/var/tmp"):
        os.makedirs(folder, exist_ok=True)
    _mount("proc", "/proc", "proc", _NOSUID | _NODEV | _NOEXEC)
    _bind(_HOST + "/sys", "/sys", readonly=True)
    _mount("tmpfs", "/tmp", "tmpfs", _NOSUID | _NODEV, "mode=1777")
    _mount("tmpfs", "/dev", "tmpfs", _NOSUID, "mode=0755")
    for name in _DEVICES:
        os.close(os.open(f"/dev/{name}", os.O_CREAT | os.O_WRONLY, 0o666))
        _bind(f"{_HOST}/dev/{name}", f"/dev/{name}", readonly=False)
    os.mkdir("/dev/shm")
    os.chmod("/dev/shm", 0o1777)
    for name, target in (("fd", ""), ("stdin", "/0"), ("stdout", "/1"), ("stderr", "/2")):
        os.symlink(f"/proc/self/fd{target}", f"/dev/{name}")


def _become(args: list[str], env: dict[str, str], cwd: str) -> NoReturn:
    """Replace this process by the container's command.

    Raises:
        StartError: with the words that runc uses, which people search for.
    """
    try:
        os.makedirs(cwd, exist_ok=True)
        os.chdir(cwd)
    except OSError as error:
        raise StartError(f"working directory {cwd}: {error.strerror}") from error
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them; a program expects them
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, set())
    try:
        os.execvpe(args[0], args, env)  # noqa: S606 - becoming the command is the point
    except FileNotFoundError as error:
        unknown = "executable file not found in $PATH"
        where = "no such file or directory" if "/" in args[0] else unknown
        raise StartError(f'exec: "{args[0]}": {where}') from error
    except OSError as error:
        raise StartError(f'exec: "{args[0]}": {(error.strerror or "").lower()}') from error


# -- run ----------------------------------------------------------------------------------------


def _child(spec: dict[str, Any], report: int, alive: int, out: int, err: int) -> NoReturn:
    """Be PID 1 of the container: build its root, then become its command."""
    try:
        _die_with_parent(alive)
        os.setsid()
        null = os.open("/dev/null", os.O_RDONLY)
        for source, target in ((null, 0), (out, 1), (err, 2)):
            os.dup2(source, target)
        if not spec["bare"]:
            _build_root(spec)
        _become(spec["args"], spec["env"], spec["cwd"])
    except (StartError, OSError) as error:
        os.write(report, str(error).encode())
    os._exit(128)


def _write_atomically(path: str, value: dict[str, Any]) -> None:
    with open(path + ".new", "w") as file:
        json.dump(value, file)
    os.replace(path + ".new", path)


def _run(folder: str, ready: int) -> None:
    os.set_inheritable(ready, False)  # else the container would keep it open
    with open(f"{folder}/spec.json") as file:
        spec = json.load(file)
    log = LogFile(spec["log"])
    wake_read, wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    if spec["bare"]:
        _libc.prctl(_SUBREAPER, 1, 0, 0, 0)  # what PID 1 leaves becomes this process's
    else:
        _isolate(_NEWPID, "PID")
    out_read, out_write = os.pipe2(os.O_CLOEXEC)
    err_read, err_write = os.pipe2(os.O_CLOEXEC)
    report_read, report_write = os.pipe2(os.O_CLOEXEC)
    alive_read, alive_write = os.pipe2(os.O_CLOEXEC)
    init = os.fork()
    if init == 0:
        signal.set_wakeup_fd(-1)
        os.close(alive_write)
        _child(spec, report_write, alive_read, out_write, err_write)
    for descriptor in (out_write, err_write, report_write, alive_read):
        os.close(descriptor)
    failure = _read_all(report_read)
    started_ns = time.time_ns()
    message = {"error": failure} if failure else {"init": init, "started_at_ns": started_ns}
    if not failure:
        _write_atomically(f"{folder}/started.json", {**message, "keeper": os.getpid()})
    _answer(ready, message)
    status = _keep(init, {out_read: "stdout", err_read: "stderr"}, wake_read, log, spec["stop"])
    _write_atomically(
        f"{folder}/exit.json",
        {
            "exit_code": _exit_code(status),
            "signal": os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0,
            "started_at_ns": started_ns,
            "finished_at_ns": time.time_ns(),
            "error": failure,
        },
    )


def _end_children() -> None:
    """Kill what PID 1 left: without a PID namespace the kernel does not."""
    children = f"/proc/self/task/{os.getpid()}/children"
    while left := _read_all(os.open(children, os.O_RDONLY)).split():
        for pid in map(int, left):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def _answer(ready: int, message: dict[str, Any]) -> None:
    """Tell the runtime; one that was killed meanwhile finds `started.json` or `exit.json`."""
    try:
        os.write(ready, json.dumps(message).encode())
        os.close(ready)
    except OSError:
        return


def _exit_code(status: int) -> int:
    return 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def _read_all(descriptor: int) -> str:
    data = b""
    while chunk := os.read(descriptor, 4096):
        data += chunk
    os.close(descriptor)
    return data.decode(errors="replace")


def _keep(init: int, streams: dict[int, str], wake: int, log: LogFile, stop: int) -> int:
    """Serve log and signals until PID 1 has ended and its output is read; return its status."""
    ended = os.pidfd_open(init)
    poll = select.poll()
    for descriptor in (ended, wake, *streams):
        poll.register(descriptor, select.POLLIN)
    status: int | None = None
    while status is None or streams:
        # After the end every writer is dead and the pipes end at once; 1 s is a mere guard.
        events = poll.poll(None if status is None else 1000)
        if not events:
            break
        for descriptor, _ in events:
            if descriptor == ended:
                poll.unregister(ended)
                status = os.waitpid(init, 0)[1]
                _end_children()
            elif descriptor == wake:
                _obey(os.read(wake, 64), init if status is None else 0, log, stop)
            elif chunk := os.read(descriptor, 65536):
                log.write(streams[descriptor], chunk)
            else:
                poll.unregister(descriptor)
                os.close(descriptor)
                log.end(streams.pop(descriptor))
    return status if status is not None else 0


def _obey(numbers: bytes, init: int, log: LogFile, stop: int) -> None:
    for number in numbers:
        if number == signal.SIGUSR1:
            log.reopen()
        elif init and number in (signal.SIGTERM, signal.SIGUSR2):
            os.kill(init, stop if number == signal.SIGTERM else signal.SIGKILL)


# -- exec and probe -----------------------------------------------------------------------------


def _exec(spec: dict[str, Any], keeper: int) -> int:
    """Run one command in the namespaces of a container and return its exit code.

    Raises:
        StartError: the container has ended, or cannot be entered.
    """
    try:
        target = os.pidfd_open(spec["init"])
        with open(f"/proc/{spec['init']}/stat") as file:
            parent = int(file.read().rsplit(")", 1)[1].split()[1])
    except OSError as error:
        raise StartError(f"the container has ended: {error.strerror}") from error
    if parent != keeper:  # the process id came round again
        raise StartError("the container has ended")
    alive_read, alive_write = os.pipe2(os.O_CLOEXEC)
    flags = _NEWNS | _NEWPID | _NEWUTS | (_NEWUSER if os.getuid() != 0 else 0)
    if not spec["bare"]:
        _check(_libc.setns(target, flags), "enter the container")
    child = os.fork()
    if child == 0:
        try:
            os.close(alive_write)
            _die_with_parent(alive_read)
            _become(spec["args"], spec["env"], spec["cwd"])
        except StartError as error:
            os.write(2, f"{error}\n".encode())
        os._exit(_NOT_STARTED)
    return _exit_code(os.waitpid(child, 0)[1])


def _probe(folder: str) -> None:
    """Try namespaces and overlay mounts once; a StartError or OSError says what is forbidden."""
    _isolate(_NEWPID | _NEWNS, "PID and mount")
    _mount("none", "/", None, _REC | _PRIVATE)
    _mount("tmpfs", folder, "tmpfs", 0, "mode=0755")
    for name in ("lower", "root"):
        os.mkdir(f"{folder}/{name}")
    _overlay([f"{folder}/lower"], f"{folder}/layer", f"{folder}/root")


def main(arguments: list[str]) -> int:
    """Run the verb in `arguments` (see the module's text) and return the exit code."""
    verb, value = arguments[0], arguments[1]
    try:
        if verb == "exec":
            # Read by descriptor: the environment of a container does not belong on a command line.
            spec = json.loads(_read_all(0))
            os.open("/dev/null", os.O_RDONLY)  # the lowest free number: standard input again
            return _exec(spec, keeper=int(value))
        if verb == "probe":
            _probe(value)
        else:
            _run(value, int(arguments[2]))
    except (StartError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        if verb == "run":
            _answer(int(arguments[2]), {"error": str(error)})
        return _NOT_STARTED
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
