"""Becomes one kind of process that grades, then runs a command as it: launch.py MODE FOLDER COMMAND...

    root      root, as this machine has it
    docker    root as in a container: Docker's default capabilities and seccomp profile
    plain     an ordinary user without any rights

FOLDER is where the command writes; it is given to the user. Ends with CANNOT, and the reason on stderr, where the machine
does not allow the mode. The standard library and pyseccomp only.
"""

import ctypes
import json
import os
import platform
import sys
import sysconfig
from pathlib import Path

CANNOT = 77
MODES = ("root", "docker", "plain")
PROFILE = Path(__file__).resolve().parents[1] / "data" / "docker-default-seccomp.json"

# Bits of <linux/capability.h>; what Docker leaves a container is marked.
_CAPABILITIES = """*CHOWN *DAC_OVERRIDE DAC_READ_SEARCH *FOWNER *FSETID *KILL *SETGID *SETUID *SETPCAP LINUX_IMMUTABLE
    *NET_BIND_SERVICE NET_BROADCAST NET_ADMIN *NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO *SYS_CHROOT SYS_PTRACE
    SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG *MKNOD LEASE *AUDIT_WRITE AUDIT_CONTROL
    *SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE""".split()
DOCKER = {f"CAP_{name[1:]}": bit for bit, name in enumerate(_CAPABILITIES) if name.startswith("*")}

_PR_CAPBSET_READ, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 23, 24, 38
_CLONE_NEWNS, _MS_BIND, _MS_REC, _MS_PRIVATE = 0x20000, 4096, 16384, 1 << 18
_LIBC = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    mode, folder, *command = sys.argv[1:]
    try:
        {"root": be_root, "docker": be_in_docker, "plain": be_a_user}[mode](folder)
    except (OSError, ImportError) as error:
        print(f"this machine does not allow the mode {mode}: {error}", file=sys.stderr)
        sys.exit(CANNOT)
    os.execv(command[0], command)


def be_root(folder) -> None:
    if os.geteuid() != 0:
        raise PermissionError("the tests do not run as root")


# ---------------------------------------------------------------------------------------------- as in Docker


def be_in_docker(folder) -> None:
    """The order of a container's start: the filter while one still may, then the capabilities."""
    be_root(folder)
    _load(docker_rules(json.loads(PROFILE.read_text()), _architecture(), set(DOCKER)))
    for bit in range(64):
        if bit not in DOCKER.values() and _LIBC.prctl(_PR_CAPBSET_READ, bit, 0, 0, 0) == 1:
            _checked(_LIBC.prctl(_PR_CAPBSET_DROP, bit, 0, 0, 0), "dropping a capability")
    kept = sum(1 << bit for bit in DOCKER.values())
    effective, permitted, _ = _capabilities()
    _set_capabilities(effective & kept, permitted & kept)


def docker_rules(profile: dict, architecture: str, capabilities: set[str]) -> list[tuple]:
    """(action, errno, system call, conditions) of each rule of the profile that holds for such a container."""
    return [
        (entry["action"], entry.get("errnoRet", profile["defaultErrnoRet"]), name, entry.get("args") or [])
        for entry in profile["syscalls"]
        if _holds(entry.get("includes") or {}, entry.get("excludes") or {}, architecture, capabilities)
        for name in entry["names"]
    ]


def _holds(includes, excludes, architecture, capabilities):
    """As moby reads the profile: all capabilities that are included, none that is excluded."""
    kernel = tuple(int(part) for part in platform.release().split("-")[0].split(".")[:2])
    return (
        set(includes.get("caps", ())) <= capabilities
        and not set(excludes.get("caps", ())) & capabilities
        and architecture in includes.get("arches", [architecture])
        and architecture not in excludes.get("arches", ())
        and kernel >= tuple(int(part) for part in includes.get("minKernel", "0.0").split("."))
    )


def _architecture():
    known = {"x86_64": "amd64", "aarch64": "arm64"}
    if platform.machine() not in known:
        raise OSError(f"the profile is translated for {' and '.join(known)}, not for {platform.machine()}")
    return known[platform.machine()]


def _load(rules):
    import pyseccomp as seccomp

    profile = seccomp.SyscallFilter(seccomp.ERRNO(1))
    if _capabilities()[0] >> _CAPABILITIES.index("SYS_ADMIN") & 1:
        profile.set_attr(seccomp.Attr.CTL_NNP, 0)  # a container's process can still gain privileges
    for other in {"amd64": (seccomp.Arch.X86, seccomp.Arch.X32), "arm64": (seccomp.Arch.ARM,)}[_architecture()]:
        profile.add_arch(other)
    compare = {f"SCMP_CMP_{name}": getattr(seccomp, name) for name in ("NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ")}
    for action, number, name, conditions in rules:
        wanted = seccomp.ALLOW if action == "SCMP_ACT_ALLOW" else seccomp.ERRNO(number)
        args = [
            seccomp.Arg(one["index"], compare[one["op"]], one["value"], one.get("valueTwo", 0)) for one in conditions
        ]
        try:
            profile.add_rule(wanted, name, *args)
        except (OSError, ValueError, RuntimeError):
            continue  # a call that this libseccomp does not know, or that is answered so by default
    profile.load()


class _Header(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]


_Sets = ctypes.c_uint32 * 6  # effective, permitted, inheritable of the lower 32, then of the upper
_VERSION_3 = 0x20080522


def _capabilities():
    sets = _Sets()
    _checked(_LIBC.capget(ctypes.byref(_Header(_VERSION_3, 0)), ctypes.byref(sets)), "reading the capabilities")
    return tuple(sets[i] | sets[i + 3] << 32 for i in range(3))


def _set_capabilities(effective, permitted):
    low = (1 << 32) - 1
    sets = _Sets(effective & low, permitted & low, 0, effective >> 32, permitted >> 32, 0)
    _checked(_LIBC.capset(ctypes.byref(_Header(_VERSION_3, 0)), ctypes.byref(sets)), "setting the capabilities")


# ---------------------------------------------------------------------------------------------- an ordinary user


def be_a_user(folder) -> None:
    """A user id that nobody else has, so that two runs of the suite do not meet; as one is where the tests are not root."""
    if os.geteuid() != 0:
        return
    uid = 20000 + os.getpid() % 30000
    _open_ways(_needed_folders())
    for path in [Path(folder), *Path(folder).rglob("*")]:
        os.chown(path, uid, uid)
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    os.environ["HOME"] = folder
    # Where a test of ours uses torch's optimizers, torch makes this folder: by default one in /tmp, which a watch would report.
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = os.path.join(folder, "inductor")
    os.access(sys.executable, os.X_OK) or sys.exit(CANNOT)


def _needed_folders():
    """What the user must be able to read: the interpreter, its packages, the project."""
    project = Path(__file__).resolve().parents[2]
    return {Path(path).resolve() for path in (sys.base_prefix, sys.prefix, sysconfig.get_path("purelib"), project)}


def _open_ways(folders) -> None:
    """Shows what lies below a closed folder (an interpreter in a 0700 /root) to everybody, at the same path.

    In a mount namespace of this process an empty folder lies over the closed one, and in it the needed folders: nothing
    changes outside. Containers do not allow that; there interpreters usually lie where everybody may read.
    """
    closed: dict[Path, list[Path]] = {}
    for folder in folders:
        above = [path for path in reversed(folder.parents) if not path.stat().st_mode & 0o001]
        if above:
            closed.setdefault(above[0], []).append(folder)
    if not closed:
        return
    names = ", ".join(map(str, sum(closed.values(), [])))
    _checked(_LIBC.unshare(_CLONE_NEWNS), f"others may not enter the way to {names}, and mounting it is not allowed")
    _mount(None, "/", _MS_REC | _MS_PRIVATE)
    for top, needed in closed.items():
        opened = {folder: os.open(folder, os.O_PATH) for folder in needed}
        _checked(_LIBC.mount(b"tmpfs", os.fsencode(top), b"tmpfs", 0, b"mode=0755"), f"covering {top}")
        for folder, descriptor in opened.items():
            folder.mkdir(parents=True, exist_ok=True)
            _mount(f"/proc/self/fd/{descriptor}", folder, _MS_BIND | _MS_REC)
            os.close(descriptor)


def _mount(source, target, flags):
    source = None if source is None else os.fsencode(source)
    _checked(_LIBC.mount(source, os.fsencode(target), None, flags, None), f"mounting {target}")


def _checked(result, doing):
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{doing}: {os.strerror(code)}")


if __name__ == "__main__":
    main()
